//! A node with two pods, its agent, five services, a host on a VLAN of the node's, and a link without
//! link headers that leads nowhere: the verifier has to take its programs, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::sctp;
use crate::bed::between::TUNNEL;
use crate::bed::manifests::{self, Endpoint, Manifests, ServicePort};
use crate::bed::marker::Marker;
use crate::bed::namespace::Namespace;
use crate::bed::neighbour::Network;
use crate::bed::{Agent, AgentOptions, Bed, Family, Neighbour, Pod, Topology, Wiring};
use crate::testpod::client::TestPod;
use crate::testpod::protocol::Transport;

/// Beside the first program, where the host put it.
pub const WEIR: &str = "/weir";

/// For an agent on an emulated processor that it shares with others.
const PATIENCE: Duration = Duration::from_secs(150);

/// Where services are reached.
const SERVICE_PORT: u16 = 80;
/// Where pods serve: another port, so that its translation shows.
const TARGET_PORT: u16 = 8080;

/// Less than any link's.
const TUNNEL_MTU: u32 = 1_400;

/// A service, by the last part of its cluster IPs.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    name: &'static str,
    number: u8,
    /// Where every address of the node serves it, by any protocol.
    node_port: Option<u16>,
}

/// Its backend is the pod `server`.
pub const WEB: Service = Service {
    name: "web",
    number: 140,
    node_port: None,
};
/// Its backend is the pod `client`.
pub const MIRROR: Service = Service {
    name: "mirror",
    number: 60,
    node_port: None,
};
/// Its backend is the pod `server`, and it has node ports.
pub const PUBLIC: Service = Service {
    name: "public",
    number: 30,
    node_port: Some(30_080),
};
/// Its backend is the host on the VLAN, and it has node ports.
pub const AWAY: Service = Service {
    name: "away",
    number: 40,
    node_port: Some(30_090),
};
/// It has none.
pub const EMPTY: Service = Service {
    name: "empty",
    number: 50,
    node_port: None,
};

impl Service {
    fn ip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 32, 0, self.number).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x32, 0, 0, 0, 0, self.number.into()).into(),
        }
    }

    /// Where it is reached.
    #[must_use]
    pub fn at(self, family: Family) -> SocketAddr {
        (self.ip(family), SERVICE_PORT).into()
    }

    /// Where an address of the node serves it.
    #[must_use]
    pub fn at_node(self, addr: IpAddr) -> SocketAddr {
        (addr, self.node_port.unwrap_or_default()).into()
    }

    /// The IPv4 address as sockets of the other family write it.
    #[must_use]
    pub fn mapped(self) -> SocketAddr {
        let v4 = Ipv4Addr::new(10, 32, 0, self.number);
        (v4.to_ipv6_mapped(), SERVICE_PORT).into()
    }
}

/// What the checks find. Fields are dropped from first to last.
#[derive(Debug)]
pub struct World {
    /// The node's agent.
    pub agent: Agent,
    /// A pod that asks.
    pub client: Pod,
    /// In the client's network, but outside the node's cgroup: its sockets meet no program.
    pub foreign: TestPod,
    /// A pod that answers while this lives.
    pub server: Pod,
    /// The same pod's SCTP.
    pub sctp: SctpServers,
    /// The neighbour's.
    pub sctp_away: SctpServers,
    /// A host that does not know the cluster, beside the node.
    pub neighbour: Neighbour,
    /// What the agent watches.
    pub manifests: Manifests,
    options: AgentOptions,
    /// One node and its network.
    pub bed: Bed,
}

impl World {
    /// Builds it and waits until the agent is ready.
    pub fn build() -> Result<Self> {
        let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
        let server = bed.pod(0, "server", 2)?;
        let client = bed.pod(0, "client", 9)?;
        let foreign = client.outside_the_cgroup()?;
        for pod in [&server, &client] {
            pod.serve_at(TARGET_PORT)?;
        }
        let neighbour = Neighbour::start(bed.node(0))?;
        let node = bed.node(0).namespace();
        node.run(async |links| links.add_tunnel(TUNNEL, TUNNEL_MTU).await)?;
        let sctp = SctpServers::start(server.namespace(), |family| server.addr(family))?;
        let away = |family| Network::Tagged.host(family);
        let sctp_away = SctpServers::start(neighbour.namespace(), away)?;
        for family in Family::ALL {
            let at = (away(family), TARGET_PORT).into();
            neighbour.process().serve(Transport::Tcp, at)?;
        }
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        manifests.put("node.yaml", &[manifests::node(bed.node(0).plan())])?;
        put(&manifests, WEB, in_pod(&server))?;
        put(&manifests, MIRROR, in_pod(&client))?;
        put(&manifests, PUBLIC, in_pod(&server))?;
        put(&manifests, AWAY, |family| {
            let (addr, node) = (away(family), "another".to_owned());
            Some(Endpoint { addr, node })
        })?;
        put(&manifests, EMPTY, |_| None)?;
        let mut options = AgentOptions::new(Path::new(WEIR), manifests.directory());
        options.patience = PATIENCE;
        let agent = Agent::start(bed.node(0), &options)?;
        Ok(Self {
            agent,
            client,
            foreign,
            server,
            sctp,
            sctp_away,
            neighbour,
            manifests,
            options,
            bed,
        })
    }

