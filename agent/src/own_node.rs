//! What the agent knows of the node it runs on: as the `node` source told it, and as the tables
//! are to hold it.

use std::collections::BTreeMap;

use anyhow::Result;
use tracing::warn;
use weir_ebpf::tables::name;

use crate::{
    attach::{self, Role},
    compile::{Claimed, InterfaceAddresses, NodeContext, PodInterface},
    config::Config,
    model::Cluster,
    sources::{
        cni,
        node::{
            NodeState,
            node_ports::node_port_addresses,
            snat_ports::{SnatPorts, snat_ports},
        },
    },
};

/// The agent's own node.
pub(crate) struct OwnNode {
    /// `None` until the source has told it.
    state: Option<NodeState>,
    /// The records of CNI plugins, the older ones first; `None` until they have been read.
    records: Option<Vec<cni::Record>>,
    snat_ports: SnatPorts,
    /// What the tables have no room for: said once.
    left_out: Vec<String>,
}

impl OwnNode {
    /// A node of which only the ports are known.
    ///
    /// # Errors
    /// The kernel's own range of ports cannot be read.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let ports = snat_ports(&config.service_node_ports)?;
        warn_of(&ports);
        Ok(Self {
            state: None,
            records: None,
            snat_ports: ports,
            left_out: Vec::new(),
        })
    }

    /// Has it been told what the node looks like, and which pods its interfaces were made for?
    pub(crate) fn is_known(&self) -> bool {
        self.state.is_some() && self.records.is_some()
    }

    /// Takes the records of CNI plugins.
    pub(crate) fn note_records(&mut self, records: Option<Vec<cni::Record>>) {
        self.records = records;
    }

    /// Takes what the source told.
    pub(crate) fn note(&mut self, state: Option<NodeState>) {
        let before = std::mem::replace(&mut self.state, state);
        let known = before.unwrap_or_default().unreadable_interfaces;
        for (index, interface) in self
            .state
            .iter()
            .flat_map(|state| &state.unreadable_interfaces)
        {
            if known.get(index) != Some(interface) {
                warn!(
                    interface = interface.name,
                    link_type = interface.link_type,
                    "services are not served there: packets of this type of link cannot be read"
                );
            }
        }
    }

    /// Reads the kernel's own range of ports afresh: it may be set at any time, and nobody is
    /// told. Tells whether it is another one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read_snat_ports(&mut self, config: &Config) -> Result<bool> {
        let ports = snat_ports(&config.service_node_ports)?;
        let is_other = ports != self.snat_ports;
        if is_other {
            warn_of(&ports);
            self.snat_ports = ports;
        }
        Ok(is_other)
    }

    /// What the compiler must know, as far as the tables have room for it.
    pub(crate) fn context(
        &mut self,
        config: &Config,
        cluster: &Cluster,
        capacities: &BTreeMap<&'static str, u32>,
    ) -> NodeContext {
        let mut context = NodeContext {
            name: config.node_name.clone(),
            snat_ports: self.snat_ports.in_table(),
            service_cidrs: config.service_cidrs.clone(),
            policy: config.policy,
            ..NodeContext::default()
        };
        let Some(state) = &self.state else {
            return context;
        };
        let object = cluster.node(&config.node_name);
        context.addr_v4 = state.addr_v4();
        context.addr_v6 = state.addr_v6();
        context.node_port_addresses = node_port_addresses(
            state,
            object.map(|object| object.addrs.as_slice()),
            &config.nodeport_addresses,
        );
        let interfaces = state.network_interfaces.iter();
        context.interfaces = interfaces
            .map(|(index, interface)| {
                let addresses = InterfaceAddresses {
                    v4: interface.addr_v4,
                    v6: interface.addr_v6,
                };
                (*index, addresses)
            })
            .collect();
        context.pod_interfaces = pod_interfaces(state, self.records.as_deref().unwrap_or_default());
        let room = |table| capacities.get(table).copied().unwrap_or(0);
        let left_out = context.limit(room(name::NODE_PORT_ADDRS), room(name::INTERFACES));
        if left_out != self.left_out {
            for what in &left_out {
                warn!("{what}");
            }
            self.left_out = left_out;
        }
        context
    }

    /// What each interface is for, by index.
    pub(crate) fn roles(&self) -> BTreeMap<u32, Role> {
        self.state.as_ref().map(attach::wanted).unwrap_or_default()
    }

    /// How many interfaces are pods', and how many lead to the network.
    pub(crate) fn counts(&self) -> [usize; 2] {
        self.state.as_ref().map_or([0; 2], |state| {
            [state.pod_interfaces.len(), state.network_interfaces.len()]
        })
    }

    /// Pods' interfaces: index and name.
    pub(crate) fn pod_interfaces(&self) -> Vec<(u32, String)> {
        let interfaces = self.state.iter().flat_map(|state| &state.pod_interfaces);
        interfaces
            .map(|(index, interface)| (*index, interface.name.clone()))
            .collect()
    }

    /// Interfaces that lead to the network: index and name.
    pub(crate) fn network_interfaces(&self) -> Vec<(u32, String)> {
        let interfaces = self
            .state
            .iter()
            .flat_map(|state| &state.network_interfaces);
        interfaces
            .map(|(index, interface)| (*index, interface.name.clone()))
            .collect()
    }
}

