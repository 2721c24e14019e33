//! What happens where a table has no room for all.

use weir_ebpf::tables::{PodState, PolicyFlags};

use super::*;
use crate::compile::{Reason, Table, UnknownPods};

fn squeezed(node: &NodeContext, objects: Vec<Object>, capacities: &Capacities) -> Desired {
    let cluster = Cluster::from_objects(objects);
    compile(&cluster, node, &mut Ids::default(), capacities)
}

fn said(desired: &Desired) -> Vec<(String, Table)> {
    desired
        .skipped
        .iter()
        .map(|skipped| match skipped.reason {
            Reason::NoRoom { table, .. } | Reason::NoRoomForRules { table, .. } => {
                (skipped.object.to_string(), table)
            }
            ref other => panic!("{other}"),
        })
        .collect()
}

/// One pod under a policy that needs much room, and one that needs little.
fn large_and_small(large: Value, small: Value) -> (NodeContext, Vec<Object>) {
    let objects = vec![
        pod_object(pod("web", json!({"app": "web"}), &["10.200.0.2"])),
        pod_object(pod("db", json!({"app": "db"}), &["10.200.0.3"])),
        policy(
            "large",
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [large]}),
        ),
        policy(
            "small",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [small]}),
        ),
    ];
    (
        with_interfaces(&[("web", &["10.200.0.2"]), ("db", &["10.200.0.3"])]),
        objects,
    )
}

fn check_large_has_no_rules(desired: &Desired, table: Table, small_peer: &str) {
    assert_eq!(
        said(desired),
        [("NetworkPolicy shop/large".to_owned(), table)]
    );
    let from = |interface| rule(desired, interface, Direction::Ingress, small_peer, TCP_80);
    assert_eq!(from(10), Err("refused"));
    assert_eq!(from(11), Ok("shop/small ingress[0]".to_owned()));
    assert_eq!(desired.pods[&10].ingress.len(), 1);
    let text = desired.skipped[0].to_string();
    assert!(text.contains("allows nothing"), "{text}");
}

#[test]
fn the_policy_with_most_entries_goes_without_its_rules_and_still_isolates() {
    let ports: Vec<_> = (80..100)
        .step_by(2)
        .map(|port| json!({"port": port}))
        .collect();
    let (node, objects) =
        large_and_small(json!({"ports": ports}), json!({"ports": [{"port": 80}]}));
    let all = squeezed(
        &node,
        objects.clone(),
        &Capacities {
            rules: 11,
            ..Capacities::default()
        },
    );
    assert_eq!((all.contents.rules.len(), all.skipped.len()), (11, 0));
    let less = squeezed(
        &node,
        objects,
        &Capacities {
            rules: 10,
            ..Capacities::default()
        },
    );
    check_large_has_no_rules(&less, Table::Rules, "203.0.113.7");
}

#[test]
fn the_policy_with_most_ranges_goes_without_its_rules_and_still_isolates() {
    let blocks: Vec<_> = (0..4)
        .map(|n| json!({"ipBlock": {"cidr": format!("10.{n}.0.0/16"), "except": [format!("10.{n}.7.0/24")]}}))
        .collect();
    let small = json!({"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]});
    let (node, objects) = large_and_small(json!({"from": blocks}), small);
    let all = squeezed(
        &node,
        objects.clone(),
        &Capacities {
            peer_ranges: 9,
            ..Capacities::default()
        },
    );
    assert_eq!((all.contents.peer_ranges.len(), all.skipped.len()), (9, 0));
    let less = squeezed(
        &node,
        objects.clone(),
        &Capacities {
            peer_ranges: 8,
            ..Capacities::default()
        },
    );
    check_large_has_no_rules(&less, Table::PeerRanges, "203.0.113.7");
    let none = squeezed(
        &node,
        objects,
        &Capacities {
            peer_ranges: 0,
            ..Capacities::default()
        },
    );
    assert_eq!(said(&none).len(), 2);
}

#[test]
fn an_address_without_room_is_found_by_no_selector() {
    let pods = json!({"from": [{"podSelector": {}}]});
    let (node, objects) = large_and_small(pods.clone(), pods);
    let less = squeezed(
        &node,
        objects,
        &Capacities {
            peers: 1,
            ..Capacities::default()
        },
    );
    assert_eq!(said(&less), [("Pod shop/db".to_owned(), Table::Peers)]);
    let from = |peer| rule(&less, 11, Direction::Ingress, peer, TCP_80).is_ok();
    assert!(from("10.200.0.2") && !from("10.200.0.3"));
}

#[test]
fn an_interface_without_room_is_denied_as_one_that_nobody_knows() {
    let (mut node, objects) = large_and_small(json!({}), json!({}));
    node.policy.unknown_pods = UnknownPods::Allow;
    let less = squeezed(
        &node,
        objects.clone(),
        &Capacities {
            pods: 1,
            ..Capacities::default()
        },
    );
    assert_eq!(said(&less), [("Pod shop/db".to_owned(), Table::Pods)]);
    assert_eq!(less.pods[&11].state, PodState::UNKNOWN);
    assert_eq!(
        (less.contents.pods.len(), less.contents.pod_addrs.len()),
        (1, 1)
    );
    assert!(
        less.contents
            .policy
            .flags
            .contains(PolicyFlags::DENY_UNKNOWN)
    );
    let less = squeezed(
        &node,
        objects,
        &Capacities {
            pod_addrs: 1,
            ..Capacities::default()
        },
    );
    assert_eq!(said(&less), [("Pod shop/db".to_owned(), Table::PodAddrs)]);
    assert!(
        !less
            .contents
            .policy
            .flags
            .contains(PolicyFlags::DENY_UNKNOWN)
    );
}
