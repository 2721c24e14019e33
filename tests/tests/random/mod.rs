//! Small random worlds and packets: few addresses and ports, so that they collide.

use std::path::Path;

use anyhow::{Context as _, Result};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRunner};
use serde_json::json;
use weir_agent::maps::Plan;
use weir_agent::model::Object;
use weir_ebpf::packet::TcpFlags;
use weir_ebpf::verdict::Hook;
use weir_tests::scenario::format::{Given, Node};
use weir_tests::scenario::packet::{Body, Chunk, Echo, Extension, Fragment, Packet, Tcp};
use weir_tests::scenario::world::{self, World};

/// Services, each with the numbers of its backends in [`PODS`].
pub type Services = Vec<Vec<usize>>;

/// Last parts of pods' addresses. The first pods are clients, too.
const PODS: [u16; 4] = [9, 2, 3, 4];
const CLIENTS: usize = 2;
/// Service ports and their targets.
const PORTS: [(&str, u16, u16); 3] = [("TCP", 80, 8080), ("UDP", 53, 5353), ("SCTP", 3868, 3868)];

/// Up to three services, each with a number of backends from this range.
pub fn services(backends: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Services> {
    let pods: Vec<usize> = (0..PODS.len()).collect();
    prop::collection::vec(proptest::sample::subsequence(pods, backends), 1..=3)
}

/// The world of these services, as the agent makes it of their objects.
pub fn world(services: &Services, snat_ports: (u16, u16)) -> Result<(World, Plan)> {
    let node = Node {
        snat_ports,
        ..Node::default()
    };
    Ok(World::new(&node, objects(services)?))
}

fn objects(services: &Services) -> Result<Vec<Object>> {
    let mut given = Vec::new();
    for (index, backends) in services.iter().enumerate() {
        let name = format!("service-{index}");
        let ports = PORTS.map(|(protocol, port, _)| {
            json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port})
        });
        let cluster_ips = [service_addr(index, true), service_addr(index, false)];
        given.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": cluster_ips[0], "clusterIPs": cluster_ips, "ports": ports},
        }));
        for (is_v4, family) in [(true, "IPv4"), (false, "IPv6")] {
            let ports = PORTS.map(|(protocol, _, target)| {
                json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": target})
            });
            let endpoints = backends
                .iter()
                .map(|&pod| json!({"addresses": [pod_addr(pod, is_v4)]}));
            given.push(json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-{}", family.to_lowercase()),
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": family,
                "ports": ports,
                "endpoints": endpoints.collect::<Vec<_>>(),
            }));
        }
    }
    let given: Vec<Given> = given
        .into_iter()
        .map(|object| match object {
            serde_json::Value::Object(object) => Ok(Given::Inline(object)),
            other => Err(other),
        })
        .collect::<Result<_, _>>()
        .ok()
        .context("each is an object")?;
    world::read_objects(&given, Path::new("."))
}

fn service_addr(index: usize, is_v4: bool) -> String {
    if is_v4 {
        format!("10.32.0.{}", 10 + index)
    } else {
        format!("fd00:10:32::{}", 10 + index)
    }
}

fn pod_addr(pod: usize, is_v4: bool) -> String {
    if is_v4 {
        format!("10.200.0.{}", PODS[pod])
    } else {
        format!("fd00:10:200::{}", PODS[pod])
    }
}

/// Something that happens at a pod's interface.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where.
    pub hook: Hook,
    /// What.
    pub packet: Packet,
    /// Seconds that pass before.
    pub after: u64,
}

/// Any packet of a client, to a service or past it. Before some of them one of these numbers of
/// seconds passes.
pub fn event(delays: &'static [u64]) -> impl Strategy<Value = Event> {
    let hook = prop_oneof![9 => Just(Hook::FromPod), 1 => Just(Hook::ToPod)];
    let after = prop_oneof![4 => Just(0), 1 => prop::sample::select(delays)];
    (hook, packet(), after).prop_map(|(hook, packet, after)| Event {
        hook,
        packet,
        after,
    })
}

