//! Services and endpoints that change alone are compiled alone, and the result is the same.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::policies::{allowing, pod, pod_object, with_interfaces};
use super::*;
use crate::compile::testing::{services, slices};
use crate::maps::diff::{Limits, diff_parts, diff_within};
use crate::model::{
    Affinity, Change, Changed, Event, Kind, ObjectRef, ServicePort, SourceId, SourceRanges,
};

/// A cluster, what was compiled of it, and what tables hold that follow.
struct Bench {
    cluster: Cluster,
    node: NodeContext,
    compiler: Compiler,
    capacities: Capacities,
    actual: Contents,
}

impl Bench {
    fn new(objects: Vec<Object>, capacities: Capacities) -> Self {
        let mut bench = Self {
            cluster: Cluster::default(),
            node: context(),
            compiler: Compiler::new(&Contents::default()),
            capacities,
            actual: Contents::default(),
        };
        let changes = objects.into_iter().map(Change::apply);
        bench.see(changes.chain([Change::Ready]).collect());
        assert_eq!(bench.compile(), Extent::Everything);
        bench
    }

    fn see(&mut self, changes: Vec<Change>) {
        let source = SourceId::MANIFESTS;
        if let Changed::Objects(objects) = self.cluster.apply(Event { source, changes }) {
            self.compiler.note(&objects, &self.cluster);
        }
    }

    /// Compiles, and compares with what is compiled as a whole: tables and writes.
    fn compile(&mut self) -> Extent {
        let Self {
            cluster,
            node,
            compiler,
            capacities,
            actual,
        } = self;
        let extent = compiler.compile(cluster, &node.name, || node.clone(), capacities, |_| ());
        let before = compiler.take_before();
        let desired = compiler.desired();
        // Where numbers are short, who has one follows from who had it before.
        let mut skipped = desired.skipped.iter();
        let has_no_number = skipped.any(|it| {
            matches!(
                &it.reason,
                Reason::NoRoom {
                    table: Table::Services,
                    ..
                }
            )
        });
        if extent != Extent::Everything || !has_no_number {
            let whole = compile(cluster, node, &mut compiler.ids().clone(), capacities);
            assert_eq!(**desired, whole);
        }
        let limits = Limits {
            backends: capacities.backends as usize,
            ..Limits::AMPLE
        };
        let plan = diff_within(&desired.contents, actual, limits);
        if let Extent::Parts {
            numbers,
            frontends,
            policies,
            ..
        } = &extent
        {
            let numbers = (numbers, frontends.as_ref());
            let of_parts = diff_parts(&desired.contents, actual, numbers, *policies, limits);
            assert_eq!(of_parts, plan);
        }
        // What was desired before is what the tables hold; the revision of policies is their own.
        let policy = actual.policy;
        let before = Contents { policy, ..before };
        match &extent {
            Extent::Parts {
                numbers,
                frontends,
                policies,
                ..
            } => {
                let held = match frontends {
                    Some(frontends) => actual.of_parts(numbers, frontends),
                    None => actual.of_numbers(numbers),
                };
                let held = match policies {
                    true => held.with_policies(actual.clone().take_policies()),
                    false => held,
                };
                assert_eq!(before, held);
            }
            Extent::Everything => assert_eq!(before, *actual),
        }
        for write in &plan.0 {
            write.apply_to(actual);
        }
        extent
    }

    fn names(&self, numbers: &BTreeSet<u32>) -> Vec<String> {
        let names = &self.compiler.desired().contents.service_names;
        let name = |number| {
            let name = names[number].name;
            let end = name.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned()
        };
        numbers.iter().map(name).collect()
    }
}

fn slice(name: &str, service: &str, endpoints: &[(&str, Conditions)]) -> Object {
    Object::EndpointSlice(EndpointSlice {
        name: name.to_owned(),
        triggered: None,
        service: service_ref(service),
        group: group(("", 8080), endpoints),
    })
}

fn web_and_db() -> Vec<Object> {
    vec![
        Object::Service(service("web", &["10.32.0.140"], &PORT)),
        Object::Service(service("db", &["10.32.0.141"], &PORT)),
        slice("web-1", "web", &[("10.200.0.2", READY)]),
        slice("db-1", "db", &[("10.200.0.3", READY)]),
    ]
}

fn numbers_of_endpoints(extent: Extent) -> BTreeSet<u32> {
    match extent {
        Extent::Parts {
            numbers,
            frontends: None,
            policies: false,
            ..
        } => numbers,
        Extent::Parts { .. } => panic!("services or policies were compiled again"),
        Extent::Everything => panic!("everything was compiled again"),
    }
}

