//! Service ports: where they are reached, and who answers.
//!
//! A service port has one number for each address family. Older services come first: they keep a
//! disputed address, and they get room when there is not enough for all.
//!
//! A cluster IP at which some service port is reached is known as an address, too: what is sent
//! to another port of it is refused.

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::addr::{Addr, Port, Protocol as WireProtocol};
use weir_ebpf::tables::{
    Backend, EndpointSet, Frontend, FrontendFlags, FrontendKey, ServiceFlags, ServiceName,
};

use crate::model::{
    Cluster, EndpointGroup, Family, Kind, ObjectRef, Protocol, Service, ServicePort, ServiceRef,
};

use super::choice::{Chosen, Place, choose};
use super::{Capacities, Desired, Ids, Reason, Skipped, Table};

/// Fills every table but `NODE`.
pub(super) fn compile_services(
    cluster: &Cluster,
    place: Place<'_>,
    ids: &mut Ids,
    capacities: &Capacities,
) -> Desired {
    let mut desired = Desired::default();
    let drafts = drafts(cluster, place, capacities, &mut desired.skipped);

    ids.release_all_but(drafts.iter().map(|draft| &draft.name).collect());
    let mut room = usize::try_from(capacities.backends).unwrap_or(usize::MAX);
    for draft in &drafts {
        let Some(number) = ids.number(&draft.name, capacities.services) else {
            desired.skipped.push(draft.skipped(Reason::NoRoom {
                table: Table::Services,
                capacity: capacities.services,
            }));
            continue;
        };
        ids.set_flags(number, draft.flags);
        let placed = ids.place(number, &draft.backends, room);
        room -= placed;
        if placed < draft.backends.len() {
            desired
                .skipped
                .push(draft.skipped(Reason::NoRoomForBackends {
                    left_out: draft.backends.len() - placed,
                    of: draft.backends.len(),
                    capacity: capacities.backends,
                }));
        }
        let frontends = &mut desired.contents.frontends;
        for key in &draft.frontends {
            frontends.insert(*key, Frontend::to(number, FrontendFlags::NONE));
            frontends.insert(FrontendKey::address_only(key.addr), Frontend::ADDRESS_ONLY);
        }
    }
    ids.write_to(&mut desired.contents);
    desired
}

/// A service port of one family, before it has a number.
struct Draft<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
    name: ServiceName,
    frontends: Vec<FrontendKey>,
    backends: BTreeSet<Backend>,
    flags: ServiceFlags,
}

impl Draft<'_> {
    fn skipped(&self, reason: Reason) -> Skipped {
        Skipped {
            object: reference(self.service),
            port_name: self.port.name.clone(),
            port: self.port.port,
            protocol: self.port.protocol,
            family: self.family,
            reason,
        }
    }
}

/// Every service port that can be reached, the oldest service first.
fn drafts<'a>(
    cluster: &'a Cluster,
    place: Place<'_>,
    capacities: &Capacities,
    skipped: &mut Vec<Skipped>,
) -> Vec<Draft<'a>> {
    let groups = groups_by_service(cluster);
    let mut services: Vec<&Service> = cluster.services().collect();
    // One that has no time of creation has not been through an API server: it comes last.
    services.sort_by_key(|service| (service.created.is_none(), service.created, &service.id));

    let mut room = usize::try_from(capacities.frontends).unwrap_or(usize::MAX);
    let mut owners: BTreeMap<FrontendKey, &Service> = BTreeMap::new();
    let mut addrs: BTreeSet<Addr> = BTreeSet::new();
    let mut drafts = Vec::new();
    for service in services {
        let groups = groups.get(&service.id).map_or(&[][..], Vec::as_slice);
        for port in &service.ports {
            for family in [Family::V4, Family::V6] {
                let mut draft = Draft {
                    service,
                    port,
                    family,
                    name: service_name(&service.id, port, family),
                    frontends: Vec::new(),
                    backends: BTreeSet::new(),
                    flags: ServiceFlags::NONE,
                };
                claim_frontends(&mut draft, &owners, skipped);
                if draft.frontends.is_empty() {
                    continue;
                }
                let new_addrs = draft.frontends.iter().map(|key| key.addr);
                let new_addrs = new_addrs.filter(|addr| !addrs.contains(addr));
                let new_addrs: BTreeSet<Addr> = new_addrs.collect();
                let needed = draft.frontends.len() + new_addrs.len();
                if needed > room {
                    skipped.push(draft.skipped(Reason::NoRoom {
                        table: Table::Frontends,
                        capacity: capacities.frontends,
                    }));
                    continue;
                }
                room -= needed;
                addrs.extend(new_addrs);
                owners.extend(draft.frontends.iter().map(|key| (*key, service)));
                choose_backends(&mut draft, groups, place, skipped);
                drafts.push(draft);
            }
        }
    }
    drafts
}

