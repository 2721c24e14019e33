//! What cannot be read, and what it does all the same.

use std::collections::BTreeSet;

use super::super::readable;
use super::*;

#[test]
fn what_cannot_be_read_is_named_by_its_field() {
    let ingress = |rule: &str| format!("ingress: [{rule}]");
    let port = |port: &str| ingress(&format!("{{ports: [{port}]}}"));
    let block = |block: &str| ingress(&format!("{{from: [{{ipBlock: {block}}}]}}"));
    for (spec, field) in [
        (block("{cidr: 10.0.0.0/33}"), "ingress[0].from[0].ipBlock.cidr"),
        (block("{cidr: 10.0.0.1}"), "ingress[0].from[0].ipBlock.cidr"),
        (block("{cidr: 10.0.0.0/255.0.0.0}"), "ingress[0].from[0].ipBlock.cidr"),
        (block("{cidr: ''}"), "ingress[0].from[0].ipBlock.cidr"),
        (
            block("{cidr: 10.0.0.0/24, except: [10.0.1.0/25]}"),
            "ingress[0].from[0].ipBlock.except[0]",
        ),
        (
            block("{cidr: 10.0.0.0/24, except: [10.0.0.0/25, 10.0.0.0/24]}"),
            "ingress[0].from[0].ipBlock.except[1]",
        ),
        (ingress("{from: [{}]}"), "ingress[0].from[0]"),
        (
            ingress("{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}"),
            "ingress[0].from[0]",
        ),
        (port("{port: 0}"), "ingress[0].ports[0].port"),
        (port("{port: 65536}"), "ingress[0].ports[0].port"),
        (port("{port: ''}"), "ingress[0].ports[0].port"),
        (port("{port: Web}"), "ingress[0].ports[0].port"),
        (port("{port: '80'}"), "ingress[0].ports[0].port"),
        (port("{port: 80, endPort: 79}"), "ingress[0].ports[0].endPort"),
        (port("{port: 80, endPort: 65536}"), "ingress[0].ports[0].endPort"),
        (port("{port: web, endPort: 80}"), "ingress[0].ports[0].endPort"),
        (port("{endPort: 80}"), "ingress[0].ports[0].endPort"),
        (port("{protocol: ICMP}"), "ingress[0].ports[0].protocol"),
        (port("{protocol: tcp}"), "ingress[0].ports[0].protocol"),
        ("policyTypes: [ingress]".to_owned(), "policyTypes[0]"),
        ("policyTypes: [Ingress, Ingress, Egress]".to_owned(), "policyTypes"),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Is}]}".to_owned(),
            "podSelector.matchExpressions[0].operator",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: In}]}".to_owned(),
            "podSelector.matchExpressions[0].values",
        ),
        (
            "podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}".to_owned(),
            "podSelector.matchExpressions[0].values",
        ),
        (
            "egress: [{to: [{namespaceSelector: {matchExpressions: [{key: '', operator: Exists}]}}]}]"
                .to_owned(),
            "egress[0].to[0].namespaceSelector.matchExpressions[0].key",
        ),
    ] {
        let policy = policy(&format!("{{metadata: {{name: p}}, spec: {{{spec}}}}}"));
        let expected = BTreeSet::from([format!("spec.{field}")]);
        assert_eq!(readable::faults(&policy), expected, "{spec}");
    }
    assert_eq!(readable::faults(&policy(DOCUMENTED)), BTreeSet::new());
}

#[test]
fn a_policy_that_cannot_be_read_isolates_and_allows_nothing() {
    let allowed = |spec: &str| {
        let text = format!("{{metadata: {{name: p}}, spec: {{{spec}}}}}");
        let world = world(&[&text]);
        [DB, OTHER].map(|to| {
            (
                ask(&world, MINE, to, tcp(1)).is_allowed(),
                ask(&world, to, MINE, tcp(1)).is_allowed(),
            )
        })
    };
    let db = "podSelector: {matchLabels: {role: db}}";
    let bad = "{from: [{ipBlock: {cidr: x}}]}";
    // Even its good rules, and only those whom it selects, in its direction.
    assert_eq!(
        allowed(&format!("{db}, ingress: [{{}}, {bad}]")),
        [(false, true), (true, true)]
    );
    assert_eq!(
        allowed(&format!("{db}, policyTypes: [Both], ingress: [{{}}]")),
        [(false, false), (true, true)]
    );
    let whom = "podSelector: {matchExpressions: [{key: role, operator: Is}]}";
    assert_eq!(
        allowed(&format!("{whom}, ingress: [{{}}]")),
        [(false, true), (false, true)]
    );
    // Another policy may allow all the same.
    let text = format!("{{metadata: {{name: p}}, spec: {{ingress: [{bad}]}}}}");
    let both = world(&[&text, "{metadata: {name: q}, spec: {ingress: [{}]}}"]);
    assert!(ask(&both, MINE, DB, tcp(1)).is_allowed());
}
