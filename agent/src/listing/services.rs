//! Service ports: at which addresses each is reached, and what answers there.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;
use weir_ebpf::{
    addr::Protocol,
    tables::{FrontendKey, ServiceName},
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
    /// One part for each number that the service port has in the tables.
    pub families: Vec<FamilyPart>,
}

/// What the tables hold of a service port under one number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyPart {
    /// `IPv4` or `IPv6`
    pub family: &'static str,
    /// The service port's number, as in `SERVICES`.
    pub number: u32,
    /// Raised after each change of the set of backends.
    pub revision: u32,
    /// An agent has begun to change the backends and not finished.
    pub changing: bool,
    /// There is no backend, so whoever connects is refused.
    pub refuses: bool,
    /// Where it is reached.
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
}

impl ServicePort {
    /// `http 80/TCP`
    #[must_use]
    pub fn port_text(&self) -> String {
        let space = if self.port_name.is_empty() { "" } else { " " };
        format!("{}{space}{}/{}", self.port_name, self.port, self.protocol)
    }

    /// Does it belong to this service?
    #[must_use]
    pub fn is_of(&self, service: &ServiceReference) -> bool {
        self.namespace == service.namespace && self.name == service.name
    }
}

/// What makes a service port one: both families have it in common.
type Identity = (String, String, u16, Protocol, String);

