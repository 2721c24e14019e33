//! The model's own examples: one sentence of the documented behaviour each.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::affinity::Memory;
use super::world::{
    Affinity, Endpoint, Ingress, IpMode, Node, Service, ServiceKind, ServicePort, ServiceType,
    Slice, SlicePort, World,
};
use super::{Answer, Client, Served, Source, answers};

const OUTSIDE: Client = Client::Outside(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7)));

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of this file")
}

fn pod() -> Client {
    Client::Pod(ip("10.200.0.9"))
}

fn endpoint(addr: &str, node: &str) -> Endpoint {
    Endpoint {
        addresses: vec![ip(addr)],
        ready: None,
        serving: None,
        terminating: None,
        node: Some(node.to_owned()),
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
    }
}

/// A load balancer's service with every kind of address, and one endpoint here and one elsewhere.
fn world() -> World {
    let web = Service {
        name: "web".to_owned(),
        kind: ServiceKind::Ordinary,
        service_type: ServiceType::LoadBalancer,
        cluster_ips: vec![ip("10.32.0.10")],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: "TCP",
            port: 80,
            node_port: Some(30_080),
        }],
        external_ips: vec![ip("203.0.113.80")],
        ingress: vec![Ingress {
            ip: ip("203.0.113.90"),
            mode: None,
        }],
        source_ranges: Vec::new(),
        internal_is_local: false,
        external_is_local: false,
        affinity: None,
    };
    World {
        node: Node {
            name: "here".to_owned(),
            zone: None,
            addresses: vec![ip("10.240.0.10"), ip("10.240.1.10")],
            node_port_addresses: BTreeSet::from([ip("10.240.0.10")]),
            uplink_addresses: Vec::new(),
        },
        service_cidrs: vec!["10.32.0.0/24".parse().expect("a range")],
        services: vec![web],
        slices: vec![Slice {
            service: "web".to_owned(),
            is_headless: false,
            is_v6: false,
            ports: vec![SlicePort {
                name: String::new(),
                protocol: "TCP",
                port: Some(8080),
            }],
            endpoints: vec![
                endpoint("10.200.0.2", "here"),
                endpoint("10.200.128.2", "there"),
            ],
        }],
    }
}

const EXTERNAL: [&str; 3] = ["10.240.0.10:30080", "203.0.113.80:80", "203.0.113.90:80"];
const CLUSTER: &str = "10.32.0.10:80";
const HERE: &str = "10.200.0.2:8080";
const THERE: &str = "10.200.128.2:8080";

fn ask(world: &World, client: Client, to: &str) -> Answer {
    let to: SocketAddr = to.parse().expect("an address of this file");
    let mut all = answers(world, client, to, "TCP").into_iter();
    let answer = all.next().expect("there is an answer");
    assert_eq!(all.next(), None, "nothing here can be read in two ways");
    answer
}

fn served(endpoints: &[(&str, Source)]) -> Answer {
    let endpoints = endpoints
        .iter()
        .map(|(at, source)| (at.parse().expect("an address of this file"), *source));
    Answer::Served(Served {
        endpoints: endpoints.collect(),
        sticky: None,
    })
}

#[test]
fn every_address_leads_to_every_endpoint() {
    let world = world();
    for client in [pod(), Client::Node, OUTSIDE] {
        for to in EXTERNAL.into_iter().chain([CLUSTER]) {
            let Answer::Served(served) = ask(&world, client, to) else {
                panic!("{client:?} to {to} is served");
            };
            let endpoints: Vec<_> = served.endpoints.keys().map(ToString::to_string).collect();
            assert_eq!(endpoints, [HERE, THERE]);
        }
    }
}

