//! Which pod stands behind an interface, and what that means for it.

use weir_ebpf::tables::{NOBODY, PodAddr, PodState, PolicyFlags};

use super::*;
use crate::compile::{PolicyOptions, UnknownPods};

fn deny_all() -> Object {
    policy("deny", json!({"policyTypes": ["Ingress", "Egress"]}))
}

fn sets(desired: &Desired, interface: u32) -> (PodState, [u32; 2]) {
    let pod = desired.contents.pods[&interface];
    assert_eq!(desired.pods[&interface].state, pod.state);
    (
        pod.state,
        [pod.egress, pod.ingress].map(|set| set.get(Slot::Even)),
    )
}

#[test]
fn a_pod_that_is_only_named_is_isolated_where_there_are_policies() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let none = compiled(&node, vec![], &mut Ids::default());
    assert_eq!(sets(&none, 10), (PodState::ISOLATED, [0; 2]));
    let some = compiled(&node, vec![deny_all()], &mut Ids::default());
    assert_eq!(sets(&some, 10), (PodState::ISOLATED, [NOBODY; 2]));
    assert_eq!(some.pods[&10].pod.as_ref().unwrap().to_string(), "shop/web");
    // Of another namespace no policy can select it.
    let mut elsewhere = node;
    elsewhere
        .pod_interfaces
        .get_mut(&10)
        .unwrap()
        .pod
        .as_mut()
        .unwrap()
        .pod
        .namespace = "bank".to_owned();
    let other = compiled(&elsewhere, vec![deny_all()], &mut Ids::default());
    assert_eq!(sets(&other, 10), (PodState::ISOLATED, [0; 2]));
}

#[test]
fn a_pods_labels_count_before_it_has_an_address() {
    let node = with_interfaces(&[("web", &["10.200.0.2", "fe80::1"]), ("db", &["10.200.0.3"])]);
    let objects = vec![
        pod_object(pod("web", json!({"app": "web"}), &[])),
        pod_object(pod("db", json!({"app": "db"}), &["10.200.0.3"])),
        allowing(
            "p",
            json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
        ),
    ];
    let desired = compiled(&node, objects, &mut Ids::default());
    assert_eq!(sets(&desired, 10).0, PodState::PROGRAMMED);
    let from = |peer| rule(&desired, 11, Direction::Ingress, peer, TCP_80).is_ok();
    assert!(from("10.200.0.2") && !from("fe80::1") && !from("10.200.0.4"));
    let has = |interface, text| {
        desired.contents.pod_addrs.contains(&PodAddr {
            interface,
            addr: addr(text),
        })
    };
    assert!(has(10, "10.200.0.2") && has(10, "fe80::1") && has(11, "10.200.0.3"));
    assert_eq!(desired.contents.pod_addrs.len(), 3);
}

#[test]
fn labels_of_another_pod_of_that_name_do_not_count() {
    let node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let with_uid = |uid: &str, addr: &str| {
        let mut pod = pod("web", json!({}), &[addr]);
        pod["metadata"]["uid"] = json!(uid);
        vec![pod_object(pod), deny_all()]
    };
    let state = |objects| sets(&compiled(&node, objects, &mut Ids::default()), 10).0;
    assert_eq!(
        state(with_uid("uid-web", "10.200.0.2")),
        PodState::PROGRAMMED
    );
    assert_eq!(
        state(with_uid("uid-other", "10.200.0.9")),
        PodState::ISOLATED
    );
    // An object that stands for a static pod has a UID of its own.
    assert_eq!(
        state(with_uid("uid-other", "10.200.0.2")),
        PodState::PROGRAMMED
    );
    assert_eq!(state(with_uid("", "10.200.0.9")), PodState::PROGRAMMED);
}

#[test]
fn without_a_record_it_is_the_youngest_pod_of_this_node_that_has_the_address() {
    let mut node = with_interfaces(&[("x", &["10.200.0.2"])]);
    node.pod_interfaces.get_mut(&10).unwrap().pod = None;
    let created = |name: &str, minute: u8, on: &str| {
        let mut pod = pod(name, json!({}), &["10.200.0.2"]);
        pod["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:0{minute}:00Z"));
        pod["spec"]["nodeName"] = json!(on);
        pod
    };
    let mut completed = created("completed", 8, "worker-0");
    completed["status"]["phase"] = json!("Succeeded");
    let pods = [
        created("b", 1, "worker-0"),
        created("a", 2, "worker-0"),
        completed,
        created("elsewhere", 9, "worker-1"),
    ];
    let at = |pods: &[Value]| {
        let objects = pods.iter().cloned().map(pod_object).collect();
        let desired = compiled(&node, objects, &mut Ids::default());
        let pod = desired.pods[&10].pod.as_ref().map(|pod| pod.name.clone());
        (pod, desired.pods[&10].state)
    };
    assert_eq!(at(&pods), (Some("a".to_owned()), PodState::PROGRAMMED));
    assert_eq!(at(&pods[2..]), (None, PodState::UNKNOWN));
}

