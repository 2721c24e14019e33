//! What the control plane costs: `cargo xtask bench control`.
//!
//! The real agent, in a network namespace of its own with the pods of one node, hears of a large
//! cluster from an API server with TLS and tokens, which runs on the same machine and takes part of
//! its processors; then of the same cluster from files. Measured are
//!
//! | what | how |
//! |---|---|
//! | start, and start over the tables of an agent before | the agent's own log: from the arrival of the last list until it has synchronised and attached |
//! | memory | `/proc`: resident now, and at its peak; each map by its `fdinfo` |
//! | a change | from the API server's taking it in, or a file's being there, until a packet of a pod meets it: a UDP question every 100 µs or so |
//! | kube-proxy's rules | what `nft` takes to write them |
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
mod kube_proxy;
mod machine;
mod measure;
mod probe;
mod report;
mod teller;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use weir_tests::bench::Report;

use ground::Ground;
use measure::Effort;
use report::Figures;
use teller::Source;
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
    let numbers = numbers_of_services(report.is_quick());
    let largest = numbers.iter().copied().max();
    let clusters: Vec<(usize, Source, Effort)> = [Source::Api, Source::Files]
        .into_iter()
        .flat_map(|source| numbers.iter().map(move |number| (*number, source)))
        .map(|(number, source)| {
            let effort = Effort::of(report.is_quick(), Some(number) == largest);
            (number, source, effort)
        })
        .collect();
    let whole: Duration = clusters
        .iter()
        .map(|(_, source, effort)| effort.duration(*source))
        .chain(
            numbers
                .iter()
                .map(|number| kube_proxy::duration(*number, report.is_quick())),
        )
        .sum();
    report.note(&format!(
        "{} clusters, {:.1} minutes, and what it takes to build them",
        clusters.len(),
        whole.as_secs_f64() / 60.0
    ));
    for (services, source, effort) in clusters {
        let size = Size::of(services);
        report.note(&format!(
            "a cluster of {services} services, told by {}: {:.1} minutes ...",
            source.name(),
            effort.duration(source).as_secs_f64() / 60.0
        ));
        let (mut ground, start) = Ground::prepare(&weir, size, source)?;
        let mut figures = Figures::new(size, source);
        measure::all(&mut ground, start, (source, effort), &mut figures)?;
        drop(ground);
        if source == Source::Api {
            kube_proxy::measure(services, report.is_quick(), &mut figures)?;
        }
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
