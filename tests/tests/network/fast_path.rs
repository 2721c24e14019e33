//! Packets handed over past the node's IP layer, to pods and by pods to the world: that they are, that
//! whatever holds without holds with it, and that it ends where the node has a say.
//!
//! The kernel counts what its IP layer forwards (`ForwDatagrams`, `Ip6OutForwDatagrams`): a long
//! transfer that it did not forward went past it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnetwork::IpNetwork;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use serde_json::{Value, json};
use weir_tests::bed::fabric::UPLINK;
use weir_tests::bed::links::Route;
use weir_tests::bed::manifests::{self, Endpoint, ServicePort};
use weir_tests::bed::plan;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Agent, Family, Pod, Wiring};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Carrier, Inquiry, Transport};

use crate::world::{TARGET_PORT, WEB, World};

const PATIENCE: Duration = Duration::from_secs(90);
const NODE_PORT: u16 = 30_081;
/// Milliseconds.
const SHORT: u64 = 300;
/// Some thousand packets, however long each is: a packet of the kernel's own making holds 64 KiB. So many
/// that they take several times as long as an answer of the routes counts.
const TRANSFER: u64 = 256_000_000;
const MOST_IN_A_PACKET: u64 = 65_536;
/// The bytes of the longest packet on a narrow way: IPv6 wants 1,280 (RFC 8200 section 5).
const NARROW: u32 = 1_300;
/// Packets that may take the long way all the same: those of another kind, those before the kernel
/// knows the receiver's link address, and those that follow one that was too long for a tenth of a second.
const FEW: u64 = TRANSFER / MOST_IN_A_PACKET / 4;

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn packets_of_pods_pass_the_nodes_ip_layer_by_while_it_has_no_say() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let result = go_through(&mut world);
    world.explain(result)
}

fn go_through(world: &mut World) -> Result<()> {
    world.set_backends(&["near"])?;
    put_objects(world)?;
    wait_status(&mut world.agents[0], "the fast path to be on", |status| {
        let receivers = entries(status, "RECEIVERS");
        status["fastPath"]["isOn"] == true && receivers >= 4
    })?;

    let foreign = world.client.outside_the_cgroup()?;
    for family in Family::ALL {
        let to = WEB.at(family);
        passes_by(world, &foreign, to, "near")
            .with_context(|| format!("from a pod to {to}, outside the cgroup"))?;
        let to = SocketAddr::from((world.bed.node(0).addresses().of(family), NODE_PORT));
        let outside = world.bed.outside();
        wait_for(
            || format!("an answer at {to}"),
            PATIENCE,
            || Ok(outside.tcp_ask(to).is_ok()),
        )?;
        passes_by(world, outside, to, "near").with_context(|| format!("from outside to {to}"))?;
        let beyond = beyond(family);
        outside.serve(Transport::Tcp, beyond)?;
        passes_by(world, &world.client, beyond, "outside")
            .with_context(|| format!("from a pod to {beyond}"))?;
        narrow_ways_are_told(world, family)?;
    }

    policies_hold(world)?;
    for to in [
        SocketAddr::from((world.near.addr(Family::V4), TARGET_PORT)),
        beyond(Family::V4),
    ] {
        routes_hold(world, to)?;
    }
    rules_by_port_end_it(world)?;
    narrow_routes_end_it(world)?;
    firewall_ends_it(world)
}

/// A server in the outside world.
fn beyond(family: Family) -> SocketAddr {
    let addr = match family {
        Family::V4 => IpAddr::from(plan::OUTSIDE_V4),
        Family::V6 => plan::OUTSIDE_V6.into(),
    };
    (addr, TARGET_PORT).into()
}

/// A long transfer arrives whole, and the node's IP layer forwards next to nothing of it and of its
/// acknowledgements.
fn passes_by(world: &World, client: &TestPod, to: SocketAddr, server: &str) -> Result<()> {
    // So that the kernel knows the link addresses.
    client.tcp_ask(to)?;
    let before = forwarded(world, to)?;
    let transferred = client.bulk(to, TRANSFER)?;
    let passed = forwarded(world, to)? - before;
    ensure!(
        transferred.is_complete() && transferred.server == server,
        "{transferred:?}"
    );
    ensure!(passed <= FEW, "{passed} packets of it were forwarded");
    Ok(())
}

/// What is too long for the way beyond the node takes the long way, where the node tells its sender;
/// what fits does not.
fn narrow_ways_are_told(world: &World, family: Family) -> Result<()> {
    let to = beyond(family);
    let narrow = narrow(family, to.ip());
    let node = world.bed.node(0).namespace();
    node.run(async |links| links.add(UPLINK, narrow).await)?;
    let before = told_too_long(world, to)?;
    passes_by(world, &world.client, to, "outside")
        .with_context(|| format!("from a pod to {to} by a narrow way"))?;
    let told = told_too_long(world, to)? - before;
    ensure!(told > 0, "nobody was told that the way to {to} is narrow");
    Ok(())
}

