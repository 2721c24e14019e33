//! Every kind of address: who answers there, whose source is translated, who may come.

use std::time::Duration;

use weir_ebpf::tables::{
    Backend, EndpointSet, FrontendFlags, Node as NodeEntry, PortRange, SourceRange,
};

use super::*;
use crate::model::{Affinity, ServiceCidr, ServiceType, SourceRanges, parse_network};

const NODE_PORT: u16 = 30_080;
const EXTERNAL: &str = "203.0.113.7";
const BALANCED: &str = "203.0.113.8";

/// A service with an address of every kind.
fn everywhere() -> Service {
    let mut service = service("web", &[VIP], &[("", 80, Protocol::Tcp)]);
    service.service_type = ServiceType::LoadBalancer;
    service.ports[0].node_port = NonZeroU16::new(NODE_PORT);
    service.external_ips = vec![EXTERNAL.parse().unwrap()];
    service.load_balancer_ips = vec![BALANCED.parse().unwrap()];
    service
}

/// One endpoint on this node, one on another.
fn here_and_there() -> [Object; 2] {
    [
        on(
            "worker-0",
            slice("web-1", ("", 8080), &[("10.200.0.2", READY)]),
        ),
        on(
            "worker-1",
            slice("web-2", ("", 8080), &[("10.200.1.2", READY)]),
        ),
    ]
}

fn with_endpoints(service: Service) -> Desired {
    let objects = here_and_there().into_iter();
    compiled(objects.chain([Object::Service(service)]))
}

fn node_port(is_v4: bool) -> FrontendKey {
    FrontendKey::node_port(is_v4, Port::new(NODE_PORT), WireProtocol::TCP)
}

/// Who answers for this number.
fn backends(desired: &Desired, number: u32) -> Vec<String> {
    let backends = desired.contents.backends_of(number);
    backends
        .map(|(_, backend)| backend.addr.to_string())
        .collect()
}

const ALL: [&str; 2] = ["10.200.0.2", "10.200.1.2"];
const LOCAL: [&str; 1] = ["10.200.0.2"];

#[test]
fn under_policy_cluster_everyone_is_led_everywhere_and_masqueraded_but_at_the_cluster_ip_by_pods() {
    let desired = with_endpoints(everywhere());
    assert_eq!(desired.skipped, []);
    let outside = FrontendFlags::MASQUERADE_OUTSIDE;
    let everyone = outside.with(FrontendFlags::MASQUERADE_PODS);
    for (key, flags) in [
        (key(VIP, 80), outside),
        (node_port(true), everyone),
        (key(EXTERNAL, 80), everyone),
        (key(BALANCED, 80), everyone),
    ] {
        let frontend = desired.contents.frontends[&key];
        assert_eq!(frontend, Frontend::to(frontend.service, flags), "{key:?}");
        assert_eq!(backends(&desired, frontend.service), ALL, "{key:?}");
    }
    // The address alone is refused at a cluster IP only.
    assert_eq!(desired.contents.frontends.len(), 5);
    assert_eq!(desired.contents.service_names.len(), 1);
}

#[test]
fn an_endpoint_on_this_node_is_marked() {
    let desired = with_endpoints(everywhere());
    let backends: Vec<Backend> = desired
        .contents
        .backends_of(1)
        .map(|(_, backend)| backend)
        .collect();
    let [local, remote] = ALL.map(|addr| Addr::from(addr.parse::<IpAddr>().unwrap()));
    let port = Port::new(8080);
    assert_eq!(
        backends,
        [Backend::local(local, port), Backend::new(remote, port)]
    );
}

