//! Three who should agree: the reference model, the rules that kube-proxy would write, run by the
//! kernel, and Weir. The same cluster, the same clients, the same questions by real sockets.

pub mod cluster;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use weir_tests::bed::manifests::Manifests;
use weir_tests::bed::{Agent, AgentOptions, Bed, Family, Pod, Topology, Wiring};
use weir_tests::reference::world::World;
use weir_tests::reference::{self, Answer, Client, Served, Source, nftables};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Failure, Transport};

use crate::world::weir;

/// The program that loads rules, of the package `nftables`.
const NFT: &str = "/usr/sbin/nft";
/// Questions after which an endpoint that was not seen is not served: of two, one is missed in
/// 2^-63.
const TRIES: usize = 64;
/// Who has not answered by then does not.
const SILENCE: Duration = Duration::from_millis(400);

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn the_model_the_rules_of_kube_proxy_and_weir_agree() -> Result<()> {
    let world = cluster::world();
    let ground = Ground::build()?;
    let node = ground.bed.node(0);

    let file = ground.bed.run_dir().join("kube-proxy.nft");
    std::fs::write(&file, nftables::rules(&world, &cluster::pods()))
        .with_context(|| format!("write {}", file.display()))?;
    nft(&ground.bed, &["-f", file.to_str().context("it is UTF-8")?])?;
    ground
        .ask_everything(&world, Proxy::Rules)
        .context("by the rules of kube-proxy")?;
    nft(&ground.bed, &["delete", "table", "ip", "kube-proxy"])?;
    nft(&ground.bed, &["delete", "table", "ip6", "kube-proxy"])?;

    let manifests = Manifests::create(ground.bed.run_dir().join("manifests"))?;
    manifests.put("cluster.yaml", &reference::manifests::objects(&world))?;
    let agent = Agent::start(node, &AgentOptions::new(&weir()?, manifests.directory()))?;
    ground
        .ask_everything(&world, Proxy::Weir)
        .with_context(|| format!("by Weir: {}", agent.log_tail(12)))
}

fn nft(bed: &Bed, arguments: &[&str]) -> Result<()> {
    let system = bed.node(0).system();
    system.run(Path::new(NFT), arguments).map(drop)
}

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proxy {
    Rules,
    Weir,
}

struct Ground {
    client: Pod,
    near: Pod,
    far: Pod,
    bed: Bed,
}

