//! What numbers in the tables stand for, and what is in force at each pod's interface.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;

use serde::{Serialize, Serializer};
use weir_ebpf::tables::PodState;

use crate::model::{Direction, PodRef, PolicyRef, Protocol};

use super::property::Property;

/// What the numbers in the tables stand for. Those that are not here are of an earlier state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyNames {
    /// Subject sets, but for `NOBODY`.
    pub subjects: BTreeMap<u32, SubjectSet>,
    /// Rules.
    pub rules: BTreeMap<u32, RuleName>,
    /// Classes: the properties that their addresses have.
    pub classes: BTreeMap<u32, BTreeSet<Property>>,
}

/// What isolates the pods of a subject set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectSet {
    /// In which direction.
    pub direction: Direction,
    /// The policies, at least one.
    pub policies: BTreeSet<PolicyRef>,
    /// What the rules' names of ports mean at these pods: for ingress, where there are such rules.
    pub named_ports: BTreeMap<(String, Protocol), BTreeSet<NonZeroU16>>,
}

/// A rule of a policy: `shop/cart egress[1]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// Of which policy.
    pub policy: PolicyRef,
    /// Of which of its lists.
    pub direction: Direction,
    /// At which place in it.
    pub index: usize,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.index)
    }
}

impl Serialize for RuleName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is in force at a pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReport {
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// What is known of it.
    pub state: PodState,
    /// The policies that isolate it as a sender.
    pub egress: BTreeSet<PolicyRef>,
    /// The policies that isolate it as a receiver.
    pub ingress: BTreeSet<PolicyRef>,
}
