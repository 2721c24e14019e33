//! The cluster in which single packets are timed, wherever that is: two services that have each
//! other's cluster IP as their endpoint, so that a packet goes from one to the other for ever.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_agent::maps::Plan;
use weir_ebpf::datapath::At;
use weir_ebpf::verdict::Hook;

use super::cases::{Case, Repeat};
use crate::scenario::format::{Given, Node};
use crate::scenario::frame;
use crate::scenario::memory::UPLINK;
use crate::scenario::notation::Notation;
use crate::scenario::runner::Executor;
use crate::scenario::world::{self, World};

/// The cluster, and the writes that fill tables for it.
#[derive(Debug)]
pub struct Exchange {
    world: World,
    plan: Plan,
}

impl Exchange {
    /// Compiles it.
    ///
    /// # Errors
    /// An object is not as it should be.
    pub fn new() -> Result<Self> {
        let given: Vec<Given> = objects()
            .into_iter()
            .filter_map(|object| match object {
                Value::Object(object) => Some(Given::Inline(object)),
                _ => None,
            })
            .collect();
        let objects = world::read_objects(&given, Path::new("."))?;
        let (world, plan) = World::new(&Node::default(), objects);
        ensure!(
            world.skipped().is_empty(),
            "left out: {:?}",
            world.skipped()
        );
        Ok(Self { world, plan })
    }

    /// What empty tables lack.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A hook, at a pod's interface or at the one that leads to the network.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn at(&self, hook: Hook, pod: Option<&str>) -> Result<At> {
        let interface = match pod {
            None => UPLINK,
            Some(pod) => {
                let pod = world::parse_pod(&format!("default/{pod}"))?;
                self.world.interfaces()?.index(&pod)?
            }
        };
        Ok(At::new(hook, interface))
    }

    /// The packet of a text, with this port where it says `PORT`.
    ///
    /// # Errors
    /// It is none.
    pub fn frame(text: &str, port: u16) -> Result<Vec<u8>> {
        let text = text.replace("PORT", &port.to_string());
        frame::build(&Notation::parse(&text)?.to_packet()?)
    }

    /// Sends what goes before a case, and sees that its packet becomes what it should, as often as it
    /// is looked at. Ports from this one on are used where each packet needs another.
    ///
    /// # Errors
    /// Something else becomes of it.
    pub fn prepare(&self, executor: &mut impl Executor, case: &Case, port: u16) -> Result<()> {
        for (hook, pod, packet) in case.before {
            let frame = Self::frame(packet, port)?;
            executor.send(self.at(*hook, *pod)?, &frame)?;
        }
        let at = self.at(case.hook, case.pod)?;
        let mut frame = Self::frame(case.packet, port)?;
        for number in 1..=LOOKS {
            let sent = executor.send(at, &frame)?;
            ensure!(
                sent.verdict == case.verdict,
                "expected {:?}, but {:?}",
                case.verdict,
                sent.verdict
            );
            frame = match case.repeat {
                Repeat::Many => sent.frame,
                Repeat::Single => Self::frame(case.packet, port + number)?,
            };
        }
        Ok(())
    }
}

/// How often [`Exchange::prepare`] looks, and as many ports it uses.
pub const LOOKS: u16 = 4;

/// Two services that have each other's cluster IP as endpoint, one with a node port, and two pods.
fn objects() -> Vec<Value> {
    let ports = |tcp: u16, udp: u16| {
        json!([
            {"name": "tcp", "protocol": "TCP", "port": tcp},
            {"name": "udp", "protocol": "UDP", "port": udp},
        ])
    };
    let service = |name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports(80, 53)},
        })
    };
    let slice = |service: &str, endpoint: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-v4"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4", "ports": ports(80, 53),
            "endpoints": [{"addresses": [endpoint], "nodeName": "worker-0"}],
        })
    };
    let pod = |name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": "worker-0", "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        })
    };
    let mut objects = vec![
        service("there", "10.32.0.10"),
        slice("there", "10.32.0.11"),
        service("back", "10.32.0.11"),
        slice("back", "10.32.0.10"),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "node-port", "namespace": "default"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.32.0.12", "clusterIPs": ["10.32.0.12"],
                "ports": [{"name": "udp", "protocol": "UDP", "port": 53, "nodePort": 30_053}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "node-port-v4", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "node-port"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "udp", "protocol": "UDP", "port": 53}],
            "endpoints": [{"addresses": ["10.200.0.2"], "nodeName": "worker-0"}],
        }),
        pod("free", "10.200.0.2"),
        pod("judged", "10.200.0.3"),
    ];
    for number in 0..10 {
        // One of them lets everybody pass at the ports in use.
        let (peers, port) = match number {
            0 => (json!({"cidr": "10.0.0.0/8"}), 53),
            _ => (
                json!({"cidr": format!("198.18.{number}.0/24")}),
                9_000 + number,
            ),
        };
        let rule = json!({"ports": [{"protocol": "UDP", "port": port}]});
        let (mut ingress, mut egress) = (rule.clone(), rule);
        ingress["from"] = json!([{"ipBlock": peers}]);
        egress["to"] = json!([{"ipBlock": peers}]);
        objects.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "judged"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [ingress], "egress": [egress],
            },
        }));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cases::CASES;
    use crate::scenario::memory::Memory;

    #[test]
    fn each_case_becomes_what_it_should_as_often_as_it_is_looked_at() {
        let exchange = Exchange::new().unwrap();
        for case in CASES {
            let mut memory = Memory::new(1);
            memory.apply(exchange.plan()).unwrap();
            let prepared = exchange.prepare(&mut memory, case, 20_000);
            prepared
                .unwrap_or_else(|error| panic!("{}, {}: {error:#}", case.hook.name(), case.what));
        }
    }
}