#[test]
fn new_endpoints_concern_their_service_and_no_other() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let two = [("10.200.0.2", READY), ("10.200.0.4", READY)];
    bench.see(vec![Change::apply(slice("web-1", "web", &two))]);
    let extent = numbers_of_endpoints(bench.compile());
    assert_eq!(bench.names(&extent), ["web"]);
    assert!(numbers_of_endpoints(bench.compile()).is_empty());
    // A slice that goes over to another service concerns both.
    bench.see(vec![Change::apply(slice("web-1", "db", &two))]);
    let extent = numbers_of_endpoints(bench.compile());
    assert_eq!(bench.names(&extent), ["db", "web"]);
    bench.see(vec![deleted(Kind::EndpointSlice, "web-1")]);
    let extent = numbers_of_endpoints(bench.compile());
    assert_eq!(bench.names(&extent), ["db"]);
}

#[test]
fn what_policies_are_made_of_is_compiled_without_the_services() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let addrs: [(&str, &[&str]); 2] = [("cart", &["10.200.0.2"]), ("pay", &["10.200.0.3"])];
    bench.node = with_interfaces(&addrs);
    let a_pod = |number: usize, app: &str| {
        let (name, addrs) = addrs[number];
        Change::apply(pod_object(pod(name, json!({"app": app}), addrs)))
    };
    let from = |app: &str| json!([{"podSelector": {"matchLabels": {"app": app}}}]);
    bench.compiler.note_everything();
    assert_eq!(bench.compile(), Extent::Everything);
    let policies = Extent::Parts {
        services: BTreeSet::new(),
        numbers: BTreeSet::new(),
        frontends: None,
        policies: true,
    };
    let changes = [
        Change::apply(allowing("some", from("pay"))),
        a_pod(0, "cart"),
        a_pod(1, "pay"),
        a_pod(1, "other"),
        Change::apply(allowing("some", from("other"))),
        Change::Delete(pod_object(pod("cart", json!({}), &[])).reference()),
    ];
    let mut rules = BTreeSet::new();
    for change in changes {
        bench.see(vec![change]);
        assert_eq!(bench.compile(), policies);
        rules.insert(bench.actual.rules.clone());
    }
    assert!(rules.len() > 1, "{rules:?}");
    // Beside new endpoints.
    bench.see(vec![
        a_pod(0, "cart"),
        Change::apply(slice("web-1", "web", &[])),
    ]);
    let Extent::Parts {
        numbers,
        policies: true,
        ..
    } = bench.compile()
    else {
        panic!("both parts");
    };
    assert_eq!(bench.names(&numbers), ["web"]);
}

const PORT: [(&str, u16, Protocol); 1] = [("", 80, Protocol::Tcp)];

fn deleted(kind: Kind, name: &str) -> Change {
    Change::Delete(ObjectRef::new(kind, "default", name))
}

/// What has changed of services, where that is all.
fn changed(extent: Extent) -> BTreeSet<FrontendKey> {
    match extent {
        Extent::Parts {
            frontends: Some(frontends),
            policies: false,
            ..
        } => frontends,
        Extent::Parts { .. } => panic!("no service, or policies, too"),
        Extent::Everything => panic!("everything was compiled again"),
    }
}

