//! What policies come to in the tables, by example. All that they mean is compared with an
//! evaluator written from the API's text, in another crate.

mod places;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use serde_json::{Value, json};
use weir_ebpf::addr::{Addr, Port, Protocol as Number};
use weir_ebpf::tables::{ANYONE, Cidr, RuleKey, Slot};

use super::context;
use crate::compile::{Capacities, Claimed, Desired, Ids, NodeContext, PodInterface, compile};
use crate::maps::diff::diff;
use crate::maps::{Contents, Plan, Write};
use crate::model::{Cluster, Direction, Object, PodRef};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn namespace(name: &str, labels: Value) -> Object {
    read::<core::Namespace>(json!({"metadata": {"name": name, "labels": labels}}))
        .try_into()
        .unwrap()
}

/// A pod of the namespace `shop` on this node.
pub(super) fn pod(name: &str, labels: Value, addrs: &[&str]) -> Value {
    let addrs: Vec<_> = addrs.iter().map(|addr| json!({"ip": addr})).collect();
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": labels, "uid": format!("uid-{name}"),
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "worker-0", "containers": []},
        "status": {"phase": "Running", "podIPs": addrs},
    })
}

pub(super) fn pod_object(pod: Value) -> Object {
    read::<core::Pod>(pod).try_into().unwrap()
}

/// A policy of the namespace `shop`.
fn policy(name: &str, spec: Value) -> Object {
    let metadata = json!({"name": name, "namespace": "shop"});
    read::<networking::NetworkPolicy>(json!({"metadata": metadata, "spec": spec}))
        .try_into()
        .unwrap()
}

/// A policy by which everything from or to these peers is allowed to all pods of `shop`.
pub(super) fn allowing(name: &str, peers: Value) -> Object {
    policy(
        name,
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
               "ingress": [{"from": peers}], "egress": [{"to": peers}]}),
    )
}

/// This node with an interface for each of these pods of `shop`, from number 10 on.
pub(super) fn with_interfaces(pods: &[(&str, &[&str])]) -> NodeContext {
    let interfaces = (10..).zip(pods).map(|(index, (name, addrs))| {
        let interface = PodInterface {
            netns: 1,
            addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
            is_direct: true,
            pod: Some(Claimed {
                pod: PodRef {
                    namespace: "shop".to_owned(),
                    name: (*name).to_owned(),
                },
                uid: format!("uid-{name}"),
            }),
        };
        (index, interface)
    });
    NodeContext {
        pod_interfaces: interfaces.collect(),
        ..context()
    }
}

fn compiled(node: &NodeContext, objects: Vec<Object>, ids: &mut Ids) -> Desired {
    let cluster = Cluster::from_objects(objects);
    let desired = compile(&cluster, node, ids, &Capacities::default());
    assert_eq!(desired.skipped, []);
    desired
}

/// By which rule the pod at an interface may talk to, or hear from, an address; `Err`: by none.
fn rule(
    desired: &Desired,
    interface: u32,
    direction: Direction,
    peer: &str,
    (protocol, port): (Number, u16),
) -> Result<String, &'static str> {
    let pod = desired
        .contents
        .pods
        .get(&interface)
        .ok_or("no interface")?;
    let subject = match direction {
        Direction::Egress => pod.egress,
        Direction::Ingress => pod.ingress,
    };
    let subject = subject.get(Slot::Even);
    if subject == 0 {
        return Err("not isolated");
    }
    let class = desired.contents.class(addr(peer));
    let class = class.map_or(ANYONE, |class| class.0.get(Slot::Even));
    let of = |class| {
        desired
            .contents
            .rule(&RuleKey::new(subject, class, protocol, Port::new(port)))
    };
    let number = of(class).or_else(|| of(ANYONE)).ok_or("refused")?;
    Ok(desired.policies.rules[&number].to_string())
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

const TCP_80: (Number, u16) = (Number::TCP, 80);

#[test]
fn a_range_of_one_family_says_nothing_of_the_other() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    for (cidr, inside, outside) in [
        ("::/0", "2001:db8::1", "203.0.113.7"),
        ("0.0.0.0/0", "203.0.113.7", "2001:db8::1"),
        ("::/64", "::7", "203.0.113.7"),
    ] {
        let block = json!([{"ipBlock": {"cidr": cidr}}]);
        let objects = vec![
            pod_object(pod("web", json!({}), &["10.200.0.2"])),
            allowing("p", block),
        ];
        let desired = compiled(&node, objects, &mut Ids::default());
        for direction in [Direction::Ingress, Direction::Egress] {
            let to = |peer| rule(&desired, 10, direction, peer, TCP_80);
            assert_eq!(to(inside), Ok(format!("shop/p {direction}[0]")), "{cidr}");
            assert_eq!(to(outside), Err("refused"), "{cidr}");
        }
    }
}

