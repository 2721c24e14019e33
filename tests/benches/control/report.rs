//! The figures of one cluster.

use std::time::Duration;

use weir_tests::bench::{Figure, Goal, Summary, statistics};

use crate::teller::Source;
use crate::world::{ENDPOINTS, Size};

/// Who is measured, and whose rules stand beside it.
const WEIR: &str = "weir";
/// See [`WEIR`].
pub const KUBE_PROXY: &str = "nftables";

/// What was measured in a cluster of this size.
#[derive(Debug)]
pub struct Figures {
    world: String,
    figures: Vec<Figure>,
}

impl Figures {
    /// Nothing yet.
    pub fn new(size: Size, source: Source) -> Self {
        Self {
            world: world(size, source),
            figures: Vec::new(),
        }
    }

    /// Adds a value that was measured once.
    pub fn add(&mut self, work: &str, value: f64, unit: &str, at_most: Option<f64>) {
        self.push(WEIR, work, &[value], unit, at_most);
    }

    /// Adds a value of somebody else's.
    pub fn add_of(&mut self, who: &str, work: &str, value: f64, unit: &str) {
        self.push(who, work, &[value], unit, None);
    }

    /// Adds the median of several times of somebody else's.
    pub fn add_times_of(&mut self, who: &str, work: &str, times: &[Duration]) {
        let times: Vec<f64> = times.iter().map(|it| it.as_secs_f64() * 1e3).collect();
        self.push(who, work, &times, "ms", None);
    }

    /// Adds the median of several times, and what one in a hundred exceeds, each with its goal.
    pub fn add_times(&mut self, work: &str, times: &[Duration], goals: Option<[f64; 2]>) {
        let mut times: Vec<f64> = times.iter().map(|it| it.as_secs_f64() * 1e3).collect();
        self.push(WEIR, work, &times, "ms", goals.map(|[median, _]| median));
        times.sort_by(f64::total_cmp);
        let last = statistics::quantile(&times, 0.99);
        let goal = goals.map(|[_, last]| last);
        let of_last = format!("{work}: 99 of 100");
        self.push(WEIR, &of_last, last.as_slice(), "ms", goal);
    }

    fn push(&mut self, who: &str, work: &str, values: &[f64], unit: &str, at_most: Option<f64>) {
        let Some(value) = Summary::of(values) else {
            return;
        };
        let figure = Figure::new("control", &self.world, who, work, unit, value);
        let goal = at_most.map(Goal::at_most);
        self.figures.push(figure.with_goal(goal));
    }

    /// All of them, with the title under which they are shown.
    pub fn finish(self) -> (String, Vec<Figure>) {
        (format!("control plane, {}", self.world), self.figures)
    }
}

fn world(size: Size, source: Source) -> String {
    let Size {
        services,
        pods,
        local_pods,
        policies,
    } = size;
    let endpoints = services * ENDPOINTS;
    format!(
        "{services} services, {endpoints} endpoints, {pods} pods ({local_pods} on the node), \
         {policies} policies, told by {}",
        source.name()
    )
}
