//! Who a scenario's conversations are between: its pods, and the servers in them.
//!
//! Every endpoint that any of its objects names serves, chosen or not, so that an answer from one
//! that should not have been chosen shows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Result, ensure};
use weir_agent::model::{self, EndpointGroup, Object};
use weir_ebpf::addr::Protocol;

use super::format::talk::{By, Talk};
use super::format::{Routes, Scenario, Step};
use super::world;
use crate::bed::plan::{MAX_NODES, NodePlan};

/// The pods and servers of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Addresses of pods.
    pub pods: BTreeSet<IpAddr>,
    /// Nodes that talk themselves, by their numbers.
    pub nodes: BTreeSet<usize>,
    /// Where pods and nodes serve.
    pub servers: BTreeSet<(Protocol, SocketAddr)>,
    /// The addresses of the scenario's node.
    node: BTreeSet<IpAddr>,
    /// Ways of the router.
    routes: Routes,
}

impl Places {
    /// Those of a scenario whose files are relative to a directory.
    ///
    /// # Errors
    /// A manifest cannot be read, or a client is none that the executors have.
    pub fn of(scenario: &Scenario, directory: &Path) -> Result<Self> {
        let mut places = Self {
            node: scenario.node.addresses.iter().copied().collect(),
            routes: scenario.routes.clone(),
            ..Self::default()
        };
        places.add(world::read_objects(&scenario.given, directory)?);
        for step in &scenario.steps {
            match step {
                Step::Apply(given) => places.add(world::read_objects(given, directory)?),
                Step::Talk { talk, .. } => places.add_client(talk, scenario)?,
                Step::Send { .. }
                | Step::Call { .. }
                | Step::Delete(_)
                | Step::Plug(_)
                | Step::Unplug(_)
                | Step::Advance(_) => {}
            }
        }
        Ok(places)
    }

    /// Where an address is, seen from the scenario's node.
    #[must_use]
    pub fn side(&self, addr: IpAddr) -> Side {
        if self.node.contains(&addr) || addr.is_loopback() {
            Side::Node
        } else if Place::of(addr) == Place::Pod(0) {
            Side::Pod
        } else {
            Side::Beyond
        }
    }

    /// Do packets from beyond the node to this address come to the node?
    #[must_use]
    pub fn comes_here(&self, addr: IpAddr) -> bool {
        self.side(addr) != Side::Beyond || self.routes.node_of(addr) == Some(0)
    }

    fn add_client(&mut self, talk: &Talk, scenario: &Scenario) -> Result<()> {
        let client = talk.client.to_canonical();
        let place = Place::of(client);
        ensure!(
            matches!(
                (talk.by, place),
                (By::Pod, Place::Pod(_)) | (By::Node, Place::Node(_)) | (By::Outside, _)
            ),
            "{talk}: {client} is {place:?} in the address plan"
        );
        // Another node's agent would translate, which only a network has.
        ensure!(
            scenario.network_only.is_some() || !matches!(place, Place::Pod(1..) | Place::Node(1..)),
            "{talk}: a client on another node needs `network_only`"
        );
        match place {
            Place::Pod(_) => {
                self.pods.insert(client);
            }
            Place::Node(node) => {
                self.nodes.insert(node);
            }
            Place::Elsewhere => {}
        }
        Ok(())
    }

    fn add(&mut self, objects: Vec<Object>) {
        for object in objects {
            match object {
                Object::EndpointSlice(slice) => self.add_group(&slice.group),
                Object::Endpoints(endpoints) => {
                    for group in &endpoints.groups {
                        self.add_group(group);
                    }
                }
                Object::Service(_)
                | Object::Node(_)
                | Object::ServiceCidr(_)
                | Object::Namespace(_)
                | Object::Pod(_)
                | Object::NetworkPolicy(_)
                | Object::NotOurs(..) => {}
            }
        }
    }

    fn add_group(&mut self, group: &EndpointGroup) {
        for endpoint in &group.endpoints {
            match Place::of(endpoint.addr) {
                Place::Node(node) => {
                    self.nodes.insert(node);
                }
                Place::Pod(_) | Place::Elsewhere => {
                    self.pods.insert(endpoint.addr);
                }
            }
            for port in &group.ports {
                let server = SocketAddr::new(endpoint.addr, port.port.get());
                self.servers.insert((protocol(port.protocol), server));
            }
        }
    }
}

const fn protocol(protocol: model::Protocol) -> Protocol {
    match protocol {
        model::Protocol::Tcp => Protocol::TCP,
        model::Protocol::Udp => Protocol::UDP,
        model::Protocol::Sctp => Protocol::SCTP,
    }
}

/// Where an address is, seen from the scenario's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// In one of its pods.
    Pod,
    /// On the node itself.
    Node,
    /// Beyond its links to the world.
    Beyond,
}

/// Whose an address is in the address plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A pod's on the node of this number.
    Pod(usize),
    /// That of the node of this number; a loopback address is the first's.
    Node(usize),
    /// Neither's.
    Elsewhere,
}

impl Place {
    /// Of an address.
    #[must_use]
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_loopback() {
            return Self::Node(0);
        }
        let mut plans = (0..MAX_NODES).map(|index| (index, NodePlan::new(index)));
        let found = plans.find_map(|(index, plan)| {
            let (is_pod, is_node) = match addr {
                IpAddr::V4(v4) => (plan.pods_v4.contains(v4), plan.v4 == v4),
                IpAddr::V6(v6) => (plan.pods_v6.contains(v6), plan.v6 == v6),
            };
            match (is_pod, is_node) {
                (true, _) => Some(Self::Pod(index)),
                (false, true) => Some(Self::Node(index)),
                (false, false) => None,
            }
        });
        found.unwrap_or(Self::Elsewhere)
    }
}
