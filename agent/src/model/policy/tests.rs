mod unreadable;

use k8s_openapi::api::networking::v1 as api;
use serde_json::{Value, json};

use super::super::{Condition, Object};
use super::*;

fn manifest(spec: &Value) -> Value {
    json!({"metadata": {"name": "cart", "namespace": "shop"}, "spec": spec})
}

fn policy_of(object: Object) -> NetworkPolicy {
    match object {
        Object::NetworkPolicy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

fn read(spec: &Value) -> NetworkPolicy {
    let policy: api::NetworkPolicy = serde_json::from_value(manifest(spec)).unwrap();
    policy_of(policy.try_into().unwrap())
}

/// The only ingress rule of a policy that says this in it.
fn rule(rule: &Value) -> PolicyRule {
    let policy = read(&json!({"ingress": [rule]}));
    match policy.rules(Direction::Ingress) {
        [rule] => rule.clone(),
        rules => panic!("{rules:?}: {:?}", policy.problems()),
    }
}

fn app(value: &str) -> LabelSelector {
    let selector = json!({"matchLabels": {"app": value}});
    LabelSelector::read(&serde_json::from_value(selector).unwrap()).unwrap()
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

#[test]
fn directions_are_the_types_or_what_rules_there_are() {
    let allow = json!([{}]);
    for (spec, expected) in [
        (json!({}), Directions::Ingress),
        (json!({"ingress": allow}), Directions::Ingress),
        (json!({"egress": allow}), Directions::Both),
        // The API server looks for rules, not for the list.
        (json!({"egress": []}), Directions::Ingress),
        (json!({"policyTypes": []}), Directions::Ingress),
        (
            json!({"policyTypes": null, "egress": allow}),
            Directions::Both,
        ),
        (json!({"policyTypes": ["Ingress"]}), Directions::Ingress),
        (json!({"policyTypes": ["Egress"]}), Directions::Egress),
        (
            json!({"policyTypes": ["Egress", "Ingress"]}),
            Directions::Both,
        ),
        (
            json!({"policyTypes": ["Ingress", "Ingress"]}),
            Directions::Ingress,
        ),
    ] {
        let policy = read(&spec);
        assert_eq!(policy.directions, expected, "{spec}");
        assert_eq!(policy.problems(), []);
        for (direction, is_isolated) in [
            (Direction::Ingress, expected != Directions::Egress),
            (Direction::Egress, expected != Directions::Ingress),
        ] {
            assert_eq!(policy.isolates(direction), is_isolated, "{spec}");
        }
    }
}

#[test]
fn rules_of_a_direction_that_is_not_isolated_have_no_effect() {
    let policy = read(&json!({"policyTypes": ["Egress"], "ingress": [{}], "egress": [{}, {}]}));
    assert_eq!(policy.rules(Direction::Ingress), []);
    assert_eq!(policy.rules(Direction::Egress).len(), 2);
}

#[test]
fn a_policy_without_a_selector_selects_every_pod() {
    for spec in [
        json!(null),
        json!({}),
        json!({"podSelector": null}),
        json!({"podSelector": {}}),
    ] {
        assert!(read(&spec).pod_selector.is_everything(), "{spec}");
    }
    let spec = json!({"podSelector": {"matchLabels": {"app": "cart"}}});
    assert_eq!(read(&spec).pod_selector, app("cart"));
}

#[test]
fn no_rule_is_nobody_and_an_empty_rule_is_anyone_at_any_port() {
    for none in [json!(null), json!([])] {
        let policy = read(&json!({"ingress": none}));
        assert_eq!(policy.rules(Direction::Ingress), []);
    }
    for anything in [
        json!({}),
        json!({"from": [], "ports": []}),
        json!({"from": null, "ports": null}),
    ] {
        let expected = PolicyRule {
            peers: Peers::Anyone,
            ports: PolicyPorts::All,
        };
        assert_eq!(rule(&anything), expected);
    }
}

#[test]
fn a_peers_selector_that_is_absent_is_not_one_that_is_empty() {
    let everything = LabelSelector::everything;
    let cart = json!({"matchLabels": {"app": "cart"}});
    for (peer, namespaces, pods) in [
        (
            json!({"podSelector": cart}),
            PeerNamespaces::Own,
            app("cart"),
        ),
        (
            json!({"podSelector": {}}),
            PeerNamespaces::Own,
            everything(),
        ),
        (
            json!({"namespaceSelector": {}}),
            PeerNamespaces::Selected(everything()),
            everything(),
        ),
        (
            json!({"namespaceSelector": cart}),
            PeerNamespaces::Selected(app("cart")),
            everything(),
        ),
        (
            json!({"namespaceSelector": {}, "podSelector": cart}),
            PeerNamespaces::Selected(everything()),
            app("cart"),
        ),
    ] {
        let expected = Peers::AnyOf(vec![Peer::Pods { namespaces, pods }]);
        assert_eq!(rule(&json!({"from": [peer]})).peers, expected);
    }
}

#[test]
fn a_block_holds_its_addresses_but_the_excepted_ones() {
    let block = |cidr: &str, except: &[&str]| {
        let peer = json!({"ipBlock": {"cidr": cidr, "except": except}});
        let Peers::AnyOf(peers) = rule(&json!({"from": [peer]})).peers else {
            panic!("{cidr}")
        };
        match peers.as_slice() {
            [Peer::IpBlock(block)] => block.clone(),
            peers => panic!("{peers:?}"),
        }
    };
    let v4 = block("10.200.7.9/16", &["10.200.3.0/24", "10.200.3.0/25"]);
    assert_eq!(v4.cidr.to_string(), "10.200.0.0/16");
    let v6 = block("fd00:10:200::/48", &["fd00:10:200:3::/64"]);
    for (block, addr, expected) in [
        (&v4, "10.200.0.1", true),
        (&v4, "10.200.3.1", false),
        (&v4, "10.200.3.200", false),
        (&v4, "10.201.0.1", false),
        (&v4, "fd00:10:200::1", false),
        (&v6, "fd00:10:200::1", true),
        (&v6, "fd00:10:200:3::1", false),
        (&v6, "10.200.0.1", false),
    ] {
        let addr = addr.parse().unwrap();
        assert_eq!(block.contains(addr), expected, "{block:?} {addr}");
    }
    let all = block("0.0.0.0/0", &[]);
    assert!(all.contains("203.0.113.9".parse().unwrap()));
    assert!(!all.contains("2001:db8::1".parse().unwrap()));
}

#[test]
fn ports_are_numbers_ranges_names_or_a_whole_protocol() {
    let range = |first, last| PortMatch::Range {
        first: port(first),
        last: port(last),
    };
    for (entry, protocol, expected) in [
        (json!({}), Protocol::Tcp, PortMatch::Any),
        (json!({"protocol": "UDP"}), Protocol::Udp, PortMatch::Any),
        (json!({"port": 80}), Protocol::Tcp, range(80, 80)),
        (
            json!({"port": 1, "endPort": 65535, "protocol": "SCTP"}),
            Protocol::Sctp,
            range(1, 65535),
        ),
        (
            json!({"port": 80, "endPort": 80}),
            Protocol::Tcp,
            range(80, 80),
        ),
        (
            json!({"port": "http-1", "protocol": "TCP"}),
            Protocol::Tcp,
            PortMatch::Named("http-1".to_owned()),
        ),
    ] {
        let expected = PolicyPort {
            protocol,
            port: expected,
        };
        let ports = rule(&json!({"ports": [entry]})).ports;
        assert_eq!(ports, PolicyPorts::AnyOf(vec![expected]));
    }
}

#[test]
fn ten_thousand_labels_values_and_peers_are_read() {
    let labels: serde_json::Map<String, Value> = (0..10_000)
        .map(|n| (format!("key-{n}"), json!("x")))
        .collect();
    let values: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let peers: Vec<Value> = (0..10_000)
        .map(|n| json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", n / 256, n % 256)}}))
        .collect();
    let policy = read(&json!({
        "podSelector": {"matchLabels": labels,
                        "matchExpressions": [{"key": "a", "operator": "NotIn", "values": values}]},
        "ingress": [{"from": peers}],
    }));
    assert_eq!(policy.problems(), []);
    assert_eq!(policy.pod_selector.requirements().count(), 10_001);
    let not_in = policy.pod_selector.requirements().next().unwrap();
    assert!(matches!(&not_in.condition, Condition::NotIn(values) if values.len() == 10_000));
    let Peers::AnyOf(peers) = &policy.rules(Direction::Ingress)[0].peers else {
        panic!("{policy:?}")
    };
    assert_eq!(peers.len(), 10_000);
}
