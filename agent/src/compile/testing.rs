//! Clusters for tests: by hand, and at random from few names and addresses, so that they collide.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use weir_ebpf::tables::{Backend, PortRange, ServiceName};

use super::{Capacities, Desired, Ids, NodeContext, compile};
use crate::maps::Contents;
use crate::model::{
    Affinity, Cluster, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Family, Hints, Object,
    Protocol, Service, ServiceCidr, ServicePort, ServiceRef, ServiceType, SourceRanges,
    TrafficPolicy, parse_network,
};

pub(crate) fn context() -> NodeContext {
    NodeContext {
        name: "worker-0".to_owned(),
        addr_v4: Some(Ipv4Addr::new(10, 240, 0, 11)),
        snat_ports: [PortRange::new(1024, 29_999), PortRange::NONE],
        ..NodeContext::default()
    }
}

/// Compiles with ample room.
pub(crate) fn compile_all(cluster: &Cluster, ids: &mut Ids) -> Desired {
    compile(cluster, &context(), ids, &Capacities::default())
}

pub(crate) fn service(name: &str, addrs: &[&str], ports: &[(&str, u16, Protocol)]) -> Service {
    let cluster_ips: Vec<IpAddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    Service {
        id: service_ref(name),
        created: None,
        service_type: ServiceType::ClusterIp,
        families: cluster_ips.iter().map(Family::of).collect(),
        cluster_ips,
        ports: ports
            .iter()
            .map(|&(name, port, protocol)| ServicePort {
                name: name.to_owned(),
                port: NonZeroU16::new(port).unwrap(),
                node_port: None,
                protocol,
            })
            .collect(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: SourceRanges::default(),
        affinity: Affinity::None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        ignored: Vec::new(),
    }
}

/// An endpoint about which nothing else is known.
pub(crate) const fn endpoint(addr: IpAddr) -> Endpoint {
    Endpoint {
        addr,
        node: None,
        zone: None,
        hints: Hints {
            nodes: Vec::new(),
            zones: Vec::new(),
        },
        is_ready: false,
        is_serving: false,
        is_terminating: false,
    }
}

pub(crate) fn service_ref(name: &str) -> ServiceRef {
    ServiceRef {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

/// Backends of every service port, by its name: what a packet can be led to.
pub(crate) fn backends_by_name(contents: &Contents) -> BTreeMap<ServiceName, Vec<Backend>> {
    contents
        .service_names
        .iter()
        .map(|(number, name)| {
            let count = contents
                .services
                .get(number)
                .map_or(0, |service| service.backend_count);
            let backends = contents.backends_of(*number);
            let reachable = backends.filter(|(slot, _)| *slot < count);
            (*name, reachable.map(|(_, backend)| backend).collect())
        })
        .collect()
}

/// The nodes of the first endpoints; the others are on none.
const NODES: [&str; 3] = ["worker-0", "worker-1", "worker-0"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Any cluster of a few services, slices and ranges of cluster IPs.
pub(crate) fn clusters() -> impl Strategy<Value = Cluster> {
    (
        vec(services(), 0..5),
        vec(slices(), 0..8),
        vec(cidrs(), 0..3),
    )
        .prop_map(|(services, slices, cidrs)| {
            Cluster::from_objects(services.into_iter().chain(slices).chain(cidrs))
        })
}

fn cidrs() -> impl Strategy<Value = Object> {
    (0_u8..2, 24_u8..31).prop_map(|(name, length)| {
        Object::ServiceCidr(ServiceCidr {
            name: format!("cidr-{name}"),
            cidrs: vec![
                parse_network(&format!("10.32.{name}.0/{length}")).unwrap(),
                parse_network(&format!("fd00:10:32::/{}", 96 + length)).unwrap(),
            ],
        })
    })
}

/// A service port: number, protocol, perhaps a node port.
type RandomPort = (u16, usize, Option<u16>);

/// Addresses beyond the cluster IPs: external IPs and load balancer IPs by number, and which
/// source ranges there are.
type RandomOutside = (Vec<u8>, Vec<u8>, usize);

pub(crate) fn services() -> impl Strategy<Value = Object> {
    let ports = vec(
        (
            80_u16..83,
            0_usize..3,
            proptest::option::of(30_080_u16..30_083),
        ),
        1..3,
    );
    // Two of the external addresses are cluster IPs of other services.
    let outside = (vec(0_u8..4, 0..3), vec(0_u8..4, 0..3), 0_usize..4);
    (
        0_u8..4,
        proptest::option::of(0_i64..3),
        0_u8..4,
        proptest::option::of(0_u16..3),
        ports,
        outside,
        any::<[bool; 3]>(),
    )
        .prop_map(random_service)
}

/// A service by the numbers of its name, creation and addresses, and whether its policies are
/// Local and its clients keep their endpoints.
type RandomService = (
    u8,
    Option<i64>,
    u8,
    Option<u16>,
    Vec<RandomPort>,
    RandomOutside,
    [bool; 3],
);

fn random_service(
    (name, created, v4, v6, ports, outside, [is_local, is_local_outside, is_sticky]): RandomService,
) -> Object {
    let mut addrs = vec![Ipv4Addr::new(10, 32, 0, v4).to_string()];
    addrs.extend(v6.map(|v6| Ipv6Addr::new(0xfd00, 0x10, 0x32, 0, 0, 0, 0, v6 + 1).to_string()));
    let addrs: Vec<&str> = addrs.iter().map(String::as_str).collect();
    let names: &[&str] = if ports.len() == 1 { &[""] } else { &["a", "b"] };
    let mut ports: Vec<ServicePort> = names
        .iter()
        .zip(ports)
        .map(|(name, (port, protocol, node_port))| ServicePort {
            name: (*name).to_owned(),
            port: NonZeroU16::new(port).unwrap(),
            protocol: PROTOCOLS[protocol],
            node_port: node_port.and_then(NonZeroU16::new),
        })
        .collect();
    ports.dedup_by_key(|port| (port.port, port.protocol));
    let policy = |is_local| {
        if is_local {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        }
    };
    let addr = |number: &u8| -> IpAddr {
        match number {
            0 => [10, 32, 0, 1].into(),
            1 => "fd00:10:32::1".parse().unwrap(),
            2 => [203, 0, 113, 7].into(),
            _ => "2001:db8::7".parse().unwrap(),
        }
    };
    let (external_ips, load_balancer_ips, ranges) = outside;
    let ranges: &[&str] = [
        &[][..],
        &["203.0.113.0/24"],
        &["203.0.113.0/25", "2001:db8::/64"],
        &["203.0.113.128/25"],
    ][ranges];
    Object::Service(Service {
        created: created.map(|second| Timestamp::from_second(second).unwrap()),
        service_type: ServiceType::LoadBalancer,
        ports,
        external_ips: external_ips.iter().map(addr).collect(),
        load_balancer_ips: load_balancer_ips.iter().map(addr).collect(),
        source_ranges: SourceRanges::from_texts(ranges),
        affinity: if is_sticky {
            Affinity::ClientIp(Duration::from_secs(10))
        } else {
            Affinity::None
        },
        internal_traffic_policy: policy(is_local),
        external_traffic_policy: policy(is_local_outside),
        ..service(&format!("web-{name}"), &addrs, &[])
    })
}

pub(crate) fn slices() -> impl Strategy<Value = Object> {
    let endpoints = vec((0_u8..5, any::<[bool; 3]>()), 0..5);
    (0_u8..4, 0_u8..2, any::<bool>(), 80_u16..83, endpoints).prop_map(
        |(service, slice, is_v6, port, endpoints)| {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let addr = |host: u8| match family {
                Family::V4 => IpAddr::from([10, 200, 0, host + 2]),
                Family::V6 => {
                    Ipv6Addr::new(0xfd00, 0x10, 0x200, 0, 0, 0, 0, u16::from(host) + 2).into()
                }
            };
            let ports = ["", "a", "b"].iter().flat_map(|name| {
                PROTOCOLS.iter().map(|protocol| EndpointPort {
                    name: (*name).to_owned(),
                    protocol: *protocol,
                    port: NonZeroU16::new(port).unwrap(),
                })
            });
            let endpoints = endpoints
                .into_iter()
                .map(|(host, [ready, serving, terminating])| Endpoint {
                    is_ready: ready,
                    is_serving: serving,
                    is_terminating: terminating,
                    node: NODES.get(usize::from(host)).map(|name| (*name).to_owned()),
                    ..endpoint(addr(host))
                });
            Object::EndpointSlice(EndpointSlice {
                name: format!("web-{service}-{slice}-{family}").to_lowercase(),
                triggered: None,
                service: service_ref(&format!("web-{service}")),
                group: EndpointGroup {
                    family,
                    ports: ports.collect(),
                    endpoints: endpoints.collect(),
                },
            })
        },
    )
}
