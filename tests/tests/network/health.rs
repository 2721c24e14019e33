//! What load balancers, clouds and dashboards ask a real agent for.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weir_tests::bed::manifests;
use weir_tests::bed::wait::{wait_for, wait_for_some};
use weir_tests::bed::{Addresses, Family, Node, Pod, Wiring};
use weir_tests::testpod::protocol::Failure;

use crate::world::{EMPTY, TARGET_PORT, WEB, World};

const HEALTHZ: u16 = 10_256;
const METRICS: u16 = 10_249;
/// The service's `healthCheckNodePort`, and the one that it moves to.
const CHECK: u16 = 32_100;
const CHECK_LATER: u16 = 32_101;

/// A port that was taken is tried again after five seconds.
const LIMIT: Duration = Duration::from_secs(90);
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer, read to its end.
#[derive(Debug)]
struct Page {
    status: u16,
    head: String,
    body: String,
}

impl Page {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?} is not JSON"))
    }

    /// The value of a metric's sample.
    fn sample(&self, sample: &str) -> Option<f64> {
        self.body.lines().find_map(|line| {
            let value = line.strip_prefix(sample)?.strip_prefix(' ')?;
            value.parse().ok()
        })
    }
}

/// Asks from within a node's network; `None` where nobody listens.
///
/// A listener that closes resets who waits in its queue, and ends the connections that it has
/// accepted without an answer: who meets that asks again.
fn ask(from: &Node, to: impl Into<SocketAddr>, path: &str) -> Result<Option<Page>> {
    let to = to.into();
    let answer = from.namespace().enter(|| {
        wait_for_some(
            || "an answer, or a refusal".to_owned(),
            LIMIT,
            || match ask_once(to, path) {
                Ok(text) => Ok(Some(text).filter(|text| !text.is_empty()).map(Some)),
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionRefused => Ok(Some(None)),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Ok(None),
                    _ => Err(error.into()),
                },
            },
        )
    });
    let Some(text) = answer.with_context(|| format!("ask {to}{path}"))? else {
        return Ok(None);
    };
    let (head, body) = text.split_once("\r\n\r\n").context("a head and a body")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Some(Page {
        status: status.with_context(|| format!("{head:?} has a status"))?,
        head: head.to_owned(),
        body: body.to_owned(),
    }))
}

fn ask_once(to: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn get(from: &Node, to: impl Into<SocketAddr>, path: &str) -> Result<Page> {
    let to = to.into();
    ask(from, to, path)?.with_context(|| format!("nobody listens at {to}"))
}

/// Waits until a page has this status.
fn wait_status(from: &Node, to: impl Into<SocketAddr>, path: &str, status: u16) -> Result<Page> {
    let to = to.into();
    wait_for_some(
        || format!("{to}{path} to answer {status}"),
        LIMIT,
        || Ok(ask(from, to, path)?.filter(|page| page.status == status)),
    )
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn clouds_and_dashboards_find_what_kube_proxy_told_them() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let result = surface(&mut world);
    world.explain(result)
}

fn surface(world: &mut World) -> Result<()> {
    let node = world.bed.node(0).clone();
    let neighbour = world.bed.node(1).clone();
    let addresses = node.addresses();
    for (from, to) in [
        (&node, SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTHZ))),
        (&node, (Ipv6Addr::LOCALHOST, HEALTHZ).into()),
        (&neighbour, (addresses.v4, HEALTHZ).into()),
        (&neighbour, (addresses.v6, HEALTHZ).into()),
    ] {
        for path in ["/healthz", "/livez"] {
            let page = get(from, to, path)?;
            ensure!(page.status == 200, "{page:?}");
            ensure!(
                page.header("Content-Type") == Some("application/json")
                    && page.header("X-Content-Type-Options") == Some("nosniff"),
                "{page:?}"
            );
            let body = page.json()?;
            ensure!(
                body["healthy"] == true
                    && body["status"]["IPv4"]["healthy"] == true
                    && body["status"]["IPv6"]["healthy"] == true
                    && (body["nodeEligible"] == true) == (path == "/healthz"),
                "{body:#}"
            );
        }
    }

    // Metrics are the node's own business.
    let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS));
    ensure!(ask(&neighbour, (addresses.v4, METRICS), "/metrics")?.is_none());
    ensure!(get(&node, metrics, "/proxyMode")?.body == "ebpf");
    ensure!(get(&node, metrics, "/healthz")?.body == "ok");
    let config = get(&node, metrics, "/configz")?.json()?;
    ensure!(config["weir"]["node-name"] == node.name(), "{config:#}");
    ensure!(config["weir"]["healthz-bind-address"] == "0.0.0.0:10256");
    traffic_is_counted(world, &node, metrics)?;
    syncs_are_counted(world, &node, metrics)?;
    node_is_about_to_go(world, &node)
}

