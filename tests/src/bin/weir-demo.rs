//! The demonstration: `cargo xtask demo` builds what it needs and runs it as root.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_tests::bed::Wiring;
use weir_tests::demo;

/// The lesson's cluster on this machine: two nodes, a service, its pods, a resolver, a client
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Args)]
struct Show {
    /// End after the last step instead of staying up
    #[arg(long)]
    once: bool,
    /// The binary to show [default: the `weir` beside this program]
    #[arg(long, env = "WEIR_BINARY", value_name = "PATH")]
    weir: Option<PathBuf>,
    /// How pods hang on their nodes
    #[arg(long, value_enum, default_value = "routed")]
    wiring: WiringName,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program, or a shell, in a pod or on a node of the demonstration that runs
    Enter {
        /// Pod or node
        name: String,
        /// Program and arguments [default: a shell]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<OsString>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WiringName {
    /// A veth and a host route for each pod
    Routed,
    /// A bridge on each node
    Bridged,
}

fn main() -> ExitCode {
    perform(Cli::parse()).unwrap_or_else(|error| {
        #[allow(clippy::print_stderr, reason = "the one place where a failure is told")]
        {
            eprintln!("error: {error:#}");
        }
        ExitCode::FAILURE
    })
}

fn perform(cli: Cli) -> Result<ExitCode> {
    if let Some(Command::Enter { name, program }) = cli.command {
        // Becomes the program, or fails.
        demo::enter(&name, &program)?;
    }
    demo::run(&demo::Options {
        weir: match cli.show.weir {
            Some(weir) => weir,
            None => beside_this_program()?,
        },
        wiring: match cli.show.wiring {
            WiringName::Routed => Wiring::Routed,
            WiringName::Bridged => Wiring::Bridged,
        },
        once: cli.show.once,
    })
}

fn beside_this_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find the running program")?;
    Ok(program.with_file_name("weir"))
}
