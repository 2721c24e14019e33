//! What the tables say of the node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Interface, Node, PortRange};

use super::pod_interface::{PodInterface, PolicyOptions};
use crate::maps::Contents;
use crate::model::Cluster;

/// What must be known of the node beside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// Its name; the Node object of this name says more.
    pub name: String,
    /// Its IPv4 address where there is no Node object.
    pub addr_v4: Option<Ipv4Addr>,
    /// Its IPv6 address where there is no Node object.
    pub addr_v6: Option<Ipv6Addr>,
    /// Source ports for masqueraded flows.
    pub snat_ports: [PortRange; 2],
    /// The addresses at which node ports are served.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Interfaces that lead to the network, by index.
    pub interfaces: BTreeMap<u32, InterfaceAddresses>,
    /// Interfaces that lead to pods, by index.
    pub pod_interfaces: BTreeMap<u32, PodInterface>,
    /// What the operator decided about policies.
    pub policy: PolicyOptions,
    /// Ranges of cluster IPs, beside those that `ServiceCIDR` objects name.
    pub service_cidrs: Vec<IpNetwork>,
}

/// The addresses that flows get which are masqueraded as they leave by an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceAddresses {
    /// IPv4; `None`: the node's.
    pub v4: Option<Ipv4Addr>,
    /// IPv6; `None`: the node's.
    pub v6: Option<Ipv6Addr>,
}

impl NodeContext {
    /// Leaves out what the tables `NODE_PORT_ADDRS` and `INTERFACES` have no room for, and says
    /// so. Link-local addresses go first: hardly anyone beyond the node can use them.
    pub fn limit(&mut self, node_port_addresses: u32, interfaces: u32) -> Vec<String> {
        let mut said = Vec::new();
        let (all, room) = (self.node_port_addresses.len(), node_port_addresses as usize);
        if all > room {
            let (global, link_local): (Vec<IpAddr>, Vec<IpAddr>) = self
                .node_port_addresses
                .iter()
                .partition(|addr| !is_link_local(**addr));
            self.node_port_addresses = global.into_iter().chain(link_local).take(room).collect();
            said.push(format!(
                "node ports are served at {room} of the node's {all} addresses, which is all that \
                 the table NODE_PORT_ADDRS holds; restrict them with --nodeport-addresses"
            ));
        }
        let (all, room) = (self.interfaces.len(), interfaces as usize);
        if all > room {
            self.interfaces = std::mem::take(&mut self.interfaces)
                .into_iter()
                .take(room)
                .collect();
            said.push(format!(
                "the table INTERFACES holds {room} of {all} interfaces; flows that are masqueraded \
                 as they leave by another one get the node's address"
            ));
        }
        said
    }
}

fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Fills `NODE_PORT_ADDRS`, `INTERFACES`, and of `NODE` what does not depend on services.
///
/// Once the Node object is there, it alone says which addresses the node has.
pub(super) fn compile_node(cluster: &Cluster, node: &NodeContext, contents: &mut Contents) {
    let (v4, v6) = match cluster.node(&node.name) {
        Some(object) => (object.addr_v4(), object.addr_v6()),
        None => (node.addr_v4, node.addr_v6),
    };
    contents.node = Node {
        addr_v4: known_or_unspecified(v4),
        addr_v6: known_or_unspecified(v6),
        snat_ports: node.snat_ports,
        ..contents.node
    };
    contents.node_port_addrs = node
        .node_port_addresses
        .iter()
        .map(|addr| Addr::from(*addr))
        .collect();
    contents.interfaces = node
        .interfaces
        .iter()
        .filter(|(_, addrs)| **addrs != InterfaceAddresses::default())
        .map(|(index, addrs)| {
            let interface = Interface {
                addr_v4: known_or_unspecified(addrs.v4),
                addr_v6: known_or_unspecified(addrs.v6),
            };
            (*index, interface)
        })
        .collect();
}

fn known_or_unspecified<A: Into<Addr>>(addr: Option<A>) -> Addr {
    addr.map_or(Addr::UNSPECIFIED, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn context() -> NodeContext {
        NodeContext {
            name: "worker-0".to_owned(),
            addr_v4: Some(Ipv4Addr::new(10, 240, 0, 11)),
            snat_ports: [PortRange::new(1024, 29_999), PortRange::new(61_000, 65_535)],
            node_port_addresses: ["10.240.0.11", "fd00:10:240::11", "169.254.0.1", "fe80::1"]
                .map(addr)
                .into(),
            interfaces: BTreeMap::from([
                (
                    2,
                    InterfaceAddresses {
                        v4: Some(Ipv4Addr::new(10, 240, 0, 11)),
                        v6: None,
                    },
                ),
                (3, InterfaceAddresses::default()),
            ]),
            ..NodeContext::default()
        }
    }

    #[test]
    fn the_tables_hold_addresses_interfaces_and_ports() {
        let mut contents = Contents::default();
        contents.node.node_ports = PortRange::new(30_080, 30_081);
        compile_node(&Cluster::default(), &context(), &mut contents);
        assert_eq!(
            contents.node.addr_v4,
            Addr::from(Ipv4Addr::new(10, 240, 0, 11))
        );
        assert!(contents.node.addr_v6.is_unspecified());
        assert_eq!(
            contents.node.snat_ports.map(|ports| (ports.min, ports.max)),
            [(1024, 29_999), (61_000, 65_535)]
        );
        // What the services say is left as it is.
        assert_eq!(contents.node.node_ports, PortRange::new(30_080, 30_081));
        assert_eq!(
            contents.node_port_addrs,
            ["10.240.0.11", "fd00:10:240::11", "169.254.0.1", "fe80::1"]
                .map(|text| Addr::from(addr(text)))
                .into()
        );
        let interface = Interface {
            addr_v4: contents.node.addr_v4,
            addr_v6: Addr::UNSPECIFIED,
        };
        // Without an address of its own an interface needs no entry.
        assert_eq!(contents.interfaces, BTreeMap::from([(2, interface)]));
    }

    #[test]
    fn what_the_tables_have_no_room_for_is_left_out_and_said() {
        let mut node = context();
        assert_eq!(node.limit(4, 2), [""; 0]);
        assert_eq!(node, context());

        let said = node.limit(2, 1);
        assert_eq!(
            node.node_port_addresses,
            ["10.240.0.11", "fd00:10:240::11"].map(addr).into()
        );
        assert_eq!(node.interfaces.keys().copied().collect::<Vec<_>>(), [2]);
        let [addresses, interfaces] = said.as_slice() else {
            panic!("{said:?}")
        };
        assert!(addresses.contains("2 of the node's 4"), "{addresses}");
        assert!(addresses.contains("--nodeport-addresses"), "{addresses}");
        assert!(interfaces.contains("1 of 2"), "{interfaces}");
    }
}
