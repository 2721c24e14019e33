use std::net::IpAddr;
use std::num::NonZeroU16;

use proptest::prelude::*;
use weir_ebpf::addr::{Addr, Port, Protocol as WireProtocol};
use weir_ebpf::tables::{BackendKey, Frontend, FrontendKey, ServiceFlags, ServingKey};

mod addresses;
mod compiler;
mod ids;
mod policies;
mod unchosen;

use super::testing::{clusters, compile_all, context, endpoint, service, service_ref};
use super::*;
use crate::model::{
    Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Endpoints, Family, Node, Object,
    Protocol, Service, TrafficPolicy,
};

const VIP: &str = "10.32.0.140";

/// Ready, serving, terminating.
type Conditions = (bool, bool, bool);
const READY: Conditions = (true, true, false);
const NOT_READY: Conditions = (false, false, false);
const TERMINATING: Conditions = (false, true, true);

fn group(port: (&str, u16), endpoints: &[(&str, Conditions)]) -> EndpointGroup {
    let endpoints: Vec<Endpoint> = endpoints
        .iter()
        .map(|&(addr, (is_ready, is_serving, is_terminating))| Endpoint {
            is_ready,
            is_serving,
            is_terminating,
            ..endpoint(addr.parse().unwrap())
        })
        .collect();
    EndpointGroup {
        family: endpoints
            .first()
            .map_or(Family::V4, |endpoint| Family::of(&endpoint.addr)),
        ports: vec![EndpointPort {
            name: port.0.to_owned(),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(port.1).unwrap(),
        }],
        endpoints,
    }
}

fn slice(name: &str, port: (&str, u16), endpoints: &[(&str, Conditions)]) -> Object {
    Object::EndpointSlice(EndpointSlice {
        name: name.to_owned(),
        triggered: None,
        service: service_ref("web"),
        group: group(port, endpoints),
    })
}

fn web() -> Object {
    Object::Service(service("web", &[VIP], &[("", 80, Protocol::Tcp)]))
}

fn key(addr: &str, port: u16) -> FrontendKey {
    FrontendKey::new(
        Addr::from(addr.parse::<IpAddr>().unwrap()),
        Port::new(port),
        WireProtocol::TCP,
    )
}

/// What a connection to this address can be led to; `None` where nobody looks at it.
fn reachable(desired: &Desired, addr: &str, port: u16) -> Option<Vec<String>> {
    let frontend = desired.contents.frontends.get(&key(addr, port))?;
    let count = desired.contents.services[&frontend.service].backend_count;
    let backends = (0..count).map(|slot| {
        let service = frontend.service;
        let backend = desired.contents.backends[&BackendKey { service, slot }];
        assert!(desired.contents.serving.contains(&ServingKey {
            service,
            backend: backend.identity()
        }));
        format!("{} {}", backend.addr, backend.port)
    });
    let mut backends: Vec<String> = backends.collect();
    backends.sort();
    Some(backends)
}

fn compiled(objects: impl IntoIterator<Item = Object>) -> Desired {
    compile_all(&Cluster::from_objects(objects), &mut Ids::default())
}

fn reasons(desired: &Desired) -> Vec<String> {
    desired.skipped.iter().map(ToString::to_string).collect()
}

#[test]
fn ready_endpoints_serve() {
    let desired = compiled([
        web(),
        slice(
            "web-1",
            ("", 8080),
            &[
                ("10.200.0.2", READY),
                ("10.200.0.3", NOT_READY),
                ("10.200.0.4", TERMINATING),
                ("10.200.128.1", READY),
            ],
        ),
    ]);
    assert_eq!(
        reachable(&desired, VIP, 80).unwrap(),
        ["10.200.0.2 8080", "10.200.128.1 8080"]
    );
    assert_eq!(desired.skipped, []);
}

#[test]
fn a_terminating_endpoint_serves_when_none_is_ready() {
    let desired = compiled([
        web(),
        slice(
            "web-1",
            ("", 8080),
            &[
                ("10.200.0.3", NOT_READY),
                ("10.200.0.4", TERMINATING),
                ("10.200.0.5", (false, false, true)),
            ],
        ),
    ]);
    assert_eq!(reachable(&desired, VIP, 80).unwrap(), ["10.200.0.4 8080"]);
}

