//! How long a large cluster's policies take, for people to read: nothing is asserted of time.
//!
//! `cargo test --release --test policy_speed -- --ignored --nocapture`

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use serde_json::{Value, json};
use weir_agent::compile::{Capacities, Claimed, Desired, Ids, NodeContext, PodInterface, compile};
use weir_agent::maps::Contents;
use weir_agent::maps::diff::diff;
use weir_agent::model::{Change, Cluster, Event, Object, PodRef, SourceId};

const NAMESPACES: usize = 50;
/// In each namespace.
const PODS: usize = 100;
/// In each namespace, on this node.
const PODS_HERE: usize = 10;
/// In each namespace, of two ranges each.
const POLICIES: usize = 10;

fn object<T>(value: Value) -> Object
where
    T: serde::de::DeserializeOwned,
    Object: TryFrom<T, Error: std::fmt::Debug>,
{
    let api: T = serde_json::from_value(value).expect("an object of its kind");
    Object::try_from(api).expect("an object that can be named")
}

fn namespace(number: usize) -> Object {
    object::<core::Namespace>(json!({"metadata": {
        "name": format!("ns-{number}"),
        "labels": {"team": format!("team-{}", number % 7)},
    }}))
}

/// A pod as a StatefulSet makes it: with a label that no other has.
fn pod(namespace: usize, number: usize) -> Object {
    let is_here = number < PODS_HERE;
    object::<core::Pod>(json!({
        "metadata": {
            "name": format!("pod-{number}"), "namespace": format!("ns-{namespace}"),
            "uid": format!("uid-{namespace}-{number}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "app": format!("app-{}", number % 10), "tier": format!("tier-{}", number % 3),
                "apps.kubernetes.io/pod-index": number.to_string(),
                "pod-template-hash": format!("{namespace}-{}", number % 10),
            },
        },
        "spec": {
            "nodeName": if is_here { "here" } else { "elsewhere" },
            "containers": [{"name": "main", "ports": [
                {"name": "http", "containerPort": if number.is_multiple_of(2) { 80 } else { 8080 }},
            ]}],
        },
        "status": {"phase": "Running", "podIPs": [
            {"ip": format!("10.200.{namespace}.{number}")},
            {"ip": format!("fd00:10:200::{namespace:x}:{number:x}")},
        ]},
    }))
}

/// A policy of one application or, the first, of a whole namespace.
fn policy(namespace: usize, number: usize) -> Object {
    let (team, app) = (number % 7, (number + 3) % 10);
    let whom = match number {
        0 => json!({}),
        _ => json!({"matchLabels": {"app": format!("app-{}", number % 10)}}),
    };
    object::<networking::NetworkPolicy>(json!({
        "metadata": {"name": format!("policy-{number}"), "namespace": format!("ns-{namespace}")},
        "spec": {
            "podSelector": whom,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [
                    {"podSelector": {"matchLabels": {"app": format!("app-{app}")}}},
                    {"namespaceSelector": {"matchLabels": {"team": format!("team-{team}")}},
                     "podSelector": {"matchExpressions": [
                        {"key": "tier", "operator": "In", "values": ["tier-0", "tier-1"]}]}},
                 ],
                 "ports": [{"port": "http"}, {"port": 9000, "endPort": 9009}]},
                {"from": [{"ipBlock": {"cidr": format!("203.{namespace}.{number}.0/24"),
                                       "except": [format!("203.{namespace}.{number}.128/25")]}}],
                 "ports": [{"port": 443}]},
            ],
            "egress": [
                {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]},
                {"to": [{"ipBlock": {"cidr": format!("198.{namespace}.{number}.0/28")}}]},
                {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "app-9"}}}],
                 "ports": [{"port": 53, "protocol": "UDP"}]},
            ],
        },
    }))
}

fn cluster() -> Cluster {
    let all = (0..NAMESPACES).flat_map(|it| {
        let pods = (0..PODS).map(move |number| pod(it, number));
        let policies = (0..POLICIES).map(move |number| policy(it, number));
        [namespace(it)].into_iter().chain(pods).chain(policies)
    });
    Cluster::from_objects(all)
}

fn context() -> NodeContext {
    let mut pod_interfaces = BTreeMap::new();
    for namespace in 0..NAMESPACES {
        for number in 0..PODS_HERE {
            let v4 = format!("10.200.{namespace}.{number}");
            let v6 = format!("fd00:10:200::{namespace:x}:{number:x}");
            let index = u32::try_from(10 + namespace * PODS_HERE + number).expect("few");
            let interface = PodInterface {
                netns: 1,
                addrs: [v4, v6]
                    .map(|addr| addr.parse().expect("an address"))
                    .into(),
                is_direct: true,
                pod: Some(Claimed {
                    pod: PodRef {
                        namespace: format!("ns-{namespace}"),
                        name: format!("pod-{number}"),
                    },
                    uid: format!("uid-{namespace}-{number}"),
                }),
            };
            pod_interfaces.insert(index, interface);
        }
    }
    NodeContext {
        name: "here".to_owned(),
        pod_interfaces,
        ..NodeContext::default()
    }
}

#[test]
#[ignore = "a measurement: what it prints is for people"]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn a_large_cluster() {
    let mut cluster = cluster();
    let context = context();
    let mut ids = Ids::default();
    let mut actual = Contents::default();
    let mut step = |what: &str, cluster: &Cluster| {
        let (desired, compiled) =
            timed(|| compile(cluster, &context, &mut ids, &Capacities::default()));
        let Desired {
            contents,
            skipped,
            policies,
            ..
        } = desired;
        assert_eq!(skipped, []);
        let (plan, compared) = timed(|| diff(&contents, &actual));
        let ((), applied) = timed(|| plan.0.iter().for_each(|write| write.apply_to(&mut actual)));
        println!(
            "{what:<36} compile {compiled:>6.1?} diff {compared:>6.1?} in memory {applied:>6.1?}; {} writes; \
             {} subject sets, {} classes, {} peers, {} ranges, {} entries of RULES",
            plan.0.len(),
            policies.subjects.len(),
            policies.classes.len(),
            contents.peers.len(),
            contents.peer_ranges.len(),
            contents.rules.len(),
        );
        assert!(diff(&contents, &actual).0.is_empty());
    };
    step("everything", &cluster);
    step("nothing new", &cluster);
    for (what, change) in [
        ("a pod more elsewhere", Change::apply(pod(3, PODS))),
        (
            "a pod less elsewhere",
            Change::Delete(pod(3, PODS).reference()),
        ),
        ("a policy more", Change::apply(policy(3, POLICIES))),
        (
            "a policy for a whole namespace less",
            Change::Delete(policy(3, 0).reference()),
        ),
        (
            "other labels of a namespace",
            Change::apply(object::<core::Namespace>(
                json!({"metadata": {"name": "ns-3", "labels": {"team": "team-4"}}}),
            )),
        ),
    ] {
        cluster.apply(Event {
            source: SourceId::MANIFESTS,
            changes: vec![change],
        });
        step(what, &cluster);
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed())
}