/// The pods' interfaces, with what their namespaces and the records say of them.
fn pod_interfaces(state: &NodeState, records: &[cni::Record]) -> BTreeMap<u32, PodInterface> {
    let mut claims = cni::claims(&state.pod_interfaces, records);
    let interfaces = state.pod_interfaces.iter();
    interfaces
        .map(|(index, interface)| {
            let mut addrs = interface.addrs.clone();
            let pod = claims.remove(index).map(|claim| {
                addrs.extend(claim.addrs);
                Claimed {
                    pod: claim.pod,
                    uid: claim.uid,
                }
            });
            let interface = PodInterface {
                netns: interface.netns,
                addrs,
                is_direct: interface.is_direct,
                pod,
            };
            (*index, interface)
        })
        .collect()
}

fn warn_of(ports: &SnatPorts) {
    if let Some(shared) = &ports.shared {
        warn!("{shared}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodRef;
    use crate::sources::node::Interface;

    #[test]
    fn a_pods_addresses_are_those_in_its_namespace_and_those_of_its_record() {
        let addrs = |addrs: &[&str]| addrs.iter().map(|addr| addr.parse().unwrap()).collect();
        let interface = |name: &str, inside: &[&str]| Interface {
            name: name.to_owned(),
            namespaces: [format!("cni-{name}")].into(),
            netns: 4,
            addrs: addrs(inside),
            is_direct: true,
        };
        let state = NodeState {
            pod_interfaces: BTreeMap::from([
                (5, interface("a", &["10.200.0.7", "fe80::7"])),
                (6, interface("b", &["10.200.0.8"])),
            ]),
            ..NodeState::default()
        };
        let pod = PodRef {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
        };
        let record = cni::Record {
            pod: pod.clone(),
            uid: "u".to_owned(),
            sandbox: Some("/run/netns/cni-a".to_owned()),
            outside: vec!["a".to_owned()],
            addrs: addrs(&["10.200.0.7", "fd00:10:200::7"]),
        };
        let claimed = PodInterface {
            netns: 4,
            addrs: addrs(&["10.200.0.7", "fd00:10:200::7", "fe80::7"]),
            is_direct: true,
            pod: Some(Claimed {
                pod,
                uid: "u".to_owned(),
            }),
        };
        let unclaimed = PodInterface {
            netns: 4,
            addrs: addrs(&["10.200.0.8"]),
            is_direct: true,
            pod: None,
        };
        assert_eq!(
            pod_interfaces(&state, &[record]),
            BTreeMap::from([(5, claimed), (6, unclaimed)])
        );
    }
}