#[test]
fn under_external_policy_local_only_clients_beyond_the_node_are_led_to_local_endpoints() {
    let desired = with_endpoints(Service {
        external_traffic_policy: TrafficPolicy::Local,
        ..everywhere()
    });
    let cluster_ip = desired.contents.frontends[&key(VIP, 80)];
    assert_eq!(cluster_ip.service, cluster_ip.from_outside);
    assert_eq!(backends(&desired, cluster_ip.service), ALL);
    for key in [node_port(true), key(EXTERNAL, 80), key(BALANCED, 80)] {
        let frontend = desired.contents.frontends[&key];
        assert_eq!(frontend.flags, FrontendFlags::NONE, "{key:?}");
        assert_eq!(backends(&desired, frontend.service), ALL, "{key:?}");
        assert_eq!(backends(&desired, frontend.from_outside), LOCAL, "{key:?}");
    }
    let sets = desired.contents.service_names.values();
    let sets: Vec<EndpointSet> = sets.map(|name| name.set).collect();
    assert_eq!(sets, [EndpointSet::CLUSTER, EndpointSet::LOCAL]);
}

#[test]
fn internal_policy_local_is_the_cluster_ips_alone() {
    let service = Service {
        internal_traffic_policy: TrafficPolicy::Local,
        ..everywhere()
    };
    let desired = with_endpoints(service.clone());
    let frontend = desired.contents.frontends[&key(VIP, 80)];
    assert_eq!(frontend.service, frontend.from_outside);
    assert_eq!(backends(&desired, frontend.service), LOCAL);
    let frontend = desired.contents.frontends[&node_port(true)];
    assert_eq!(backends(&desired, frontend.from_outside), ALL);

    // A set that nobody is led to has no number.
    let mut inside = service;
    inside.ports[0].node_port = None;
    inside.external_ips = Vec::new();
    inside.load_balancer_ips = Vec::new();
    let desired = with_endpoints(inside);
    assert_eq!(desired.contents.service_names.len(), 1);
    assert_eq!(desired.contents.service_names[&1].set, EndpointSet::LOCAL);
}

#[test]
fn without_a_local_endpoint_only_the_local_set_drops() {
    let desired = compiled([
        Object::Service(Service {
            external_traffic_policy: TrafficPolicy::Local,
            ..everywhere()
        }),
        on(
            "worker-1",
            slice("web-2", ("", 8080), &[("10.200.1.2", READY)]),
        ),
    ]);
    let frontend = desired.contents.frontends[&node_port(true)];
    let flags = |number: u32| desired.contents.services[&number].flags;
    assert_eq!(flags(frontend.service), ServiceFlags::NONE);
    assert_eq!(
        flags(frontend.from_outside),
        ServiceFlags::DROPS_WITHOUT_BACKEND
    );
}

#[test]
fn a_family_without_a_cluster_ip_has_no_other_address() {
    let mut service = everywhere();
    service.external_ips.push("2001:db8::7".parse().unwrap());
    service
        .load_balancer_ips
        .push("2001:db8::8".parse().unwrap());
    let desired = with_endpoints(service.clone());
    assert!(!desired.contents.frontends.contains_key(&node_port(false)));
    assert_eq!(reachable(&desired, "2001:db8::7", 80), None);

    service.cluster_ips.push("fd00:10:32::8c".parse().unwrap());
    service.families.push(Family::V6);
    let desired = with_endpoints(service);
    assert!(desired.contents.frontends.contains_key(&node_port(false)));
    assert_eq!(reachable(&desired, "2001:db8::7", 80), Some(vec![]));
    assert_eq!(reachable(&desired, "2001:db8::8", 80), Some(vec![]));
}

#[test]
fn source_ranges_are_asked_for_at_load_balancer_ips_alone() {
    let desired = with_endpoints(Service {
        source_ranges: SourceRanges::from_texts(&["203.0.113.0/24", "10.0.0.0/8"]),
        ..everywhere()
    });
    let restricted: Vec<FrontendKey> = desired
        .contents
        .frontends
        .iter()
        .filter(|(_, frontend)| frontend.flags.contains(FrontendFlags::SOURCE_RANGES))
        .map(|(key, _)| *key)
        .collect();
    assert_eq!(restricted, [key(BALANCED, 80)]);
    let range = |addr: &str, length: u32| SourceRange {
        prefix_len: 32 + 96 + length,
        service: desired.contents.frontends[&restricted[0]].service,
        addr: addr.parse::<IpAddr>().unwrap().into(),
    };
    assert_eq!(
        desired.contents.source_ranges,
        [range("10.0.0.0", 8), range("203.0.113.0", 24)].into()
    );
}

