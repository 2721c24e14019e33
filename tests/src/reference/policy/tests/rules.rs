//! What peers, ports and directions of a policy match.

use super::super::world::Container;
use super::*;

#[test]
fn one_element_with_both_selectors_is_an_and_and_two_are_an_or() {
    let both = "{from: [{namespaceSelector: {matchLabels: {user: alice}},
        podSelector: {matchLabels: {role: client}}}]}";
    assert_eq!(let_in(both, tcp(1)), [ALICE_CLIENT]);
    let either = "{from: [{namespaceSelector: {matchLabels: {user: alice}}},
        {podSelector: {matchLabels: {role: client}}}]}";
    assert_eq!(let_in(either, tcp(1)), [ALICE_CLIENT, ALICE_OTHER]);
    let own = "{from: [{podSelector: {matchLabels: {role: frontend}}}]}";
    assert_eq!(let_in(own, tcp(1)), [FRONTEND]);
    // "If present but empty": all pods of the namespace, of all namespaces.
    assert_eq!(
        let_in("{from: [{podSelector: {}}]}", tcp(1)),
        [FRONTEND, OTHER]
    );
    assert_eq!(
        let_in("{from: [{namespaceSelector: {}}]}", tcp(1)),
        [FRONTEND, OTHER, MINE, ALICE_CLIENT, ALICE_OTHER]
    );
}

#[test]
fn expressions_select_as_documented() {
    let from = |expression: &str| {
        let rule = format!("{{from: [{{podSelector: {{matchExpressions: [{expression}]}}}}]}}");
        let_in(&rule, tcp(1))
    };
    assert_eq!(
        from("{key: role, operator: In, values: [frontend, x]}"),
        [FRONTEND]
    );
    assert_eq!(
        from("{key: role, operator: NotIn, values: [frontend]}"),
        [OTHER]
    );
    assert_eq!(from("{key: role, operator: Exists}"), [FRONTEND]);
    assert_eq!(from("{key: role, operator: DoesNotExist}"), [OTHER]);
    assert_eq!(
        from("{key: role, operator: Exists}, {key: x, operator: Exists}"),
        Vec::<&str>::new()
    );
}

#[test]
fn an_empty_rule_lets_in_everyone_and_an_empty_list_nobody() {
    let everyone: Vec<_> = ANYONE.into_iter().filter(|it| *it != NODE).collect();
    for rule in ["{}", "{from: []}", "{from: [], ports: []}"] {
        assert_eq!(let_in(rule, ICMP), everyone, "{rule}");
    }
    assert_eq!(let_in("", tcp(1)), Vec::<&str>::new());
    assert_eq!(let_in("{ports: [{port: 1}]}", tcp(1)), everyone);
    assert_eq!(let_out("{}", ICMP), ANYONE);
}

#[test]
fn policy_types_say_in_which_direction_a_policy_isolates() {
    let isolated = |spec: &str| {
        let text = format!("{{metadata: {{name: p}}, spec: {{podSelector: {{}}{spec}}}}}");
        let world = world(&[&text]);
        let verdict = ask(&world, OTHER, DB, tcp(1));
        (!verdict.ingress.is_allowed(), !verdict.egress.is_allowed())
    };
    let never = "[{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]";
    assert_eq!(isolated(""), (true, false));
    assert_eq!(isolated(", policyTypes: []"), (true, false));
    assert_eq!(isolated(", egress: []"), (true, false));
    assert_eq!(isolated(&format!(", egress: {never}")), (true, true));
    assert_eq!(isolated(", policyTypes: [Egress]"), (false, true));
    assert_eq!(
        isolated(", policyTypes: [Egress], ingress: []"),
        (false, true)
    );
    assert_eq!(
        isolated(&format!(", policyTypes: [Ingress], egress: {never}")),
        (true, false)
    );
    assert_eq!(isolated(", policyTypes: [Ingress, Egress]"), (true, true));
    // No spec says the same as an empty one.
    let bare = world(&["{metadata: {name: p}}"]);
    assert!(!ask(&bare, OTHER, DB, tcp(1)).ingress.is_allowed());
}

