//! The results: a table for people, and JSON.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::world::Size;

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

/// One result.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    world: Value,
    work: String,
    value: f64,
    unit: &'static str,
    /// What it should be at most.
    goal: Option<f64>,
    /// The least and the most of what was measured several times.
    spread: Option<(f64, f64)>,
}

impl Report {
    /// Adds a value.
    pub fn add(
        &mut self,
        size: Size,
        work: &str,
        value: f64,
        unit: &'static str,
        goal: Option<f64>,
    ) {
        self.0.push(Row {
            bench: "control",
            world: world(size),
            work: work.to_owned(),
            value,
            unit,
            goal,
            spread: None,
        });
    }

    /// Adds the median of several times, in milliseconds, and what one in a hundred exceeds.
    pub fn add_times(
        &mut self,
        size: Size,
        work: &str,
        times: &[Duration],
        goals: Option<(f64, f64)>,
    ) {
        let mut times: Vec<f64> = times.iter().map(|it| it.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (times.first(), times.last()) else {
            return;
        };
        for (name, part, goal) in [
            ("median", 50, goals.map(|it| it.0)),
            ("99 of 100", 99, goals.map(|it| it.1)),
        ] {
            self.0.push(Row {
                bench: "control",
                world: world(size),
                work: format!("{work}, {name}"),
                value: times[(times.len() * part / 100).min(times.len() - 1)],
                unit: "ms",
                goal,
                spread: Some((least, most)),
            });
        }
    }

    /// Shows what was measured with so many services.
    pub fn print(&self, services: usize) {
        println!("\n{services} services");
        let rows = self
            .0
            .iter()
            .filter(|row| row.world["services"] == services);
        for row in rows {
            let goal = row.goal.map_or(String::new(), |goal| {
                let is_met = if row.value < goal { "" } else { "  NOT MET" };
                format!("  (goal < {goal}){is_met}")
            });
            println!("  {:<58} {:>10.2} {}{goal}", row.work, row.value, row.unit);
        }
    }

    /// Writes all of it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0).context("encode the results")?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

fn world(size: Size) -> Value {
    json!({
        "services": size.services, "endpoints": size.services * crate::world::ENDPOINTS,
        "pods": size.pods, "localPods": size.local_pods, "policies": size.policies,
    })
}
