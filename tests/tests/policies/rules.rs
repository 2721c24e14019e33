//! Random policies: most can be read, some have one fault.

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weir_tests::reference::policy::rules::cidr;
use weir_tests::reference::policy::world::{
    Direction, IpBlock, NetworkPolicy, NumberOrName, Peer, PolicyName, PolicyPort, Protocol,
    Requirement, Rule, Selector,
};

use super::plan::{BLOCKS, KEYS, NAMESPACES, PORT_NAMES, PORTS, VALUES};
use super::worlds::labels;

/// Any policy.
pub fn policy() -> impl Strategy<Value = NetworkPolicy> {
    prop_oneof![9 => readable_policy(), 1 => unreadable_policy()]
}

/// A policy without a fault.
pub fn readable_policy() -> impl Strategy<Value = NetworkPolicy> {
    let types = Direction::ALL
        .map(|it| it.policy_type().to_owned())
        .to_vec();
    (
        (select(&NAMESPACES), select(vec!["p", "q", "r"])),
        weighted(0.9, selector()),
        of(subsequence(types, 0..=2).prop_shuffle()),
        weighted(0.8, vec(rule(), 0..3)),
        weighted(0.6, vec(rule(), 0..3)),
    )
        .prop_map(
            |((namespace, name), pod_selector, policy_types, ingress, egress)| NetworkPolicy {
                name: PolicyName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                },
                pod_selector,
                policy_types,
                ingress,
                egress,
            },
        )
}

/// A policy with one fault.
pub fn unreadable_policy() -> impl Strategy<Value = NetworkPolicy> {
    let peers = select(vec![
        block("10.0.0.0/33", &[]),
        block("10.200.0.2", &[]),
        block("", &[]),
        block("10.200.0.0/24", &["10.200.1.0/25"]),
        block("10.200.0.0/24", &["10.200.0.0/24"]),
        block("10.200.0.0/16", &["fd00:10:200::/64"]),
        Peer::default(),
        Peer {
            pod_selector: Some(Selector::default()),
            ..block("10.200.0.0/24", &[])
        },
    ])
    .prop_map(|peer| Rule {
        peers: Some(vec![peer]),
        ports: None,
    });
    let number = |first, last| PolicyPort {
        protocol: None,
        port: Some(NumberOrName::Number(first)),
        end_port: last,
    };
    let ports = select(vec![
        number(0, None),
        number(65_536, None),
        number(80, Some(79)),
        number(80, Some(65_536)),
        PolicyPort {
            end_port: Some(80),
            ..PolicyPort::default()
        },
        PolicyPort {
            protocol: Some("ICMP".to_owned()),
            ..PolicyPort::default()
        },
        PolicyPort {
            port: Some(NumberOrName::Name(String::new())),
            ..PolicyPort::default()
        },
    ])
    .prop_map(|port| Rule {
        peers: None,
        ports: Some(vec![port]),
    });
    let of_rules = (readable_policy(), prop_oneof![peers, ports], any::<bool>()).prop_map(
        |(mut policy, rule, is_ingress)| {
            let rules = if is_ingress {
                &mut policy.ingress
            } else {
                &mut policy.egress
            };
            rules.get_or_insert_default().push(rule);
            policy
        },
    );
    let of_selector = readable_policy().prop_map(|mut policy| {
        let selector = policy.pod_selector.get_or_insert_default();
        selector.match_expressions.push(Requirement {
            key: KEYS[0].to_owned(),
            operator: "Like".to_owned(),
            values: vec![VALUES[0].to_owned()],
        });
        policy
    });
    let of_types = readable_policy().prop_map(|mut policy| {
        policy.policy_types = Some(vec!["ingress".to_owned()]);
        policy
    });
    prop_oneof![6 => of_rules, 1 => of_selector, 1 => of_types]
}

/// A rule without a fault.
pub fn rule() -> impl Strategy<Value = Rule> {
    (
        weighted(0.85, vec(peer(), 0..3)),
        weighted(0.7, vec(policy_port(), 0..3)),
    )
        .prop_map(|(peers, ports)| Rule { peers, ports })
}

fn peer() -> impl Strategy<Value = Peer> {
    let selectors =
        (of(selector()), selector(), any::<bool>()).prop_map(|(one, other, is_of_pods)| {
            let (pod_selector, namespace_selector) = if is_of_pods {
                (Some(other), one)
            } else {
                (one, Some(other))
            };
            Peer {
                pod_selector,
                namespace_selector,
                ip_block: None,
            }
        });
    let blocks = ip_block().prop_map(|ip_block| Peer {
        ip_block: Some(ip_block),
        ..Peer::default()
    });
    prop_oneof![3 => selectors, 2 => blocks]
}

/// A block, and some of those within it taken out.
pub fn ip_block() -> impl Strategy<Value = IpBlock> {
    select(&BLOCKS).prop_flat_map(|whole| {
        let within: Vec<_> = BLOCKS
            .iter()
            .filter(|text| is_within(text, whole))
            .map(|text| (*text).to_owned())
            .collect();
        let most = within.len().min(3);
        subsequence(within, 0..=most).prop_map(move |except| IpBlock {
            cidr: whole.to_owned(),
            except,
        })
    })
}

fn is_within(part: &str, whole: &str) -> bool {
    let (Some(part), Some(whole)) = (cidr(part), cidr(whole)) else {
        return false;
    };
    whole.contains(part.ip()) && part.prefix() > whole.prefix()
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer {
        ip_block: Some(IpBlock {
            cidr: cidr.to_owned(),
            except: except.iter().map(|text| (*text).to_owned()).collect(),
        }),
        ..Peer::default()
    }
}

fn policy_port() -> impl Strategy<Value = PolicyPort> {
    let number = || select(&PORTS).prop_map(i32::from);
    let port = prop_oneof![
        1 => Just((None, None)),
        3 => number().prop_map(|number| (Some(NumberOrName::Number(number)), None)),
        3 => (number(), number()).prop_map(|(one, other)| {
            let first = NumberOrName::Number(one.min(other));
            (Some(first), Some(one.max(other)))
        }),
        3 => select(&PORT_NAMES)
            .prop_map(|name| (Some(NumberOrName::Name(name.to_owned())), None)),
    ];
    (of(select(&Protocol::ALL)), port).prop_map(|(protocol, (port, end_port))| PolicyPort {
        protocol: protocol.map(|protocol| protocol.name().to_owned()),
        port,
        end_port,
    })
}

/// A selector without a fault: often an empty one, seldom one that selects nothing.
pub fn selector() -> impl Strategy<Value = Selector> {
    let some =
        (labels(), vec(requirement(), 0..2)).prop_map(|(match_labels, match_expressions)| {
            Selector {
                match_labels,
                match_expressions,
            }
        });
    let one = requirement().prop_map(|requirement| Selector {
        match_expressions: vec![requirement],
        ..Selector::default()
    });
    prop_oneof![2 => Just(Selector::default()), 2 => some, 3 => one]
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values: Vec<String> = VALUES.iter().map(|value| (*value).to_owned()).collect();
    let operator = prop_oneof![
        (select(vec!["In", "NotIn"]), subsequence(values, 1..=2)),
        (select(vec!["Exists", "DoesNotExist"]), Just(Vec::new())),
    ];
    (select(&KEYS), operator).prop_map(|(key, (operator, values))| Requirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values,
    })
}