/// Every service port, by namespace, name and port.
#[must_use]
pub fn service_ports(contents: &Contents) -> Vec<ServicePort> {
    let mut frontends: BTreeMap<u32, Vec<&FrontendKey>> = BTreeMap::new();
    // Entries for an address alone say that its other ports are refused; they are nobody's.
    for (key, frontend) in &contents.frontends {
        if key.is_address_only() {
            continue;
        }
        frontends.entry(frontend.service).or_default().push(key);
    }
    let mut parts: BTreeMap<Identity, Vec<FamilyPart>> = BTreeMap::new();
    for (&number, name) in &contents.service_names {
        let keys = frontends.remove(&number).unwrap_or_default();
        let family = family_name(name.family == 6);
        let part = part(contents, number, family, &keys);
        parts.entry(identity(name)).or_default().push(part);
    }
    // Those that remain have no name. Packets are translated all the same.
    for (number, keys) in frontends {
        for key in keys {
            let family = family_name(!key.addr.is_v4());
            let part = part(contents, number, family, &[key]);
            let identity = (
                String::new(),
                String::new(),
                key.port.number(),
                key.protocol,
                String::new(),
            );
            parts.entry(identity).or_default().push(part);
        }
    }
    parts
        .into_iter()
        .map(|(identity, mut families)| {
            families.sort_by_key(|part| (part.family, part.number));
            let (namespace, name, port, protocol, port_name) = identity;
            ServicePort {
                namespace,
                name,
                port_name,
                port,
                protocol: protocol.to_string(),
                families,
            }
        })
        .collect()
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
    let present = contents.frontends.get(frontend)?;
    (present.service == number)
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

fn part(
    contents: &Contents,
    number: u32,
    family: &'static str,
    keys: &[&FrontendKey],
) -> FamilyPart {
    let service = contents.services.get(&number).copied().unwrap_or_default();
    let mut addresses: Vec<SocketAddr> = keys
        .iter()
        .map(|key| endpoint(key.addr, key.port))
        .collect();
    addresses.sort_unstable();
    FamilyPart {
        family,
        number,
        revision: service.revision & !UNSETTLED,
        changing: service.revision & UNSETTLED != 0,
        refuses: service.backend_count == 0,
        addresses,
        // Slots behind the count are on their way in or out: nobody is sent there.
        backends: contents
            .backends_of(number)
            .take_while(|(slot, _)| *slot < service.backend_count)
            .map(|(slot, backend)| Slot {
                slot,
                address: endpoint(backend.addr, backend.port),
            })
            .collect(),
    }
}

/// An address of a service port, with the port only where that is another than the service's.
#[must_use]
pub fn short_address(address: SocketAddr, service_port: u16) -> String {
    if address.port() == service_port {
        address.ip().to_string()
    } else {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use weir_ebpf::addr::Port;

    use super::*;
    use crate::listing::testing::{World, socket};

    fn world() -> World {
        World::default()
            .service(
                3,
                "default/web:http",
                "10.32.0.140:80",
                &["10.200.0.2:8080", "10.200.1.2:8080"],
            )
            .service(9, "default/web:http", "[fd00::8c]:80", &["[fd01::2]:8080"])
            .service(4, "default/web:metrics", "10.32.0.140:9090", &[])
    }

    #[test]
    fn both_families_of_a_service_port_are_one_row() {
        let ports = service_ports(&world().contents);
        let texts: Vec<_> = ports.iter().map(ServicePort::port_text).collect();
        assert_eq!(texts, ["http 80/TCP", "metrics 9090/TCP"]);
        let families: Vec<_> = ports[0]
            .families
            .iter()
            .map(|part| (part.family, part.number, part.backends.len(), part.refuses))
            .collect();
        assert_eq!(families, [("IPv4", 3, 2, false), ("IPv6", 9, 1, false)]);
        assert_eq!(ports[0].families[0].addresses, [socket("10.32.0.140:80")]);
        assert_eq!(
            ports[0].families[0].backends[1],
            Slot {
                slot: 1,
                address: socket("10.200.1.2:8080")
            }
        );
        assert!(ports[1].families[0].refuses);
    }

    #[test]
    fn a_slot_behind_the_count_is_no_backend() {
        let mut contents = world().contents;
        contents.services.get_mut(&3).unwrap().backend_count = 1;
        let ports = service_ports(&contents);
        assert_eq!(ports[0].families[0].backends.len(), 1);
    }

    #[test]
    fn a_change_that_was_begun_is_shown_and_is_no_part_of_the_revision() {
        let mut contents = world().contents;
        contents.services.get_mut(&3).unwrap().revision = 7 | UNSETTLED;
        let part = &service_ports(&contents)[0].families[0];
        assert_eq!((part.revision, part.changing), (7, true));
    }

    #[test]
    fn a_frontend_whose_number_has_no_name_is_shown() {
        let mut contents = world().contents;
        contents.service_names.remove(&3);
        let ports = service_ports(&contents);
        assert_eq!(
            (&*ports[0].namespace, &*ports[0].name, ports[0].port),
            ("", "", 80)
        );
        assert_eq!(ports[0].families[0].number, 3);
        assert_eq!(ports[0].families[0].backends.len(), 2);
    }

    #[test]
    fn several_addresses_of_a_number_stand_in_order_and_keep_their_ports() {
        let world = world()
            .frontend("10.240.0.1:30080", 3)
            .frontend("9.0.0.1:80", 3);
        let addresses = service_ports(&world.contents)[0].families[0]
            .addresses
            .clone();
        let texts: Vec<_> = addresses.iter().map(|at| short_address(*at, 80)).collect();
        assert_eq!(texts, ["9.0.0.1", "10.32.0.140", "10.240.0.1:30080"]);
    }

    #[test]
    fn a_number_that_stands_at_another_address_now_has_no_name_there() {
        let contents = world().contents;
        let key = |text| {
            let at = socket(text);
            FrontendKey::new(at.ip().into(), Port::new(at.port()), Protocol::TCP)
        };
        let name = name_at(&contents, &key("10.32.0.140:80"), 3);
        assert_eq!(name.map(|name| name.family), Some(4));
        assert_eq!(name_at(&contents, &key("10.32.0.140:80"), 4), None);
        assert_eq!(name_at(&contents, &key("10.32.0.99:80"), 3), None);
    }

    #[test]
    fn the_names_of_the_fields_are_stable() {
        let json = serde_json::to_value(&service_ports(&world().contents)[0]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "namespace": "default", "name": "web", "portName": "http", "port": 80, "protocol": "TCP",
                "families": [
                    {"family": "IPv4", "number": 3, "revision": 1, "changing": false, "refuses": false,
                     "addresses": ["10.32.0.140:80"],
                     "backends": [{"slot": 0, "address": "10.200.0.2:8080"}, {"slot": 1, "address": "10.200.1.2:8080"}]},
                    {"family": "IPv6", "number": 9, "revision": 1, "changing": false, "refuses": false,
                     "addresses": ["[fd00::8c]:80"],
                     "backends": [{"slot": 0, "address": "[fd01::2]:8080"}]},
                ],
            })
        );
    }
}
