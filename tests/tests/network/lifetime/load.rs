//! What goes on while agents come and go: streams, datagrams, new connections, and attempts that a
//! policy forbids.
//!
//! | what | from | by | must |
//! |---|---|---|---|
//! | three streams | a pod; a pod that the socket programs do not see; the outside, by a node port | the socket; packets; packets from the network | arrive complete |
//! | a datagram each millisecond | a pod, IPv4 and IPv6 | packets | each be answered, all by the same backend |
//! | new connections | a pod; the outside | the socket; packets | all succeed |
//! | TCP and UDP, to the service and to its pods | a pod that no policy lets in | either | never be answered |

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Family, Pod};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Handle, Transport};
use weir_tests::testpod::room::dropped_for_want_of_room;

use crate::world::{TARGET_PORT, WEB, World};

const PATIENCE: Duration = Duration::from_secs(120);
const DOOR: u16 = 30_140;
/// A thousand a second.
const BEAT: Duration = Duration::from_millis(1);
const CONNECT: Duration = Duration::from_millis(5);
const TRY: Duration = Duration::from_millis(20);
/// An attempt that is refused is given up after this.
const SILENCE: Duration = Duration::from_secs(3);

/// The pods of the service let in the client and the outside world, and nobody else.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 8080}, {port: 8080, protocol: UDP}]
  - from: [{ipBlock: {cidr: 203.0.113.0/24}}]
    ports: [{port: 8080}]
";

/// Everything that runs. Handles are of the process named beside them.
pub struct Load {
    /// A process in the client's pod that the socket programs do not see.
    foreign: TestPod,
    stranger: Pod,
    streams: [Handle; 3],
    pulses: Vec<Handle>,
    connections: Handle,
    connections_from_outside: Handle,
    refused: Vec<Handle>,
    /// Packets that this machine's processors had no room for, before.
    dropped: u64,
}

impl Load {
    /// Puts the policy in force and starts everything.
    pub fn start(world: &mut World) -> Result<Self> {
        let stranger = world.bed.pod(0, "stranger", 66)?;
        let pods = [
            pod(&world.client, "client"),
            pod(&world.near, "web"),
            pod(&world.far, "web"),
            pod(&stranger, "stranger"),
        ];
        world.manifests.put("pods.yaml", &pods)?;
        world.manifests.put_text("policy.yaml", POLICY)?;
        world.manifests.put_text("door.yaml", &door(&world.near))?;
        for agent in &mut world.agents {
            agent.wait_ready()?;
            agent.wait_status("the policy to be in force", |status| {
                let pods = status["interfaces"].as_array();
                status["policies"] == 1
                    && pods.is_some_and(|all| all.iter().all(|it| it["state"] == "programmed"))
                    && status["error"].is_null()
            })?;
        }
        let outside = world.bed.outside();
        let at_door = SocketAddr::from((world.bed.node(0).addresses().of(Family::V4), DOOR));
        let to = WEB.at(Family::V4);
        wait_for(
            || "the node port to be served".to_owned(),
            PATIENCE,
            || Ok(outside.tcp_ask(at_door).is_ok()),
        )?;

        let foreign = world.client.outside_the_cgroup()?;
        let client = &world.client;
        let dropped = dropped_for_want_of_room()?;
        let streams = [
            client.start_transfer(to)?.handle,
            foreign.start_transfer(to)?.handle,
            outside.start_transfer(at_door)?.handle,
        ];
        let pulses = Family::ALL
            .into_iter()
            .map(|family| client.start_pulse(WEB.at(family), BEAT))
            .collect::<Result<_, _>>()?;
        let direct = |pod: &Pod| SocketAddr::from((pod.addr(Family::V4), TARGET_PORT));
        let refused = [to, direct(&world.near), direct(&world.far)]
            .into_iter()
            .flat_map(|to| {
                Transport::ALL.map(|by| stranger.start_probe_within(to, by, TRY, SILENCE))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            streams,
            pulses,
            connections: client.start_probe(to, Transport::Tcp, CONNECT)?,
            connections_from_outside: outside.start_probe(at_door, Transport::Tcp, CONNECT)?,
            refused,
            foreign,
            stranger,
            dropped,
        })
    }

    /// Ends everything: what should have arrived has, and what should not has not.
    pub fn finish(self, world: &World) -> Result<()> {
        let (client, outside) = (&*world.client, world.bed.outside());
        // An attempt is refused when its time is up.
        for attempts in &self.refused {
            wait_for(
                || "attempts to be refused".to_owned(),
                PATIENCE,
                || Ok(self.stranger.read_probe(*attempts)?.failed > 10),
            )?;
        }
        for attempts in &self.refused {
            let seen = self.stranger.read_probe(*attempts)?;
            ensure!(seen.answered() == 0, "got past the policy: {seen:?}");
        }
        let connections = [
            ("a pod", client, self.connections),
            ("the outside", outside, self.connections_from_outside),
        ];
        for (whose, process, probe) in connections {
            let seen = process.read_probe(probe)?;
            process.close(probe)?;
            ensure!(seen.failed == 0, "connections of {whose} failed: {seen:?}");
            ensure!(seen.answered() > 100, "{whose} opened few: {seen:?}");
        }
        for pulse in &self.pulses {
            self.every_datagram_was_answered(world, *pulse)?;
        }
        for (process, stream) in [client, &self.foreign, outside]
            .into_iter()
            .zip(self.streams)
        {
            let transferred = process.finish_transfer(stream)?;
            ensure!(transferred.is_complete(), "{transferred:?}");
        }
        Ok(())
    }

    fn every_datagram_was_answered(&self, world: &World, pulse: Handle) -> Result<()> {
        let seen = world.client.finish_pulse(pulse)?;
        ensure!(seen.failed == 0, "datagrams failed: {seen:?}");
        ensure!(seen.sent > 1_000, "few datagrams were sent: {seen:?}");
        ensure!(
            seen.answers.len() == 1,
            "a flow that lives keeps its backend: {seen:?}"
        );
        // What a receiver had no room for was not lost on its way.
        let dropped = dropped_for_want_of_room()? - self.dropped;
        let mut full = BTreeMap::from([("processors", dropped)]);
        for pod in [&world.client, &world.near, &world.far] {
            full.insert(pod.name(), pod.full_buffers()?);
        }
        let lost = seen.sent - seen.answered();
        ensure!(
            lost <= full.values().sum(),
            "{lost} datagrams were lost, and there was no room for these: {full:?}; {seen:?}"
        );
        Ok(())
    }
}

fn pod(pod: &Pod, app: &str) -> serde_json::Value {
    let addresses = Family::ALL.map(|family| json!({ "ip": pod.addr(family) }));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod.name(), "namespace": "default", "labels": { "app": app } },
        "spec": { "nodeName": pod.node().name(), "containers": [{ "name": "main" }] },
        "status": {
            "phase": "Running",
            "podIP": pod.addr(Family::V4),
            "podIPs": addresses,
        },
    })
}

/// A node port that leads to one pod.
fn door(pod: &Pod) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: door, namespace: default}}
spec: {{type: NodePort, clusterIP: 10.32.0.141, ports: [{{port: 80, nodePort: {DOOR}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: door-1, namespace: default, labels: {{kubernetes.io/service-name: door}}}}
addressType: IPv4
ports: [{{port: {TARGET_PORT}}}]
endpoints: [{{addresses: [{}], nodeName: {}}}]
",
        pod.addr(Family::V4),
        pod.node().name()
    )
}