#[test]
fn a_service_that_changes_is_compiled_without_the_others() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let pay = service("pay", &["10.32.0.142", "fd00:10:32::142"], &PORT);
    let load_balancer = Service {
        ports: vec![ServicePort {
            node_port: NonZeroU16::new(30_080),
            ..pay.ports[0].clone()
        }],
        load_balancer_ips: vec!["203.0.113.7".parse().unwrap()],
        source_ranges: SourceRanges::from_texts(&["198.51.100.0/24", "192.0.2.0/24"]),
        external_traffic_policy: TrafficPolicy::Local,
        health_check_node_port: NonZeroU16::new(32_000),
        ..pay.clone()
    };
    let without_ranges = Service {
        source_ranges: SourceRanges::default(),
        affinity: Affinity::ClientIp(Duration::from_secs(10)),
        ..load_balancer.clone()
    };
    let another_port = Service {
        ports: service("", &[], &[("web", 81, Protocol::Udp)]).ports,
        ..pay.clone()
    };
    // The entries of FRONTENDS and SOURCE_RANGES after each change, and the numbers in use.
    let sizes = |bench: &Bench| {
        let Contents {
            frontends,
            source_ranges,
            service_names,
            ..
        } = &bench.actual;
        (frontends.len(), source_ranges.len(), service_names.len())
    };
    assert_eq!(sizes(&bench), (4, 0, 2));
    let steps = [
        (pay.clone(), (8, 0, 4)),
        (load_balancer, (11, 2, 6)),
        (without_ranges, (11, 0, 6)),
        (another_port, (8, 0, 4)),
    ];
    for (service, wanted) in steps {
        bench.see(vec![Change::apply(Object::Service(service))]);
        let keys = changed(bench.compile());
        // Of the others it knows nothing.
        let own = [key("10.32.0.142", 80), key("10.32.0.140", 80)];
        assert_eq!(own.map(|key| keys.contains(&key)), [true, false]);
        assert_eq!(sizes(&bench), wanted);
    }
    // With its first endpoints, in one go with another's.
    bench.see(vec![
        Change::apply(slice("pay-1", "pay", &[("10.200.0.4", READY)])),
        Change::apply(slice("db-1", "db", &[])),
        Change::apply(Object::Service(pay)),
    ]);
    let extent = bench.compile();
    let Extent::Parts { numbers, .. } = &extent else {
        panic!("{extent:?}");
    };
    assert_eq!(numbers.len(), 1 + 4, "db's, and those that pay had and has");
    assert!(changed(extent).contains(&key("10.32.0.142", 80)));
    bench.see(vec![deleted(Kind::Service, "pay")]);
    changed(bench.compile());
    assert_eq!(sizes(&bench), (4, 0, 2));
    // Endpoints of a service that is not there.
    bench.see(vec![deleted(Kind::EndpointSlice, "pay-1")]);
    assert!(numbers_of_endpoints(bench.compile()).is_empty());
    // Two that change places, and one that nobody can reach.
    bench.see(vec![
        Change::apply(Object::Service(service("web", &["10.32.0.141"], &PORT))),
        Change::apply(Object::Service(service("db", &["10.32.0.140"], &PORT))),
        Change::apply(Object::Service(service("headless", &[], &PORT))),
    ]);
    changed(bench.compile());
    assert_eq!(sizes(&bench), (4, 0, 2));
}

