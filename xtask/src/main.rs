//! The project's own commands: `cargo xtask help` lists them.
//!
//! Everything a command needs and a bare machine lacks is fetched into the target directory, with
//! progress; what cannot be had is named together with the way to get it.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line's results and progress"
)]

mod apt;
mod bench;
mod build;
mod build_ebpf;
mod ci;
mod core_source;
mod demo;
mod deploy;
mod fuzz;
mod image;
mod inspect;
mod iptables;
mod kernels;
mod kind;
mod kubernetes_tools;
mod linker;
mod privilege;
mod process;
mod progress;
mod rust;
mod test;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{test::Level, workspace::Workspace};

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "Weir's own commands"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the BPF object, getting its toolchain where that is missing
    BuildEbpf,
    /// Build one static `weir` binary with the BPF object in it
    Build {
        /// Optimised and small; takes longer
        #[arg(long)]
        release: bool,
    },
    /// Build the container image, as an archive that every tool for images reads
    Image(image::Arguments),
    /// The manifests of an installation
    #[command(subcommand)]
    Deploy(Deploy),
    /// A cluster of containers on this machine, with Weir in place of kube-proxy
    #[command(subcommand)]
    Kind(kind::Command),
    /// Show a cluster with two nodes on this machine, as root or through sudo
    Demo {
        /// End after the last step instead of staying up
        #[arg(long)]
        once: bool,
        /// Further arguments of the demonstration: `cargo xtask demo -- --help` lists them
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Run the tests: every level, or those that are named
    Test {
        /// The levels to run
        levels: Vec<Level>,
    },
    /// Measure what Weir costs, beside no proxy and beside kube-proxy's rules, as root
    Bench(bench::Arguments),
    /// Check formatting, lints and documentation
    Lint,
    /// Run everything that a change has to pass: the lints, then the tests
    Ci,
    /// Send random bytes through the packet logic, guided by coverage
    Fuzz {
        /// One fuzz target; all of them where none is named
        target: Option<String>,
        /// How long for each
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(Subcommand)]
enum Deploy {
    /// Render what kustomize reads from the chart, after the chart has changed
    Render,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::BuildEbpf => build_ebpf::run(&workspace)?,
        Command::Build { release } => build::run(&workspace, release)?,
        Command::Image(arguments) => image::run(&workspace, &arguments)?,
        Command::Deploy(Deploy::Render) => deploy::render(&workspace)?,
        Command::Kind(command) => kind::run(&workspace, &command)?,
        Command::Demo { once, arguments } => demo::run(&workspace, once, arguments)?,
        Command::Test { levels } => test::run(&workspace, &levels)?,
        Command::Bench(arguments) => bench::run(&workspace, &arguments)?,
        Command::Lint => ci::lint(&workspace)?,
        Command::Ci => ci::run(&workspace)?,
        Command::Fuzz { target, seconds } => fuzz::run(&workspace, target.as_deref(), seconds)?,
    }
    Ok(())
}