#[test]
fn what_a_range_leaves_out_is_a_range_of_its_own_with_what_others_say() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let objects = vec![
        pod_object(pod("web", json!({}), &["10.200.0.2"])),
        allowing(
            "a",
            json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]}}]),
        ),
        allowing(
            "b",
            json!([{"ipBlock": {"cidr": "10.1.2.0/24", "except": ["10.1.2.128/25"]}}]),
        ),
    ];
    let desired = compiled(&node, objects, &mut Ids::default());
    for (peer, expected) in [
        ("10.9.9.9", Ok("shop/a egress[0]")),
        ("10.1.9.9", Err("refused")),
        ("10.1.2.3", Ok("shop/b egress[0]")),
        ("10.1.2.200", Err("refused")),
        ("11.0.0.1", Err("refused")),
    ] {
        let by = rule(&desired, 10, Direction::Egress, peer, TCP_80);
        assert_eq!(by, expected.map(str::to_owned), "{peer}");
    }
    assert_eq!(desired.contents.peer_ranges.len(), 4);
    // What an address has around it needs no entry of its own.
    assert_eq!(desired.contents.peers, BTreeMap::new());
}

#[test]
fn nothing_is_written_that_is_allowed_anyway() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let rules = |rules: Value| {
        let objects = vec![
            pod_object(pod("web", json!({}), &["10.200.0.2"])),
            policy("p", json!({"ingress": rules})),
        ];
        compiled(&node, objects, &mut Ids::default())
            .contents
            .rules
            .len()
    };
    let pods = json!([{"podSelector": {}}]);
    assert_eq!(
        rules(json!([{"from": pods, "ports": [{"port": 80}, {"port": 443}]}])),
        2
    );
    assert_eq!(
        rules(json!([{"from": pods, "ports": [{"port": 80}, {}]}])),
        1
    );
    assert_eq!(
        rules(json!([{"from": pods, "ports": [{"port": 80}]}, {"from": pods}])),
        1
    );
    assert_eq!(
        rules(json!([{"from": pods, "ports": [{"port": 80}]}, {"ports": [{"port": 80}]}])),
        1
    );
    assert_eq!(rules(json!([{"from": pods}, {}])), 1);
    assert_eq!(
        rules(json!([{"ports": [{"port": 1024, "endPort": 65535}]}])),
        6
    );
}

#[test]
fn a_receivers_named_port_is_the_one_that_it_has() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let with_port = |name: &str, addr: &str, port: u16| {
        let mut pod = pod(name, json!({}), &[addr]);
        pod["spec"]["containers"] =
            json!([{"name": "main", "ports": [{"name": "http", "containerPort": port}]}]);
        pod_object(pod)
    };
    let objects = vec![
        pod_object(pod("web", json!({}), &["10.200.0.2"])),
        with_port("a", "10.200.0.3", 80),
        with_port("b", "10.200.0.4", 8080),
        policy(
            "p",
            json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "http"}]}]}),
        ),
    ];
    let desired = compiled(&node, objects, &mut Ids::default());
    let allowed =
        |peer, port| rule(&desired, 10, Direction::Egress, peer, (Number::TCP, port)).is_ok();
    assert!(allowed("10.200.0.3", 80) && !allowed("10.200.0.3", 8080));
    assert!(allowed("10.200.0.4", 8080) && !allowed("10.200.0.4", 80));
    // Nobody else has a port of that name.
    assert!(!allowed("10.200.0.2", 80) && !allowed("203.0.113.7", 80));
}