#[test]
fn the_source_is_kept_for_a_local_backend_and_for_policy_local() {
    let mut world = world();
    let (kept, masqueraded) = (Source::Client, Source::Node);
    for to in EXTERNAL {
        let both = served(&[(HERE, kept), (THERE, masqueraded)]);
        assert_eq!(ask(&world, pod(), to), both);
        assert_eq!(ask(&world, OUTSIDE, to), both);
    }
    let of_pod = served(&[(HERE, kept), (THERE, kept)]);
    assert_eq!(ask(&world, pod(), CLUSTER), of_pod);
    let of_outside = served(&[(HERE, kept), (THERE, masqueraded)]);
    assert_eq!(ask(&world, OUTSIDE, CLUSTER), of_outside);
    world.services[0].external_is_local = true;
    for to in EXTERNAL {
        assert_eq!(ask(&world, pod(), to), of_pod);
        assert_eq!(ask(&world, OUTSIDE, to), served(&[(HERE, kept)]));
    }
    assert_eq!(ask(&world, OUTSIDE, CLUSTER), of_outside);
}

#[test]
fn a_pod_that_reaches_itself_sees_the_node() {
    let world = world();
    let itself = Client::Pod(ip("10.200.0.2"));
    for to in EXTERNAL.into_iter().chain([CLUSTER]) {
        let Answer::Served(served) = ask(&world, itself, to) else {
            panic!("{to} is served");
        };
        assert_eq!(
            served.endpoints[&HERE.parse().expect("it is")],
            Source::Node
        );
    }
}

#[test]
fn the_external_policy_is_for_traffic_from_outside() {
    let mut world = world();
    world.services[0].external_is_local = true;
    world.slices[0].endpoints.remove(0);
    for to in EXTERNAL {
        assert_eq!(ask(&world, OUTSIDE, to), Answer::NoneHere);
        for client in [pod(), Client::Node] {
            assert_eq!(ask(&world, client, to), served(&[(THERE, Source::Client)]));
        }
    }
    world.slices.clear();
    for client in [pod(), Client::Node, OUTSIDE] {
        for to in EXTERNAL.into_iter().chain([CLUSTER]) {
            assert_eq!(ask(&world, client, to), Answer::NoEndpoint);
        }
    }
}

#[test]
fn the_internal_policy_is_for_the_cluster_ip() {
    let mut world = world();
    world.services[0].internal_is_local = true;
    for client in [pod(), Client::Node, OUTSIDE] {
        let answer = ask(&world, client, CLUSTER);
        assert_eq!(answer, served(&[(HERE, Source::Client)]));
    }
    world.slices[0].endpoints.remove(0);
    for client in [pod(), Client::Node, OUTSIDE] {
        assert_eq!(ask(&world, client, CLUSTER), Answer::NoneHere);
        assert!(matches!(
            ask(&world, client, EXTERNAL[0]),
            Answer::Served(_)
        ));
    }
}

#[test]
fn node_ports_are_served_at_the_addresses_for_them() {
    let world = world();
    for client in [pod(), Client::Node, OUTSIDE] {
        for to in ["10.240.1.10:30080", "127.0.0.1:30080", "10.240.0.10:80"] {
            assert_eq!(ask(&world, client, to), Answer::LeftAlone);
        }
    }
}

#[test]
fn source_ranges_are_for_load_balancer_addresses() {
    let mut world = world();
    let mut ranges = |all: &[&str]| {
        let all = all.iter().map(|range| range.parse().expect("a range"));
        world.services[0].source_ranges = all.collect();
        [pod(), Client::Node, OUTSIDE].map(|client| {
            for to in [EXTERNAL[0], EXTERNAL[1], CLUSTER] {
                assert!(matches!(ask(&world, client, to), Answer::Served(_)));
            }
            match ask(&world, client, EXTERNAL[2]) {
                Answer::NotInSourceRanges => false,
                Answer::Served(_) => true,
                other => panic!("{other:?}"),
            }
        })
    };
    assert_eq!(ranges(&["203.0.113.0/24"]), [false, false, true]);
    assert_eq!(ranges(&["10.200.0.9/32"]), [true, false, false]);
    assert_eq!(
        ranges(&["10.240.0.0/16", "10.0.0.0/30"]),
        [false, true, false]
    );
    assert_eq!(ranges(&["0.0.0.0/0"]), [true; 3]);
    assert_eq!(ranges(&["2001:db8::/64"]), [true; 3]);
}