#[test]
fn an_address_that_is_not_at_its_interface_any_more_may_be_anothers() {
    let node = with_interfaces(&[("web", &["fd00:10:200::2"])]);
    let mut young = pod("young", json!({"app": "young"}), &["10.200.0.2"]);
    young["metadata"]["creationTimestamp"] = json!("2026-01-01T00:01:00Z");
    young["spec"]["nodeName"] = json!("worker-1");
    let objects = vec![
        pod_object(pod(
            "web",
            json!({"app": "web"}),
            &["10.200.0.2", "fd00:10:200::2"],
        )),
        pod_object(young),
        allowing(
            "p",
            json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
        ),
    ];
    let desired = compiled(&node, objects, &mut Ids::default());
    let to = |peer| rule(&desired, 10, Direction::Egress, peer, TCP_80).is_ok();
    assert!(to("fd00:10:200::2") && !to("10.200.0.2"));
}

#[test]
fn a_new_pod_takes_its_address_from_an_old_one_here_but_from_none_elsewhere() {
    let node = with_interfaces(&[
        ("new", &["10.200.0.9", "10.200.128.9"]),
        ("db", &["10.200.0.3"]),
    ]);
    let old = |name: &str, on: &str, addr: &str| {
        let mut pod = pod(name, json!({"app": "old"}), &[addr]);
        pod["spec"]["nodeName"] = json!(on);
        pod_object(pod)
    };
    let rest = || {
        vec![
            pod_object(pod("db", json!({}), &["10.200.0.3"])),
            old("here", "worker-0", "10.200.0.9"),
            old("elsewhere", "worker-1", "10.200.128.9"),
            allowing(
                "old",
                json!([{"podSelector": {"matchLabels": {"app": "old"}}}]),
            ),
        ]
    };
    let heard = |objects| {
        let desired = compiled(&node, objects, &mut Ids::default());
        ["10.200.0.9", "10.200.128.9"]
            .map(|peer| rule(&desired, 11, Direction::Ingress, peer, TCP_80).is_ok())
    };
    // Its labels are not known, or are others.
    assert_eq!(heard(rest()), [false, true]);
    let mut known = rest();
    known.push(pod_object(pod("new", json!({}), &[])));
    assert_eq!(heard(known), [false, true]);
}

#[test]
fn flags_follow_the_options() {
    let flags = |options: PolicyOptions, objects: Vec<Object>| {
        let node = NodeContext {
            policy: options,
            ..context()
        };
        compiled(&node, objects, &mut Ids::default())
            .contents
            .policy
            .flags
    };
    let unknown = |unknown_pods| PolicyOptions {
        unknown_pods,
        ..PolicyOptions::default()
    };
    let denies = |options, objects| flags(options, objects).contains(PolicyFlags::DENY_UNKNOWN);
    assert!(!denies(unknown(UnknownPods::Auto), vec![]));
    assert!(denies(unknown(UnknownPods::Auto), vec![deny_all()]));
    assert!(denies(unknown(UnknownPods::Deny), vec![]));
    assert!(!denies(unknown(UnknownPods::Allow), vec![deny_all()]));
    let all = flags(
        PolicyOptions {
            unknown_pods: UnknownPods::Auto,
            source_check: false,
            keep_established: true,
            fast_path: false,
        },
        vec![],
    );
    assert!(all.contains(PolicyFlags::NO_SOURCE_CHECK.with(PolicyFlags::KEEP_ESTABLISHED)));
}

#[test]
fn flags_alone_are_one_write_that_judges_nothing_again() {
    let mut node = with_interfaces(&[("web", &["10.200.0.2"])]);
    let objects = || {
        vec![
            pod_object(pod("web", json!({}), &["10.200.0.2"])),
            deny_all(),
        ]
    };
    let mut ids = Ids::default();
    let before = compiled(&node, objects(), &mut ids).contents;
    node.policy.source_check = false;
    let after = compiled(&node, objects(), &mut ids).contents;
    assert_eq!(
        diff(&after, &before),
        Plan(vec![Write::PutPolicy(after.policy.in_next_epoch())])
    );
}
