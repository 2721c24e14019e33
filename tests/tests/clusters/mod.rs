//! Random clusters for the reference model: few names, addresses and ports, so that they collide;
//! and the comparison of what the agent makes of them with what the model says.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use weir_agent::maps::Contents;
use weir_ebpf::addr::{Port, Protocol};
use weir_ebpf::packet::TcpFlags;
use weir_ebpf::tables::FrontendKey;
use weir_ebpf::verdict::{DropReason, Hook, RejectReason, Verdict};
use weir_tests::reference::{
    self, Answer, Endpoint, Service, ServiceKind, ServicePort, Slice, SlicePort, manifests,
};
use weir_tests::scenario::format::{Given, Node};
use weir_tests::scenario::memory::Memory;
use weir_tests::scenario::packet::{Body, Chunk, Packet, Tcp};
use weir_tests::scenario::world::{self, World};
use weir_tests::scenario::{Executor as _, frame, judge};

const NAMES: [&str; 3] = ["web", "dns", "api"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const NODE: &str = "worker-0";
const NODES: [&str; 2] = [NODE, "worker-1"];
const ZONES: [&str; 2] = ["zone-a", "zone-b"];
const PORTS: [u16; 3] = [80, 81, 82];

/// Any cluster.
pub fn cluster() -> impl Strategy<Value = reference::World> {
    let names = subsequence(NAMES.to_vec(), 0..=NAMES.len()).prop_shuffle();
    let services = (names, vec(service(), NAMES.len())).prop_map(|(names, services)| {
        names
            .into_iter()
            .zip(services)
            .map(|(name, service)| Service {
                name: name.to_owned(),
                ..service
            })
            .collect()
    });
    (weighted(0.8, select(&ZONES)), services, vec(slice(), 0..5)).prop_map(
        |(zone, services, slices)| reference::World {
            node: NODE.to_owned(),
            zone: zone.map(str::to_owned),
            services,
            slices,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        8 => Just(ServiceKind::Ordinary),
        1 => Just(ServiceKind::OfOtherProxy),
        1 => Just(ServiceKind::Headless),
    ];
    let addrs = (0_u8..3, proptest::option::of(0_u8..3)).prop_map(|(v4, v6)| {
        let v6 = v6.map(|host| service_addr(host, true));
        [service_addr(v4, false)].into_iter().chain(v6).collect()
    });
    let ports = vec((select(&PROTOCOLS), 0_usize..2), 0..3).prop_map(|ports| {
        let names: &[&str] = if ports.len() == 1 { &[""] } else { &["a", "b"] };
        let mut taken = BTreeSet::new();
        names
            .iter()
            .zip(ports)
            .map(|(name, (protocol, port))| ServicePort {
                name: (*name).to_owned(),
                protocol,
                port: port_of(protocol, PORTS[port]),
            })
            .filter(|port| taken.insert((port.protocol, port.port)))
            .collect()
    });
    (kind, addrs, ports, any::<bool>()).prop_map(|(kind, cluster_ips, ports, is_local)| Service {
        name: String::new(),
        kind,
        cluster_ips,
        ports,
        is_local,
    })
}

fn slice() -> impl Strategy<Value = Slice> {
    let ports = vec(
        (
            weighted(0.9, select(vec![0_u16, 8080, 8081])),
            any::<bool>(),
        ),
        9,
    );
    let v4_more_often = prop::bool::weighted(0.3);
    (
        select(&NAMES),
        prop::bool::weighted(0.1),
        v4_more_often,
        ports,
        any::<bool>(),
    )
        .prop_flat_map(|(service, is_headless, is_v6, ports, has_all)| {
            vec(endpoint(is_v6), 0..4).prop_map(move |endpoints| Slice {
                service: service.to_owned(),
                is_headless,
                is_v6,
                ports: slice_ports(&ports, has_all),
                endpoints,
            })
        })
}

/// A number for each name and protocol, or for some.
fn slice_ports(numbers: &[(Option<u16>, bool)], has_all: bool) -> Vec<SlicePort> {
    ["", "a", "b"]
        .iter()
        .flat_map(|name| PROTOCOLS.map(|protocol| (name, protocol)))
        .zip(numbers)
        .filter(|(_, (_, is_there))| has_all || *is_there)
        .map(|((name, protocol), (port, _))| SlicePort {
            name: (*name).to_owned(),
            protocol,
            port: port.map(|port| port_of(protocol, port)),
        })
        .collect()
}

/// Ports of SCTP are not translated, which is a limit of Weir's that the model does not know.
fn port_of(protocol: &str, port: u16) -> u16 {
    if protocol == "SCTP" { PORTS[0] } else { port }
}

fn endpoint(is_v6: bool) -> impl Strategy<Value = Endpoint> {
    let condition = || proptest::option::of(any::<bool>());
    let names = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|name| (*name).to_owned()).collect();
        prop_oneof![1 => Just(Vec::new()), 4 => subsequence(all, 1..=2)]
    };
    (
        vec(2_u8..6, 1..3),
        (condition(), condition(), condition()),
        weighted(0.9, select(&NODES)),
        names(&NODES),
        names(&ZONES),
    )
        .prop_map(
            move |(hosts, (ready, serving, terminating), node, for_nodes, for_zones)| Endpoint {
                addresses: hosts.iter().map(|host| pod_addr(*host, is_v6)).collect(),
                ready,
                serving,
                terminating,
                node: node.map(str::to_owned),
                for_nodes,
                for_zones,
            },
        )
}

