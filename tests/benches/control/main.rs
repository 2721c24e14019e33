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
//! | processor time | what all of the agent's threads ran, by `schedstat` |
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

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use ground::Ground;
use report::Report;
use world::Size;

#[derive(Parser)]
struct Arguments {
    /// Fewer and shorter measurements
    #[arg(long)]
    quick: bool,
    /// Write the results there, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only clusters of so many services
    #[arg(long)]
    services: Vec<usize>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let weir = ground::weir()?;
    let sizes = match (&*arguments.services, arguments.quick) {
        ([], true) => vec![10, 10_000],
        ([], false) => vec![1, 100, 1_000, 10_000],
        (some, _) => some.to_vec(),
    };
    let mut report = Report::default();
    for services in sizes {
        let size = Size::of(services);
        eprintln!("a cluster of {services} services ...");
        let (mut ground, start) = Ground::prepare(&weir, size)?;
        measure::all(&mut ground, start, arguments.quick, &mut report)?;
        report.print(services);
    }
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    Ok(())
}
