//! Who is a subject, and who has an address.

use super::super::Judgement;
use super::super::world::Phase;
use super::*;

#[test]
fn a_host_network_pod_is_no_subject_and_as_a_peer_its_nodes_address() {
    let deny = "{metadata: {name: p}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}";
    let world = world(&[deny]);
    let verdict = ask(&world, MINE, NODE, tcp(1));
    assert_eq!(verdict.ingress, Judgement::NoSubject);
    assert_eq!(verdict.egress, Judgement::NotIsolated);
    let to_node = "{to: [{podSelector: {matchLabels: {role: frontend}}}]}";
    assert_eq!(let_out(to_node, tcp(1)), [FRONTEND]);
    let by_address = "{to: [{ipBlock: {cidr: 10.240.0.11/32}}]}";
    assert_eq!(let_out(by_address, tcp(1)), [NODE]);
}

#[test]
fn a_node_reaches_its_own_pods_and_who_only_has_its_address_does_not() {
    let world = world(&["{metadata: {name: p}, spec: {podSelector: {}}}"]);
    let judged = |from| {
        let connection = Connection {
            from,
            to: ip(DB),
            traffic: tcp(1),
        };
        evaluate(&world, &connection).ingress
    };
    let node = |name: &str| Sender::Node {
        name: name.to_owned(),
        addr: ip(NODE),
    };
    assert_eq!(judged(node("here")), Judgement::OwnNode);
    assert!(!judged(node("there")).is_allowed());
    assert!(!judged(Sender::Outside(ip(NODE))).is_allowed());
}

#[test]
fn of_pods_with_one_address_the_youngest_that_is_not_over_has_it() {
    let web = "{metadata: {name: p}, spec: {podSelector: {matchLabels: {role: db}}}}";
    let mut world = world(&[web]);
    world.pods.push(pod("default", "new", &[], DB));
    assert_eq!(
        ask(&world, OTHER, DB, tcp(1)).ingress,
        Judgement::NotIsolated
    );
    let last = world.pods.len() - 1;
    for phase in [Phase::Succeeded, Phase::Failed] {
        world.pods[last].phase = phase;
        assert!(!ask(&world, OTHER, DB, tcp(1)).is_allowed());
    }
    world.pods[0].phase = Phase::Succeeded;
    assert_eq!(ask(&world, OTHER, DB, tcp(1)).ingress, Judgement::NoSubject);
}

#[test]
fn a_namespace_that_is_not_known_is_selected_by_nothing() {
    let mut world = world(&["{metadata: {name: p}, spec: {ingress: [{from: [
        {namespaceSelector: {matchExpressions: [{key: user, operator: DoesNotExist}]}}]}]}}"]);
    assert!(ask(&world, MINE, DB, tcp(1)).is_allowed());
    world
        .namespaces
        .retain(|namespace| namespace.name != "mine");
    assert!(!ask(&world, MINE, DB, tcp(1)).is_allowed());
}
