//! Properties of the reference evaluator of policies, in random clusters.
//!
//! It is compared with the compiler and the datapath; what it is compared with itself here is
//! what the API's text promises of all policies.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cases;
use crate::policies::connections::{connection, connections};
use crate::policies::rules::{
    ip_block, policy, readable_policy, rule, selector, unreadable_policy,
};
use crate::policies::worlds::{labels, world};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_tests::reference::policy::readable::{faults, relates_to};
use weir_tests::reference::policy::selector::selects;
use weir_tests::reference::policy::world::{
    Direction, IpBlock, NetworkPolicy, NumberOrName, Peer, PolicyName, PolicyPort, Requirement,
    Rule, Selector, World,
};
use weir_tests::reference::policy::{
    Connection, Judgement, Missed, Verdict, evaluate, manifests, rules,
};

/// Random worlds of each property.
const WORLDS: u32 = 300;

fn rules_mut(policy: &mut NetworkPolicy, direction: Direction) -> &mut Vec<Rule> {
    let rules = match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    };
    rules.get_or_insert_default()
}

/// Whoever was let through before still is.
fn check_only_adds(before: &Verdict, after: &Verdict) -> Result<(), TestCaseError> {
    for direction in Direction::ALL {
        let (before, after) = (before.of(direction), after.of(direction));
        prop_assert!(
            !before.is_allowed() || after.is_allowed(),
            "{direction:?}: {before:?} became {after:?}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(WORLDS))]

    #[test]
    fn a_rule_more_takes_no_permission_away(
        world in world(), asked in connections(), rule in rule(), which: prop::sample::Index,
    ) {
        for direction in Direction::ALL {
            let related: Vec<_> = (0..world.policies.len())
                .filter(|index| relates_to(&world.policies[*index], direction))
                .collect();
            if related.is_empty() {
                continue;
            }
            let mut more = world.clone();
            let policy = &mut more.policies[related[which.index(related.len())]];
            rules_mut(policy, direction).push(rule.clone());
            for connection in &asked {
                check_only_adds(&evaluate(&world, connection), &evaluate(&more, connection))?;
            }
        }
    }

    #[test]
    fn a_policy_that_selects_nothing_changes_nothing(
        world in world(), asked in connections(), mut policy in policy(),
    ) {
        let nobody = Requirement {
            key: "app".to_owned(),
            operator: "In".to_owned(),
            values: vec!["nobody".to_owned()],
        };
        policy.name.name = "more".to_owned();
        policy.pod_selector = Some(Selector {
            match_expressions: vec![nobody],
            ..Selector::default()
        });
        let mut more = world.clone();
        more.policies.push(policy);
        for connection in &asked {
            prop_assert_eq!(evaluate(&world, connection), evaluate(&more, connection));
        }
    }

    #[test]
    fn order_is_irrelevant(
        (world, shuffled) in world().prop_flat_map(|world| {
            let shuffled = Just(world.policies.clone()).prop_shuffle();
            (Just(world), shuffled)
        }),
        asked in connections(),
    ) {
        let mut other = World { policies: shuffled, ..world.clone() };
        other.namespaces.reverse();
        other.nodes.reverse();
        for connection in &asked {
            prop_assert_eq!(evaluate(&world, connection), evaluate(&other, connection));
        }
    }

    #[test]
    fn a_name_decides_nothing(
        world in world(), asked in connections(), which: prop::sample::Index,
    ) {
        prop_assume!(!world.policies.is_empty());
        let mut other = world.clone();
        let index = which.index(other.policies.len());
        let renamed = PolicyName {
            name: "renamed".to_owned(),
            ..other.policies[index].name.clone()
        };
        let original = std::mem::replace(&mut other.policies[index].name, renamed.clone());
        for connection in &asked {
            let (before, after) = (evaluate(&world, connection), evaluate(&other, connection));
            for direction in Direction::ALL {
                prop_assert_eq!(
                    without_name(before.of(direction), &original, &renamed),
                    without_name(after.of(direction), &original, &renamed)
                );
            }
        }
    }

    #[test]
    fn a_fault_is_as_good_as_no_rule(
        world in world(), asked in connections(), mut policy in unreadable_policy(),
    ) {
        prop_assert!(!faults(&policy).is_empty());
        // The directions have to be said, or they follow from the rules.
        let related: Vec<_> = Direction::ALL
            .into_iter()
            .filter(|direction| relates_to(&policy, *direction))
            .map(|direction| direction.policy_type().to_owned())
            .collect();
        policy.name.name = "faulty".to_owned();
        let mut faulty = world.clone();
        faulty.policies.push(policy.clone());
        let selector = policy.pod_selector.take();
        let can_be_read = |selector: &Selector| {
            selector.match_expressions.iter().all(|it| it.operator != "Like")
        };
        policy.pod_selector = selector.filter(can_be_read);
        policy.policy_types = Some(related);
        (policy.ingress, policy.egress) = (None, None);
        prop_assert!(faults(&policy).is_empty());
        let mut empty = world;
        empty.policies.push(policy);
        for connection in &asked {
            prop_assert_eq!(evaluate(&faulty, connection), evaluate(&empty, connection));
        }
    }

    #[test]
    fn an_empty_rule_for_all_allows_all(world in world(), asked in connections()) {
        let mut open = world.clone();
        for namespace in crate::policies::plan::NAMESPACES {
            open.policies.push(NetworkPolicy {
                name: PolicyName { namespace: namespace.to_owned(), name: "all".to_owned() },
                pod_selector: None,
                policy_types: None,
                ingress: Some(vec![Rule::default()]),
                egress: Some(vec![Rule::default()]),
            });
        }
        let mut shut = open.clone();
        shut.policies.retain_mut(|policy| {
            policy.policy_types = Some(Direction::ALL.map(|it| it.policy_type().to_owned()).to_vec());
            (policy.ingress, policy.egress) = (None, None);
            policy.name.name == "all"
        });
        for connection in &asked {
            prop_assert!(evaluate(&open, connection).is_allowed());
            for direction in Direction::ALL {
                match evaluate(&shut, connection).of(direction) {
                    Judgement::NoSubject | Judgement::Itself | Judgement::OwnNode => {}
                    Judgement::Refused { isolated_by, nearest: None } => {
                        prop_assert_eq!(isolated_by.len(), 1);
                    }
                    other => prop_assert!(false, "{connection:?}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn completed_pods_do_not_count(world in world(), asked in connections()) {
        let mut without = world.clone();
        without.pods.retain(|pod| !pod.phase.is_completed());
        for connection in &asked {
            prop_assert_eq!(evaluate(&world, connection), evaluate(&without, connection));
        }
    }

    #[test]
    fn a_range_of_ports_is_each_of_them(
        world in world(), connection in connection(), first in 70_i32..90, length in 0_i32..20,
    ) {
        let port = |number, end_port| PolicyPort {
            protocol: None,
            port: Some(NumberOrName::Number(number)),
            end_port,
        };
        let range = vec![port(first, Some(first + length))];
        let each = (first..=first + length).map(|number| port(number, None)).collect();
        let matches = |ports| {
            let rule = Rule { peers: None, ports: Some(ports) };
            rules::match_ports(&rule, world.owner(connection.to), connection.traffic)
        };
        prop_assert_eq!(matches(range), matches(each));
    }

    #[test]
    fn except_excludes_exactly(world in world(), block in ip_block(), connection in connection()) {
        let expected = has(&block.cidr, connection.to)
            && !block.except.iter().any(|text| has(text, connection.to));
        let rule = |block: IpBlock| Rule {
            peers: Some(vec![Peer { ip_block: Some(block), ..Peer::default() }]),
            ports: None,
        };
        let matches = |rule: &Rule| rules::match_peer(&world, "shop", rule, connection.to);
        prop_assert_eq!(matches(&rule(block.clone())), expected);
        // What one block leaves out another has.
        let whole = IpBlock { cidr: block.cidr.clone(), except: Vec::new() };
        let mut both = rule(block);
        both.peers.get_or_insert_default().extend(rule(whole.clone()).peers.unwrap_or_default());
        prop_assert_eq!(matches(&both), has(&whole.cidr, connection.to));
    }

    #[test]
    fn an_operator_and_its_opposite_share_out_all_labels(labels in labels(), one in selector()) {
        for requirement in &one.match_expressions {
            let opposite = match requirement.operator.as_str() {
                "In" => "NotIn",
                "NotIn" => "In",
                "Exists" => "DoesNotExist",
                _ => "Exists",
            };
            let by = |operator: &str| selects(
                &Selector {
                    match_expressions: vec![Requirement {
                        operator: operator.to_owned(),
                        ..requirement.clone()
                    }],
                    ..Selector::default()
                },
                &labels,
            );
            prop_assert_ne!(by(&requirement.operator), by(opposite));
        }
        // "A single {key,value} is equivalent to an element of matchExpressions."
        let mut written_out = one.clone();
        for (key, value) in std::mem::take(&mut written_out.match_labels) {
            written_out.match_expressions.push(Requirement {
                key,
                operator: "In".to_owned(),
                values: vec![value],
            });
        }
        prop_assert_eq!(selects(&one, &labels), selects(&written_out, &labels));
    }

    #[test]
    fn manifests_say_nothing_that_the_api_does_not_know(
        world in world(), policy in readable_policy(),
    ) {
        prop_assert!(faults(&policy).is_empty(), "{:?}", faults(&policy));
        for object in manifests::objects(&world) {
            let kind = object["kind"].as_str().unwrap_or_default();
            let understood = match kind {
                "Namespace" => understood::<core::Namespace>(&object),
                "Node" => understood::<core::Node>(&object),
                "Pod" => understood::<core::Pod>(&object),
                "NetworkPolicy" => understood::<networking::NetworkPolicy>(&object),
                other => panic!("{other} is none of a world's kinds"),
            };
            prop_assert_eq!(&understood, &object);
        }
    }
}

/// What is left of an object after it has been read as the API's type.
fn understood<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let read: T = serde_json::from_value(object.clone()).expect("an object of its kind");
    serde_json::to_value(read).expect("an object that can be written")
}

/// A judgement, but for which rule is nearest, which hangs on names.
fn without_name(
    judgement: &Judgement,
    original: &PolicyName,
    renamed: &PolicyName,
) -> (Judgement, Option<Missed>) {
    let rename = |name: &PolicyName| {
        if name == original {
            renamed.clone()
        } else {
            name.clone()
        }
    };
    match judgement {
        Judgement::ByRules(rules) => {
            let rules = rules.iter().cloned().map(|mut rule| {
                rule.policy = rename(&rule.policy);
                rule
            });
            (Judgement::ByRules(rules.collect()), None)
        }
        Judgement::Refused {
            isolated_by,
            nearest,
        } => (
            Judgement::Refused {
                isolated_by: isolated_by.iter().map(rename).collect(),
                nearest: None,
            },
            nearest.as_ref().map(|near| near.missed),
        ),
        Judgement::NoSubject | Judgement::Itself | Judgement::OwnNode | Judgement::NotIsolated => {
            (judgement.clone(), None)
        }
    }
}

/// Whether a range has an address, bit by bit.
fn has(cidr: &str, addr: IpAddr) -> bool {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => (32, u128::from(addr.to_bits()) << 96),
        IpAddr::V6(addr) => (128, addr.to_bits()),
    };
    let (network, length) = cidr.split_once('/').expect("a range");
    let (network, length): (IpAddr, u32) = (
        network.parse().expect("an address"),
        length.parse().expect("a length"),
    );
    let ((width, network), (of_addr, addr)) = (bits(network), bits(addr));
    let in_front = |bits: u128| bits.checked_shr(128 - length).unwrap_or(0);
    width == of_addr && in_front(network) == in_front(addr)
}

/// Random worlds are no good if they never meet what they are made for.
#[test]
fn every_judgement_is_met() {
    let met: RefCell<BTreeMap<String, BTreeSet<Direction>>> = RefCell::default();
    let note = |world: &World, connection: &Connection| {
        let verdict = evaluate(world, connection);
        for direction in Direction::ALL {
            let kind = match verdict.of(direction) {
                Judgement::ByRules(rules) if rules.len() > 1 => "by several rules".to_owned(),
                Judgement::Refused {
                    isolated_by,
                    nearest,
                } => format!(
                    "refused by {}, missed {:?}",
                    if isolated_by.len() > 1 {
                        "several"
                    } else {
                        "one"
                    },
                    nearest.as_ref().map(|near| near.missed)
                ),
                Judgement::ByRules(_) => "by a rule".to_owned(),
                other => format!("{other:?}"),
            };
            met.borrow_mut().entry(kind).or_default().insert(direction);
        }
    };
    TestRunner::deterministic()
        .run(&(world(), connections()), |(world, asked)| {
            asked.iter().for_each(|connection| note(&world, connection));
            Ok(())
        })
        .expect("nothing can fail");
    let met = met.into_inner();
    let both = BTreeSet::from(Direction::ALL);
    let ingress = BTreeSet::from([Direction::Ingress]);
    let expected = [
        ("NoSubject", &both),
        ("Itself", &both),
        ("OwnNode", &ingress),
        ("NotIsolated", &both),
        ("by a rule", &both),
        ("by several rules", &both),
        ("refused by one, missed None", &both),
        ("refused by one, missed Some(Peers)", &both),
        ("refused by one, missed Some(Ports)", &both),
        ("refused by several, missed None", &both),
        ("refused by several, missed Some(Peers)", &both),
        ("refused by several, missed Some(Ports)", &both),
    ];
    let expected = expected.map(|(kind, directions)| (kind.to_owned(), directions.clone()));
    assert_eq!(met, BTreeMap::from(expected));
}
