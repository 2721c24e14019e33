//! What comparisons have met, by which they show that they are worth something.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use weir_tests::reference::policy::Judgement;
use weir_tests::reference::policy::world::Direction;

use super::record::Outcome;

/// Everything that has to be met.
const KINDS: [&str; 18] = [
    "a pod that nothing isolates",
    "a pod to itself",
    "forged",
    "opened out of the pod by a rule",
    "opened out of the pod without isolation",
    "opened into the pod by a rule",
    "opened into the pod without isolation",
    "opened by the node",
    "part of a conversation out of the pod",
    "part of a conversation into the pod",
    "allowed for itself",
    "refused out of the pod",
    "refused into the pod",
    "refused although it was open, out of the pod",
    "refused although it was open, into the pod",
    "time",
    "an error about what is open",
    "an error about nothing",
];

/// Kinds of answers that were met.
#[derive(Clone, Debug, Default)]
pub struct Met(BTreeSet<&'static str>);

impl Met {
    /// What another comparison has met, too.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(&other.0);
    }

    pub(super) fn unjudged(&mut self) {
        self.0.insert(KINDS[0]);
    }

    pub(super) fn itself(&mut self) {
        self.0.insert(KINDS[1]);
    }

    pub(super) fn forged(&mut self) {
        self.0.insert(KINDS[2]);
    }

    pub(super) fn time(&mut self) {
        self.0.insert(KINDS[15]);
    }

    /// What became of an error.
    pub(super) fn error(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Refused {
                was_open: false, ..
            } => self.0.insert(KINDS[17]),
            _ => self.0.insert(KINDS[16]),
        };
    }

    /// What became of a packet that goes this way.
    pub(super) fn outcome(&mut self, way: Direction, outcome: &Outcome) {
        let is_out = way == Direction::Egress;
        let kind = match outcome {
            Outcome::Opens(Judgement::OwnNode) => 7,
            Outcome::Opens(Judgement::ByRules(_)) => {
                if is_out {
                    3
                } else {
                    5
                }
            }
            Outcome::Opens(_) => {
                if is_out {
                    4
                } else {
                    6
                }
            }
            Outcome::Part => {
                if is_out {
                    8
                } else {
                    9
                }
            }
            Outcome::Alone => 10,
            Outcome::Refused {
                was_open,
                direction,
                ..
            } => match (was_open, direction) {
                (false, Direction::Egress) => 11,
                (false, Direction::Ingress) => 12,
                (true, Direction::Egress) => 13,
                (true, Direction::Ingress) => 14,
            },
        };
        self.0.insert(KINDS[kind]);
    }

    /// Was everything met?
    pub fn is_complete(&self) -> bool {
        self.0.len() == KINDS.len()
    }

    /// # Errors
    /// Something was not met: what.
    pub fn check(&self) -> Result<()> {
        let missing: Vec<_> = KINDS
            .iter()
            .filter(|kind| !self.0.contains(*kind))
            .collect();
        ensure!(
            self.is_complete(),
            "these clusters show too little: never {missing:?}"
        );
        Ok(())
    }
}
