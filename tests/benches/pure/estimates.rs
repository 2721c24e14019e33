//! Criterion's times as figures: the same tables, the same file as those of everything else here.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use criterion::{Bencher, Criterion};
use serde::Deserialize;
use tempfile::TempDir;
use weir_tests::bench::{Figure, Summary};

/// The name by which figures are known.
const BENCH: &str = "pure";

/// Criterion, and what it has measured so far.
pub struct Estimates {
    criterion: Criterion,
    /// Where it writes; nothing is there of an earlier run, to which it would compare.
    directory: TempDir,
    world: String,
    count: usize,
    figures: Vec<Figure>,
}

/// What of a duration people read.
#[derive(Clone, Copy)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Milliseconds,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
        }
    }

    const fn nanoseconds(self) -> f64 {
        match self {
            Self::Nanoseconds => 1.0,
            Self::Microseconds => 1e3,
            Self::Milliseconds => 1e6,
        }
    }
}

/// The samples as Criterion keeps them: how often, and how many nanoseconds that took.
#[derive(Deserialize)]
struct Sample {
    iters: Vec<f64>,
    times: Vec<f64>,
}

impl Estimates {
    /// Nothing yet.
    pub fn new(is_quick: bool) -> Result<Self> {
        let directory = TempDir::new().context("make a directory for Criterion")?;
        // Ten samples are the least that Criterion takes.
        let (samples, warm_up, time) = match is_quick {
            true => (10, Duration::from_millis(100), Duration::from_millis(300)),
            false => (30, Duration::from_millis(500), Duration::from_secs(3)),
        };
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(directory.path())
            .sample_size(samples)
            .warm_up_time(warm_up)
            .measurement_time(time);
        Ok(Self {
            criterion,
            directory,
            world: String::new(),
            count: 0,
            figures: Vec::new(),
        })
    }

    /// What comes now is of this world.
    pub fn begin(&mut self, world: &str) {
        world.clone_into(&mut self.world);
    }

    /// Measures what `routine` has Criterion repeat.
    pub fn measure(
        &mut self,
        who: &str,
        work: &str,
        unit: Unit,
        routine: impl FnMut(&mut Bencher<'_>),
    ) -> Result<()> {
        // Its directories are named like this: short, and no two alike.
        let name = format!("{}", self.count);
        self.count += 1;
        let title = format!("{name}: {who}, {work}");
        self.criterion.bench_function(&title, routine);
        let value = self
            .read(&name, unit)
            .with_context(|| format!("read what Criterion says of {title}"))?;
        self.figures.push(Figure::new(
            BENCH,
            &self.world,
            who,
            work,
            unit.name(),
            value,
        ));
        Ok(())
    }

    /// What was measured since the last time.
    pub fn take(&mut self) -> Vec<Figure> {
        std::mem::take(&mut self.figures)
    }

    fn read(&self, name: &str, unit: Unit) -> Result<Summary> {
        let entries = std::fs::read_dir(self.directory.path()).context("list its directory")?;
        let start = format!("{name}_");
        let found = entries
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with(&start))
            .context("there is none of that name")?;
        let Sample { iters, times } = sample(&found.path().join("new/sample.json"))?;
        ensure!(iters.len() == times.len(), "a time for each count");
        let each: Vec<f64> = iters
            .iter()
            .zip(&times)
            .map(|(count, time)| time / count / unit.nanoseconds())
            .collect();
        Summary::of(&each).context("there are samples")
    }
}

fn sample(file: &Path) -> Result<Sample> {
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))
}