/// Any packet of a client, with correct headers.
pub fn packet() -> impl Strategy<Value = Packet> {
    let src = (
        0..CLIENTS,
        prop_oneof![
            Just(40_000_u16),
            Just(40_001),
            Just(8080),
            Just(5353),
            Just(3868)
        ],
    );
    let dst = prop_oneof![
        8 => (0_usize..3).prop_map(Destination::Service),
        1 => (0..PODS.len()).prop_map(Destination::Pod),
    ];
    let port = prop_oneof![9 => Just(None), 1 => any::<u16>().prop_map(Some)];
    (any::<bool>(), src, dst, port, body(), network(), 0_u16..40).prop_map(
        |(is_v4, (pod, src_port), dst, port, (body, usual), network, payload)| {
            let dst = match dst {
                Destination::Service(index) => service_addr(index, is_v4),
                Destination::Pod(pod) => pod_addr(pod, is_v4),
            };
            let addr =
                |text: &str| -> std::net::IpAddr { text.parse().expect("written by this module") };
            let has_ports = usual != 0;
            let mut packet = Packet::new(
                (
                    addr(&pod_addr(pod, is_v4)),
                    if has_ports { src_port } else { 0 },
                )
                    .into(),
                (
                    addr(&dst),
                    if has_ports { port.unwrap_or(usual) } else { 0 },
                )
                    .into(),
                body,
            );
            packet.payload = payload;
            packet.network.ttl = network.ttl;
            packet.network.fragment = network.fragment;
            packet.damage.padding = network.padding;
            if is_v4 {
                packet.network.options = network.options;
            } else {
                packet.network.extensions = network.extensions;
            }
            without_ports_if_later(packet)
        },
    )
}

/// A later fragment carries bytes of the datagram and no header.
fn without_ports_if_later(mut packet: Packet) -> Packet {
    if packet.network.fragment == Some(Fragment::Later) {
        packet.body = match packet.body {
            Body::Tcp(_) => Body::Other(6),
            Body::Udp { .. } => Body::Other(17),
            Body::Sctp(_) => Body::Other(132),
            // Its checksum is in the first fragment.
            Body::Echo(_) | Body::Message(_) if packet.src.is_ipv4() => Body::Other(1),
            Body::Echo(_) | Body::Message(_) => Body::Other(58),
            other @ (Body::PortUnreachable(_) | Body::Error(..) | Body::Other(_)) => other,
        };
        packet.src.set_port(0);
        packet.dst.set_port(0);
    }
    packet
}

#[derive(Clone, Copy, Debug)]
enum Destination {
    Service(usize),
    Pod(usize),
}

/// A transport header and the service port for it, 0 where there are no ports.
fn body() -> impl Strategy<Value = (Body, u16)> {
    let flags = prop_oneof![
        4 => Just(0x02_u8),
        3 => Just(0x10),
        1 => Just(0x18),
        1 => any::<u8>(),
    ];
    prop_oneof![
        5 => (flags, any::<u32>(), any::<u32>(), 0_u8..=10).prop_map(
            |(flags, sequence, acknowledgement, options)| {
                let tcp = Tcp { sequence, acknowledgement, options, ..Tcp::new(TcpFlags(flags)) };
                (Body::Tcp(tcp), 80)
            }
        ),
        5 => any::<bool>().prop_map(|has_checksum| (Body::Udp { has_checksum }, 53)),
        2 => prop::sample::select(Chunk::NAMES.map(|(chunk, _)| chunk).to_vec())
            .prop_map(|chunk| (Body::Sctp(chunk), 3868)),
        1 => Just((Body::Echo(Echo::REQUEST), 0)),
        1 => Just((Body::Other(47), 0)),
    ]
}

#[derive(Clone, Debug)]
struct NetworkChoice {
    ttl: u8,
    options: u8,
    extensions: Vec<Extension>,
    fragment: Option<Fragment>,
    padding: u16,
}

fn network() -> impl Strategy<Value = NetworkChoice> {
    let extension = prop::sample::select(vec![
        Extension::HopByHop,
        Extension::Destination,
        Extension::Routing,
        Extension::Authentication,
    ]);
    let fragment = prop_oneof![
        12 => Just(None),
        1 => Just(Some(Fragment::First)),
        1 => Just(Some(Fragment::Later)),
    ];
    let options = prop_oneof![3 => Just(0), 1 => 0_u8..=10];
    let extensions = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(extension, 0..4)
    ];
    (1_u8.., options, extensions, fragment, 0_u16..20).prop_map(
        |(ttl, options, extensions, fragment, padding)| NetworkChoice {
            ttl,
            options,
            extensions,
            fragment,
            padding,
        },
    )
}

/// Tries a property on random values; says the smallest value for which it does not hold.
pub fn check<S: Strategy>(
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<()>,
) -> Result<()> {
    let mut runner = TestRunner::new(Config {
        cases,
        // Milliseconds: loading programs takes its time.
        max_shrink_time: 30_000,
        max_shrink_iters: 2_000,
        failure_persistence: None,
        // Random enough, and cheap where nothing is optimised.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    });
    let result = runner.run(strategy, |value| {
        property(value).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, value)) => {
            anyhow::bail!("{reason}\nfor {value:#?}")
        }
        Err(TestError::Abort(reason)) => anyhow::bail!("gave up: {reason}"),
    }
}
