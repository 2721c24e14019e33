//! A cluster with a service for each way that a connection can go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use weir_tests::bed::plan::{OUTSIDE_V4, OUTSIDE_V6, twin};
use weir_tests::bed::{Family, NodePlan};
use weir_tests::reference::world::{
    Endpoint, Ingress, Node, Service, ServiceKind, ServicePort, ServiceType, Slice, SlicePort,
    World,
};

/// Where services are reached.
pub const SERVICE_PORT: u16 = 80;
/// Where pods serve.
pub const TARGET_PORT: u16 = 8080;
/// The ranges of external and of load balancers' addresses, with their prefix lengths.
pub const EXTERNAL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 51, 0, 0), Ipv4Addr::new(10, 52, 0, 0)];
const TRANSPORTS: [&str; 2] = ["TCP", "UDP"];

/// Pods: a server and the client on the node that is asked, and a server on the other.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// As [`NEAR`].
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 9);
/// As [`NEAR`].
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 200, 128, 1);

/// The services; the place of each is the last part of its addresses.
const SERVICES: [&str; 8] = [
    "anywhere", "here", "away", "nowhere", "ending", "picky", "hinted", "mirror",
];

/// The cluster.
pub fn world() -> World {
    let node = NodePlan::new(0);
    let addresses: Vec<IpAddr> = vec![node.v4.into(), node.v6.into()];
    World {
        node: Node {
            name: node.name,
            zone: None,
            node_port_addresses: addresses.iter().copied().collect(),
            uplink_addresses: addresses.clone(),
            addresses,
        },
        service_cidrs: networks(&["10.32.0.0/24", "fd00:10:32::/112"]),
        services: (0..SERVICES.len()).map(service).collect(),
        slices: SERVICES
            .iter()
            .flat_map(|name| [false, true].map(|is_v6| slice(name, is_v6)))
            .collect(),
    }
}

/// The ranges of the pods of the node that is asked.
pub fn pods() -> Vec<IpNetwork> {
    let node = NodePlan::new(0);
    vec![node.pods_v4.into(), node.pods_v6.into()]
}

fn networks(all: &[&str]) -> Vec<IpNetwork> {
    let all = all.iter().map(|text| text.parse().expect("written here"));
    all.collect()
}

/// Everywhere that a service is reached, and where none is.
pub fn destinations(family: Family) -> BTreeSet<(IpAddr, u16)> {
    let node = NodePlan::new(0);
    let node_addr: IpAddr = match family {
        Family::V4 => node.v4.into(),
        Family::V6 => node.v6.into(),
    };
    let addr = |[a, b, c]: [u8; 3], host| of(family, Ipv4Addr::new(a, b, c, host));
    let mut all = BTreeSet::from([
        // No service has that port, or that address.
        (addr([10, 32, 0], number(0)), SERVICE_PORT + 1),
        (addr([10, 32, 0], 99), SERVICE_PORT),
    ]);
    for index in 0..SERVICES.len() {
        let host = number(index);
        all.extend([
            (addr([10, 32, 0], host), SERVICE_PORT),
            (addr([10, 51, 0], host), SERVICE_PORT),
            (addr([10, 52, 0], host), SERVICE_PORT),
            (node_addr, node_port(index)),
        ]);
    }
    all
}

/// An address or its twin.
pub fn of(family: Family, v4: Ipv4Addr) -> IpAddr {
    match family {
        Family::V4 => v4.into(),
        Family::V6 => twin(v4).into(),
    }
}

/// The address of the host outside.
pub fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => OUTSIDE_V4.into(),
        Family::V6 => OUTSIDE_V6.into(),
    }
}

fn number(index: usize) -> u8 {
    40 + u8::try_from(index).expect("there are few services")
}

fn node_port(index: usize) -> u16 {
    30_000 + u16::from(number(index))
}

fn service(index: usize) -> Service {
    let both = |[a, b, c]: [u8; 3]| {
        let v4 = Ipv4Addr::new(a, b, c, number(index));
        vec![IpAddr::V4(v4), twin(v4).into()]
    };
    let name = SERVICES[index];
    let is_local = ["here", "away"].contains(&name);
    Service {
        name: name.to_owned(),
        kind: ServiceKind::Ordinary,
        service_type: ServiceType::LoadBalancer,
        cluster_ips: both([10, 32, 0]),
        ports: TRANSPORTS
            .map(|protocol| ServicePort {
                name: protocol.to_lowercase(),
                protocol,
                port: SERVICE_PORT,
                node_port: Some(node_port(index)),
            })
            .to_vec(),
        external_ips: both([10, 51, 0]),
        ingress: both([10, 52, 0])
            .into_iter()
            .map(|ip| Ingress { ip, mode: None })
            .collect(),
        source_ranges: match name {
            "picky" => networks(&["203.0.113.0/24", "2001:db8::/64"]),
            _ => Vec::new(),
        },
        internal_is_local: is_local,
        external_is_local: is_local,
        affinity: None,
    }
}

fn slice(service: &str, is_v6: bool) -> Slice {
    let [near, client, far] = [(NEAR, 0), (CLIENT, 0), (FAR, 1)].map(|(v4, node)| Endpoint {
        addresses: vec![of(if is_v6 { Family::V6 } else { Family::V4 }, v4)],
        ready: None,
        serving: None,
        terminating: None,
        node: Some(NodePlan::new(node).name),
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
    });
    let not_ready = |endpoint| Endpoint {
        ready: Some(false),
        ..endpoint
    };
    let ending = |endpoint| Endpoint {
        terminating: Some(true),
        ..not_ready(endpoint)
    };
    let hinted = |endpoint: Endpoint| Endpoint {
        for_nodes: endpoint.node.iter().cloned().collect(),
        ..endpoint
    };
    Slice {
        service: service.to_owned(),
        is_headless: false,
        is_v6,
        ports: TRANSPORTS
            .map(|protocol| SlicePort {
                name: protocol.to_lowercase(),
                protocol,
                port: Some(TARGET_PORT),
            })
            .to_vec(),
        endpoints: match service {
            "away" | "picky" => vec![far],
            "nowhere" => vec![not_ready(near), not_ready(far)],
            "ending" => vec![not_ready(near), ending(far)],
            "hinted" => vec![hinted(near), hinted(far)],
            "mirror" => vec![client],
            _ => vec![near, far],
        },
    }
}