#[test]
fn an_address_that_is_external_and_balanced_keeps_its_ranges() {
    let mut service = everywhere();
    service.external_ips.push(BALANCED.parse().unwrap());
    service.source_ranges = SourceRanges::from_texts(&["203.0.113.0/24"]);
    let desired = with_endpoints(service);
    assert_eq!(desired.skipped, []);
    let frontend = desired.contents.frontends[&key(BALANCED, 80)];
    assert!(frontend.flags.contains(FrontendFlags::SOURCE_RANGES));
}

#[test]
fn the_older_service_keeps_a_disputed_address_of_any_kind() {
    let created = |name: &str, second| Service {
        id: service_ref(name),
        created: Some(jiff::Timestamp::from_second(second).unwrap()),
        ..everywhere()
    };
    let mut young = created("young", 2);
    young.cluster_ips = vec!["10.32.0.141".parse().unwrap()];
    let old = created("old", 1);
    let desired = compiled([young, old].map(Object::Service));
    let taken = "belongs to Service default/old, which came first";
    assert_eq!(
        reasons(&desired),
        [
            format!("node port 30080 with this protocol {taken}"),
            format!("{BALANCED} with this port and protocol {taken}"),
            format!("{EXTERNAL} with this port and protocol {taken}"),
        ]
        .map(|reason| format!("Service default/young port 80/TCP IPv4: {reason}"))
    );
    let owner = |key: FrontendKey| {
        let number = desired.contents.frontends[&key].service;
        desired.contents.service_names[&number].name[..3].to_vec()
    };
    assert_eq!(owner(node_port(true)), b"old");
    assert_eq!(owner(key(EXTERNAL, 80)), b"old");
    assert_eq!(owner(key("10.32.0.141", 80)), b"you");
}

#[test]
fn one_node_port_serves_one_port_of_a_service() {
    let mut twice = service(
        "web",
        &[VIP],
        &[("a", 80, Protocol::Tcp), ("b", 81, Protocol::Tcp)],
    );
    for port in &mut twice.ports {
        port.node_port = NonZeroU16::new(NODE_PORT);
    }
    let desired = compiled([Object::Service(twice)]);
    assert_eq!(
        reasons(&desired),
        [
            "Service default/web port b 81/TCP IPv4: node port 30080 with this protocol belongs to \
          another port of it"
        ]
    );
}

#[test]
fn another_services_cluster_ip_is_taken_port_by_port() {
    let mut other = service("other", &["10.32.0.9"], &[("", 81, Protocol::Tcp)]);
    other.external_ips = vec![VIP.parse().unwrap()];
    let desired = compiled([web(), Object::Service(other)]);
    assert_eq!(desired.skipped, []);
    assert_eq!(reachable(&desired, VIP, 80), Some(vec![]));
    assert_eq!(reachable(&desired, VIP, 81), Some(vec![]));
}

#[test]
fn both_sets_of_a_service_port_remember_their_clients_together() {
    let service = |policy, affinity| {
        Cluster::from_objects([Object::Service(Service {
            affinity,
            external_traffic_policy: policy,
            internal_traffic_policy: TrafficPolicy::Local,
            ..everywhere()
        })])
    };
    let sticky = Affinity::ClientIp(Duration::from_secs(600));
    let mut ids = Ids::default();
    let mut affinities = |cluster| {
        let contents = compile_all(&cluster, &mut ids).contents;
        let services = contents.services.values();
        services
            .map(|service| (service.affinity, service.affinity_timeout))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        affinities(service(TrafficPolicy::Local, sticky)),
        [(1, 600), (1, 600)]
    );
    assert_eq!(
        affinities(service(TrafficPolicy::Local, Affinity::None)),
        [(0, 0), (0, 0)]
    );
}

