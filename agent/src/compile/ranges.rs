//! Ranges: of addresses that are for services, and of addresses and ports that need a lookup.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Cidr, Cover, FrontendKey, PortRange};

use crate::maps::{Contents, cover};
use crate::model::{Cluster, Kind, ObjectRef};

use super::{Capacities, Reason, Skipped, Table};

/// Fills `SERVICE_CIDRS`, those of the configuration first.
pub(super) fn compile_service_cidrs(
    cluster: &Cluster,
    configured: &[IpNetwork],
    capacities: &Capacities,
    skipped: &mut Vec<Skipped>,
) -> BTreeSet<Cidr> {
    let room = usize::try_from(capacities.service_cidrs).unwrap_or(usize::MAX);
    let mut cidrs: BTreeSet<Cidr> = configured.iter().map(cidr).take(room).collect();
    for object in cluster.service_cidrs() {
        for network in &object.cidrs {
            let cidr = cidr(network);
            if cidrs.contains(&cidr) || cidrs.len() < room {
                cidrs.insert(cidr);
            } else {
                skipped.push(Skipped {
                    object: ObjectRef::new(Kind::ServiceCidr, "", &object.name),
                    part: None,
                    reason: Reason::NoRoom {
                        table: Table::ServiceCidrs,
                        capacity: capacities.service_cidrs,
                    },
                });
            }
        }
    }
    cidrs
}

/// Says in the node's entry which addresses and ports need be looked up at all.
pub(super) fn compile_guards(contents: &mut Contents) {
    let node = &mut contents.node;
    let cluster_ips = contents.frontends.keys().copied();
    let cluster_ips = cluster_ips
        .filter(FrontendKey::is_address_only)
        .map(|key| (key.addr, 128));
    let cidrs = contents.service_cidrs.iter();
    let cidrs = cidrs.map(|cidr| (cidr.addr, cidr.prefix_len));
    node.cover_v4 = Cover::NOTHING;
    node.cover_v6 = Cover::NOTHING;
    for (addr, length) in cluster_ips.chain(cidrs) {
        let known = if addr.is_v4() {
            &mut node.cover_v4
        } else {
            &mut node.cover_v6
        };
        *known = cover::join(*known, cover::of_prefix(addr, length));
    }
    let node_ports = contents.frontends.keys();
    let node_ports = node_ports
        .filter(|key| key.is_node_port())
        .map(|key| key.port.number());
    node.node_ports = match (node_ports.clone().min(), node_ports.max()) {
        (Some(min), Some(max)) => PortRange::new(min, max),
        (None, _) | (_, None) => PortRange::NONE,
    };
}

/// The length of a prefix in the form that the tables hold, IPv4 mapped.
pub(super) fn mapped_length(network: &IpNetwork) -> u32 {
    let length = u32::from(network.prefix());
    match network {
        IpNetwork::V4(_) => 96 + length,
        IpNetwork::V6(_) => length,
    }
}

/// A range as tables hold it.
pub(super) fn cidr(network: &IpNetwork) -> Cidr {
    Cidr {
        prefix_len: mapped_length(network),
        addr: Addr::from(network.network()),
    }
}
