//! What the control plane costs: `cargo xtask bench control`.
//!
//! The real agent, in a network namespace of its own with the pods of one node, hears of a large
//! cluster from an API server with TLS and tokens, which runs on the same machine and takes part of
//! its processors. Measured are
//!
//! | what | how |
//! |---|---|
//! | start, and start over the tables of an agent before | the agent's own log: from the arrival of the last list until it has synchronised and attached |
//! | memory | `/proc`: resident now, and at its peak; each map by its `fdinfo` |
//! | a change | from the API server's taking it in until a packet of a pod meets it: a UDP question every 100 µs or so |
//! | processor time | what all of the agent's threads ran, by the process's own clock |
//!
//! Times of one change are noisy where other work has the processors; processor time is not. The
//! agent must be the release build: the goals are for that.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program's results and progress"
)]

mod ground;
mod machine;
mod measure;
mod probe;
mod report;
mod world;

use std::process::ExitCode;

use anyhow::Result;
use weir_tests::bench::Report;

use ground::Ground;
use report::Figures;
use world::Size;

/// Names the numbers of services, with commas, where others than these are wanted.
const SERVICES: &str = "WEIR_BENCH_SERVICES";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut report = Report::from_environment();
    let weir = ground::weir()?;
    for services in numbers_of_services(report.is_quick()) {
        let size = Size::of(services);
        report.note(&format!("a cluster of {services} services ..."));
        let (mut ground, start) = Ground::prepare(&weir, size)?;
        let mut figures = Figures::new(size);
        measure::all(&mut ground, start, report.is_quick(), &mut figures)?;
        let (title, figures) = figures.finish();
        report.add(&title, figures);
    }
    report.finish()
}

fn numbers_of_services(is_quick: bool) -> Vec<usize> {
    let named = std::env::var(SERVICES).unwrap_or_default();
    let named: Vec<usize> = named.split(',').filter_map(|it| it.parse().ok()).collect();
    match (named.is_empty(), is_quick) {
        (false, _) => named,
        (true, true) => vec![1, 10_000],
        (true, false) => vec![1, 100, 1_000, 10_000],
    }
}