fn service_addr(host: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        [0xfd00, 0x10, 0x32, 0, 0, 0, 0, u16::from(host) + 10].into()
    } else {
        [10, 32, 0, host + 10].into()
    }
}

fn pod_addr(host: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        [0xfd00, 0x10, 0x200, 0, 0, 0, 0, u16::from(host)].into()
    } else {
        [10, 200, 0, host].into()
    }
}

/// Every address, port and protocol that a service could have, and some that none has.
fn probes() -> impl Iterator<Item = (SocketAddr, &'static str)> {
    [false, true].into_iter().flat_map(|is_v6| {
        (0..4).flat_map(move |host| {
            PORTS.into_iter().flat_map(move |port| {
                PROTOCOLS.map(move |protocol| {
                    (SocketAddr::new(service_addr(host, is_v6), port), protocol)
                })
            })
        })
    })
}

/// The agent's tables for one cluster after another, each compared with the model. Gives back
/// the kinds of answers that were met.
pub fn compare(history: &[reference::World], seed: u64) -> Result<BTreeSet<&'static str>> {
    let mut met = BTreeSet::new();
    let mut memory = Memory::new(seed);
    let (mut world, plan) = World::new(&node(), Vec::new());
    memory.apply(&plan)?;
    let mut before = Vec::new();
    let mut port = 20_000;
    for cluster in history {
        let objects = manifests::objects(cluster);
        let now: Vec<String> = objects.iter().map(name).collect();
        let gone = before.iter().filter(|name| !now.contains(name));
        let gone = gone.map(|name| world::parse_reference(name));
        memory.apply(&world.delete(gone.collect::<Result<_>>()?))?;
        memory.apply(&world.apply(read(&objects)?))?;
        before = now;
        for (to, protocol) in probes() {
            // A socket of its own each time: no flow is known.
            port += 1;
            let expected = reference::answers(cluster, to, protocol);
            let packet = packet(port, to, protocol)?;
            met.extend(expected.iter().map(kind));
            check(
                &mut memory,
                world.contents(),
                &packet,
                to,
                protocol,
                &expected,
            )
            .with_context(|| {
                format!(
                    "{protocol} {to}, as a scenario:\n{}",
                    scenario(cluster, &packet)
                )
            })?;
        }
    }
    Ok(met)
}

/// The kinds of answers.
pub const KINDS: [&str; 5] = [
    "left alone",
    "served",
    "no endpoint",
    "no such port",
    "none here",
];

const fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::LeftAlone => KINDS[0],
        Answer::Served(_) => KINDS[1],
        Answer::NoEndpoint => KINDS[2],
        Answer::NoSuchPort => KINDS[3],
        Answer::NoneHere => KINDS[4],
    }
}

