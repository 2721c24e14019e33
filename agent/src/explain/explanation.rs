//! What becomes of a connection at its two ends, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_ebpf::verdict::{DropReason, Verdict};

use super::tables::{Judge, Judged};
use super::{End, NearMiss, Reasons, Scene, Traffic, reasons};
use crate::compile::RuleName;
use crate::model::{Direction, Pod, PodRef, PolicyRef};

/// A new connection, or a packet by itself. A service's address has been translated already.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Who opens it.
    pub from: Sender,
    /// The address that it reaches.
    pub to: IpAddr,
    /// What is sent.
    pub traffic: Traffic,
}

/// Who opens a connection, and from which address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sender {
    /// A pod with a network of its own.
    Pod(PodRef, IpAddr),
    /// Really that node: one of its processes or host-network pods.
    Node(String, IpAddr),
    /// Whoever sends from beyond, with this address.
    Outside(IpAddr),
}

impl Sender {
    /// The source address.
    #[must_use]
    pub const fn addr(&self) -> IpAddr {
        match self {
            Self::Pod(_, addr) | Self::Node(_, addr) | Self::Outside(addr) => *addr,
        }
    }
}

/// What becomes of a connection at its two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// As the sender's.
    pub egress: Judgement,
    /// As the receiver's.
    pub ingress: Judgement,
    /// Tables and objects disagree: what is told is what the tables say, and why they differ is
    /// a fault of Weir's.
    pub doubt: Option<String>,
}

/// What is said of one end, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Allowed: no policy is about this end, because it is no pod with a network of its own.
    NoSubject,
    /// Allowed: the sender and the receiver are one pod.
    Itself,
    /// Allowed: a node reaches its own pods.
    OwnNode,
    /// Allowed: no policy isolates the pod in this direction.
    NotIsolated,
    /// Allowed.
    ByRules {
        /// By the rule that the tables name.
        decided: Option<RuleName>,
        /// By all rules that match.
        all: BTreeSet<RuleName>,
    },
    /// Refused.
    Refused {
        /// All policies that isolate the pod in this direction, unreadable ones too.
        isolated_by: BTreeSet<PolicyRef>,
        /// The rule that almost matched.
        nearest: Option<NearMiss>,
    },
    /// Dropped or rejected, by no policy.
    Otherwise(Verdict),
}

impl Judgement {
    /// Does this end let the connection pass?
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        match self {
            Self::NoSubject
            | Self::Itself
            | Self::OwnNode
            | Self::NotIsolated
            | Self::ByRules { .. } => true,
            Self::Refused { .. } | Self::Otherwise(_) => false,
        }
    }
}

impl Explanation {
    /// "Both the egress policy on the source pod and the ingress policy on the destination pod need
    /// to allow the connection."
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }
}

/// Explains connections of one cluster: with the tables of the sender's node, and with those of
/// the receiver's.
pub struct Explainer<'a> {
    scene: &'a Scene,
    /// By the node's name; pods that no node was given have tables, too.
    judges: BTreeMap<Option<String>, Judge>,
}

impl<'a> Explainer<'a> {
    /// For this cluster.
    #[must_use]
    pub const fn new(scene: &'a Scene) -> Self {
        Self {
            scene,
            judges: BTreeMap::new(),
        }
    }

    /// The tables of a node.
    pub fn judge(&mut self, node: Option<&str>) -> &mut Judge {
        let scene = self.scene;
        self.judges
            .entry(node.map(ToOwned::to_owned))
            .or_insert_with(|| Judge::of_node(scene, node))
    }

    /// Explains one.
    pub fn explain(&mut self, connection: &Connection) -> Explanation {
        let sender = match &connection.from {
            Sender::Pod(pod, _) => self.scene.pod(pod),
            Sender::Node(..) | Sender::Outside(_) => None,
        };
        let receiver = self.scene.owner(connection.to);
        let mut doubts = Vec::new();
        let mut end = |pod: Option<&Pod>, direction| {
            let Some(pod) = pod else {
                return Judgement::NoSubject;
            };
            let scene = self.scene;
            let judge = self.judge(pod.node.as_deref());
            judge_end(scene, judge, connection, pod, direction, &mut doubts)
        };
        Explanation {
            egress: end(sender, Direction::Egress),
            ingress: end(receiver, Direction::Ingress),
            doubt: (!doubts.is_empty()).then(|| doubts.join("; ")),
        }
    }
}

