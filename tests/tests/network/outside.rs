//! Clients in the outside world, by a node port, where one question and its answer are too little
//! to show it: crowds, long streams, narrow ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::bed::manifests::Manifests;
use weir_tests::bed::marker::Marker;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Agent, AgentOptions, Bed, Family, Pod, Topology, Wiring, plan};
use weir_tests::scenario::format::Ground;
use weir_tests::testpod::protocol::{Handle, Swept};

use crate::world::weir;

const LIMIT: Duration = Duration::from_secs(90);
/// The service's node ports, and where its endpoints serve.
const HTTP: u16 = 30_080;
const HTTP_TARGET: u16 = 8_080;
const DNS: u16 = 30_053;
const DNS_TARGET: u16 = 5_353;
/// The parts of the manifests.
const SERVICES: &str = "services";
const ENDPOINTS: &str = "endpoints";

/// Two nodes, a service with an endpoint on either, and the outside world. Fields are dropped
/// from first to last: agents before the bed.
struct Shop {
    agents: Vec<Agent>,
    near: Pod,
    far: Pod,
    manifests: Manifests,
    /// What the manifests hold, in parts.
    parts: BTreeMap<&'static str, String>,
    marker: Marker,
    bed: Bed,
}

impl Shop {
    /// With these endpoints, as the scenarios name them.
    fn open(topology: Topology, endpoints: &str) -> Result<Self> {
        let bed = Bed::start(topology)?;
        let (near, far) = (bed.pod(0, "near", 2)?, bed.pod(1, "far", 1)?);
        for pod in [&near, &far] {
            pod.serve_at(HTTP_TARGET)?;
            pod.serve_at(DNS_TARGET)?;
        }
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        let parts = BTreeMap::from([
            (SERVICES, common("shop")?),
            (ENDPOINTS, common(&format!("shop-{endpoints}"))?),
        ]);
        let marker = Marker::default();
        write(&manifests, &parts, marker)?;
        let options = AgentOptions::new(&weir()?, manifests.directory());
        let agents = Agent::start_all(bed.nodes(), &options)?;
        Ok(Self {
            agents,
            near,
            far,
            manifests,
            parts,
            marker,
            bed,
        })
    }

    /// Changes the endpoints, and waits until both nodes know.
    fn set_endpoints(&mut self, name: &str) -> Result<()> {
        self.parts
            .insert(ENDPOINTS, common(&format!("shop-{name}"))?);
        self.tell()
    }

    /// Tells both nodes what there is, and waits until it is in force there.
    fn tell(&mut self) -> Result<()> {
        self.marker.advance();
        let marker = self.marker;
        write(&self.manifests, &self.parts, marker)?;
        for agent in &mut self.agents {
            agent.wait_status("the change to be taken in", |status| {
                marker.is_in(status) && status["error"].is_null()
            })?;
        }
        Ok(())
    }

    /// A port at the first node.
    fn at(&self, family: Family, port: u16) -> SocketAddr {
        (self.bed.node(0).addresses().of(family), port).into()
    }