/// A cluster in which two pods of this node are under one policy each.
fn two_policies() -> Vec<Object> {
    vec![
        namespace("shop", json!({})),
        pod_object(pod("web", json!({"app": "web"}), &["10.200.0.2"])),
        pod_object(pod("db", json!({"app": "db"}), &["10.200.0.3"])),
        policy(
            "web",
            json!({"podSelector": {"matchLabels": {"app": "web"}},
                   "ingress": [{"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}]}),
        ),
        policy(
            "db",
            json!({"podSelector": {"matchLabels": {"app": "db"}},
                   "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                                "ports": [{"port": 5432}]}]}),
        ),
    ]
}

/// What has to be written, once those objects are in force, to add these.
fn added(more: Vec<Object>) -> (Plan, Contents) {
    let node = with_interfaces(&[("web", &["10.200.0.2"]), ("db", &["10.200.0.3"])]);
    let mut ids = Ids::default();
    let before = compiled(&node, two_policies(), &mut ids).contents;
    let objects = two_policies().into_iter().chain(more).collect();
    let after = compiled(&node, objects, &mut ids).contents;
    (diff(&after, &before), before)
}

#[test]
fn what_does_not_concern_this_node_writes_nothing() {
    let elsewhere = |mut pod: Value| {
        pod["spec"]["nodeName"] = json!("worker-1");
        pod_object(pod)
    };
    let (plan, _) = added(vec![
        elsewhere(pod("other", json!({"app": "other"}), &["10.200.128.2"])),
        policy(
            "other",
            json!({"podSelector": {"matchLabels": {"app": "other"}},
                               "ingress": [{"from": [{"podSelector": {}}]}]}),
        ),
        namespace("empty", json!({"team": "a"})),
    ]);
    assert_eq!(plan, Plan::default());
}

#[test]
fn a_peer_more_is_an_address_more() {
    let mut web = pod("web-2", json!({"app": "web"}), &["10.200.128.2"]);
    web["spec"]["nodeName"] = json!("worker-1");
    let (plan, before) = added(vec![pod_object(web)]);
    let class = before.peers[&addr("10.200.0.2")];
    let new = Slot::of(before.policy.revision).other();
    let [
        Write::PutPeer(one, prepared),
        Write::PutPolicy(_),
        Write::PutPeer(other, settled),
    ] = plan.0.as_slice()
    else {
        panic!("{plan:#?}");
    };
    assert_eq!([*one, *other], [addr("10.200.128.2"); 2]);
    assert_eq!(
        (prepared.0.get(new), prepared.0.get(new.other())),
        (class.0.get(new), ANYONE)
    );
    assert_eq!(*settled, class);
}

#[test]
fn a_policy_more_concerns_those_whom_it_selects_and_of_whom_it_speaks() {
    let range = "198.51.100.0/24".parse().unwrap();
    let range = Cidr {
        prefix_len: 96 + 24,
        addr: addr(&ipnetwork::IpNetwork::network(&range).to_string()),
    };
    let (plan, before) = added(vec![policy(
        "more",
        json!({"podSelector": {"matchLabels": {"app": "web"}},
               "ingress": [{"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}]}),
    )]);
    let mut touched = BTreeSet::new();
    for write in &plan.0 {
        touched.insert(match write {
            Write::PutPod(interface, _) => format!("pod {interface}"),
            Write::PutPeerRange(about, _) => format!("range {about}"),
            Write::PutRule(key, _) => {
                assert!(!before.rules.keys().any(|it| it.subject == key.subject));
                "rule".to_owned()
            }
            Write::RemoveRule(key) => {
                assert_eq!(key.subject, before.pods[&10].ingress.get(Slot::Even));
                "old rule".to_owned()
            }
            Write::PutPolicy(_) => "policy".to_owned(),
            other => panic!("{other:?}"),
        });
    }
    let expected = [
        "pod 10".to_owned(),
        format!("range {range}"),
        "rule".to_owned(),
        "old rule".to_owned(),
        "policy".to_owned(),
    ];
    assert_eq!(touched, expected.into());
    // Two rules, one of them of before under a new number, and one that goes.
    assert_eq!(plan.0.len(), 2 + 1 + 2 + 2 + 1);
}

#[test]
fn a_rule_that_says_something_else_never_has_the_same_numbers() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let mut ids = Ids::default();
    let mut seen = |port: u16| {
        let objects = vec![
            pod_object(pod("web", json!({}), &["10.200.0.2"])),
            policy("p", json!({"ingress": [{"ports": [{"port": port}]}]})),
        ];
        let desired = compiled(&node, objects, &mut ids);
        desired.contents.pods[&10].ingress.get(Slot::Even)
    };
    let first = seen(80);
    assert_eq!(seen(80), first);
    let second = seen(81);
    // Forgotten meanwhile; the old entries may be in the tables still.
    let third = seen(80);
    assert!(first < second && second < third, "{first} {second} {third}");
}
