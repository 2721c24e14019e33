//! Which interface gets which programs: pure.

use std::collections::BTreeMap;

use super::plan::Role;
use crate::sources::node::NodeState;

/// The roles of a node's interfaces, by index.
#[must_use]
pub fn wanted(node: &NodeState) -> BTreeMap<u32, Role> {
    let pods = node.pod_interfaces.keys().map(|index| (*index, Role::Pod));
    let networks = node.network_interfaces.iter().map(|(index, interface)| {
        let has_link_header = interface.has_link_header;
        let role = if interface.is_bridged {
            Role::BridgePort
        } else {
            Role::Network { has_link_header }
        };
        (*index, role)
    });
    pods.chain(networks).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sources::node::{Interface, NetworkInterface};

    #[test]
    fn every_interface_has_the_role_of_its_list() {
        let network = |name: &str, has_link_header| NetworkInterface {
            name: name.to_owned(),
            has_link_header,
            is_port: false,
            is_bridged: false,
            addr_v4: None,
            addr_v6: None,
        };
        let port = NetworkInterface {
            is_bridged: true,
            ..network("port0", true)
        };
        let pod = Interface {
            name: "veth-a".to_owned(),
            namespaces: BTreeSet::from(["cni-a".to_owned()]),
            netns: 1,
            addrs: BTreeSet::new(),
            is_direct: true,
        };
        let node = NodeState {
            pod_interfaces: BTreeMap::from([(5, pod)]),
            network_interfaces: BTreeMap::from([
                (2, network("eth0", true)),
                (3, network("wg0", false)),
                (4, port),
            ]),
            ..NodeState::default()
        };
        let role = |has_link_header| Role::Network { has_link_header };
        assert_eq!(
            wanted(&node),
            BTreeMap::from([
                (2, role(true)),
                (3, role(false)),
                (4, Role::BridgePort),
                (5, Role::Pod)
            ])
        );
    }
}
