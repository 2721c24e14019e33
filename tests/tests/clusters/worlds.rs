//! Random clusters.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weir_tests::reference::world::{
    Affinity, Endpoint, Ingress, IpMode, Node, Service, ServiceKind, ServicePort, ServiceType,
    Slice, SlicePort, World,
};

use super::plan::{
    ENDPOINTS, EXTERNALS, Host, NAMES, NODE_PORTS, NODES, PORTS, PROTOCOLS, SERVICES, TARGETS,
    ZONES,
};

/// Any cluster.
pub fn world() -> impl Strategy<Value = World> {
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
    (node(), service_cidrs(), services, vec(slice(), 0..5)).prop_map(
        |(node, service_cidrs, services, slices)| World {
            node,
            service_cidrs,
            services,
            slices,
        },
    )
}

fn node() -> impl Strategy<Value = Node> {
    let of = |hosts: &[Host]| -> Vec<IpAddr> {
        let both = hosts
            .iter()
            .flat_map(|host| [false, true].map(|is_v6| host.addr(is_v6)));
        both.collect()
    };
    let all = of(&[Host::Node, Host::SecondNode]);
    // Mostly the addresses of the Node object.
    let for_node_ports = prop_oneof![
        3 => Just(of(&[Host::Node])),
        1 => subsequence(all.clone(), 0..=all.len()),
    ];
    let uplink = prop_oneof![
        2 => Just(of(&[Host::Node])),
        1 => subsequence(all.clone(), 0..=all.len()),
    ];
    (weighted(0.8, select(&ZONES)), for_node_ports, uplink).prop_map(
        move |(zone, for_node_ports, uplink_addresses)| Node {
            name: NODES[0].to_owned(),
            zone: zone.map(str::to_owned),
            addresses: all.clone(),
            node_port_addresses: for_node_ports.into_iter().collect(),
            uplink_addresses,
        },
    )
}

fn service_cidrs() -> impl Strategy<Value = Vec<IpNetwork>> {
    let all = networks(&["10.32.0.0/24", "10.32.0.13/32", "fd00:10:32::/112"]);
    subsequence(all, 0..=3)
}

fn networks(all: &[&str]) -> Vec<IpNetwork> {
    all.iter()
        .map(|text| text.parse().expect("written here"))
        .collect()
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        16 => Just(ServiceKind::Ordinary),
        1 => Just(ServiceKind::OfOtherProxy),
        1 => Just(ServiceKind::Headless),
        1 => Just(ServiceKind::ExternalName),
    ];
    let service_type = prop_oneof![
        1 => Just(ServiceType::ClusterIp),
        1 => Just(ServiceType::NodePort),
        3 => Just(ServiceType::LoadBalancer),
    ];
    let affinity = weighted(
        0.5,
        weighted(0.75, select(vec![1_u32, 1, 10, 86_400]))
            .prop_map(|timeout_seconds| Affinity { timeout_seconds }),
    );
    let policies = (any::<bool>(), any::<bool>());
    (
        (kind, service_type),
        cluster_ips(),
        ports(),
        (externals(), ingress(), source_ranges()),
        policies,
        affinity,
    )
        .prop_map(
            |((kind, service_type), cluster_ips, ports, externals, policies, affinity)| {
                let (mut external_ips, mut ingress, source_ranges) = externals;
                // One service's address has one role or two external ones.
                external_ips.retain(|addr| !cluster_ips.contains(addr));
                ingress.retain(|ingress: &Ingress| !cluster_ips.contains(&ingress.ip));
                let is_balanced = service_type == ServiceType::LoadBalancer;
                Service {
                    name: String::new(),
                    kind,
                    service_type,
                    cluster_ips,
                    ports,
                    external_ips,
                    ingress: if is_balanced { ingress } else { Vec::new() },
                    source_ranges: if is_balanced {
                        source_ranges
                    } else {
                        Vec::new()
                    },
                    internal_is_local: policies.0,
                    external_is_local: policies.1,
                    affinity,
                }
            },
        )
}

