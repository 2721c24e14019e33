//! Endpoints that change alone are compiled alone, and the result is the same.

use std::collections::BTreeSet;

use serde_json::json;

use super::policies::{allowing, pod, pod_object, with_interfaces};
use super::*;
use crate::compile::testing::slices;
use crate::maps::diff::{Limits, diff_parts, diff_within};
use crate::model::{Change, Changed, Event, Kind, ObjectRef, SourceId};

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
        let changes = objects.into_iter().map(Change::Apply);
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
        let whole = compile(cluster, node, &mut compiler.ids().clone(), capacities);
        assert_eq!(**desired, whole);
        let limits = Limits {
            backends: capacities.backends as usize,
            ..Limits::AMPLE
        };
        let plan = diff_within(&desired.contents, actual, limits);
        if let Extent::Parts {
            numbers, policies, ..
        } = &extent
        {
            let of_parts = diff_parts(&desired.contents, actual, numbers, *policies, limits);
            assert_eq!(of_parts, plan);
        }
        // What was desired before is what the tables hold; the revision of policies is their own.
        let policy = actual.policy;
        let before = Contents { policy, ..before };
        match &extent {
            Extent::Parts {
                numbers, policies, ..
            } => {
                let held = actual.of_numbers(numbers);
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
    let port = [("", 80, Protocol::Tcp)];
    vec![
        Object::Service(service("web", &["10.32.0.140"], &port)),
        Object::Service(service("db", &["10.32.0.141"], &port)),
        slice("web-1", "web", &[("10.200.0.2", READY)]),
        slice("db-1", "db", &[("10.200.0.3", READY)]),
    ]
}

fn numbers(extent: Extent) -> BTreeSet<u32> {
    match extent {
        Extent::Parts {
            numbers,
            policies: false,
            ..
        } => numbers,
        Extent::Parts { .. } => panic!("policies were compiled again"),
        Extent::Everything => panic!("everything was compiled again"),
    }
}

#[test]
fn new_endpoints_concern_their_service_and_no_other() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let two = [("10.200.0.2", READY), ("10.200.0.4", READY)];
    bench.see(vec![Change::Apply(slice("web-1", "web", &two))]);
    let extent = numbers(bench.compile());
    assert_eq!(bench.names(&extent), ["web"]);
    assert!(numbers(bench.compile()).is_empty());
    // A slice that goes over to another service concerns both.
    bench.see(vec![Change::Apply(slice("web-1", "db", &two))]);
    let extent = numbers(bench.compile());
    assert_eq!(bench.names(&extent), ["db", "web"]);
    bench.see(vec![Change::Delete(ObjectRef::new(
        Kind::EndpointSlice,
        "default",
        "web-1",
    ))]);
    let extent = numbers(bench.compile());
    assert_eq!(bench.names(&extent), ["db"]);
}

#[test]
fn what_policies_are_made_of_is_compiled_without_the_services() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    let addrs: [(&str, &[&str]); 2] = [("cart", &["10.200.0.2"]), ("pay", &["10.200.0.3"])];
    bench.node = with_interfaces(&addrs);
    let a_pod = |number: usize, app: &str| {
        let (name, addrs) = addrs[number];
        Change::Apply(pod_object(pod(name, json!({"app": app}), addrs)))
    };
    let from = |app: &str| json!([{"podSelector": {"matchLabels": {"app": app}}}]);
    bench.compiler.note_everything();
    assert_eq!(bench.compile(), Extent::Everything);
    let policies = Extent::Parts {
        services: BTreeSet::new(),
        numbers: BTreeSet::new(),
        policies: true,
    };
    let changes = [
        Change::Apply(allowing("some", from("pay"))),
        a_pod(0, "cart"),
        a_pod(1, "pay"),
        a_pod(1, "other"),
        Change::Apply(allowing("some", from("other"))),
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
        Change::Apply(slice("web-1", "web", &[])),
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

#[test]
fn everything_is_compiled_again_when_more_than_that_has_changed() {
    let mut bench = Bench::new(web_and_db(), Capacities::default());
    bench.see(vec![
        Change::Apply(slice("web-1", "web", &[])),
        Change::Apply(Object::Service(service(
            "web",
            &["10.32.0.140"],
            &[("", 81, Protocol::Tcp)],
        ))),
    ]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.compiler.note_everything();
    assert_eq!(bench.compile(), Extent::Everything);
    // Core Endpoints count where the last slice has gone.
    bench.see(vec![Change::Apply(Object::Endpoints(Endpoints {
        service: service_ref("db"),
        groups: vec![group(("", 8080), &[("10.200.0.9", READY)])],
    }))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![Change::Delete(ObjectRef::new(
        Kind::EndpointSlice,
        "default",
        "db-1",
    ))]);
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
    bench.see(vec![Change::Apply(slice("web-1", "web", &three[..2]))]);
    numbers(bench.compile());
    bench.see(vec![Change::Apply(slice("web-1", "web", &three))]);
    assert_eq!(bench.compile(), Extent::Everything);
    // Who was left out before has room now.
    bench.see(vec![Change::Apply(slice("db-1", "db", &[]))]);
    assert_eq!(bench.compile(), Extent::Everything);
    bench.see(vec![Change::Apply(slice("web-1", "web", &three[..1]))]);
    numbers(bench.compile());
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
    let changes = objects.into_iter().map(Change::Apply);
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
    let changes = vec![Change::Apply(large_slice(7, 1))];
    let source = SourceId::MANIFESTS;
    let Changed::Objects(objects) = cluster.apply(Event { source, changes }) else {
        panic!("a slice has changed");
    };
    compiler.note(&objects, &cluster);
    let node = || panic!("the node is not looked at");
    let capacities = Capacities::default();
    let extent = compiler.compile(&cluster, "worker-0", node, &capacities, |_| ());
    let numbers = numbers(extent);
    assert_eq!(numbers, BTreeSet::from([8]));
    let new = &compiler.desired().contents;
    let plan = diff_parts(new, &old, &numbers, false, Limits::AMPLE);
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
            let mut changes: Vec<Change> = new.into_iter().map(Change::Apply).collect();
            let present: Vec<String> =
                bench.cluster.endpoint_slices().map(|slice| slice.name.clone()).collect();
            if is_deleted && !present.is_empty() {
                let name = which.get(&present);
                changes.push(Change::Delete(ObjectRef::new(Kind::EndpointSlice, "default", name)));
            }
            let is_slices = changes.iter().all(|change| {
                !matches!(change, Change::Apply(object) if object.reference().kind != Kind::EndpointSlice)
            });
            bench.see(changes);
            let extent = bench.compile();
            prop_assert!(!is_slices || backends == 6 || extent != Extent::Everything);
        }
    }
}
