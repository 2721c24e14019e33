//! What is shown: each step asks, checks what it saw against what it expected, and says it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::{Cluster, at};
use crate::bed::Family;
use crate::bed::wait::wait_for;
use crate::testpod::protocol::{Failure, Transport};

const NGINX: &str = "10.32.0.140:80";
const NGINX_V6: &str = "[fd00:10:32::8c]:80";
const DNS: &str = "10.32.0.10:53";
const DNS_V6: &str = "[fd00:10:32::a]:53";
const API_SERVER: &str = "10.32.0.1:443";
const LONELY: &str = "10.32.0.99:80";

/// Questions after which a backend that was not seen is not served.
const TRIES: usize = 64;
/// A hundred questions a second.
const PROBE: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// A step of the demonstration.
pub struct Step {
    /// What is asked.
    pub title: &'static str,
    /// Asks; gives what was seen.
    pub show: fn(&mut Cluster) -> Result<String>,
}

/// All steps in order.
pub fn all() -> Vec<Step> {
    let step = |title, show| Step { title, show };
    vec![
        step("both pods by their own addresses", own_addresses),
        step(
            "the service 10.32.0.140:80, backends on two nodes",
            |cluster| both_backends(cluster, NGINX),
        ),
        step("the API server by 10.32.0.1:443", api_server),
        step("DNS over UDP by 10.32.0.10:53", |cluster| {
            resolve(cluster, DNS, Transport::Udp)
        }),
        step("DNS over TCP by 10.32.0.10:53", |cluster| {
            resolve(cluster, DNS, Transport::Tcp)
        }),
        step("IPv6: both pods by their own addresses", own_addresses_v6),
        step("IPv6: the service [fd00:10:32::8c]:80", |cluster| {
            both_backends(cluster, NGINX_V6)
        }),
        step("IPv6: DNS over UDP by [fd00:10:32::a]:53", |cluster| {
            resolve(cluster, DNS_V6, Transport::Udp)
        }),
        step("a name, then its address, as an application does", by_name),
        step("a service without endpoints refuses at once", refused),
        step(
            "a backend is removed while a client keeps asking",
            backend_removed,
        ),
        step(
            "the agent is killed and restarted under a transfer",
            agent_killed,
        ),
        step("weir cleanup leaves nothing", cleaned_up),
    ]
}

fn own_addresses(cluster: &mut Cluster) -> Result<String> {
    pods_by_address(cluster, Family::V4)
}

fn own_addresses_v6(cluster: &mut Cluster) -> Result<String> {
    pods_by_address(cluster, Family::V6)
}

fn pods_by_address(cluster: &Cluster, family: Family) -> Result<String> {
    let mut seen = Vec::new();
    for pod in &cluster.nginx {
        let to = SocketAddr::from((pod.addr(family), 80));
        let page = get(cluster, to)?;
        ensure!(
            page == pod.name(),
            "expected {} at {to}, saw {page}",
            pod.name()
        );
        seen.push(format!("{page} at {}", pod.addr(family)));
    }
    Ok(seen.join(", "))
}

fn both_backends(cluster: &mut Cluster, service: &str) -> Result<String> {
    let to = at(service)?;
    let expected: BTreeSet<String> = cluster
        .nginx
        .iter()
        .map(|pod| pod.name().to_owned())
        .collect();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    // Both must come, and enough to see that the choice is fair.
    for _ in 0..TRIES {
        *seen.entry(get(cluster, to)?).or_default() += 1;
    }
    let names: BTreeSet<String> = seen.keys().cloned().collect();
    ensure!(
        names == expected,
        "expected answers of {expected:?}, saw {seen:?}"
    );
    let ends = cluster.busybox.connect(to)?;
    ensure!(
        ends.peer == Some(to),
        "expected getpeername to say {to}, saw {:?}",
        ends.peer
    );
    cluster.busybox.close(ends.handle)?;
    let counts: Vec<String> = seen
        .iter()
        .map(|(name, count)| format!("{name} {count} times"))
        .collect();
    Ok(counts.join(", "))
}

fn api_server(cluster: &mut Cluster) -> Result<String> {
    let server = get(cluster, at(API_SERVER)?)?;
    ensure!(
        server == "worker-0",
        "expected the node worker-0, saw {server}"
    );
    Ok("a process of worker-0 answers".to_owned())
}

fn resolve(cluster: &mut Cluster, server: &str, transport: Transport) -> Result<String> {
    let mut seen = Vec::new();
    for (name, expected) in [
        ("kubernetes.default.svc.cluster.local.", "10.32.0.1"),
        ("nginx.default.svc.cluster.local.", "10.32.0.140"),
    ] {
        let addresses = cluster
            .busybox
            .resolve(at(server)?, transport, name, false)
            .with_context(|| format!("ask {server} for {name}"))?;
        let expected: IpAddr = expected.parse()?;
        ensure!(
            addresses == [expected],
            "expected {name} to be {expected}, saw {addresses:?}"
        );
        seen.push(format!(
            "{} is {expected}",
            name.split('.').next().unwrap_or(name)
        ));
    }
    Ok(seen.join(", "))
}