fn node() -> Node {
    Node {
        name: NODE.to_owned(),
        ..Node::default()
    }
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    match text(&metadata["namespace"]).as_str() {
        "" => format!("{kind} {}", text(&metadata["name"])),
        namespace => format!("{kind} {namespace}/{}", text(&metadata["name"])),
    }
}

fn read(objects: &[Value]) -> Result<Vec<weir_agent::model::Object>> {
    let given = objects.iter().map(|object| {
        let object = object.as_object().context("an object")?;
        Ok(Given::Inline(object.clone()))
    });
    world::read_objects(&given.collect::<Result<Vec<_>>>()?, Path::new("."))
}

/// A first packet of a pod that is no endpoint.
fn packet(port: u16, to: SocketAddr, protocol: &str) -> Result<Packet> {
    let body = match protocol {
        "TCP" => Body::Tcp(Tcp::new(TcpFlags(0x02))),
        "UDP" => Body::Udp { has_checksum: true },
        _ => {
            let init = Chunk::NAMES.into_iter().find(|(_, name)| *name == "init");
            Body::Sctp(init.context("SCTP has INIT")?.0)
        }
    };
    let client = pod_addr(9, to.is_ipv6());
    Ok(Packet::new((client, port).into(), to, body))
}

fn check(
    memory: &mut Memory,
    contents: &Contents,
    packet: &Packet,
    to: SocketAddr,
    protocol: &str,
    expected: &BTreeSet<Answer>,
) -> Result<()> {
    let sent = memory.send(Hook::FromPod, &frame::build(packet)?)?;
    let answer = match sent.verdict {
        Verdict::Pass | Verdict::PassFragment => Answer::LeftAlone,
        Verdict::Reject(RejectReason::NoBackend) => Answer::NoEndpoint,
        Verdict::Reject(RejectReason::NoSuchPort) => Answer::NoSuchPort,
        Verdict::Drop(DropReason::NoLocalEndpoint) => Answer::NoneHere,
        Verdict::Translate => {
            let reached = judge::translated(packet, &sent.frame)?.dst;
            let all = backends(contents, to, protocol)?;
            ensure!(all.contains(&reached), "reached {reached}, not of {all:?}");
            Answer::Served(all)
        }
        Verdict::Reject(other) => anyhow::bail!("refused: {}", other.sentence()),
        Verdict::Drop(other) => anyhow::bail!("dropped: {}", other.sentence()),
    };
    ensure!(
        expected.contains(&answer),
        "became {answer:?}, expected one of {expected:?}"
    );
    Ok(())
}

/// Every backend that the tables hold for an address.
fn backends(contents: &Contents, to: SocketAddr, protocol: &str) -> Result<BTreeSet<SocketAddr>> {
    let protocol = match protocol {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        _ => Protocol::SCTP,
    };
    let key = FrontendKey::new(to.ip().into(), Port::new(to.port()), protocol);
    let number = contents
        .frontends
        .get(&key)
        .context("has a frontend")?
        .service;
    let count = contents
        .services
        .get(&number)
        .context("a service")?
        .backend_count;
    let all: BTreeSet<SocketAddr> = contents
        .backends_of(number)
        .map(|(_, backend)| SocketAddr::new(backend.addr.into(), backend.port.number()))
        .collect();
    ensure!(
        usize::try_from(count)? == all.len(),
        "{count} slots for {all:?}"
    );
    Ok(all)
}

/// A scenario file that shows the packet; its expectation is to be filled in.
fn scenario(cluster: &reference::World, packet: &Packet) -> String {
    let objects = manifests::objects(cluster);
    let given: Vec<String> = objects
        .iter()
        .map(|object| format!("  - {object}"))
        .collect();
    format!(
        "name: TODO\ngiven:\n{}\nsteps:\n  - send: {}\n    expect: {{verdict: TODO}}\n",
        given.join("\n"),
        json!({"hook": "from_pod", "packet": packet.to_string()})
    )
}
