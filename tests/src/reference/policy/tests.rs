//! The evaluator's own examples: the documentation's policies and sentences, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;

use super::world::{
    Container, ContainerPort, Direction, Labels, Namespace, NetworkPolicy, Node, Phase, Pod,
    PolicyName, Protocol, Rule, Selector, World,
};
use super::{Connection, Judgement, Missed, Sender, Traffic, Verdict, evaluate, readable};

const DB: &str = "10.200.0.2";
const FRONTEND: &str = "10.200.0.3";
const OTHER: &str = "10.200.0.4";
/// In a namespace with `project: myproject`.
const MINE: &str = "10.200.1.5";
/// Of the namespace with `user: alice`, one with `role: client` and one without.
const ALICE_CLIENT: &str = "10.200.1.6";
const ALICE_OTHER: &str = "10.200.1.7";
/// Where the pods of `default` run, and the host-network pod with `role: frontend`.
const NODE: &str = "10.240.0.11";
const OTHER_NODE: &str = "10.240.0.12";
const OUTSIDE: &str = "172.17.0.9";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of this file")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn pod(namespace: &str, name: &str, of_pod: &[(&str, &str)], addr: &str) -> Pod {
    let node = if namespace == "default" {
        "here"
    } else {
        "there"
    };
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels(of_pod),
        node: Some(node.to_owned()),
        host_network: false,
        addresses: vec![ip(addr)],
        phase: Phase::Running,
        ports: Vec::new(),
    }
}

fn container_port(container: Container, name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        container,
        name: Some(name.to_owned()),
        protocol: None,
        port,
    }
}

/// Three namespaces, and these policies of `default`.
fn world(policies: &[&str]) -> World {
    let namespace = |name: &str, of_namespace: &[(&str, &str)]| Namespace {
        name: name.to_owned(),
        labels: labels(of_namespace),
    };
    let node = |name: &str, addr| Node {
        name: name.to_owned(),
        addresses: vec![ip(addr)],
    };
    let host = Pod {
        host_network: true,
        ..pod("default", "host", &[("role", "frontend")], NODE)
    };
    World {
        namespaces: vec![
            namespace("default", &[]),
            namespace("mine", &[("project", "myproject")]),
            namespace("alice", &[("user", "alice")]),
        ],
        nodes: vec![node("here", NODE), node("there", OTHER_NODE)],
        pods: vec![
            pod("default", "db", &[("role", "db")], DB),
            pod("default", "frontend", &[("role", "frontend")], FRONTEND),
            pod("default", "other", &[], OTHER),
            host,
            pod("mine", "any", &[], MINE),
            pod("alice", "client", &[("role", "client")], ALICE_CLIENT),
            pod("alice", "other", &[], ALICE_OTHER),
        ],
        policies: policies.iter().map(|text| policy(text)).collect(),
    }
}

#[derive(Deserialize)]
struct Manifest {
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    pod_selector: Option<Selector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

fn policy(yaml: &str) -> NetworkPolicy {
    let Manifest { metadata, spec } = serde_saphyr::from_str(yaml).expect("a policy of this file");
    NetworkPolicy {
        name: PolicyName {
            namespace: "default".to_owned(),
            name: metadata["name"].clone(),
        },
        pod_selector: spec.pod_selector,
        policy_types: spec.policy_types,
        ingress: spec.ingress,
        egress: spec.egress,
    }
}

fn tcp(port: u16) -> Traffic {
    Traffic::Ports {
        protocol: Protocol::Tcp,
        port,
    }
}

fn udp(port: u16) -> Traffic {
    Traffic::Ports {
        protocol: Protocol::Udp,
        port,
    }
}

const ICMP: Traffic = Traffic::Other { protocol: 1 };

/// From the pod, the node or the outside host with this address.
fn ask(world: &World, from: &str, to: &str, traffic: Traffic) -> Verdict {
    let from = match from {
        NODE => Sender::Node {
            name: "here".to_owned(),
            addr: ip(from),
        },
        OTHER_NODE => Sender::Node {
            name: "there".to_owned(),
            addr: ip(from),
        },
        _ if world.owner(ip(from)).is_some() => Sender::Pod(ip(from)),
        _ => Sender::Outside(ip(from)),
    };
    let to = ip(to);
    evaluate(world, &Connection { from, to, traffic })
}

const ANYONE: [&str; 8] = [
    FRONTEND,
    OTHER,
    MINE,
    ALICE_CLIENT,
    ALICE_OTHER,
    NODE,
    OTHER_NODE,
    OUTSIDE,
];

/// Who reaches it.
fn reach(world: &World, to: &str, traffic: Traffic) -> Vec<&'static str> {
    let all = ANYONE.iter().copied();
    all.filter(|from| ask(world, from, to, traffic).is_allowed())
        .collect()
}

/// Whom it reaches.
fn reached(world: &World, from: &str, traffic: Traffic) -> Vec<&'static str> {
    let all = ANYONE.iter().copied();
    all.filter(|to| ask(world, from, to, traffic).is_allowed())
        .collect()
}

/// What a policy of `default` lets the pod `db` be reached by, next to its own node.
fn let_in(rule: &str, traffic: Traffic) -> Vec<&'static str> {
    let text = format!(
        "{{metadata: {{name: p}}, spec: {{podSelector: {{matchLabels: {{role: db}}}}, ingress: [{rule}]}}}}"
    );
    let mut all = reach(&world(&[&text]), DB, traffic);
    all.retain(|from| *from != NODE);
    all
}

/// And what it lets it reach.
fn let_out(rule: &str, traffic: Traffic) -> Vec<&'static str> {
    let text = format!(
        "{{metadata: {{name: p}}, spec: {{podSelector: {{matchLabels: {{role: db}}}}, egress: [{rule}]}}}}"
    );
    reached(&world(&[&text]), DB, traffic)
}

const DOCUMENTED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: test-network-policy}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
        - namespaceSelector: {matchLabels: {project: myproject}}
        - podSelector: {matchLabels: {role: frontend}}
      ports:
        - {protocol: TCP, port: 6379}
  egress:
    - to:
        - ipBlock: {cidr: 10.0.0.0/24}
      ports:
        - {protocol: TCP, port: 5978}
";

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