/// The cluster IPs of the draft's family, but those that another service has.
fn claim_frontends(
    draft: &mut Draft<'_>,
    owners: &BTreeMap<FrontendKey, &Service>,
    skipped: &mut Vec<Skipped>,
) {
    let addrs = draft
        .service
        .cluster_ips
        .iter()
        .filter(|addr| Family::of(addr) == draft.family);
    for &addr in addrs {
        let key = FrontendKey::new(
            Addr::from(addr),
            Port::new(draft.port.port.get()),
            wire_protocol(draft.port.protocol),
        );
        match owners.get(&key) {
            None => draft.frontends.push(key),
            Some(owner) => skipped.push(draft.skipped(Reason::AddressTaken {
                addr,
                by: reference(owner),
            })),
        }
    }
}

/// Whoever uses a cluster IP is in the cluster: its internal traffic policy counts.
fn choose_backends(
    draft: &mut Draft<'_>,
    groups: &[&EndpointGroup],
    place: Place<'_>,
    skipped: &mut Vec<Skipped>,
) {
    let chosen = choose(
        groups.iter().copied(),
        draft.port,
        draft.family,
        draft.service.internal_traffic_policy,
        place,
    );
    let targets = match chosen {
        Chosen::Endpoints(targets) => targets,
        Chosen::OnlyElsewhere => {
            draft.flags = ServiceFlags::DROPS_WITHOUT_BACKEND;
            return;
        }
        Chosen::Nobody => return,
    };
    for (addr, port) in targets {
        if draft.port.protocol == Protocol::Sctp && port != draft.port.port {
            skipped.push(draft.skipped(Reason::SctpPort { addr, port }));
        } else {
            draft
                .backends
                .insert(Backend::new(Addr::from(addr), Port::new(port.get())));
        }
    }
}

/// The endpoints of each service: those of its slices, or where it has none those of the core
/// Endpoints of its name.
pub(super) fn groups_by_service(cluster: &Cluster) -> BTreeMap<&ServiceRef, Vec<&EndpointGroup>> {
    let mut groups: BTreeMap<&ServiceRef, Vec<&EndpointGroup>> = BTreeMap::new();
    for slice in cluster.endpoint_slices() {
        groups.entry(&slice.service).or_default().push(&slice.group);
    }
    for endpoints in cluster.endpoints() {
        groups
            .entry(&endpoints.service)
            .or_insert_with(|| endpoints.groups.iter().collect());
    }
    groups
}

fn service_name(id: &ServiceRef, port: &ServicePort, family: Family) -> ServiceName {
    ServiceName {
        namespace: padded(&id.namespace),
        name: padded(&id.name),
        port_name: padded(&port.name),
        port: Port::new(port.port.get()),
        protocol: wire_protocol(port.protocol),
        family: family.number(),
        set: EndpointSet::CLUSTER,
        reserved: 0,
    }
}

/// The model holds labels only, which leave at least one zero.
fn padded(label: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (byte, letter) in bytes.iter_mut().zip(label.bytes()) {
        *byte = letter;
    }
    bytes
}

const fn wire_protocol(protocol: Protocol) -> WireProtocol {
    match protocol {
        Protocol::Tcp => WireProtocol::TCP,
        Protocol::Udp => WireProtocol::UDP,
        Protocol::Sctp => WireProtocol::SCTP,
    }
}

fn reference(service: &Service) -> ObjectRef {
    ObjectRef::new(Kind::Service, &service.id.namespace, &service.id.name)
}