/// A route of a node by which packets may not be long, and the kernel says so to whoever asks it.
fn narrow(family: Family, to: IpAddr) -> Route {
    let (router, prefix) = match family {
        Family::V4 => (IpAddr::from(plan::FABRIC_V4), 32),
        Family::V6 => (plan::twin(plan::FABRIC_V4).into(), 128),
    };
    Route {
        mtu: Some(NARROW),
        locks_mtu: true,
        ..Route::new((to, prefix), Some(router))
    }
}

/// A route of which it would not say so closes the way past.
fn narrow_routes_end_it(world: &mut World) -> Result<()> {
    for (family, name) in [
        (Family::V4, "203.0.113.77/32"),
        (Family::V6, "2001:db8::77/128"),
    ] {
        let network: IpNetwork = name.parse()?;
        let unlocked = Route {
            locks_mtu: false,
            ..narrow(family, network.ip())
        };
        let node = world.bed.node(0).namespace().clone();
        node.run(async |links| links.add(UPLINK, unlocked).await)?;
        wait_status(&mut world.agents[0], "the fast path to be off", |status| {
            let reason = status["fastPath"]["reason"].as_str().unwrap_or_default();
            reason.contains(&format!("the route {name} has an MTU of its own"))
        })?;
        node.run(async |links| links.remove_route(UPLINK, unlocked).await)?;
        wait_status(&mut world.agents[0], "the fast path to be on", |status| {
            status["fastPath"]["isOn"] == true
        })?;
    }
    Ok(())
}

/// What the first node's IP layer has forwarded of a family.
fn forwarded(world: &World, to: SocketAddr) -> Result<u64> {
    match to {
        SocketAddr::V4(_) => counted_v4(world, "Ip", "ForwDatagrams"),
        SocketAddr::V6(_) => counted_v6(world, "Ip6OutForwDatagrams"),
    }
}

/// To how many senders the first node has said that their packets are too long.
fn told_too_long(world: &World, to: SocketAddr) -> Result<u64> {
    match to {
        SocketAddr::V4(_) => counted_v4(world, "Icmp", "OutDestUnreachs"),
        SocketAddr::V6(_) => counted_v6(world, "Icmp6OutPktTooBigs"),
    }
}

fn counted_v4(world: &World, group: &str, counter: &str) -> Result<u64> {
    let pid = world.bed.node(0).process().pid();
    let text = fs::read_to_string(format!("/proc/{pid}/net/snmp"))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let names = lines.next().context("no heading")?.split(' ');
    let values = lines.next().context("no values")?.split(' ');
    let mut both = names.zip(values);
    let found = both.find(|(name, _)| *name == counter);
    let (_, value) = found.with_context(|| format!("no {group} {counter}"))?;
    Ok(value.parse()?)
}

fn counted_v6(world: &World, counter: &str) -> Result<u64> {
    let pid = world.bed.node(0).process().pid();
    let text = fs::read_to_string(format!("/proc/{pid}/net/snmp6"))?;
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines
        .find(|line| line.clone().next() == Some(counter))
        .with_context(|| format!("no {counter}"))?;
    Ok(line.nth(1).context("no value")?.parse()?)
}

/// A policy for the receiver is in force at once on what is handed over.
fn policies_hold(world: &mut World) -> Result<()> {
    let to = Family::ALL.map(|family| SocketAddr::from((world.near.addr(family), TARGET_PORT)));
    for to in to {
        world.client.tcp_ask(to).context("before the policy")?;
    }
    world.manifests.put_text("policy.yaml", NOBODY_MAY)?;
    isolated(&mut world.agents[0], true)?;
    for to in to {
        refused(&world.client, to).context("under the policy")?;
    }
    world.manifests.remove("policy.yaml")?;
    isolated(&mut world.agents[0], false)?;
    for to in to {
        world.client.tcp_ask(to).context("without the policy")?;
    }
    Ok(())
}

/// Waits until the tables say that a policy isolates a pod, or that none does.
fn isolated(agent: &mut Agent, is_isolated: bool) -> Result<()> {
    let what = format!("a policy in force: {is_isolated}");
    wait_status(agent, &what, |status| {
        let mut pods = status["interfaces"].as_array().into_iter().flatten();
        pods.any(|pod| pod["ingress"] == json!(["shop/nobody"])) == is_isolated
    })
}

/// Nobody waits for what is dropped.
fn refused(client: &TestPod, to: SocketAddr) -> Result<()> {
    let question = Inquiry {
        to,
        by: Carrier::Tcp,
        timeout: SHORT,
    };
    let answers = client.inquire(vec![question])?;
    ensure!(
        answers.iter().all(Result::is_err),
        "{to} answers: {answers:?}"
    );
    Ok(())
}

const NOBODY_MAY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {matchLabels: {app: near}}, policyTypes: [Ingress]}
"#;