#[test]
fn what_a_service_port_remembers_survives_a_set_that_comes() {
    let sticky = |node_port| {
        let mut service = Service {
            affinity: Affinity::ClientIp(Duration::from_secs(600)),
            internal_traffic_policy: TrafficPolicy::Local,
            ..service("web", &[VIP], &[("", 80, Protocol::Tcp)])
        };
        service.ports[0].node_port = node_port;
        Cluster::from_objects([Object::Service(service)])
    };
    let mut ids = Ids::default();
    compile_all(&sticky(None), &mut ids);
    let contents = compile_all(&sticky(NonZeroU16::new(NODE_PORT)), &mut ids).contents;
    let affinities = contents.services.values().map(|service| service.affinity);
    assert_eq!(affinities.collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn the_nodes_entry_covers_cluster_ips_ranges_and_node_ports() {
    let node = |objects: Vec<Object>| compiled(objects).contents.node;
    let covers = |node: &NodeEntry, addr: &str| {
        let addr = addr.parse::<IpAddr>().unwrap().into();
        node.cover_v4.contains(addr) || node.cover_v6.contains(addr)
    };
    let nothing = node(vec![]);
    assert!(!covers(&nothing, VIP) && !covers(&nothing, "fd00:10:32::8c"));
    assert_eq!(nothing.node_ports.count(), 0);

    let mut other = service("other", &["10.32.0.130"], &[("", 53, Protocol::Udp)]);
    other.ports[0].node_port = NonZeroU16::new(30_053);
    let some = node(vec![
        Object::Service(everywhere()),
        Object::Service(other),
        Object::ServiceCidr(ServiceCidr {
            name: "kubernetes".to_owned(),
            cidrs: vec![parse_network("fd00:10:32::/112").unwrap()],
        }),
    ]);
    assert!(covers(&some, VIP) && covers(&some, "10.32.0.130") && covers(&some, "fd00:10:32::1"));
    assert!(!covers(&some, EXTERNAL) && !covers(&some, "10.200.0.2"));
    assert_eq!(some.node_ports, PortRange::new(30_053, 30_080));
}

#[test]
fn ranges_of_cluster_ips_come_from_objects_and_the_configuration() {
    let cluster = Cluster::from_objects([Object::ServiceCidr(ServiceCidr {
        name: "kubernetes".to_owned(),
        cidrs: ["10.32.0.0/24", "fd00:10:32::/112"]
            .map(|text| parse_network(text).unwrap())
            .to_vec(),
    })]);
    let node = NodeContext {
        service_cidrs: vec![parse_network("10.33.0.0/16").unwrap()],
        ..context()
    };
    let compiled_with =
        |capacities: Capacities| compile(&cluster, &node, &mut Ids::default(), &capacities);
    let texts = |desired: &Desired| -> Vec<String> {
        let cidrs = desired.contents.service_cidrs.iter();
        cidrs.map(ToString::to_string).collect()
    };
    let ample = compiled_with(Capacities::default());
    assert_eq!(
        texts(&ample),
        ["10.33.0.0/16", "fd00:10:32::/112", "10.32.0.0/24"]
    );
    let scarce = compiled_with(Capacities {
        service_cidrs: 2,
        ..Capacities::default()
    });
    assert_eq!(texts(&scarce), ["10.33.0.0/16", "10.32.0.0/24"]);
    assert_eq!(
        reasons(&scarce),
        ["ServiceCIDR kubernetes: left out, because the table SERVICE_CIDRS is full (2 entries)"]
    );
}

#[test]
fn source_ranges_without_room_are_left_out_by_name() {
    let cluster = Cluster::from_objects([Object::Service(Service {
        source_ranges: SourceRanges::from_texts(&["203.0.113.0/24", "10.0.0.0/8"]),
        ..everywhere()
    })]);
    let capacities = Capacities {
        source_ranges: 1,
        ..Capacities::default()
    };
    let desired = compile(&cluster, &context(), &mut Ids::default(), &capacities);
    assert_eq!(
        reasons(&desired),
        [
            "Service default/web port 80/TCP IPv4: 1 of 2 source ranges are left out, whose clients \
          are refused, because the table SOURCE_RANGES is full (1 entries)"
        ]
    );
    let frontend = desired.contents.frontends[&key(BALANCED, 80)];
    assert!(frontend.flags.contains(FrontendFlags::SOURCE_RANGES));
    assert_eq!(desired.contents.source_ranges.len(), 1);
}

#[test]
fn a_service_whose_sets_do_not_all_get_numbers_is_left_out_whole() {
    let mut ids = Ids::default();
    let capacities = Capacities {
        services: 2,
        ..Capacities::default()
    };
    let cluster = |policy| {
        Cluster::from_objects([Object::Service(Service {
            external_traffic_policy: policy,
            ..everywhere()
        })])
    };
    let one = compile(
        &cluster(TrafficPolicy::Cluster),
        &context(),
        &mut ids,
        &capacities,
    );
    assert_eq!(one.contents.service_names.len(), 1);
    let two = compile(
        &cluster(TrafficPolicy::Local),
        &context(),
        &mut ids,
        &capacities,
    );
    assert_eq!(two.skipped.len(), 1);
    assert!(two.contents.frontends.is_empty() && two.contents.service_names.is_empty());
    assert!(two.contents.backends.is_empty());
}

#[test]
fn of_a_hundred_thousand_endpoints_those_that_fit_serve_and_other_services_too() {
    let endpoints: Vec<(String, Conditions)> = (0_u32..100_000)
        .map(|number| {
            let addr = std::net::Ipv4Addr::from_bits(0x0ac8_0000 + number);
            (addr.to_string(), READY)
        })
        .collect();
    let endpoints: Vec<(&str, Conditions)> = endpoints
        .iter()
        .map(|(addr, conditions)| (addr.as_str(), *conditions))
        .collect();
    let first = Service {
        created: Some(jiff::Timestamp::from_second(1).unwrap()),
        ..service("first", &["10.32.0.1"], &[("", 80, Protocol::Tcp)])
    };
    let last = service("zeta", &["10.32.0.9"], &[("", 80, Protocol::Tcp)]);
    let cluster = Cluster::from_objects([
        web(),
        slice("web-1", ("", 8080), &endpoints),
        Object::Service(first),
        Object::Service(last),
        Object::EndpointSlice(EndpointSlice {
            name: "zeta-1".to_owned(),
            triggered: None,
            service: service_ref("zeta"),
            group: group(("", 8080), &[("10.199.0.3", READY)]),
        }),
        Object::EndpointSlice(EndpointSlice {
            name: "first-1".to_owned(),
            service: service_ref("first"),
            triggered: None,
            group: group(("", 8080), &[("10.199.0.2", READY)]),
        }),
    ]);
    let capacities = Capacities {
        backends: 50_000,
        ..Capacities::default()
    };
    let mut ids = Ids::default();
    let desired = compile(&cluster, &context(), &mut ids, &capacities);
    assert_eq!(
        reachable(&desired, "10.32.0.1", 80).unwrap(),
        ["10.199.0.2 8080"]
    );
    assert_eq!(
        reachable(&desired, "10.32.0.9", 80).unwrap(),
        ["10.199.0.3 8080"]
    );
    assert_eq!(reachable(&desired, VIP, 80).unwrap().len(), 49_998);
    assert_eq!(
        reasons(&desired),
        [
            "Service default/web port 80/TCP IPv4: 50002 of 100000 endpoints are left out, because \
          the table BACKENDS is full (50000 entries); a larger --max-backends makes room"
        ]
    );
    // Those that serve go on serving.
    let again = compile(&cluster, &context(), &mut ids, &capacities);
    assert_eq!(again, desired);
}
