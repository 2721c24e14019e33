//! Service ports: at which addresses each is reached, and what answers there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;
use weir_ebpf::{
    addr::{Addr, Protocol},
    tables::{
        BackendFlags, EndpointSet, Frontend, FrontendFlags, FrontendKey, ServiceFlags, ServiceName,
    },
};

use super::filter::ServiceReference;
use crate::maps::{
    Contents, UNSETTLED,
    text::{endpoint, unpadded},
};

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `metadata.namespace`. It and the name are empty where frontends lead to a number that has
    /// no name, which only an agent that ended in the middle of a change leaves behind.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `spec.ports[].name`; empty where a service has one port.
    pub port_name: String,
    /// `spec.ports[].port`
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`
    pub protocol: String,
    /// `spec.internalTrafficPolicy`, where it has a cluster IP.
    pub internal_traffic_policy: Option<&'static str>,
    /// `spec.externalTrafficPolicy`, where it has an address beyond its cluster IPs.
    pub external_traffic_policy: Option<&'static str>,
    /// Seconds for which a silent client keeps its backend; `None`: it chooses each time.
    pub affinity_seconds: Option<u32>,
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// One part for each number that the service port has in the tables.
    pub families: Vec<FamilyPart>,
}

/// What kind of address it is. Tables know no difference between an external IP and a load
/// balancer IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum AddressKind {
    /// A cluster IP.
    #[serde(rename = "clusterIP")]
    ClusterIp,
    /// A node port.
    #[serde(rename = "nodePort")]
    NodePort,
    /// An external IP or load balancer IP.
    #[serde(rename = "external")]
    External,
}

/// Whose source is translated where they are led to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Masquerade {
    /// Nobody's.
    Nobody,
    /// That of clients beyond this node.
    Outside,
    /// That of this node's pods, too.
    Everyone,
}

/// An address of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// What kind it is of.
    pub kind: AddressKind,
    /// The address and port; of a node port the unspecified address.
    pub address: SocketAddr,
    /// Where a node port is served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_addresses: Vec<IpAddr>,
    /// The number of those who answer this node's own pods and processes.
    pub number: u32,
    /// The number of those who answer clients beyond this node.
    pub outside_number: u32,
    /// Whose source is translated.
    pub masquerade: Masquerade,
    /// The clients that may come; `None`: all.
    pub source_ranges: Option<Vec<String>>,
}

/// What the tables hold of a service port under one number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyPart {
    /// `IPv4` or `IPv6`
    pub family: &'static str,
    /// The traffic policy under which the backends were chosen: `Cluster` or `Local`
    pub traffic_policy: &'static str,
    /// The service port's number, as in `SERVICES`.
    pub number: u32,
    /// Raised after each change of the set of backends.
    pub revision: u32,
    /// An agent has begun to change the backends and not finished.
    pub changing: bool,
    /// There is no backend, so whoever connects is refused.
    pub refuses: bool,
    /// There is no backend on this node, but elsewhere: what arrives is dropped in silence.
    pub drops: bool,
    /// The addresses at which some clients are led here.
    pub addresses: Vec<SocketAddr>,
    /// What new connections are given.
    pub backends: Vec<Slot>,
}

/// A backend and where it stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    /// From zero.
    pub slot: u32,
    /// The endpoint.
    pub address: SocketAddr,
    /// Is it on this node?
    pub local: bool,
}

impl ServicePort {
    /// `http 80/TCP`
    #[must_use]
    pub fn port_text(&self) -> String {
        port_text(&self.port_name, self.port, &self.protocol)
    }

    /// Does it belong to this service?
    #[must_use]
    pub fn is_of(&self, service: &ServiceReference) -> bool {
        self.namespace == service.namespace && self.name == service.name
    }
}

/// `http 80/TCP`
#[must_use]
pub fn port_text(name: &str, port: u16, protocol: &str) -> String {
    let space = if name.is_empty() { "" } else { " " };
    format!("{name}{space}{port}/{protocol}")
}

/// What makes a service port one: both families have it in common.
type Identity = (String, String, u16, Protocol, String);

/// A frontend and what stands there.
type Entry<'a> = (&'a FrontendKey, &'a Frontend);

/// Every service port, by namespace, name and port.
#[must_use]
pub fn service_ports(contents: &Contents) -> Vec<ServicePort> {
    let mut leading: BTreeMap<u32, Vec<Entry<'_>>> = BTreeMap::new();
    // Entries for an address alone say that its other ports are refused; they are nobody's.
    let frontends = contents.frontends.iter();
    for entry in frontends.filter(|(key, _)| !key.is_address_only()) {
        leading.entry(entry.1.service).or_default().push(entry);
        if entry.1.from_outside != entry.1.service {
            leading.entry(entry.1.from_outside).or_default().push(entry);
        }
    }
    let mut ports: BTreeMap<Identity, ServicePort> = BTreeMap::new();
    for (&number, name) in &contents.service_names {
        let entries = leading.remove(&number).unwrap_or_default();
        let family = family_name(name.family == 6);
        let identity = identity(name);
        let port = ports
            .entry(identity.clone())
            .or_insert_with(|| ServicePort::new(identity));
        port.add(contents, number, family, policy_name(name.set), &entries);
    }
    // Those that remain have no name. Packets are translated all the same.
    for (number, entries) in leading {
        for entry in entries {
            let (key, _) = entry;
            let family = family_name(!key.addr.is_v4());
            let identity = (
                String::new(),
                String::new(),
                key.port.number(),
                key.protocol,
                String::new(),
            );
            let port = ports
                .entry(identity.clone())
                .or_insert_with(|| ServicePort::new(identity));
            port.add(contents, number, family, "Cluster", &[entry]);
        }
    }
    ports.into_values().map(ServicePort::completed).collect()
}

/// The name of the service port whose number stands at this frontend.
///
/// `None` where another number stands there now: the one asked for may by then be the number of
/// another service.
#[must_use]
pub fn name_at<'a>(
    contents: &'a Contents,
    frontend: &FrontendKey,
    number: u32,
) -> Option<&'a ServiceName> {
    let node_port = FrontendKey::node_port(frontend.addr.is_v4(), frontend.port, frontend.protocol);
    let frontends = &contents.frontends;
    let present = frontends
        .get(frontend)
        .or_else(|| frontends.get(&node_port))?;
    [present.service, present.from_outside]
        .contains(&number)
        .then(|| contents.service_names.get(&number))
        .flatten()
}

fn identity(name: &ServiceName) -> Identity {
    (
        unpadded(&name.namespace).into_owned(),
        unpadded(&name.name).into_owned(),
        name.port.number(),
        name.protocol,
        unpadded(&name.port_name).into_owned(),
    )
}

const fn family_name(is_v6: bool) -> &'static str {
    if is_v6 { "IPv6" } else { "IPv4" }
}

const fn policy_name(set: EndpointSet) -> &'static str {
    match set {
        EndpointSet::LOCAL => "Local",
        _ => "Cluster",
    }
}

impl ServicePort {
    fn new((namespace, name, port, protocol, port_name): Identity) -> Self {
        Self {
            namespace,
            name,
            port_name,
            port,
            protocol: protocol.to_string(),
            internal_traffic_policy: None,
            external_traffic_policy: None,
            affinity_seconds: None,
            addresses: Vec::new(),
            families: Vec::new(),
        }
    }

    /// Takes in what the tables hold under one of its numbers.
    fn add(
        &mut self,
        contents: &Contents,
        number: u32,
        family: &'static str,
        policy: &'static str,
        entries: &[Entry<'_>],
    ) {
        let service = contents.services.get(&number).copied().unwrap_or_default();
        if service.affinity_timeout > 0 {
            self.affinity_seconds = Some(service.affinity_timeout);
        }
        let drops = service.flags.contains(ServiceFlags::DROPS_WITHOUT_BACKEND);
        let mut addresses: Vec<SocketAddr> = entries
            .iter()
            .map(|(key, _)| endpoint(key.addr, key.port))
            .collect();
        addresses.sort_unstable();
        // Each address once, though two numbers may stand there.
        let own = entries.iter().filter(|(_, to)| to.service == number);
        let own = own.map(|(key, frontend)| address(contents, key, frontend));
        self.addresses.extend(own);
        self.families.push(FamilyPart {
            family,
            traffic_policy: policy,
            number,
            revision: service.revision & !UNSETTLED,
            changing: service.revision & UNSETTLED != 0,
            refuses: service.backend_count == 0 && !drops,
            drops: service.backend_count == 0 && drops,
            addresses,
            // Slots behind the count are on their way in or out: nobody is sent there.
            backends: contents
                .backends_of(number)
                .take_while(|(slot, _)| *slot < service.backend_count)
                .map(|(slot, backend)| Slot {
                    slot,
                    address: endpoint(backend.addr, backend.port),
                    local: backend.flags.contains(BackendFlags::LOCAL),
                })
                .collect(),
        });
    }

    /// It, when all its numbers are known.
    fn completed(mut self) -> Self {
        self.addresses
            .sort_by_key(|it| (it.address.is_ipv6(), it.kind, it.address));
        self.families
            .sort_by_key(|part| (part.family, part.traffic_policy, part.number));
        let policy_of = |number: u32| {
            let mut parts = self.families.iter();
            parts.find_map(|part| (part.number == number).then_some(part.traffic_policy))
        };
        let mut internal = None;
        let mut external = None;
        for address in &self.addresses {
            let policy = match address.kind {
                AddressKind::ClusterIp => &mut internal,
                AddressKind::NodePort | AddressKind::External => &mut external,
            };
            *policy = policy_of(address.outside_number);
        }
        self.internal_traffic_policy = internal;
        self.external_traffic_policy = external;
        self
    }
}

fn address(contents: &Contents, key: &FrontendKey, frontend: &Frontend) -> Address {
    let has = |flag| frontend.flags.contains(flag);
    let masquerade = if has(FrontendFlags::MASQUERADE_PODS) {
        Masquerade::Everyone
    } else if has(FrontendFlags::MASQUERADE_OUTSIDE) {
        Masquerade::Outside
    } else {
        Masquerade::Nobody
    };
    // Only at cluster IPs clients outside are masqueraded and pods are not.
    let kind = match masquerade {
        _ if key.is_node_port() => AddressKind::NodePort,
        Masquerade::Outside => AddressKind::ClusterIp,
        Masquerade::Nobody | Masquerade::Everyone => AddressKind::External,
    };
    let is_here = |addr: &&Addr| kind == AddressKind::NodePort && addr.is_v4() == key.addr.is_v4();
    let node_addresses = contents.node_port_addrs.iter().filter(is_here);
    let ranges = contents.source_ranges.iter();
    let ranges = ranges.filter(|range| range.service == frontend.service);
    Address {
        kind,
        address: endpoint(key.addr, key.port),
        node_addresses: node_addresses.map(|addr| IpAddr::from(*addr)).collect(),
        number: frontend.service,
        outside_number: frontend.from_outside,
        masquerade,
        source_ranges: has(FrontendFlags::SOURCE_RANGES)
            .then(|| ranges.map(ToString::to_string).collect()),
    }
}

/// An address of a service port, with the port only where that is another than the service's;
/// a node port as `*:30080`.
#[must_use]
pub fn short_address(address: SocketAddr, service_port: u16) -> String {
    if address.ip().is_unspecified() {
        format!("*:{}", address.port())
    } else if address.port() == service_port {
        address.ip().to_string()
    } else {
        address.to_string()
    }
}

#[cfg(test)]
mod tests;