fn traffic_is_counted(world: &World, node: &Node, metrics: SocketAddr) -> Result<()> {
    let translated = "weir_packets_total{hook=\"from_pod\",verdict=\"translate\"}";
    let rejected = "weir_rejects_total{hook=\"from_pod\",reason=\"no_backend\"}";
    let flows = "weir_table_entries{table=\"FLOWS\"}";
    let before = get(node, metrics, "/metrics")?;
    world.client.udp_ask(WEB.at(Family::V4))?;
    let refused = world.client.udp_ask_connected(EMPTY.at(Family::V4));
    ensure!(refused == Err(Failure::refused()), "{refused:?}");
    let after = get(node, metrics, "/metrics")?;
    for sample in [translated, rejected, flows] {
        let (Some(before), Some(after)) = (before.sample(sample), after.sample(sample)) else {
            bail!("no {sample} in {}", after.body)
        };
        ensure!(after > before, "{sample}: {before} and then {after}");
    }
    Ok(())
}

fn syncs_are_counted(world: &mut World, node: &Node, metrics: SocketAddr) -> Result<()> {
    let programmed = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    let changes = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
    let partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}";
    let before = get(node, metrics, "/metrics")?;
    for (sample, least) in [
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            1.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
            1e9,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv6\"}",
            1e9,
        ),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 3.0),
        (changes, 6.0),
        ("weir_table_entries{table=\"SERVICE_NAMES\"}", 6.0),
        ("weir_table_capacity{table=\"FLOWS\"}", 128.0),
        ("process_resident_memory_bytes", 1e6),
    ] {
        let value = before.sample(sample);
        ensure!(
            value.is_some_and(|value| value >= least),
            "{sample}: {value:?} in {}",
            before.body
        );
    }
    // A slice that says when what made it change happened.
    let mut slice = slice(&[]);
    slice["metadata"]["annotations"] = json!({
        "endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string(),
    });
    world.manifests.put("later.yaml", &[slice])?;
    wait_for(
        || format!("{programmed} to count it"),
        LIMIT,
        || {
            let after = get(node, metrics, "/metrics")?;
            let more = |sample| after.sample(sample) > before.sample(sample);
            Ok(after.sample(programmed) == Some(1.0)
                && more(changes)
                && more(partial)
                && after.sample("kubeproxy_sync_proxy_rules_endpoint_changes_pending") == Some(0.0))
        },
    )?;
    world.manifests.remove("later.yaml")
}

fn node_is_about_to_go(world: &World, node: &Node) -> Result<()> {
    let healthz = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTHZ));
    let objects: Vec<Value> = world
        .bed
        .nodes()
        .iter()
        .map(|node| manifests::node(node.plan()))
        .collect();
    let mut tainted = objects.clone();
    tainted[0]["spec"] = json!({ "taints": [
        { "key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule" },
    ] });
    let mut deleted = objects.clone();
    deleted[0]["metadata"]["deletionTimestamp"] = json!("2026-11-21T07:00:00Z");
    for leaving in [&tainted[..], &deleted[..], &objects[1..]] {
        world.manifests.put("nodes.yaml", leaving)?;
        let page = wait_status(node, healthz, "/healthz", 503)?;
        let body = page.json()?;
        ensure!(
            body["nodeEligible"] == false && body["healthy"] == true,
            "{body:#}"
        );
        ensure!(get(node, healthz, "/livez")?.status == 200);
        world.manifests.put("nodes.yaml", &objects)?;
        wait_status(node, healthz, "/healthz", 200)?;
    }
    let neighbour = world.bed.node(1);
    let page = get(neighbour, healthz, "/healthz")?;
    ensure!(page.status == 200, "the other node stays: {page:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_load_balancer_learns_which_nodes_have_endpoints() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let result = health_checks(&mut world);
    world.explain(result)
}

