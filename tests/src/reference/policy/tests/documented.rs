//! The documentation's example of a policy, and the reasons of its verdicts.

use super::super::world::Direction;
use super::super::{Judgement, Missed};
use super::*;

#[test]
fn the_documented_example_lets_in_its_three_peers_at_its_port() {
    let world = world(&[DOCUMENTED]);
    // The node is allowed always; its host-network pod is no peer of podSelector, but it.
    assert_eq!(
        reach(&world, DB, tcp(6379)),
        [FRONTEND, MINE, NODE, OUTSIDE]
    );
    assert_eq!(reach(&world, DB, tcp(6380)), [NODE]);
    assert_eq!(reach(&world, DB, udp(6379)), [NODE]);
    assert_eq!(reach(&world, DB, ICMP), [NODE]);
    for (from, is_allowed) in [
        ("172.17.0.255", true),
        ("172.17.1.0", false),
        ("172.17.1.255", false),
        ("172.17.2.0", true),
        ("172.18.0.0", false),
    ] {
        let verdict = ask(&world, from, DB, tcp(6379));
        assert_eq!(verdict.is_allowed(), is_allowed, "{from}");
    }
    assert_eq!(reach(&world, OTHER, tcp(1)), ANYONE);
}

#[test]
fn the_documented_example_lets_out_to_its_block_at_its_port() {
    let world = world(&[DOCUMENTED]);
    assert!(ask(&world, DB, "10.0.0.7", tcp(5978)).is_allowed());
    assert!(!ask(&world, DB, "10.0.1.7", tcp(5978)).is_allowed());
    assert!(!ask(&world, DB, "10.0.0.7", tcp(5979)).is_allowed());
    // Its own node too: only the way from the node is always open.
    assert_eq!(reached(&world, DB, tcp(5978)), Vec::<&str>::new());
    assert!(ask(&world, DB, DB, tcp(1)).is_allowed());
}

#[test]
fn the_reasons_name_every_matching_rule_or_all_that_isolate_and_the_nearest() {
    let more = "{metadata: {name: more}, spec: {podSelector: {}, ingress: [
        {from: [{podSelector: {matchLabels: {role: none}}}]}, {ports: [{port: 6379}]}]}}";
    let world = world(&[DOCUMENTED, more]);
    let Judgement::ByRules(rules) = ask(&world, FRONTEND, DB, tcp(6379)).ingress else {
        panic!("not by rules");
    };
    let names: Vec<_> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "default/more ingress[1]",
            "default/test-network-policy ingress[0]"
        ]
    );
    let nearest = |from, traffic| {
        let Judgement::Refused {
            isolated_by,
            nearest,
        } = ask(&world, from, DB, traffic).ingress
        else {
            panic!("not refused");
        };
        assert_eq!(isolated_by.len(), 2);
        nearest.map(|near| (near.missed, near.rule.to_string()))
    };
    let documented = "default/test-network-policy ingress[0]".to_owned();
    assert_eq!(
        nearest(FRONTEND, tcp(80)),
        // That rule's peers match too, since it names none.
        Some((Missed::Ports, "default/more ingress[1]".to_owned()))
    );
    let alone = World {
        policies: vec![policy(DOCUMENTED)],
        ..world.clone()
    };
    let verdict = ask(&alone, FRONTEND, DB, tcp(80));
    let Judgement::Refused {
        nearest: Some(near),
        ..
    } = verdict.of(Direction::Ingress)
    else {
        panic!("not refused, or nothing near");
    };
    assert_eq!(
        (near.missed, near.rule.to_string()),
        (Missed::Ports, documented)
    );
    assert_eq!(verdict.egress, Judgement::NotIsolated);
}