impl Ground {
    fn build() -> Result<Self> {
        let bed = Bed::start(Topology::two_nodes(Wiring::Routed))?;
        let ground = Self {
            near: bed.pod_at(0, "near", cluster::NEAR)?,
            client: bed.pod_at(0, "client", cluster::CLIENT)?,
            far: bed.pod_at(1, "far", cluster::FAR)?,
            bed,
        };
        for pod in [&ground.near, &ground.client, &ground.far] {
            pod.serve_at(cluster::TARGET_PORT)?;
        }
        // Refusals by ICMP are for every question, not for one a second.
        ground
            .bed
            .node(0)
            .namespace()
            .set_sysctls(&[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")])?;
        for v4 in cluster::EXTERNAL.into_iter().chain([[10, 32, 0, 0].into()]) {
            for (family, length) in [(Family::V4, 24), (Family::V6, 64)] {
                ground.bed.route((cluster::of(family, v4), length), 0)?;
            }
        }
        Ok(ground)
    }

    /// Every client at once, each one question after the other.
    fn ask_everything(&self, world: &World, proxy: Proxy) -> Result<()> {
        thread::scope(|scope| {
            let threads = [0, 1, 2].map(|who| {
                scope.spawn(move || {
                    for family in Family::ALL {
                        let (pod, client) = match who {
                            0 => (
                                &*self.client,
                                Client::Pod(cluster::of(family, cluster::CLIENT)),
                            ),
                            1 => (self.bed.node(0).process(), Client::Node),
                            _ => (
                                self.bed.outside(),
                                Client::Outside(cluster::outside(family)),
                            ),
                        };
                        for (addr, port) in cluster::destinations(family) {
                            let to = SocketAddr::new(addr, port);
                            for transport in Transport::ALL {
                                self.ask(world, proxy, (pod, client), to, transport)
                                    .with_context(|| format!("{client:?} to {transport:?} {to}"))?;
                            }
                        }
                    }
                    Ok(())
                })
            });
            threads
                .into_iter()
                .try_for_each(|thread| match thread.join() {
                    Ok(result) => result,
                    Err(_) => bail!("a client panicked"),
                })
        })
    }

    fn ask(
        &self,
        world: &World,
        proxy: Proxy,
        (pod, client): (&TestPod, Client),
        to: SocketAddr,
        transport: Transport,
    ) -> Result<()> {
        let protocol = match transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        };
        let expected = reference::answers(world, client, to, protocol);
        let expected = expected.first().context("there is an answer")?;
        match expected {
            Answer::Served(served) => {
                self.expect_served(world, proxy, (pod, client), to, served, transport)
            }
            Answer::NoEndpoint | Answer::NoSuchPort => {
                let failure = once(pod, to, transport, None);
                ensure!(
                    failure == Err(Failure::refused())
                        || is_told(proxy, client, expected, &failure),
                    "expected {expected:?}, but {failure:?}"
                );
                Ok(())
            }
            // Of silence datagrams tell sooner.
            _ if transport == Transport::Tcp => Ok(()),
            Answer::NoneHere
            | Answer::NotInSourceRanges
            | Answer::UnusedServiceAddress
            | Answer::LeftAlone => {
                let failure = once(pod, to, transport, Some(SILENCE));
                ensure!(
                    failure == Err(Failure::TimedOut) || is_told(proxy, client, expected, &failure),
                    "expected {expected:?}, but {failure:?}"
                );
                Ok(())
            }
        }
    }

    fn expect_served(
        &self,
        world: &World,
        proxy: Proxy,
        (pod, client): (&TestPod, Client),
        to: SocketAddr,
        served: &Served,
        transport: Transport,
    ) -> Result<()> {
        let mut missing: BTreeSet<&str> = served
            .endpoints
            .keys()
            .map(|at| self.name_of(at.ip()))
            .collect::<Result<_>>()?;
        // Where there is one, a few more questions would show a second.
        let least = 4;
        for count in 0..TRIES {
            let (server, source) = once(pod, to, transport, None)
                .with_context(|| format!("expected one of {:?}", served.endpoints))?;
            let (at, expected) = served
                .endpoints
                .iter()
                .find(|(at, _)| self.name_of(at.ip()).is_ok_and(|name| name == server))
                .with_context(|| format!("{server} is none of {:?}", served.endpoints))?;
            self.check_source(world, proxy, (client, to), source, (*at, *expected))?;
            missing.remove(server.as_str());
            if missing.is_empty() && count >= least {
                return Ok(());
            }
        }
        bail!("{missing:?} never answered")
    }

    /// The rules masquerade more than they must: whatever an address but the cluster IP leads to,
    /// under policy Cluster, and all that comes to cluster IPs from outside. Weir keeps what can be
    /// kept.
    fn check_source(
        &self,
        world: &World,
        proxy: Proxy,
        (client, to): (Client, SocketAddr),
        source: IpAddr,
        (at, expected): (SocketAddr, Source),
    ) -> Result<()> {
        let by_node = self.bed.addresses_of(0);
        let is_node = by_node.contains(&source);
        let addr = client.address(world, to.is_ipv6());
        let is_right = match (client, expected) {
            (Client::Node, _) | (_, Source::Node) => {
                is_node || Some(source) == addr && is_itself(client, at)
            }
            (_, Source::Client) => Some(source) == addr || proxy == Proxy::Rules && is_node,
        };
        ensure!(
            is_right,
            "{at} saw {source}, expected {expected:?}'s address"
        );
        Ok(())
    }

    fn name_of(&self, addr: IpAddr) -> Result<&str> {
        [&self.near, &self.client, &self.far]
            .into_iter()
            .find(|pod| pod.has(addr))
            .map(|pod| pod.name())
            .with_context(|| format!("no pod has {addr}"))
    }
}

/// A process of the node is told at its call what the rules, which are in the way of its packets,
/// do not let out; and by Weir that it is not in the source ranges.
fn is_told(
    proxy: Proxy,
    client: Client,
    expected: &Answer,
    failure: &Result<(String, IpAddr), Failure>,
) -> bool {
    client == Client::Node
        && (proxy == Proxy::Rules || *expected == Answer::NotInSourceRanges)
        && matches!(failure, Err(Failure::Errno(_)))
}

/// A pod that reaches itself by a call that was translated never leaves.
fn is_itself(client: Client, at: SocketAddr) -> bool {
    client == Client::Pod(at.ip())
}

/// One question by a socket of its own: who answered, and as whom it saw the client.
fn once(
    pod: &TestPod,
    to: SocketAddr,
    transport: Transport,
    limit: Option<Duration>,
) -> Result<(String, IpAddr), Failure> {
    let answer = match (transport, limit) {
        (Transport::Tcp, _) => pod.tcp_ask(to),
        (Transport::Udp, None) => pod.udp_ask_connected(to),
        (Transport::Udp, Some(limit)) => {
            let socket = pod.connect_udp(to)?.handle;
            let answer = pod.ask_with(socket, None, 0, limit);
            pod.close(socket)?;
            answer
        }
    }?;
    Ok((answer.server, answer.client.ip()))
}
