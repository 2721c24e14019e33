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
mod build;
mod build_ebpf;
mod core_source;
mod inspect;
mod linker;
mod process;
mod progress;
mod rust;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Weir's own commands")]
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
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::BuildEbpf => build_ebpf::run(&workspace)?,
        Command::Build { release } => build::run(&workspace, release)?,
    }
    Ok(ExitCode::SUCCESS)
}