fn health_checks(world: &mut World) -> Result<()> {
    let nodes = world.bed.nodes().to_vec();
    let at = |index: usize, port| SocketAddr::from((nodes[index].addresses().v4, port));
    // Asked by the neighbour, as load balancers ask from elsewhere.
    let weight = |index: usize, port, weight: usize| -> Result<()> {
        let asker = &nodes[1 - index];
        let header = weight.to_string();
        let page = wait_for_some(
            || format!("{} to have weight {weight}", nodes[index].name()),
            LIMIT,
            || {
                let page = ask(asker, at(index, port), "/whatever")?;
                Ok(page.filter(|page| {
                    page.header("X-Load-Balancing-Endpoint-Weight") == Some(&header)
                }))
            },
        )?;
        let body = page.json()?;
        ensure!(
            page.status == if weight == 0 { 503 } else { 200 }
                && body["service"] == json!({ "namespace": "default", "name": "front" })
                && body["localEndpoints"] == weight
                && body["serviceProxyHealthy"] == true,
            "{page:?}"
        );
        Ok(())
    };
    let closed = |index: usize, port| {
        wait_for(
            || format!("{} to close {port}", nodes[index].name()),
            LIMIT,
            || Ok(ask(&nodes[1 - index], at(index, port), "/")?.is_none()),
        )
    };

    ensure!(ask(&nodes[1], at(0, CHECK), "/")?.is_none());
    world.manifests.put("front.yaml", &[service(CHECK)])?;
    weight(0, CHECK, 0)?;
    weight(1, CHECK, 0)?;

    // Endpoints come and go; the client is a second one on the first node.
    let (near, client, far) = (&world.near, &world.client, &world.far);
    for (pods, first, second) in [
        (&[near, far][..], 1, 1),
        (&[near, client, far], 2, 1),
        (&[far], 0, 1),
        (&[client, near], 2, 0),
    ] {
        world.manifests.put("slices.yaml", &[slice(pods)])?;
        weight(0, CHECK, first)?;
        weight(1, CHECK, second)?;
    }

    // The port moves, first to one that another process has.
    let taken = nodes[0].namespace().enter(|| {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, CHECK_LATER)).context("take the port")
    })?;
    world.manifests.put("front.yaml", &[service(CHECK_LATER)])?;
    weight(1, CHECK_LATER, 0)?;
    closed(1, CHECK)?;
    closed(0, CHECK)?;
    world.agents[0].wait_status("the taken port to be named", |status| {
        let listeners = status["listeners"].as_array();
        listeners.is_some_and(|all| {
            all.iter().any(|one| {
                one["purpose"]
                    .as_str()
                    .is_some_and(|purpose| purpose.contains("default/front"))
                    && one["error"]
                        .as_str()
                        .is_some_and(|error| error.contains("taken"))
            })
        })
    })?;
    drop(taken);
    weight(0, CHECK_LATER, 2)?;
    world.agents[0].wait_status("no port to be missing", |status| {
        let listeners = status["listeners"].as_array();
        listeners.is_some_and(|all| all.len() == 3 && all.iter().all(|one| one["error"].is_null()))
    })?;

    // A new agent answers without a change of anything.
    world.agents[0].kill()?;
    world.agents[0].restart()?;
    weight(0, CHECK_LATER, 2)?;

    world.manifests.remove("front.yaml")?;
    closed(0, CHECK_LATER)?;
    closed(1, CHECK_LATER)
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_load_balancer_asks_where_node_ports_are_served() -> Result<()> {
    let world = World::start_with(
        Wiring::Routed,
        &["--nodeport-addresses=primary", "--healthz-bind-address="],
    )?;
    let result = (|| {
        let node = world.bed.node(0);
        let Addresses { v4, v6 } = node.addresses();
        world.manifests.put("front.yaml", &[service(CHECK)])?;
        for addr in [IpAddr::V4(v4), v6.into()] {
            wait_status(node, (addr, CHECK), "/", 503)?;
        }
        for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            ensure!(ask(node, (loopback, CHECK), "/")?.is_none(), "{loopback}");
            ensure!(ask(node, (loopback, HEALTHZ), "/healthz")?.is_none());
        }
        Ok(())
    })();
    world.explain(result)
}

fn service(health_check_node_port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "front", "namespace": "default" },
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.32.0.70",
            "clusterIPs": ["10.32.0.70"],
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": health_check_node_port,
            "ports": [{ "name": "tcp", "port": 80, "nodePort": 30_070 }],
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.70" }] } },
    })
}

fn slice(pods: &[&Pod]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| manifests::Endpoint {
            addr: pod.addr(Family::V4),
            node: pod.node().name().to_owned(),
        })
        .collect();
    let port = manifests::ServicePort {
        name: "tcp",
        port: TARGET_PORT,
        protocol: "TCP",
    };
    manifests::slice("front", Family::V4, &[port], &endpoints)
}
