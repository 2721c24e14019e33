//! `weir`: parse the command line, perform the command, say how it went.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use weir_agent::cli::Cli;

fn main() -> ExitCode {
    Cli::from_command_line().run()
}