fn by_name(cluster: &mut Cluster) -> Result<String> {
    let name = "nginx.default.svc.cluster.local.";
    let mut seen = Vec::new();
    for (server, ipv6) in [(DNS, false), (DNS_V6, true)] {
        let addresses = cluster
            .busybox
            .resolve(at(server)?, Transport::Udp, name, ipv6)?;
        let address = addresses
            .first()
            .with_context(|| format!("expected an address of {name}, saw none"))?;
        let page = get(cluster, (*address, 80).into())?;
        seen.push(format!("{page} by {address}"));
    }
    Ok(seen.join(", "))
}

fn refused(cluster: &mut Cluster) -> Result<String> {
    let answer = cluster.busybox.tcp_ask(at(LONELY)?);
    ensure!(
        answer == Err(Failure::refused()),
        "expected ECONNREFUSED from {LONELY}, saw {answer:?}"
    );
    Ok("ECONNREFUSED".to_owned())
}

fn backend_removed(cluster: &mut Cluster) -> Result<String> {
    let to = at(NGINX)?;
    let probe = cluster.busybox.start_probe(to, Transport::Tcp, PROBE)?;
    wait_for(
        || "both backends to answer".to_owned(),
        PATIENCE,
        || {
            let seen = cluster.busybox.read_probe(probe)?;
            Ok(seen.from("nginx-0") > 0 && seen.from("nginx-1") > 0)
        },
    )?;
    cluster.remove_endpoints_on("worker-1")?;
    // Questions that were under way may still be answered by it.
    cluster.wait_probe(probe, 5)?;
    let before = cluster.busybox.read_probe(probe)?;
    cluster.wait_probe(probe, 50)?;
    let after = cluster.busybox.read_probe(probe)?;
    cluster.busybox.close(probe)?;
    let stray = after.from("nginx-1") - before.from("nginx-1");
    ensure!(
        stray == 0,
        "expected nginx-0 alone to answer, saw {stray} answers of nginx-1"
    );
    ensure!(
        after.failed == 0,
        "expected no failed request, saw {after:?}"
    );
    cluster.restore_endpoints()?;
    Ok(format!(
        "{} requests, none failed; then only nginx-0 answers",
        after.answered()
    ))
}

fn agent_killed(cluster: &mut Cluster) -> Result<String> {
    let transfer = cluster.busybox.start_transfer(at(NGINX)?)?.handle;
    let advance = |cluster: &Cluster, when: &str| -> Result<()> {
        let before = cluster.busybox.transfer_progress(transfer)?;
        wait_for(
            || format!("the transfer to go on {when}"),
            PATIENCE,
            || Ok(cluster.busybox.transfer_progress(transfer)? > before + 500_000),
        )
    };
    advance(cluster, "before the kill")?;
    for agent in &mut cluster.agents {
        agent.kill()?;
    }
    advance(cluster, "without agents")?;
    // New connections need no agent either.
    get(cluster, at(NGINX)?).context("a new connection while no agent runs")?;
    for agent in &mut cluster.agents {
        agent.restart()?;
    }
    advance(cluster, "under the new agents")?;
    let transferred = cluster.busybox.finish_transfer(transfer)?;
    ensure!(
        transferred.is_complete(),
        "expected what was sent, saw {transferred:?}"
    );
    let megabytes = transferred.sent.bytes as f64 / 1e6;
    Ok(format!("{megabytes:.1} MB, every byte arrived"))
}

fn cleaned_up(cluster: &mut Cluster) -> Result<String> {
    let mut pins = 0;
    for agent in &mut cluster.agents {
        agent.stop()?;
    }
    for node in cluster.bed.nodes() {
        pins += node.pins()?.len();
        node.cleanup(&cluster.weir)?;
        let left = node.pins()?;
        ensure!(
            left.is_empty(),
            "expected no pins on {}, saw {left:?}",
            node.name()
        );
        let left = node.tc_programs()?;
        ensure!(
            left.is_empty(),
            "expected no programs on {}, saw {left:?}",
            node.name()
        );
    }
    ensure!(pins > 0, "expected pins before the cleanup, saw none");
    Ok(format!(
        "{pins} pins before, none after; no program at any link"
    ))
}

/// Fetches a page from the client pod; gives the server's name.
fn get(cluster: &Cluster, to: SocketAddr) -> Result<String> {
    let page = cluster
        .busybox
        .http_get(to, "/")
        .with_context(|| format!("fetch http://{to}/"))?;
    ensure!(
        page.status == 200,
        "expected status 200 from {to}, saw {}",
        page.status
    );
    Ok(page.server)
}
