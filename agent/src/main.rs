//! `weir`: parse the command line, perform the command, say how it went.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use mimalloc::MiMalloc;
use weir_agent::cli::Cli;

/// Objects are decoded and dropped by the thousand, on several threads: what is freed goes back to
/// the kernel, and is not kept for each thread.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::from_command_line().run()
}