/// Where the node's routes no longer lead there, what was found out before leads there for a second
/// at most.
fn routes_hold(world: &World, to: SocketAddr) -> Result<()> {
    world.client.tcp_ask(to).context("with the route")?;
    let unreachable = rule(
        RuleAction::Unreachable,
        &[RuleAttribute::Destination(to.ip())],
    );
    let node = world.bed.node(0).namespace().clone();
    node.run(async |links| links.add_rule(unreachable.clone()).await)?;
    wait_for(
        || format!("{to} to be out of reach"),
        PATIENCE,
        || Ok(world.client.tcp_ask(to).is_err()),
    )?;
    node.run(async |links| links.remove_rule(unreachable.clone()).await)?;
    wait_for(
        || format!("an answer at {to}"),
        PATIENCE,
        || Ok(world.client.tcp_ask(to).is_ok()),
    )
}

/// A rule for routes by port closes the way past.
fn rules_by_port_end_it(world: &mut World) -> Result<()> {
    let node = world.bed.node(0).namespace().clone();
    let by_port = rule(
        RuleAction::Unreachable,
        &[RuleAttribute::DestinationPortRange(RulePortRange {
            start: 9,
            end: 9,
        })],
    );
    node.run(async |links| links.add_rule(by_port.clone()).await)?;
    wait_status(&mut world.agents[0], "the fast path to be off", |status| {
        let reason = status["fastPath"]["reason"].as_str().unwrap_or_default();
        reason.contains("for routes goes by protocol or port")
    })?;
    node.run(async |links| links.remove_rule(by_port.clone()).await)?;
    wait_status(&mut world.agents[0], "the fast path to be on", |status| {
        status["fastPath"]["isOn"] == true
    })
}

/// A rule for routes of IPv4, before the usual ones.
fn rule(action: RuleAction, attributes: &[RuleAttribute]) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = AddressFamily::Inet;
    rule.header.action = action;
    let has_destination = |it: &RuleAttribute| matches!(it, RuleAttribute::Destination(_));
    if attributes.iter().any(has_destination) {
        rule.header.dst_len = 32;
    }
    rule.attributes = vec![RuleAttribute::Priority(50)];
    rule.attributes.extend_from_slice(attributes);
    rule
}

/// A rule of the node for what it forwards closes the way past, and holds; without it the way is
/// open again.
fn firewall_ends_it(world: &mut World) -> Result<()> {
    let to = SocketAddr::from((world.near.addr(Family::V4), TARGET_PORT));
    world.client.tcp_ask(to).context("before the firewall")?;
    let rules = format!(
        "table inet late {{ chain forward {{ type filter hook forward priority filter; \
         ip daddr {} tcp dport {TARGET_PORT} drop; }}; }}",
        to.ip()
    );
    nft(world, &rules)?;
    wait_status(&mut world.agents[0], "the fast path to be off", |status| {
        let reason = status["fastPath"]["reason"].as_str().unwrap_or_default();
        status["fastPath"]["isOn"] == false
            && reason.contains("nftables table inet late has a chain at forward")
    })?;
    refused(&world.client, to).context("against the firewall")?;
    nft(world, "delete table inet late")?;
    wait_status(&mut world.agents[0], "the fast path to be on", |status| {
        status["fastPath"] == json!({"isOn": true, "reason": null})
    })?;
    world.client.tcp_ask(to).context("without the firewall")?;
    Ok(())
}

fn nft(world: &World, rules: &str) -> Result<()> {
    let system = world.bed.node(0).system();
    system.run(Path::new("/usr/sbin/nft"), &[rules]).map(drop)
}

fn wait_status(agent: &mut Agent, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
    agent.wait_status(what, condition).map(drop)
}

fn entries(status: &Value, table: &str) -> u64 {
    let mut tables = status["tables"].as_array().into_iter().flatten();
    let table = tables.find(|one| one["name"] == table);
    table.and_then(|one| one["entries"].as_u64()).unwrap_or(0)
}

/// The pods by name, and a service at a node port whose backend is the pod of the first node.
fn put_objects(world: &World) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}},
    });
    let pods = [&world.near, &world.client].map(pod);
    world
        .manifests
        .put("pods.yaml", &[namespace, pods[0].clone(), pods[1].clone()])?;
    let port = |number| ServicePort {
        name: "tcp",
        port: number,
        protocol: "TCP",
    };
    let ips = [
        Ipv4Addr::new(10, 32, 0, 81).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x32, 0, 0, 0, 0, 0x81).into(),
    ];
    let mut service = manifests::service("local", &ips, &[port(80)]);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    service["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    let mut objects = vec![service];
    for family in Family::ALL {
        let endpoint = Endpoint {
            addr: world.near.addr(family),
            node: world.near.node().name().to_owned(),
        };
        objects.push(manifests::slice(
            "local",
            family,
            &[port(TARGET_PORT)],
            &[endpoint],
        ));
    }
    world.manifests.put("local.yaml", &objects)?;
    Ok(())
}

fn pod(pod: &Pod) -> Value {
    let addresses = Family::ALL.map(|family| pod.addr(family));
    let ips: Vec<Value> = addresses.iter().map(|addr| json!({"ip": addr})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod.name(), "namespace": "shop", "labels": {"app": pod.name()},
        },
        "spec": {"nodeName": pod.node().name(), "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips},
    })
}
