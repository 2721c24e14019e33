//! `weir`: parse the command line, perform the command, say how it went.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use weir_agent::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