#[test]
fn ports_are_numbers_ranges_or_all_of_a_protocol() {
    let lets_in = |port: &str, traffic| {
        let rule = format!("{{from: [{{podSelector: {{}}}}], ports: [{port}]}}");
        !let_in(&rule, traffic).is_empty()
    };
    assert!(lets_in("{port: 80}", tcp(80)) && !lets_in("{port: 80}", udp(80)));
    assert!(lets_in("{}", tcp(7)) && !lets_in("{}", udp(7)) && !lets_in("{}", ICMP));
    assert!(lets_in("{protocol: UDP}", udp(7)) && !lets_in("{protocol: UDP}", tcp(7)));
    let range = "{port: 32000, endPort: 32768}";
    for (port, is_in) in [
        (31_999, false),
        (32_000, true),
        (32_768, true),
        (32_769, false),
    ] {
        assert_eq!(lets_in(range, tcp(port)), is_in, "{port}");
    }
    let sctp = Traffic::Ports {
        protocol: Protocol::Sctp,
        port: 9,
    };
    assert!(lets_in("{protocol: SCTP, port: 9}", sctp));
}

#[test]
fn a_named_port_is_the_destinations() {
    let rule = "{ports: [{port: web}]}";
    let ingress = format!("{{metadata: {{name: p}}, spec: {{ingress: [{rule}]}}}}");
    let egress =
        format!("{{metadata: {{name: p}}, spec: {{policyTypes: [Egress], egress: [{rule}]}}}}");
    for text in [ingress, egress] {
        let mut world = world(&[&text]);
        world.pods[0].ports = vec![
            container_port(Container::Ordinary, "web", 8080),
            container_port(Container::Sidecar, "web", 8081),
            container_port(Container::Init, "web", 8082),
            container_port(Container::Ordinary, "web2", 8083),
        ];
        world.pods[1].ports = vec![container_port(Container::Ordinary, "web", 9090)];
        for (port, is_allowed) in [(8080, true), (8081, true), (8082, false), (8083, false)] {
            let verdict = ask(&world, FRONTEND, DB, tcp(port));
            assert_eq!(verdict.is_allowed(), is_allowed, "{port}: {text}");
        }
        assert!(!ask(&world, FRONTEND, DB, tcp(9090)).is_allowed());
        assert!(!ask(&world, FRONTEND, DB, udp(8080)).is_allowed());
        assert!(ask(&world, DB, FRONTEND, tcp(9090)).is_allowed());
    }
    // Nobody outside has named ports.
    assert!(!let_out(rule, tcp(8080)).contains(&OUTSIDE));
}

#[test]
fn a_block_has_pods_and_nodes_too_and_an_exception_vetoes_no_other_rule() {
    let pods = "{from: [{ipBlock: {cidr: 10.200.0.0/16, except: [10.200.1.0/24]}}]}";
    assert_eq!(let_in(pods, tcp(1)), [FRONTEND, OTHER]);
    let nodes = "{from: [{ipBlock: {cidr: 10.240.0.0/24}}]}";
    assert_eq!(let_in(nodes, tcp(1)), [OTHER_NODE]);
    let other = format!("{pods}, {{from: [{{ipBlock: {{cidr: 10.200.1.5/32}}}}]}}");
    assert_eq!(let_in(&other, tcp(1)), [FRONTEND, OTHER, MINE]);
    assert_eq!(
        let_in("{from: [{ipBlock: {cidr: \"::/0\"}}]}", tcp(1)),
        Vec::<&str>::new()
    );
    // What follows the prefix does not count.
    assert_eq!(
        let_in("{from: [{ipBlock: {cidr: 10.200.1.9/24}}]}", tcp(1)),
        [MINE, ALICE_CLIENT, ALICE_OTHER]
    );
}