#[test]
fn a_service_port_without_endpoints_has_its_frontend_and_no_backend() {
    let desired = compiled([web()]);
    assert_eq!(reachable(&desired, VIP, 80).unwrap(), [""; 0]);
    let frontend = desired.contents.frontends[&key(VIP, 80)];
    assert_ne!(frontend.service, 0);
    assert!(desired.contents.services.contains_key(&frontend.service));
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_the_entry_that_does_not_terminate_counts() {
    for reversed in [false, true] {
        let (first, second) = if reversed {
            (READY, TERMINATING)
        } else {
            (TERMINATING, READY)
        };
        let desired = compiled([
            web(),
            slice("web-1", ("", 8080), &[("10.200.0.2", first)]),
            slice("web-2", ("", 8080), &[("10.200.0.2", second)]),
        ]);
        assert_eq!(reachable(&desired, VIP, 80).unwrap(), ["10.200.0.2 8080"]);
    }
}

#[test]
fn endpoints_are_found_by_port_name_protocol_and_family() {
    let desired = compiled([
        Object::Service(service(
            "web",
            &[VIP, "fd00:10:32::8c"],
            &[("http", 80, Protocol::Tcp), ("admin", 81, Protocol::Udp)],
        )),
        slice("web-1", ("http", 8080), &[("10.200.0.2", READY)]),
        slice("web-2", ("http", 8081), &[("10.200.0.3", READY)]),
        slice("web-3", ("http", 8080), &[("fd00:10:200::2", READY)]),
        slice("web-4", ("other", 8080), &[("10.200.0.4", READY)]),
        slice("web-5", ("admin", 8080), &[("10.200.0.5", READY)]),
    ]);
    assert_eq!(
        reachable(&desired, VIP, 80).unwrap(),
        ["10.200.0.2 8080", "10.200.0.3 8081"]
    );
    assert_eq!(
        reachable(&desired, "fd00:10:32::8c", 80).unwrap(),
        ["fd00:10:200::2 8080"]
    );
    let udp = FrontendKey {
        protocol: WireProtocol::UDP,
        ..key(VIP, 81)
    };
    let admin = desired.contents.frontends[&udp].service;
    assert_eq!(desired.contents.services[&admin].backend_count, 0);
    // Two ports at each address, and the address.
    assert_eq!(desired.contents.frontends.len(), 6);
}

fn on(node: &str, object: Object) -> Object {
    let Object::EndpointSlice(mut slice) = object else {
        panic!("{object:?}")
    };
    for endpoint in &mut slice.group.endpoints {
        endpoint.node = Some(node.to_owned());
    }
    Object::EndpointSlice(slice)
}

#[test]
fn a_flag_says_that_endpoints_are_elsewhere_and_raises_no_revision() {
    let mut ids = Ids::default();
    let mut entry = |objects: Vec<Object>| {
        let local = Object::Service(Service {
            internal_traffic_policy: TrafficPolicy::Local,
            ..service("web", &[VIP], &[("", 80, Protocol::Tcp)])
        });
        let cluster = Cluster::from_objects(objects.into_iter().chain([local]));
        let desired = compile_all(&cluster, &mut ids);
        desired.contents.services[&desired.contents.frontends[&key(VIP, 80)].service]
    };
    let slice_with = |conditions| slice("web-1", ("", 8080), &[("10.200.0.2", conditions)]);
    let nobody = entry(vec![]);
    assert_eq!(
        (nobody.backend_count, nobody.flags),
        (0, ServiceFlags::NONE)
    );
    let elsewhere = entry(vec![on("worker-1", slice_with(TERMINATING))]);
    assert_eq!(elsewhere.flags, ServiceFlags::DROPS_WITHOUT_BACKEND);
    assert_eq!(elsewhere.revision, nobody.revision);
    // Nobody would serve there either.
    let not_ready = entry(vec![on("worker-1", slice_with(NOT_READY))]);
    assert_eq!(not_ready, nobody);
    let here = entry(vec![on("worker-0", slice_with(READY))]);
    assert_eq!((here.backend_count, here.flags), (1, ServiceFlags::NONE));
}

#[test]
fn core_endpoints_serve_only_a_service_without_slices() {
    let endpoints = || {
        Object::Endpoints(Endpoints {
            service: service_ref("web"),
            groups: vec![group(("", 8080), &[("10.200.0.9", READY)])],
        })
    };
    let desired = compiled([web(), endpoints()]);
    assert_eq!(reachable(&desired, VIP, 80).unwrap(), ["10.200.0.9 8080"]);
    let desired = compiled([web(), endpoints(), slice("web-1", ("", 8080), &[])]);
    assert_eq!(reachable(&desired, VIP, 80).unwrap(), [""; 0]);
}

#[test]
fn the_older_service_keeps_a_disputed_address() {
    let named = |name: &str, created: Option<i64>| {
        Object::Service(Service {
            created: created.map(|second| jiff::Timestamp::from_second(second).unwrap()),
            ..service(name, &[VIP], &[("", 80, Protocol::Tcp)])
        })
    };
    for (first, second, loser) in [
        (Some(2), Some(1), "a"),
        (Some(1), Some(2), "b"),
        (Some(1), Some(1), "b"),
        (None, Some(1), "a"),
        (None, None, "b"),
    ] {
        let winner = if loser == "a" { "b" } else { "a" };
        let desired = compiled([named("a", first), named("b", second)]);
        assert_eq!(
            reasons(&desired),
            [format!(
                "Service default/{loser} port 80/TCP IPv4: {VIP} with this port and protocol \
                 belongs to Service default/{winner}, which came first"
            )]
        );
        assert_eq!(desired.contents.service_names.len(), 1);
        let name = desired.contents.service_names[&1].name;
        assert_eq!(name[..2], [winner.as_bytes()[0], 0]);
    }
}

#[test]
fn an_sctp_endpoint_at_another_port_serves() {
    let desired = compiled([
        Object::Service(service("web", &[VIP], &[("", 80, Protocol::Sctp)])),
        Object::EndpointSlice(EndpointSlice {
            name: "web-1".to_owned(),
            triggered: None,
            service: service_ref("web"),
            group: EndpointGroup {
                ports: [80, 8080]
                    .map(|port| EndpointPort {
                        name: String::new(),
                        protocol: Protocol::Sctp,
                        port: NonZeroU16::new(port).unwrap(),
                    })
                    .to_vec(),
                ..group(("", 80), &[("10.200.0.2", READY)])
            },
        }),
    ]);
    assert_eq!(desired.contents.backends.len(), 2);
    assert_eq!(reasons(&desired), [""; 0]);
}

#[test]
fn what_does_not_fit_is_left_out_by_name() {
    let cluster = Cluster::from_objects([
        Object::Service(service("a", &["10.32.0.1"], &[("", 80, Protocol::Tcp)])),
        web(),
        slice(
            "web-1",
            ("", 8080),
            &[
                ("10.200.0.2", READY),
                ("10.200.0.3", READY),
                ("10.200.0.4", READY),
            ],
        ),
    ]);
    let ample = Capacities::default();
    let compiled_with =
        |capacities: Capacities| compile(&cluster, &context(), &mut Ids::default(), &capacities);

    // Each takes two: its port, and its address.
    let desired = compiled_with(Capacities {
        frontends: 3,
        ..ample
    });
    assert_eq!(
        reasons(&desired),
        [
            "Service default/web port 80/TCP IPv4: left out, because the table FRONTENDS is full (3 entries); a larger --max-frontends makes room"
        ]
    );
    assert_eq!(reachable(&desired, VIP, 80), None);

    let desired = compiled_with(Capacities {
        services: 2,
        ..ample
    });
    assert_eq!(
        reasons(&desired),
        [
            "Service default/web port 80/TCP IPv4: left out, because the table SERVICES is full (2 entries)"
        ]
    );
    assert_eq!(reachable(&desired, VIP, 80), None);

    let desired = compiled_with(Capacities {
        backends: 2,
        ..ample
    });
    assert_eq!(
        reasons(&desired),
        [
            "Service default/web port 80/TCP IPv4: 1 of 3 endpoints are left out, because the table BACKENDS is full (2 entries); a larger --max-backends makes room"
        ]
    );
    assert_eq!(
        reachable(&desired, VIP, 80).unwrap(),
        ["10.200.0.2 8080", "10.200.0.3 8080"]
    );
}

#[test]
fn the_node_object_says_which_addresses_the_node_has() {
    let desired = compiled([]);
    assert_eq!(desired.contents.node.addr_v4.to_string(), "10.240.0.11");
    assert!(desired.contents.node.addr_v6.is_unspecified());
    assert_eq!(desired.contents.node.snat_ports[0].max, 29_999);
    let desired = compiled([Object::Node(Node {
        name: "worker-0".to_owned(),
        addrs: vec!["fd00:10:240::11".parse().unwrap()],
        ..Node::default()
    })]);
    assert!(desired.contents.node.addr_v4.is_unspecified());
    assert_eq!(desired.contents.node.addr_v6.to_string(), "fd00:10:240::11");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_same_cluster_gives_the_same_bytes(before in clusters(), cluster in clusters()) {
        let mut ids = Ids::default();
        compile_all(&before, &mut ids);
        let mut twin = ids.clone();
        let desired = compile_all(&cluster, &mut ids);
        prop_assert_eq!(&desired, &compile_all(&cluster, &mut twin));
        prop_assert_eq!(&desired, &compile_all(&cluster, &mut ids));
    }

    #[test]
    fn nothing_exceeds_its_capacity_and_no_frontend_leads_nowhere(
        history in proptest::collection::vec(clusters(), 1..4),
        frontends in 0_u32..6,
        services in 0_u32..6,
        backends in 0_u32..6,
        source_ranges in 0_u32..4,
        service_cidrs in 0_u32..2,
    ) {
        let capacities = Capacities {
            frontends, services, backends, source_ranges, service_cidrs, ..Capacities::default()
        };
        let mut ids = Ids::default();
        for cluster in &history {
            let desired = compile(cluster, &context(), &mut ids, &capacities);
            let contents = &desired.contents;
            prop_assert!(contents.frontends.len() <= frontends as usize);
            prop_assert!(contents.backends.len() <= backends as usize);
            prop_assert_eq!(contents.serving.len(), contents.backends.len());
            prop_assert!(contents.source_ranges.len() <= source_ranges as usize);
            prop_assert!(contents.service_cidrs.len() <= service_cidrs as usize);
            prop_assert!(contents.services.keys().all(|number| *number < services));
            for (key, frontend) in &contents.frontends {
                if key.is_address_only() {
                    prop_assert_eq!(frontend, &Frontend::ADDRESS_ONLY);
                    continue;
                }
                for number in [frontend.service, frontend.from_outside] {
                    prop_assert!(contents.service_names.contains_key(&number));
                    let count = contents.services[&number].backend_count;
                    let slots: Vec<u32> =
                        contents.backends_of(number).map(|(slot, _)| slot).collect();
                    prop_assert_eq!(slots, (0..count).collect::<Vec<_>>());
                }
            }
            // What is missing is named, and nothing is named without need.
            let whole = compile_all(cluster, &mut Ids::default());
            let entries = |contents: &Contents| {
                contents.frontends.len()
                    + contents.backends.len()
                    + contents.source_ranges.len()
                    + contents.service_cidrs.len()
            };
            let lacks = entries(&whole.contents) > entries(contents);
            let no_room = desired.skipped.iter().any(|skipped| {
                matches!(
                    skipped.reason,
                    Reason::NoRoom { .. }
                        | Reason::NoRoomForBackends { .. }
                        | Reason::NoRoomForRanges { .. }
                )
            });
            prop_assert_eq!(lacks, no_room);
        }
    }
}
