//! Where in the node something is: its pods' interfaces, and by which of them a packet goes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use weir_agent::compile::{Claimed, NodeContext, PodInterface, PolicyOptions};
use weir_agent::model::PodRef;
use weir_ebpf::datapath::At;
use weir_ebpf::verdict::Hook;
use weir_tests::reference::policy::Sender;
use weir_tests::reference::policy::world::{Pod, World};
use weir_tests::scenario::interfaces::{FIRST, ROOM};
use weir_tests::scenario::memory::UPLINK;

use crate::policies::plan::{NODE_ADDRESSES, NODES, addr};

/// Which node all is seen from.
pub const HERE: usize = 0;

/// The interfaces of the node's pods. No index is given twice.
#[derive(Debug, Default)]
pub struct Interfaces {
    by_pod: BTreeMap<(String, String), u32>,
    given: u32,
}

impl Interfaces {
    /// What the agent finds on the node in a cluster.
    ///
    /// # Errors
    /// There were too many.
    pub fn context(
        &mut self,
        world: &World,
        has_records: bool,
        is_kept: bool,
    ) -> Result<NodeContext> {
        let mut found = BTreeMap::new();
        for pod in world.pods.iter().filter(|pod| has_interface(world, pod)) {
            let interface = PodInterface {
                netns: -1,
                addrs: pod.addresses.iter().copied().collect(),
                is_direct: true,
                pod: has_records.then(|| Claimed {
                    pod: PodRef {
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                    },
                    uid: String::new(),
                }),
            };
            let given = &mut self.given;
            let index = self.by_pod.entry(key(pod)).or_insert_with(|| {
                *given += 1;
                FIRST + *given - 1
            });
            found.insert(*index, interface);
        }
        ensure!(self.given <= ROOM, "{} interfaces are too many", self.given);
        let [v4, v6] = NODE_ADDRESSES[HERE].map(addr);
        Ok(NodeContext {
            name: NODES[HERE].to_owned(),
            addr_v4: is_v4(v4),
            addr_v6: is_v6(v6),
            pod_interfaces: found,
            policy: PolicyOptions {
                keep_established: is_kept,
                ..PolicyOptions::default()
            },
            ..NodeContext::default()
        })
    }

    /// The interface behind which an address is, if it is a pod's here.
    pub fn of(&self, world: &World, addr: IpAddr) -> Option<u32> {
        let pod = world.owner(addr).filter(|pod| has_interface(world, pod))?;
        self.by_pod.get(&key(pod)).copied()
    }

    /// The way of a packet through the node, hook by hook; `None`: nobody can send it, or it is
    /// not known where it is sent.
    pub fn way(&self, world: &World, from: &Sender, to: IpAddr) -> Option<Vec<At>> {
        let mut way = Vec::new();
        let is_from_node = match from {
            Sender::Pod(addr) => {
                match self.of(world, *addr) {
                    Some(interface) => way.push(At::new(Hook::FromPod, interface)),
                    None if is_doubtful(world, *addr) => return None,
                    None => way.push(At::new(Hook::FromNetwork, UPLINK)),
                }
                false
            }
            Sender::Node { name, .. } if name == NODES[HERE] => true,
            Sender::Node { .. } | Sender::Outside(_) => {
                way.push(At::new(Hook::FromNetwork, UPLINK));
                false
            }
        };
        if is_doubtful(world, to) {
            return None;
        }
        if let Some(interface) = self.of(world, to) {
            way.push(At {
                is_from_node,
                is_from_itself: way.contains(&At::new(Hook::FromPod, interface)),
                ..At::new(Hook::ToPod, interface)
            });
        } else if !is_here(to) {
            way.push(At::new(Hook::ToNetwork, UPLINK));
        }
        Some(way)
    }
}

/// Who sends from an address, if it is not said that it is somebody else.
pub fn sender_at(world: &World, addr: IpAddr) -> Sender {
    match NODE_ADDRESSES.iter().position(|addresses| {
        addresses
            .iter()
            .any(|text| super::place::addr(text) == addr)
    }) {
        Some(index) => Sender::Node {
            name: NODES[index].to_owned(),
            addr,
        },
        None if world.owner(addr).is_some() => Sender::Pod(addr),
        None => Sender::Outside(addr),
    }
}

/// Is this an address of the node itself?
pub fn is_here(to: IpAddr) -> bool {
    NODE_ADDRESSES[HERE].iter().any(|text| addr(text) == to)
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace.clone(), pod.name.clone())
}

/// A pod of this node that is there, and whose addresses nobody else has. (If another had one of
/// them, the node would have two interfaces for it.)
fn has_interface(world: &World, pod: &Pod) -> bool {
    let is_owner = |addr: &IpAddr| {
        world
            .owner(*addr)
            .is_some_and(|owner| key(owner) == key(pod))
    };
    pod.node.as_deref() == Some(NODES[HERE])
        && !pod.host_network
        && !pod.phase.is_completed()
        && !pod.addresses.is_empty()
        && pod.addresses.iter().all(is_owner)
}

/// Is it the address of a pod of which cannot be said where it is?
fn is_doubtful(world: &World, addr: IpAddr) -> bool {
    let Some(pod) = world.owner(addr) else {
        return false;
    };
    match pod.node.as_deref() {
        None => true,
        Some(node) => node == NODES[HERE] && !has_interface(world, pod),
    }
}

fn is_v4(addr: IpAddr) -> Option<std::net::Ipv4Addr> {
    match addr {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn is_v6(addr: IpAddr) -> Option<std::net::Ipv6Addr> {
    match addr {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    }
}