#[test]
fn everything_is_compiled_again_where_services_want_the_same() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let apply = |service: Service| Change::apply(Object::Service(service));
    let external = |addr: &str| Service {
        external_ips: vec![addr.parse().unwrap()],
        ..service("pay", &["10.32.0.142"], &PORT)
    };
    // An address of another one, which stays known to be one when that goes.
    bench.see(vec![apply(external("10.32.0.140"))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![deleted(Kind::Service, "web")]);
    assert_eq!(bench.compile(), Extent::Everything);
    // Nobody has lost anything now, but the address was web's and is to remain pay's.
    bench.see(vec![apply(service("web", &["10.32.0.143"], &PORT))]);
    changed(bench.compile());
    bench.see(vec![apply(external("10.32.0.143"))]);
    assert_eq!(bench.compile(), Extent::Everything);
    // Another port of the same address: nobody is in the way, until one of them leaves.
    let other_port = [("", 81, Protocol::Tcp)];
    bench.see(vec![apply(service("pay", &["10.32.0.143"], &other_port))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![apply(service("db", &["10.32.0.144"], &PORT))]);
    changed(bench.compile());
    bench.see(vec![deleted(Kind::Service, "pay")]);
    assert_eq!(bench.compile(), Extent::Everything);
    // Two ports of one service.
    let twice = [("a", 80, Protocol::Tcp), ("b", 80, Protocol::Tcp)];
    bench.see(vec![apply(service("pay", &["10.32.0.145"], &twice))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![apply(service("pay", &["10.32.0.145"], &PORT))]);
    assert_eq!(bench.compile(), Extent::Everything);
}

#[test]
fn everything_is_compiled_again_where_a_service_wants_a_pods_address() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let addr = "10.200.0.2";
    bench.node = with_interfaces(&[("cart", &[addr])]);
    bench.node.policy.fast_path = true;
    for interface in bench.node.pod_interfaces.values_mut() {
        interface.is_direct = true;
    }
    let cart = pod_object(pod("cart", json!({}), &[addr]));
    bench.see(vec![Change::apply(cart)]);
    bench.compiler.note_everything();
    bench.compile();
    assert_eq!(bench.actual.receivers.len(), 1);
    for (external_ips, receivers) in [(vec![addr.parse().unwrap()], 0), (Vec::new(), 1)] {
        bench.see(vec![Change::apply(Object::Service(Service {
            external_ips,
            ..service("web", &["10.32.0.140"], &PORT)
        }))]);
        assert_eq!(bench.compile(), Extent::Everything);
        assert_eq!(bench.actual.receivers.len(), receivers);
    }
}

#[test]
fn everything_is_compiled_again_where_services_have_no_room() {
    let room = Capacities {
        frontends: 6,
        services: 4,
        source_ranges: 2,
        ..Capacities::default()
    };
    let with_ranges = Service {
        load_balancer_ips: vec!["203.0.113.7".parse().unwrap()],
        source_ranges: SourceRanges::from_texts(&["198.51.100.0/24", "192.0.2.0/24"]),
        ..service("pay", &["10.32.0.142"], &PORT)
    };
    let more = [
        service("pay", &["10.32.0.142"], &PORT),
        Service {
            external_traffic_policy: TrafficPolicy::Local,
            ..with_ranges.clone()
        },
        with_ranges,
    ];
    for (more, limits) in [
        (
            &more[0],
            Capacities {
                frontends: 5,
                ..room
            },
        ),
        (
            &more[0],
            Capacities {
                services: 3,
                ..room
            },
        ),
        (
            &more[1],
            Capacities {
                frontends: 100,
                ..room
            },
        ),
        (
            &more[2],
            Capacities {
                frontends: 100,
                source_ranges: 1,
                ..room
            },
        ),
    ] {
        let mut bench = Bench::new(web_and_db(), limits);
        bench.see(vec![Change::apply(Object::Service(more.clone()))]);
        assert_eq!(bench.compile(), Extent::Everything, "{limits:?}");
        assert_eq!(bench.compiler.desired().skipped.len(), 1);
        bench.see(vec![deleted(Kind::Service, "pay")]);
        assert_eq!(bench.compile(), Extent::Everything);
        let mut bench = Bench::new(
            web_and_db(),
            Capacities {
                frontends: 7,
                services: 5,
                ..room
            },
        );
        bench.see(vec![Change::apply(Object::Service(more.clone()))]);
        changed(bench.compile());
    }
}

#[test]
fn everything_is_compiled_again_when_more_than_that_has_changed() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    bench.compiler.note_everything();
    assert_eq!(bench.compile(), Extent::Everything);
    // Core Endpoints count where the last slice has gone.
    bench.see(vec![Change::apply(Object::Endpoints(Endpoints {
        service: service_ref("db"),
        groups: vec![group(("", 8080), &[("10.200.0.9", READY)])],
    }))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![deleted(Kind::EndpointSlice, "db-1")]);
    assert_eq!(bench.compile(), Extent::Everything);
}

#[test]
fn everything_is_compiled_again_where_room_is_short() {
    let capacities = Capacities {
        backends: 3,
        ..Capacities::default()
    };
    let mut bench = Bench::new(web_and_db(), capacities);
    let three = ["10.200.0.2", "10.200.0.4", "10.200.0.5"].map(|addr| (addr, READY));
    bench.see(vec![Change::apply(slice("web-1", "web", &three[..2]))]);
    numbers_of_endpoints(bench.compile());
    bench.see(vec![Change::apply(slice("web-1", "web", &three))]);
    assert_eq!(bench.compile(), Extent::Everything);
    // Who was left out before has room now.
    bench.see(vec![Change::apply(slice("db-1", "db", &[]))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![Change::apply(slice("web-1", "web", &three[..1]))]);
    numbers_of_endpoints(bench.compile());
}

/// A cluster of so many services with two endpoints each, and nobody to compare with.
fn large(services: u16) -> (Cluster, Compiler) {
    let mut objects = Vec::new();
    for index in 0..services {
        let [high, low] = index.to_be_bytes();
        let name = format!("s{index:05}");
        let addr = format!("10.32.{high}.{low}");
        objects.push(Object::Service(service(
            &name,
            &[&addr],
            &[("", 80, Protocol::Tcp)],
        )));
        objects.push(large_slice(index, 0));
    }
    let mut cluster = Cluster::default();
    let mut compiler = Compiler::new(&Contents::default());
    let changes = objects.into_iter().map(Change::apply);
    let source = SourceId::MANIFESTS;
    let changes = changes.chain([Change::Ready]).collect();
    if let Changed::Objects(objects) = cluster.apply(Event { source, changes }) {
        compiler.note(&objects, &cluster);
    }
    compiler.compile(
        &cluster,
        "worker-0",
        context,
        &Capacities::default(),
        |_| (),
    );
    (cluster, compiler)
}

fn large_slice(index: u16, last: u8) -> Object {
    let [high, low] = index.to_be_bytes();
    let name = format!("s{index:05}");
    let endpoints = [
        (format!("10.200.{high}.{low}"), READY),
        (format!("10.21{last}.{high}.{low}"), READY),
    ];
    let endpoints = endpoints
        .each_ref()
        .map(|(addr, conditions)| (&**addr, *conditions));
    slice(&name, &name, &endpoints)
}

#[test]
fn the_work_follows_the_change_and_not_the_cluster() {
    let (mut cluster, mut compiler) = large(2_000);
    let old = compiler.desired().contents.of_numbers(&BTreeSet::from([8]));
    let changes = vec![Change::apply(large_slice(7, 1))];
    let source = SourceId::MANIFESTS;
    let Changed::Objects(objects) = cluster.apply(Event { source, changes }) else {
        panic!("a slice has changed");
    };
    compiler.note(&objects, &cluster);
    let node = || panic!("the node is not looked at");
    let capacities = Capacities::default();
    let extent = compiler.compile(&cluster, "worker-0", node, &capacities, |_| ());
    let numbers = numbers_of_endpoints(extent);
    assert_eq!(numbers, BTreeSet::from([8]));
    let new = &compiler.desired().contents;
    let plan = diff_parts(new, &old, (&numbers, None), false, Limits::AMPLE);
    // A backend goes and another takes its slot: SERVING twice, the slot, and the revision twice.
    assert_eq!(plan.0.len(), 5, "{plan:?}");
}

proptest! {
    #[test]
    fn endpoints_alone_give_what_everything_gives(
        cluster in clusters(),
        changes in proptest::collection::vec(
            (proptest::collection::vec(slices(), 0..3), any::<proptest::sample::Index>(), any::<bool>()),
            1..8,
        ),
        backends in prop_oneof![Just(6_u32), Just(1000)],
    ) {
        let capacities = Capacities { backends, ..Capacities::default() };
        let mut objects: Vec<Object> = cluster.services().cloned().map(Object::Service).collect();
        objects.extend(cluster.endpoint_slices().cloned().map(Object::EndpointSlice));
        let mut bench = Bench::new(objects, capacities);
        for (new, which, is_deleted) in changes {
            let mut changes: Vec<Change> = new.into_iter().map(Change::apply).collect();
            let present: Vec<String> =
                bench.cluster.endpoint_slices().map(|slice| slice.name.clone()).collect();
            if is_deleted && !present.is_empty() {
                let name = which.get(&present);
                changes.push(deleted(Kind::EndpointSlice, name));
            }
            let is_slices = changes.iter().all(|change| {
                !matches!(change, Change::Apply(object) if object.reference().kind != Kind::EndpointSlice)
            });
            bench.see(changes);
            let extent = bench.compile();
            prop_assert!(!is_slices || backends == 6 || extent != Extent::Everything);
        }
    }

    /// They collide often, and with little room they have none, which is for the whole to judge;
    /// what is compiled alone is compared with it each time.
    #[test]
    fn services_alone_give_what_everything_gives(
        cluster in clusters(),
        changes in proptest::collection::vec(
            (
                proptest::collection::vec(prop_oneof![2 => services(), 1 => slices()], 0..3),
                proptest::option::of(0_u8..4),
            ),
            1..8,
        ),
        capacities in prop_oneof![
            2 => Just(Capacities::default()),
            1 => (4_u32..20, 2_u32..8, 1_u32..3, 3_u32..20).prop_map(
                |(frontends, services, source_ranges, backends)| Capacities {
                    frontends,
                    services,
                    source_ranges,
                    backends,
                    ..Capacities::default()
                },
            ),
        ],
    ) {
        let mut objects: Vec<Object> = cluster.services().cloned().map(Object::Service).collect();
        objects.extend(cluster.endpoint_slices().cloned().map(Object::EndpointSlice));
        let mut bench = Bench::new(objects, capacities);
        for (new, gone) in changes {
            let new = new.into_iter().map(Change::apply);
            let gone = gone.map(|name| deleted(Kind::Service, &format!("web-{name}")));
            bench.see(gone.into_iter().chain(new).collect());
            bench.compile();
        }
    }
}