    /// Starts another agent, whose programs log each packet: they are larger, and another matter for
    /// the verifier.
    pub fn start_agent_that_logs_packets(&mut self) -> Result<()> {
        self.options.flags = vec!["--log=debug".to_owned()];
        self.agent = Agent::start(self.bed.node(0), &self.options)?;
        Ok(())
    }

    /// Gives [`WEB`] its other backend, and waits until the agent has written it.
    pub fn move_web_to_the_client(&mut self) -> Result<()> {
        let mut marker = Marker::default();
        marker.advance();
        put_with(&self.manifests, WEB, in_pod(&self.client), marker.objects())?;
        self.agent.wait_status("the other backend", |status| {
            marker.is_in(status) && status["error"].is_null()
        })?;
        Ok(())
    }

    /// What to show when a check fails: the agent's last words.
    pub fn explain(&self, outcome: Result<()>) -> Result<()> {
        outcome.with_context(|| self.agent.log_tail(20))
    }

    /// A process of the node itself.
    #[must_use]
    pub fn node(&self) -> &TestPod {
        self.bed.node(0).process()
    }
}

/// A server of SCTP for each family.
#[derive(Debug)]
pub struct SctpServers([(Family, sctp::Server); 2]);

impl SctpServers {
    fn start(namespace: &Namespace, own: impl Fn(Family) -> IpAddr) -> Result<Self> {
        let server = |family| {
            let at = (own(family), TARGET_PORT).into();
            Ok::<_, anyhow::Error>((family, sctp::Server::start(namespace, at)?))
        };
        Ok(Self([server(Family::V4)?, server(Family::V6)?]))
    }

    /// Has a client ask each ([`sctp::Server::ask`]).
    pub fn ask(
        &self,
        namespace: &Namespace,
        client: impl Fn(Family) -> IpAddr,
        to: impl Fn(Family) -> SocketAddr,
    ) -> Result<()> {
        for (family, server) in &self.0 {
            let (client, to) = (client(*family), to(*family));
            server
                .ask(namespace, client, to)
                .with_context(|| format!("SCTP of {client} to {to}"))?;
        }
        Ok(())
    }
}

fn in_pod(pod: &Pod) -> impl Fn(Family) -> Option<Endpoint> {
    |family| {
        Some(Endpoint {
            addr: pod.addr(family),
            node: pod.node().name().to_owned(),
        })
    }
}

fn put(
    manifests: &Manifests,
    service: Service,
    backend: impl Fn(Family) -> Option<Endpoint>,
) -> Result<()> {
    put_with(manifests, service, backend, [])
}

/// The same with further objects, which come at the same moment.
fn put_with(
    manifests: &Manifests,
    service: Service,
    backend: impl Fn(Family) -> Option<Endpoint>,
    further: impl IntoIterator<Item = Value>,
) -> Result<()> {
    let ports = |port| {
        [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")].map(|(name, protocol)| ServicePort {
            name,
            port,
            protocol,
        })
    };
    let ips = Family::ALL.map(|family| service.ip(family));
    let mut object = manifests::service(service.name, &ips, &ports(SERVICE_PORT));
    if let Some(node_port) = service.node_port {
        object["spec"]["type"] = json!("NodePort");
        for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            port["nodePort"] = json!(node_port);
        }
    }
    let mut objects = vec![object];
    for family in Family::ALL {
        let endpoints = Vec::from_iter(backend(family));
        let slice = manifests::slice(service.name, family, &ports(TARGET_PORT), &endpoints);
        objects.push(slice);
    }
    objects.extend(further);
    manifests
        .put(&format!("{}.yaml", service.name), &objects)
        .with_context(|| format!("write the service {}", service.name))?;
    Ok(())
}
