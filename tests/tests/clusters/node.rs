//! The node of a cluster as the agent finds it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_agent::compile::{InterfaceAddresses, NodeContext};
use weir_ebpf::tables::PortRange;
use weir_tests::reference::world::Node;
use weir_tests::scenario::memory::UPLINK;

use super::judge::SNAT_PORTS;

/// By which interface packets leave in memory, and by which the kernel has them leave that it
/// runs programs on.
const UPLINKS: [u32; 2] = [UPLINK, 1];

/// What the agent is told by the node's kernel.
#[must_use]
pub fn context(node: &Node) -> NodeContext {
    let (addr_v4, addr_v6) = firsts(&node.addresses);
    let (v4, v6) = firsts(&node.uplink_addresses);
    NodeContext {
        name: node.name.clone(),
        addr_v4,
        addr_v6,
        snat_ports: [PortRange::new(SNAT_PORTS.0, SNAT_PORTS.1), PortRange::NONE],
        node_port_addresses: node.node_port_addresses.clone(),
        interfaces: UPLINKS
            .map(|index| (index, InterfaceAddresses { v4, v6 }))
            .into(),
        ..NodeContext::default()
    }
}

/// The first address of each family.
fn firsts(all: &[IpAddr]) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let v4 = all.iter().find_map(|addr| match addr {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    let v6 = all.iter().find_map(|addr| match addr {
        IpAddr::V6(v6) => Some(*v6),
        IpAddr::V4(_) => None,
    });
    (v4, v6)
}
