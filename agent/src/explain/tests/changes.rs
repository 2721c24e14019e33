//! What manifests would change, by example.

use super::super::changes::Comparison;
use super::super::proposal::{File, Proposal, test};
use super::*;

fn compare(before: &str, files: &str, without: &[&str]) -> Comparison {
    let proposal = Proposal {
        files: vec![File {
            name: "new.yaml".to_owned(),
            text: files.to_owned(),
        }],
        without: without.iter().map(|&name| name.to_owned()).collect(),
    };
    test(&scene(before), &proposal).unwrap().comparison
}

/// `shop/cart-1 > db/pg-0: +80 TCP`
fn lines(comparison: &Comparison) -> Vec<String> {
    let name = |index: usize| comparison.groups[index].members.join(",");
    let changes = comparison.changes.iter().map(|change| {
        let sign = if change.allowed { '+' } else { '-' };
        let family = change
            .family
            .map_or_else(String::new, |it| format!(" v{it}"));
        let (from, to) = (name(change.from), name(change.to));
        format!("{from} > {to}: {sign}{}{family}", change.what)
    });
    let mut lines: Vec<_> = changes.collect();
    lines.sort();
    lines
}

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
";

#[test]
fn a_policy_that_isolates_refuses_everything() {
    let comparison = compare("", DENY, &[]);
    assert_eq!(
        lines(&comparison),
        [
            "shop/cart-1 > db/pg-0: -everything",
            "shop/cart-1 > elsewhere: -everything",
        ]
    );
    let why = &comparison.changes[0].why;
    assert_eq!(why, "egress isolated by shop/deny; no rule comes near");
    // And back again.
    assert_eq!(
        lines(&compare(DENY, "", &["shop/deny"])),
        [
            "shop/cart-1 > db/pg-0: +everything",
            "shop/cart-1 > elsewhere: +everything",
        ]
    );
}

#[test]
fn a_rule_allows_its_ports_and_no_other() {
    let allow = policy(
        "allow",
        "{podSelector: {}, policyTypes: [Egress], egress: [\
         {to: [{namespaceSelector: {}}], ports: [{port: postgres}, {port: 80, endPort: 90}, \
         {port: 85, endPort: 99}, {protocol: UDP}]}, \
         {to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}], ports: [{port: 7}]}, \
         {to: [{ipBlock: {cidr: \"2001:db8:7::/48\"}}]}]}",
    );
    assert_eq!(
        lines(&compare(DENY, &allow, &[])),
        [
            "shop/cart-1 > 10.0.0.0/8: +7 TCP",
            "shop/cart-1 > 2001:db8:7::/48: +everything",
            "shop/cart-1 > db/pg-0: +7, 80-99, 5432 TCP v4",
            "shop/cart-1 > db/pg-0: +80-99, 5432 TCP v6",
            "shop/cart-1 > db/pg-0: +every UDP port v4",
            "shop/cart-1 > db/pg-0: +every UDP port v6",
        ]
    );
}

#[test]
fn what_says_the_same_changes_nothing() {
    let twice = DENY.replace("name: deny", "name: deny-too");
    assert_eq!(lines(&compare(DENY, &twice, &[])), [""; 0]);
    let selects_nobody = policy("x", "{podSelector: {matchLabels: {app: none}}}");
    assert_eq!(lines(&compare("", &selects_nobody, &[])), [""; 0]);
}

#[test]
fn a_policy_that_cannot_be_read_isolates_and_is_told() {
    let proposal = Proposal {
        files: vec![File {
            name: "new.yaml".to_owned(),
            text: policy("bad", "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}"),
        }],
        without: Vec::new(),
    };
    let tested = test(&scene(""), &proposal).unwrap();
    assert_eq!(tested.objects, ["NetworkPolicy shop/bad"]);
    assert!(
        tested.problems[0].starts_with("new.yaml:1: spec.ingress[0].ports[0].port: "),
        "{:?}",
        tested.problems
    );
    assert_eq!(
        lines(&tested.comparison),
        [
            "db/pg-0 > shop/cart-1: -everything",
            "elsewhere > shop/cart-1: -everything",
        ]
    );
}

#[test]
fn what_cannot_be_removed_is_said() {
    let proposal = Proposal {
        files: Vec::new(),
        without: vec!["shop/none".to_owned()],
    };
    assert_eq!(
        test(&scene(""), &proposal).unwrap_err(),
        "no NetworkPolicy shop/none is known"
    );
}
