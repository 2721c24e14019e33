//! The program that starts and plays the processes of a test bed. Not for use by hand.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use weir_tests::bed::{self, Bed, Topology, Wiring};
use weir_tests::testpod;

#[derive(Debug, Parser)]
enum Command {
    /// Become a program in a network namespace and a cgroup
    Enter {
        /// File of the network namespace
        namespace: PathBuf,
        /// Directory of the cgroup
        group: PathBuf,
        /// Program and arguments
        #[arg(last = true)]
        program: Vec<OsString>,
    },
    /// Start a container and hand on the signal that ends it
    Contain {
        /// What it is
        file: PathBuf,
    },
    /// Become a container's program
    Contained {
        /// What it is
        file: PathBuf,
    },
    /// Do what the lines on the input say
    Serve {
        /// To answer by
        name: String,
    },
    /// Work and be worked for, as the lines on the input say: for measurements
    Load,
    /// Reach out at once, and say what came of it
    First {
        /// Who may be asked
        allowed: SocketAddr,
        /// Who must not
        forbidden: Vec<SocketAddr>,
    },
    /// Copy the agent's binary with another version of the tables' layout
    Relabel {
        /// The agent's binary
        weir: PathBuf,
        /// The copy
        copy: PathBuf,
        /// The version
        version: u32,
    },
    /// Build a bed, say where, and hold it until killed: for the tests of the bed
    Hold,
    /// Remove a bed when the input ends
    Guard {
        /// The bed's directory
        run_dir: PathBuf,
        /// The bed's cgroup
        group: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let start = Instant::now();
    match Command::parse() {
        Command::Enter {
            namespace,
            group,
            program,
        } => bed::process::enter(&namespace, &group, &program)?,
        Command::Contain { file } => return bed::container::contain(&file),
        Command::Contained { file } => bed::container::become_contained(&file)?,
        Command::Serve { name } => testpod::run(&name)?,
        Command::Load => weir_tests::bench::load::run()?,
        Command::First { allowed, forbidden } => testpod::first::run(start, allowed, &forbidden)?,
        Command::Relabel {
            weir,
            copy,
            version,
        } => bed::upgrade::relabel(&weir, &copy, version)?,
        Command::Hold => hold()?,
        Command::Guard { run_dir, group } => bed::guardian::guard(&run_dir, &group)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn hold() -> Result<()> {
    let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
    let _pod = bed.pod(0, "pod", 2)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", bed.run_dir().display())?;
    writeln!(out, "{}", bed.group().display())?;
    writeln!(out, "{}", bed.guardian_pid())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
