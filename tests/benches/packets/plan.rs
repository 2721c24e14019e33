//! What is measured, how often, and how long that will take.

use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_tests::bench::lanes::{Contender, Lane, Side};
use weir_tests::bench::load::Work;
use weir_tests::bench::site::{Processors, WARM_UP};

/// Names the numbers of services, with commas, where others than those of the plan are wanted.
const SERVICES: &str = "WEIR_BENCH_SERVICES";
/// Names the numbers of policies likewise.
const POLICIES: &str = "WEIR_BENCH_POLICIES";
/// Names how many samples of each there are.
const ROUNDS: &str = "WEIR_BENCH_ROUNDS";
/// Names how long a sample takes, in milliseconds.
const MILLIS: &str = "WEIR_BENCH_MILLIS";
/// What a sample takes beside its time: four processes are told what to do and asked what it cost.
const OVERHEAD: Duration = Duration::from_millis(15);

/// What is measured, and how long.
pub struct Plan {
    /// How many services there are.
    pub services: Vec<u32>,
    /// With how many policies each.
    pub policies: Vec<u32>,
    pub works: Vec<Work>,
    pub processors: Vec<Processors>,
    pub rounds: usize,
    /// Of a sample.
    pub time: Duration,
}

impl Plan {
    /// Less than a minute of measuring.
    fn quick() -> Self {
        Self {
            services: vec![1],
            policies: vec![0, 10],
            works: Work::ALL.to_vec(),
            processors: vec![Processors::One],
            rounds: 5,
            time: Duration::from_millis(80),
        }
    }

    /// A quarter of an hour.
    fn full() -> Self {
        Self {
            services: vec![1, 100, 1_000, 10_000],
            policies: vec![0, 10, 500],
            works: Work::ALL.to_vec(),
            processors: vec![Processors::One, Processors::Two],
            rounds: 7,
            time: Duration::from_millis(120),
        }
    }

    /// As the environment asks for it.
    pub fn asked(is_quick: bool) -> Result<Self> {
        let mut plan = if is_quick {
            Self::quick()
        } else {
            Self::full()
        };
        if let Some(services) = numbers(SERVICES)? {
            plan.services = services;
        }
        if let Some(policies) = numbers(POLICIES)? {
            plan.policies = policies;
        }
        if let Some(&[rounds, ..]) = numbers(ROUNDS)?.as_deref() {
            plan.rounds = rounds.max(1) as usize;
        }
        if let Some(&[millis, ..]) = numbers(MILLIS)?.as_deref() {
            plan.time = Duration::from_millis(millis.max(1).into());
        }
        // A processor each needs two.
        let count = std::thread::available_parallelism().context("count the processors")?;
        if count.get() < 2 {
            plan.processors.retain(|it| *it == Processors::One);
        }
        Ok(plan)
    }

    /// All samples in clusters of one size.
    pub fn samples(&self, contenders: &[Contender]) -> usize {
        let lanes = |side| {
            let works = self.works.iter();
            works.map(move |work| Lane::all(contenders, side, *work).len())
        };
        let lanes: usize = Side::ALL.into_iter().flat_map(lanes).sum();
        lanes * self.rounds * self.processors.len()
    }

    /// How long so many samples take on a machine that does nothing else.
    pub fn duration(&self, samples: usize) -> Duration {
        let each = self.time + WARM_UP + OVERHEAD;
        each * u32::try_from(samples).unwrap_or(u32::MAX)
    }

    /// What will be done, for people.
    pub fn describe(&self, contenders: &[Contender]) -> String {
        let samples = self.samples(contenders) * self.services.len();
        format!(
            "services: {}; policies: {}; kinds of work: {}; contenders: {}; on {}; rounds: {}; each \
             sample {:?}: {samples} samples in all, {} minutes, and what it takes to build the clusters",
            list(&self.services),
            list(&self.policies),
            self.works.len(),
            contenders.len() + 1,
            match self.processors.len() {
                1 => "one processor",
                _ => "one processor and on two",
            },
            self.rounds,
            self.time,
            minutes(self.duration(samples)),
        )
    }
}

/// For people.
pub fn minutes(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() / 60.0)
}

fn list(numbers: &[u32]) -> String {
    let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
    texts.join(", ")
}

/// What the environment names, if anything.
fn numbers(name: &str) -> Result<Option<Vec<u32>>> {
    let Ok(list) = std::env::var(name) else {
        return Ok(None);
    };
    let numbers = list.split(',').map(|number| {
        number
            .parse()
            .with_context(|| format!("{name}={list}: {number:?} is no number"))
    });
    numbers.collect::<Result<_>>().map(Some)
}
