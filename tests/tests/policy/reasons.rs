//! What Weir says of a connection, and why, against the evaluator that was written from the
//! API's text: in random clusters, the verdict, the policies that isolate, all rules that allow and
//! the one that comes nearest.
//!
//! The verdicts come from the compiler and the datapath, as they do in the kernel; a packet's
//! event is put into names and says the same.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cases;
use crate::policies::connections::connections;
use crate::policies::worlds::world;
use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weir_agent::explain::{self, Explainer, Explanation, FlowRecord, Scene};
use weir_agent::model::{Cluster, Direction, Invalid, NetworkPolicy, Object, Pod};
use weir_tests::reference::policy::world::World;
use weir_tests::reference::policy::{
    Connection, Judgement, Missed, Sender, Traffic, Verdict, evaluate, manifests,
};

/// Worlds that are compared.
const WORLDS: u32 = 2_000;

/// The world's objects as the agent reads them.
fn scene(world: &World) -> Scene {
    let objects = manifests::objects(world);
    let objects = objects.iter().map(|object| match object["kind"].as_str() {
        Some("Namespace") => read::<core::Namespace>(object),
        Some("Node") => read::<core::Node>(object),
        Some("Pod") => read::<core::Pod>(object),
        Some("NetworkPolicy") => read::<networking::NetworkPolicy>(object)
            .or_else(|invalid| NetworkPolicy::unreadable(object, invalid)),
        other => panic!("{other:?} is none of a world's kinds"),
    });
    Scene::new(Cluster::from_objects(
        objects.map(|object| object.expect("an object that can be named")),
    ))
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<Object, Invalid>
where
    Object: TryFrom<T, Error = Invalid>,
{
    let typed = T::deserialize(object).map_err(|error| Invalid {
        field: weir_agent::model::FieldPath::default(),
        message: error.to_string(),
    })?;
    Object::try_from(typed)
}

/// The same question in the agent's words. `None`: nobody owns the sender's address.
fn question(scene: &Scene, asked: &Connection) -> explain::Connection {
    explain::Connection {
        from: match &asked.from {
            // Where no pod owns the address, the evaluator's sender is nobody's subject.
            Sender::Pod(addr) => match scene.owner(*addr) {
                Some(pod) => explain::Sender::Pod(pod.id.clone(), *addr),
                None => explain::Sender::Outside(*addr),
            },
            Sender::Node { name, addr } => explain::Sender::Node(name.clone(), *addr),
            Sender::Outside(addr) => explain::Sender::Outside(*addr),
        },
        to: asked.to,
        traffic: match asked.traffic {
            Traffic::Ports { protocol, port } => {
                let number = match protocol.name() {
                    "TCP" => weir_ebpf::addr::Protocol::TCP,
                    "UDP" => weir_ebpf::addr::Protocol::UDP,
                    _ => weir_ebpf::addr::Protocol::SCTP,
                };
                explain::Traffic::of(number, port)
            }
            Traffic::Other { protocol } => explain::Traffic::Other { protocol },
        },
    }
}

/// Does somebody beyond the pod send from the pod's own address? To the pod that is its own packet,
/// and no kernel lets it come so far.
fn is_martian(asked: &Connection) -> bool {
    match asked.from {
        Sender::Outside(addr) | Sender::Node { addr, .. } => addr == asked.to,
        Sender::Pod(_) => false,
    }
}

/// One end in words that both can be put into.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Plain(&'static str),
    ByRules(BTreeSet<String>),
    Refused(BTreeSet<String>, Option<(&'static str, String)>),
}

fn names<T: ToString>(names: &BTreeSet<T>) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn expected(judgement: &Judgement) -> Said {
    match judgement {
        Judgement::NoSubject => Said::Plain("no subject"),
        Judgement::Itself => Said::Plain("itself"),
        Judgement::OwnNode => Said::Plain("own node"),
        Judgement::NotIsolated => Said::Plain("not isolated"),
        Judgement::ByRules(rules) => Said::ByRules(names(rules)),
        Judgement::Refused {
            isolated_by,
            nearest,
        } => Said::Refused(
            names(isolated_by),
            nearest.as_ref().map(|near| {
                let missed = match near.missed {
                    Missed::Ports => "ports",
                    Missed::Peers => "peers",
                };
                (missed, near.rule.to_string())
            }),
        ),
    }
}

fn said(judgement: &explain::Judgement) -> Said {
    match judgement {
        explain::Judgement::NoSubject => Said::Plain("no subject"),
        explain::Judgement::Itself => Said::Plain("itself"),
        explain::Judgement::OwnNode => Said::Plain("own node"),
        explain::Judgement::NotIsolated => Said::Plain("not isolated"),
        explain::Judgement::ByRules { decided, all } => match decided {
            Some(rule) if all.contains(rule) => Said::ByRules(names(all)),
            Some(_) | None => Said::Plain("by a rule that does not match"),
        },
        explain::Judgement::Refused {
            isolated_by,
            nearest,
        } => Said::Refused(
            names(isolated_by),
            nearest.as_ref().map(|near| {
                let missed = match near.missed {
                    explain::Missed::Ports => "ports",
                    explain::Missed::Peers => "peers",
                };
                (missed, near.rule.to_string())
            }),
        ),
        explain::Judgement::Otherwise(_) => Said::Plain("dropped by no policy"),
    }
}

fn both(verdict: &Verdict) -> [Said; 2] {
    [expected(&verdict.egress), expected(&verdict.ingress)]
}

fn both_said(explanation: &Explanation) -> [Said; 2] {
    [said(&explanation.egress), said(&explanation.ingress)]
}

proptest! {
    #![proptest_config(cases(WORLDS))]

    #[test]
    fn an_explanation_says_what_the_evaluator_says(world in world(), asked in connections()) {
        let scene = scene(&world);
        let mut explainer = Explainer::new(&scene);
        for connection in asked.iter().filter(|it| !is_martian(it)) {
            let explanation = explainer.explain(&question(&scene, connection));
            prop_assert_eq!(
                both_said(&explanation),
                both(&evaluate(&world, connection)),
                "{:?}", connection
            );
            prop_assert_eq!(explanation.doubt, None, "{:?}", connection);
        }
    }

    #[test]
    fn an_event_is_told_in_the_evaluators_words(world in world(), asked in connections()) {
        let scene = Arc::new(scene(&world));
        let mut explainer = Explainer::new(&scene);
        for connection in asked.iter().filter(|it| !is_martian(it)) {
            let verdict = evaluate(&world, connection);
            let question = question(&scene, connection);
            let sender = match &question.from {
                explain::Sender::Pod(pod, _) => scene.pod(pod),
                explain::Sender::Node(..) | explain::Sender::Outside(_) => None,
            };
            let receiver = scene.owner(question.to);
            for (pod, direction, expected) in [
                (sender, Direction::Egress, &verdict.egress),
                (receiver, Direction::Ingress, &verdict.ingress),
            ] {
                let Some(pod) = pod else { continue };
                if let Some(record) = told(&scene, &mut explainer, pod, direction, &question) {
                    check_record(&record, expected)?;
                }
            }
        }
    }
}

/// What is told of a connection's first packet at one of its ends, in names.
fn told(
    scene: &Arc<Scene>,
    explainer: &mut Explainer<'_>,
    pod: &Pod,
    direction: Direction,
    question: &explain::Connection,
) -> Option<FlowRecord> {
    let judge = explainer.judge(pod.node.as_deref());
    let interface = judge
        .interface(&pod.id)
        .expect("whoever is judged has an interface");
    let is_own_node = match &question.from {
        explain::Sender::Node(name, _) => pod.node.as_ref() == Some(name),
        explain::Sender::Pod(..) | explain::Sender::Outside(_) => false,
    };
    let from = question.from.addr();
    let judged = judge.judge(
        interface,
        direction,
        is_own_node,
        from,
        question.to,
        question.traffic,
    );
    let now = explain::Snapshot {
        scene: Arc::clone(scene),
        desired: Arc::new(judge.desired().clone()),
        node: String::new(),
    };
    let event = judged.event?;
    Some(explain::record(&event, String::new(), &now, None).expect("an event of this version"))
}

fn check_record(record: &FlowRecord, expected: &Judgement) -> Result<(), TestCaseError> {
    let line = record.to_string();
    match expected {
        Judgement::Refused {
            isolated_by,
            nearest,
        } => {
            let isolated_by: Vec<String> = isolated_by.iter().map(ToString::to_string).collect();
            let nearest = nearest.as_ref().map(|near| near.rule.to_string());
            prop_assert!(line.starts_with("dropped "), "{}", line);
            prop_assert_eq!(&record.isolated_by, &isolated_by, "{}", line);
            prop_assert_eq!(
                record.nearest.as_ref().map(|near| &near.rule),
                nearest.as_ref()
            );
            let sentence = format!("isolated by {}; ", isolated_by.join(", "));
            prop_assert!(line.contains(&sentence), "{}", line);
            let near = nearest.map_or_else(
                || "no rule comes near".to_owned(),
                |rule| format!("nearest: {rule} allows "),
            );
            prop_assert!(line.contains(&near), "{}", line);
        }
        Judgement::ByRules(rules) => {
            let rules = names(rules);
            let rule = record.rule.as_ref().expect("a rule that is known");
            prop_assert!(
                line.starts_with("forwarded ") && rules.contains(rule),
                "{}",
                line
            );
        }
        Judgement::NoSubject | Judgement::Itself | Judgement::OwnNode | Judgement::NotIsolated => {
            prop_assert!(
                line.starts_with("forwarded ") && record.rule.is_none(),
                "{}",
                line
            );
        }
    }
    Ok(())
}

/// Random worlds are no good if they never meet what they are made for.
#[test]
fn every_kind_of_reason_is_met() {
    let met: RefCell<BTreeMap<String, usize>> = RefCell::default();
    TestRunner::deterministic()
        .run(&(world(), connections()), |(world, asked)| {
            let scene = scene(&world);
            let mut explainer = Explainer::new(&scene);
            for connection in asked.iter().filter(|it| !is_martian(it)) {
                for said in both_said(&explainer.explain(&question(&scene, connection))) {
                    let kind = match said {
                        Said::Plain(kind) => kind.to_owned(),
                        Said::ByRules(rules) => format!("{} rules", rules.len().min(2)),
                        Said::Refused(_, near) => {
                            format!("refused, near {:?}", near.map(|(missed, _)| missed))
                        }
                    };
                    *met.borrow_mut().entry(kind).or_default() += 1;
                }
            }
            Ok(())
        })
        .expect("nothing can fail");
    let met = met.into_inner();
    for kind in [
        "no subject",
        "itself",
        "own node",
        "not isolated",
        "1 rules",
        "2 rules",
        "refused, near None",
        "refused, near Some(\"ports\")",
        "refused, near Some(\"peers\")",
    ] {
        assert!(met.contains_key(kind), "{kind} was not met: {met:?}");
    }
}