    /// How many packets the first node has dropped for want of a source port.
    fn without_port(&self) -> Result<f64> {
        let metrics = "127.0.0.1:10249".parse()?;
        let page = self.bed.node(0).process().http_get(metrics, "/metrics")?;
        let counts = page
            .body
            .lines()
            .filter(|line| {
                line.starts_with("weir_drops_total{") && line.contains("\"no_source_port\"")
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(counts.sum())
    }
}

/// One file, replaced as a whole: an agent sees all of a change or nothing.
fn write(
    manifests: &Manifests,
    parts: &BTreeMap<&'static str, String>,
    marker: Marker,
) -> Result<()> {
    let mut documents: Vec<String> = parts.values().cloned().collect();
    documents.extend(marker.objects().map(|object| object.to_string()));
    manifests.put_text("shop.yaml", &documents.join("\n---\n"))?;
    Ok(())
}

/// Objects that the scenarios share.
fn common(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scenarios/common")
        .join(format!("{name}.yaml"));
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Makes tests of a function on grounds.
macro_rules! on_grounds {
    ($name:ident: $($ground:ident => $variant:ident),+ $(,)?) => {
        mod $name {
            use weir_tests::scenario::format::Ground;
            $(
                #[test]
                #[ignore = "needs root: cargo xtask test network"]
                fn $ground() -> anyhow::Result<()> {
                    super::$name(Ground::$variant)
                }
            )+
        }
    };
}

on_grounds!(
    a_large_transfer_arrives_whole:
    routed => Routed,
    over_an_overlay => Overlay,
    over_a_tunnel => Tunnel,
    through_a_narrow_router => Narrow,
    through_a_narrow_router_behind_the_node => NarrowBehind,
    behind_a_firewall => Firewall,
);

/// Both ways, to either node's endpoint: segments as long as devices take, and as long as the
/// narrowest link on the way does.
fn a_large_transfer_arrives_whole(ground: Ground) -> Result<()> {
    let mut shop = Shop::open(ground.topology(2), "near")?;
    for endpoint in ["near", "far"] {
        shop.set_endpoints(endpoint)?;
        for family in Family::ALL {
            let to = shop.at(family, HTTP);
            let transferred = shop
                .bed
                .outside()
                .bulk(to, 8_000_000)
                .with_context(|| format!("{to} to {endpoint}"))?;
            ensure!(
                transferred.is_complete() && transferred.server == endpoint,
                "{to} to {endpoint}: {transferred:?}"
            );
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn streams_go_on_whatever_happens_to_their_endpoints() -> Result<()> {
    let mut shop = Shop::open(Topology::two_nodes(Wiring::Routed), "near")?;
    let mut streams = Vec::new();
    for (endpoint, family) in [("near", Family::V4), ("far", Family::V6)] {
        shop.set_endpoints(endpoint)?;
        let to = shop.at(family, HTTP);
        streams.push((endpoint, shop.bed.outside().start_transfer(to)?.handle));
    }
    for change in ["near-terminating", "near", "none", "both"] {
        shop.set_endpoints(change)?;
        expect_progress(&shop, &streams, &format!("with the endpoints {change}"))?;
    }
    shop.parts.insert(SERVICES, common("shop-local")?);
    shop.tell()?;
    expect_progress(&shop, &streams, "under the other policy")?;
    shop.parts.remove(SERVICES);
    shop.tell()?;
    expect_progress(&shop, &streams, "without the service")?;
    for (endpoint, stream) in streams {
        let transferred = shop.bed.outside().finish_transfer(stream)?;
        ensure!(
            transferred.is_complete() && transferred.server == endpoint,
            "{transferred:?}"
        );
    }
    Ok(())
}

fn expect_progress(shop: &Shop, streams: &[(&str, Handle)], when: &str) -> Result<()> {
    for (endpoint, stream) in streams {
        let client = shop.bed.outside();
        let before = client.transfer_progress(*stream)?;
        wait_for(
            || format!("the stream to {endpoint} to go on {when}"),
            LIMIT,
            || Ok(client.transfer_progress(*stream)? > before + 200_000),
        )?;
    }
    Ok(())
}

/// Clients' ports: 28,000.
const CROWD: RangeInclusive<u16> = 2_000..=29_999;

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_crowd_is_masqueraded_to_one_endpoint_each_with_a_port_of_its_own() -> Result<()> {
    let shop = Shop::open(Topology::two_nodes(Wiring::Routed), "far")?;
    let to = shop.at(Family::V4, DNS);
    let first = shop.bed.outside().sweep(to, CROWD)?;
    expect_ports_of_their_own(&shop, &first)?;
    ensure!(
        first.failed == 0 && first.seen.len() == CROWD.len(),
        "{} of {} were answered: {:?}",
        first.seen.len(),
        CROWD.len(),
        first.failures
    );
    // All of them live at once: each is still seen as it was.
    let second = shop.bed.outside().sweep(to, CROWD)?;
    let changed = CROWD.filter(|port| first.seen.get(port) != second.seen.get(port));
    ensure!(
        second.failed == 0 && changed.clone().next().is_none(),
        "{} failed, {} are seen as others, {:?}",
        second.failed,
        changed.count(),
        second.failures
    );
    let dropped = shop.without_port()?;
    ensure!(dropped == 0.0, "{dropped} packets found no port");
    Ok(())
}

/// Nobody is seen as another is, nor as a process of the node may be.
fn expect_ports_of_their_own(shop: &Shop, swept: &Swept) -> Result<()> {
    let node: IpAddr = shop.bed.node(0).addresses().v4.into();
    let seen: BTreeSet<SocketAddr> = swept.seen.values().copied().collect();
    ensure!(
        seen.len() == swept.seen.len(),
        "{} clients share {} ports",
        swept.seen.len(),
        seen.len()
    );
    // Nor from a privileged port.
    let is_fair = |client: &&SocketAddr| {
        client.ip() == node
            && client.port() >= 1_024
            && !plan::EPHEMERAL_PORTS.contains(&client.port())
    };
    match seen.iter().find(|client| !is_fair(client)) {
        Some(client) => anyhow::bail!("a client is seen as {client}"),
        None => Ok(()),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn where_ports_run_out_the_rest_are_dropped_and_counted() -> Result<()> {
    /// The node's own connections leave this many beside the privileged ones.
    const LEFT: u16 = 1_200;
    let mut shop = Shop::open(Topology::two_nodes(Wiring::Routed), "far")?;
    let range = format!("{} 65535", 1_024 + LEFT);
    shop.bed
        .node(0)
        .namespace()
        .set_sysctls(&[("ipv4/ip_local_port_range", &range)])?;
    shop.agents[0].stop()?;
    shop.agents[0].restart()?;
    let to = shop.at(Family::V4, DNS);
    let crowd = 20_001..=20_000 + LEFT + 100;
    let swept = shop.bed.outside().sweep(to, crowd.clone())?;
    let answered = swept.seen.len();
    ensure!(
        (1..=usize::from(LEFT)).contains(&answered) && swept.failed > 0,
        "{answered} of {} were answered with {LEFT} ports",
        crowd.len()
    );
    let dropped = shop.without_port()?;
    ensure!(dropped > 0.0, "nobody counted what was dropped");
    // Others are not harmed: another protocol, another endpoint.
    let answer = shop.bed.outside().tcp_ask(shop.at(Family::V4, HTTP))?;
    ensure!(answer.server == shop.far.name(), "{answer:?}");
    shop.set_endpoints("near")?;
    let answer = shop.bed.outside().udp_ask(to)?;
    ensure!(answer.server == shop.near.name(), "{answer:?}");
    Ok(())
}
