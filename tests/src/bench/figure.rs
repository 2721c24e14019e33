//! One figure: what was measured, what came out, and what was hoped for.

use serde::{Deserialize, Serialize};

use super::statistics::Summary;

/// What was measured, and what came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Which program measured it: `packets`, `control`, `programs`, `pure`.
    pub bench: String,
    /// What the cluster is, and what else there is: how many services and policies, whether the
    /// node's kernel tracks connections.
    pub world: String,
    /// Who did it: no proxy, Weir by one of its paths, kube-proxy's rules.
    pub variant: String,
    /// What was done.
    pub work: String,
    /// Of the values.
    pub unit: String,
    /// The values.
    pub value: Summary,
    /// Their ratios to *direct* in the same round, where there is one.
    pub ratio: Option<Summary>,
    /// What is hoped for.
    pub goal: Option<Goal>,
    /// What else the reader has to know.
    pub note: Option<String>,
}

impl Figure {
    /// A figure without ratio, goal and note.
    #[must_use]
    pub fn new(
        bench: &str,
        world: &str,
        variant: &str,
        work: &str,
        unit: &str,
        value: Summary,
    ) -> Self {
        Self {
            bench: bench.to_owned(),
            world: world.to_owned(),
            variant: variant.to_owned(),
            work: work.to_owned(),
            unit: unit.to_owned(),
            value,
            ratio: None,
            goal: None,
            note: None,
        }
    }

    /// With a goal.
    #[must_use]
    pub fn with_goal(mut self, goal: Option<Goal>) -> Self {
        self.goal = goal;
        self
    }

    /// With a note.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// Was the goal reached? `None` where there is no goal, or nothing to compare with it.
    #[must_use]
    pub fn is_reached(&self) -> Option<bool> {
        let goal = self.goal?;
        let reached = match goal.subject {
            Subject::Value => self.value.median,
            Subject::Ratio => self.ratio?.median,
        };
        Some(goal.admits(reached))
    }
}

/// What a figure should at least, or at most, be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Of what.
    pub subject: Subject,
    /// Which side of the limit is good.
    pub bound: Bound,
    /// The limit.
    pub limit: f64,
}

impl Goal {
    /// The ratio to *direct* is at least this.
    #[must_use]
    pub const fn ratio_at_least(limit: f64) -> Self {
        Self {
            subject: Subject::Ratio,
            bound: Bound::AtLeast,
            limit,
        }
    }

    /// The value is at most this.
    #[must_use]
    pub const fn at_most(limit: f64) -> Self {
        Self {
            subject: Subject::Value,
            bound: Bound::AtMost,
            limit,
        }
    }

    fn admits(self, value: f64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= self.limit,
            Bound::AtMost => value <= self.limit,
        }
    }
}

/// What a goal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The median of the values.
    Value,
    /// The median of the ratios.
    Ratio,
}

/// Which side of a limit is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The limit or more.
    AtLeast,
    /// The limit or less.
    AtMost,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64) -> Figure {
        let value = Summary::of(&[value]).unwrap();
        Figure::new("packets", "world", "weir", "connections", "1/s", value)
    }

    #[test]
    fn a_goal_is_reached_at_its_limit() {
        let at_most = figure(5.0).with_goal(Some(Goal::at_most(5.0)));
        assert_eq!(at_most.is_reached(), Some(true));
        let over = figure(5.1).with_goal(Some(Goal::at_most(5.0)));
        assert_eq!(over.is_reached(), Some(false));
    }

    #[test]
    fn a_goal_for_a_ratio_is_open_where_there_is_none() {
        let mut figure = figure(5.0).with_goal(Some(Goal::ratio_at_least(0.98)));
        assert_eq!(figure.is_reached(), None);
        figure.ratio = Summary::of(&[0.98]);
        assert_eq!(figure.is_reached(), Some(true));
    }
}