#[test]
fn a_client_outside_the_ranges_is_dropped_even_where_no_endpoint_is() {
    let mut world = world();
    world.services[0].source_ranges = vec!["10.0.0.0/30".parse().expect("a range")];
    world.slices.clear();
    assert_eq!(ask(&world, OUTSIDE, EXTERNAL[2]), Answer::NotInSourceRanges);
    assert_eq!(ask(&world, OUTSIDE, EXTERNAL[1]), Answer::NoEndpoint);
}

#[test]
fn a_load_balancer_that_proxies_has_its_address_for_itself() {
    let mut world = world();
    world.services[0].ingress[0].mode = Some(IpMode::Proxy);
    assert_eq!(ask(&world, pod(), EXTERNAL[2]), Answer::LeftAlone);
    world.services[0].ingress[0].mode = Some(IpMode::Vip);
    assert!(matches!(ask(&world, pod(), EXTERNAL[2]), Answer::Served(_)));
}

#[test]
fn what_no_service_has_is_refused_dropped_or_left_alone() {
    let world = world();
    for client in [pod(), Client::Node, OUTSIDE] {
        let answer = |to| ask(&world, client, to);
        assert_eq!(answer("10.32.0.10:81"), Answer::NoSuchPort);
        assert_eq!(answer("10.32.0.11:80"), Answer::UnusedServiceAddress);
        assert_eq!(answer("203.0.113.80:81"), Answer::LeftAlone);
        assert_eq!(answer("203.0.113.90:81"), Answer::LeftAlone);
    }
}

#[test]
fn the_older_of_two_services_keeps_an_address() {
    let mut world = world();
    let mut younger = world.services[0].clone();
    younger.name = "younger".to_owned();
    younger.cluster_ips = vec![ip("10.32.0.11")];
    younger.external_ips = vec![ip("10.240.0.10"), ip("203.0.113.80")];
    younger.ports[0].node_port = Some(30_081);
    younger.ports.push(ServicePort {
        name: "same-as-node-port".to_owned(),
        port: 30_080,
        ..younger.ports[0].clone()
    });
    world.services.push(younger);
    assert!(matches!(ask(&world, pod(), EXTERNAL[1]), Answer::Served(_)));
    assert_eq!(ask(&world, pod(), "10.240.0.10:30081"), Answer::NoEndpoint);
    // An address of a service's own comes before a node port.
    assert_eq!(ask(&world, pod(), EXTERNAL[0]), Answer::NoEndpoint);
    world.services.reverse();
    assert_eq!(ask(&world, pod(), EXTERNAL[1]), Answer::NoEndpoint);
}

#[test]
fn a_client_is_remembered_until_the_timeout_or_while_its_endpoint_may_be_chosen() {
    let mut world = world();
    world.services[0].affinity = Some(Affinity {
        timeout_seconds: Some(10),
    });
    let mut memory = Memory::default();
    let sticky = |to| match ask(&world, OUTSIDE, to) {
        Answer::Served(served) => served.sticky.expect("it remembers"),
        other => panic!("{other:?}"),
    };
    let addr = OUTSIDE.address(&world, false).expect("it has one");
    let (here, there): (SocketAddr, SocketAddr) = (
        HERE.parse().expect("an address"),
        THERE.parse().expect("an address"),
    );
    let (both, only_there) = (BTreeSet::from([here, there]), BTreeSet::from([there]));
    let start = Duration::from_secs(100);
    memory.remember(&sticky(EXTERNAL[0]), addr, start, here);
    for to in EXTERNAL.into_iter().chain([CLUSTER]) {
        let after = |seconds, endpoints| {
            memory.recall(
                &sticky(to),
                addr,
                start + Duration::from_secs(seconds),
                endpoints,
            )
        };
        assert_eq!(after(9, &both), Some(here));
        assert_eq!(after(11, &both), None);
        let faded = |seconds| {
            let now = start + Duration::from_secs(seconds);
            memory.faded(&sticky(to), addr, now, &both)
        };
        assert_eq!([9, 11, 21].map(faded), [None, Some(here), None]);
        assert_eq!(after(1, &only_there), None);
    }
    assert_eq!(
        memory.recall(&sticky(CLUSTER), ip("203.0.113.8"), start, &both),
        None
    );
}