/// What the tables and the objects say of one end.
fn judge_end(
    scene: &Scene,
    judge: &mut Judge,
    connection: &Connection,
    pod: &Pod,
    direction: Direction,
    doubts: &mut Vec<String>,
) -> Judgement {
    let Connection { from, to, traffic } = connection;
    let is_own_node = match (direction, from) {
        (Direction::Ingress, Sender::Node(name, _)) => pod.node.as_ref() == Some(name),
        (Direction::Egress, _) | (_, Sender::Pod(..) | Sender::Outside(_)) => false,
    };
    let is_itself = match (direction, from) {
        (Direction::Ingress, Sender::Pod(other, _)) => *other == pod.id,
        (Direction::Egress, _) => scene.owner(*to).is_some_and(|other| other.id == pod.id),
        (_, Sender::Node(..) | Sender::Outside(_)) => false,
    };
    let Some(interface) = judge.interface(&pod.id) else {
        return Judgement::NoSubject;
    };
    let judged = judge.judge(
        interface,
        direction,
        is_own_node,
        from.addr(),
        *to,
        *traffic,
    );
    let end = End {
        subject: pod,
        direction,
        peer: match direction {
            Direction::Egress => *to,
            Direction::Ingress => from.addr(),
        },
        to: *to,
        traffic: *traffic,
    };
    let by_objects = reasons(scene, end);
    let judgement = judgement(judge, judged, by_objects.clone(), is_itself, is_own_node);
    if let Some(doubt) = doubt(&judgement, &by_objects) {
        doubts.push(format!("{direction} of {}: {doubt}", pod.id));
    }
    judgement
}

fn judgement(
    judge: &Judge,
    judged: Judged,
    by_objects: Reasons,
    is_itself: bool,
    is_own_node: bool,
) -> Judgement {
    let names = &judge.desired().policies;
    match judged.verdict {
        Verdict::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy) => {
            let set = names.subjects.get(&judged.subject);
            Judgement::Refused {
                isolated_by: set.map(|set| set.policies.clone()).unwrap_or_default(),
                nearest: by_objects.nearest,
            }
        }
        verdict @ (Verdict::Drop(_) | Verdict::Reject(_)) => Judgement::Otherwise(verdict),
        Verdict::Pass | Verdict::Translate | Verdict::PassFragment => {
            if is_itself {
                Judgement::Itself
            } else if is_own_node {
                Judgement::OwnNode
            } else if judged.subject == 0 {
                Judgement::NotIsolated
            } else {
                Judgement::ByRules {
                    decided: names.rules.get(&judged.rule).cloned(),
                    all: by_objects.allowing,
                }
            }
        }
    }
}

/// Where tables and objects do not say the same.
fn doubt(judgement: &Judgement, by_objects: &Reasons) -> Option<String> {
    let Reasons {
        isolated_by,
        allowing,
        nearest: _,
    } = by_objects;
    let is_right = match judgement {
        Judgement::NoSubject | Judgement::Itself | Judgement::OwnNode | Judgement::Otherwise(_) => {
            true
        }
        Judgement::NotIsolated => isolated_by.is_empty(),
        Judgement::ByRules { decided, all: _ } => {
            decided.as_ref().is_some_and(|rule| allowing.contains(rule))
        }
        Judgement::Refused {
            isolated_by: by_tables,
            nearest: _,
        } => allowing.is_empty() && by_tables == isolated_by,
    };
    (!is_right).then(|| {
        let all = |names: Vec<String>| match names.join(", ") {
            none if none.is_empty() => "nobody".to_owned(),
            names => names,
        };
        format!(
            "by the objects it is isolated by {} and allowed by {}",
            all(isolated_by.iter().map(ToString::to_string).collect()),
            all(allowing.iter().map(ToString::to_string).collect())
        )
    })
}
