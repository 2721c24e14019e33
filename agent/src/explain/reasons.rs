//! Why policies allow a connection at one end, or refuse it, in names.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::rules::{matches_peer, matches_ports};
use super::{Scene, Traffic, wording};
use crate::compile::RuleName;
use crate::model::{Direction, NetworkPolicy, Pod, PolicyRef, PolicyRule};

/// What the policies that select a pod say of one connection in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// All policies that isolate the pod in the direction, those that cannot be read too. None:
    /// it is not isolated.
    pub isolated_by: BTreeSet<PolicyRef>,
    /// All of their rules that allow the connection.
    pub allowing: BTreeSet<RuleName>,
    /// The rule that almost does, where none does.
    pub nearest: Option<NearMiss>,
}

/// A rule of an isolating policy of which one half matched.
///
/// The nearest is one whose peers matched, so that another port would have been allowed, or else
/// one whose ports did; of several the first by namespace, name and index. A rule of which
/// nothing matched is not near. Rules without peers match every peer, and rules without ports
/// every port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NearMiss {
    /// Which half did not match.
    pub missed: Missed,
    /// The rule.
    pub rule: RuleName,
    /// What of it comes near: `db pods on 5433`.
    pub allows: String,
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} allows {}", self.rule, self.allows)
    }
}

/// The half of a rule that did not match; what is nearer comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missed {
    /// The peer is right, the protocol or port is not.
    Ports,
    /// The port is right, the peer is not.
    Peers,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The pod at this end.
    pub subject: &'a Pod,
    /// Which way the connection goes, seen from it.
    pub direction: Direction,
    /// The address of the other end.
    pub peer: IpAddr,
    /// The address that the connection goes to: that of one of the two.
    pub to: IpAddr,
    /// What is sent.
    pub traffic: Traffic,
}

/// What policies say of it.
#[must_use]
pub fn reasons(scene: &Scene, end: End<'_>) -> Reasons {
    let mut reasons = Reasons::default();
    let mut near: Option<(Missed, RuleName, &NetworkPolicy, &PolicyRule)> = None;
    let destination = scene.owner(end.to);
    for policy in scene.isolating(end.subject, end.direction) {
        reasons.isolated_by.insert(policy.id.clone());
        for (index, rule) in policy.rules(end.direction).iter().enumerate() {
            let missed = match (
                matches_peer(scene, policy, rule, end.peer),
                matches_ports(rule, destination, end.traffic),
            ) {
                (true, true) => None,
                (true, false) => Some(Missed::Ports),
                (false, true) => Some(Missed::Peers),
                (false, false) => continue,
            };
            let name = RuleName {
                policy: policy.id.clone(),
                direction: end.direction,
                index,
            };
            match missed {
                None => {
                    reasons.allowing.insert(name);
                }
                Some(missed) => {
                    let is_nearer = near
                        .as_ref()
                        .is_none_or(|(other, nearest, ..)| (missed, &name) < (*other, nearest));
                    if is_nearer {
                        near = Some((missed, name, policy, rule));
                    }
                }
            }
        }
    }
    if reasons.allowing.is_empty() {
        reasons.nearest = near.map(|(missed, rule, policy, of)| NearMiss {
            missed,
            allows: wording::allowance(scene, policy, of, missed, &end, destination),
            rule,
        });
    }
    reasons
}