/// One of a family, or one of each in either order.
fn cluster_ips() -> impl Strategy<Value = Vec<IpAddr>> {
    (select(&SERVICES), select(&SERVICES), 0_usize..5).prop_map(|(v4, v6, which)| {
        let (v4, v6) = (v4.addr(false), v6.addr(true));
        match which {
            0 => vec![v4],
            1 => vec![v6],
            2 => vec![v6, v4],
            _ => vec![v4, v6],
        }
    })
}

fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let port = (
        select(&PROTOCOLS),
        prop_oneof![8 => 0_usize..2, 1 => Just(2)],
        weighted(0.8, select(&NODE_PORTS)),
    );
    vec(port, 0..3).prop_map(|ports| {
        let names: &[&str] = if ports.len() == 1 { &[""] } else { &["a", "b"] };
        let mut taken = BTreeSet::new();
        names
            .iter()
            .zip(ports)
            .map(|(name, (protocol, port, node_port))| ServicePort {
                name: (*name).to_owned(),
                protocol,
                port: PORTS[port],
                node_port,
            })
            .filter(|port| {
                taken.insert((port.protocol, port.port))
                    && port
                        .node_port
                        .is_none_or(|number| taken.insert((port.protocol, number)))
            })
            .collect()
    })
}

fn externals() -> impl Strategy<Value = Vec<IpAddr>> {
    let addr = (select(&EXTERNALS), any::<bool>()).prop_map(|(host, is_v6)| host.addr(is_v6));
    prop_oneof![1 => Just(Vec::new()), 1 => vec(addr, 1..4)]
}

fn ingress() -> impl Strategy<Value = Vec<Ingress>> {
    let mode = prop_oneof![
        2 => Just(None),
        2 => Just(Some(IpMode::Vip)),
        1 => Just(Some(IpMode::Proxy)),
    ];
    let one = (select(&EXTERNALS), any::<bool>(), mode).prop_map(|(host, is_v6, mode)| Ingress {
        ip: host.addr(is_v6),
        mode,
    });
    vec(one, 0..4)
}

fn source_ranges() -> impl Strategy<Value = Vec<IpNetwork>> {
    let all = networks(&[
        "203.0.113.0/24",
        "203.0.113.7/32",
        "10.200.0.0/17",
        "10.240.0.11/32",
        "2001:db8::8/127",
        "fd00:10:200::/64",
        "fd00:10:240::11/128",
    ]);
    let any = networks(&["0.0.0.0/0", "::/0"]);
    prop_oneof![
        4 => Just(Vec::new()),
        4 => subsequence(all, 1..4),
        1 => subsequence(any, 1..=2),
    ]
}

fn slice() -> impl Strategy<Value = Slice> {
    let ports = vec(
        (
            weighted(0.9, select(vec![0_u16, TARGETS[0], TARGETS[1]])),
            any::<bool>(),
        ),
        9,
    );
    let v4_more_often = prop::bool::weighted(0.4);
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
            port: *port,
        })
        .collect()
}

fn endpoint(is_v6: bool) -> impl Strategy<Value = Endpoint> {
    let condition = || of(any::<bool>());
    let names = |all: &[&str]| {
        let all: Vec<String> = all.iter().map(|name| (*name).to_owned()).collect();
        prop_oneof![1 => Just(Vec::new()), 4 => subsequence(all, 1..=2)]
    };
    // Mostly where it says that it is.
    let elsewhere = weighted(0.1, of(select(&NODES)));
    (
        vec(select(&ENDPOINTS), 1..3),
        (condition(), condition(), condition()),
        elsewhere,
        names(&NODES),
        names(&ZONES),
    )
        .prop_map(
            move |(hosts, (ready, serving, terminating), elsewhere, for_nodes, for_zones)| {
                let node = elsewhere.unwrap_or(hosts[0].1);
                Endpoint {
                    addresses: hosts.iter().map(|(host, _)| host.addr(is_v6)).collect(),
                    ready,
                    serving,
                    terminating,
                    node: node.map(str::to_owned),
                    for_nodes,
                    for_zones,
                }
            },
        )
}
