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

use super::format::{Scenario, Step};
use super::world;
use crate::bed::plan::NodePlan;

/// The pods and servers of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Addresses of pods.
    pub pods: BTreeSet<IpAddr>,
    /// Where they serve.
    pub servers: BTreeSet<(Protocol, SocketAddr)>,
}

impl Places {
    /// Those of a scenario whose files are relative to a directory.
    ///
    /// # Errors
    /// A manifest cannot be read, or a pod that talks is not on the scenario's node.
    pub fn of(scenario: &Scenario, directory: &Path) -> Result<Self> {
        let mut places = Self::default();
        places.add(world::read_objects(&scenario.given, directory)?);
        for step in &scenario.steps {
            match step {
                Step::Apply(given) => places.add(world::read_objects(given, directory)?),
                Step::Talk { talk, .. } if !talk.is_node => {
                    let client = talk.client.to_canonical();
                    ensure!(
                        is_here(client),
                        "{talk}: the client is no pod of the scenario's node"
                    );
                    places.pods.insert(client);
                }
                Step::Talk { .. }
                | Step::Send { .. }
                | Step::Call { .. }
                | Step::Delete(_)
                | Step::Advance(_) => {}
            }
        }
        Ok(places)
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
                | Object::NotOurs(..) => {}
            }
        }
    }

    fn add_group(&mut self, group: &EndpointGroup) {
        for endpoint in &group.endpoints {
            self.pods.insert(endpoint.addr);
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

/// Is this the address of a pod of the scenario's node, rather than of another?
#[must_use]
pub fn is_here(addr: IpAddr) -> bool {
    let plan = NodePlan::new(0);
    match addr {
        IpAddr::V4(v4) => plan.pods_v4.contains(v4),
        IpAddr::V6(v6) => plan.pods_v6.contains(v6),
    }
}
