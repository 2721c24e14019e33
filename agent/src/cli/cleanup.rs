//! `weir cleanup`.

use std::{fs, io, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use super::output;
use crate::{
    attach::{self, AgentLock},
    config::{Paths, lock_file, prepared_kubeconfig},
    observe::status,
};

/// What `weir cleanup` can be told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    paths: Paths,

    /// Do not end before SIGTERM: for a DaemonSet, which would start it again and again
    #[arg(long)]
    stay: bool,
}

/// Cleans the node up, and stays if it has to.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    if arguments.stay {
        // Also as a container's first process, which signals without a handler do not reach.
        ends.thread_block().context("wait for SIGTERM")?;
    }
    let code = clean_up(&arguments.paths)?;
    if arguments.stay {
        ends.wait().context("wait for SIGTERM")?;
    }
    Ok(code)
}

/// Removes programs, tables, pins, and what the agent has left in its run directory.
fn clean_up(paths: &Paths) -> Result<ExitCode> {
    let lock = lock_file(&paths.run_dir);
    // An agent that runs would attach everything again.
    let held = match paths.run_dir.is_dir() {
        true => Some(AgentLock::acquire(&lock)?),
        false => None,
    };
    let removed = attach::cleanup(&paths.bpffs)?;
    for file in [
        status::file(&paths.run_dir),
        prepared_kubeconfig(&paths.run_dir),
        lock,
    ] {
        remove(&file)?;
    }
    drop(held);
    // Someone else may keep something there, or it is a mount point.
    let _ = fs::remove_dir(&paths.run_dir);
    output::line(&if removed.is_empty() {
        "nothing to remove: no program, table or pin of weir was found".to_owned()
    } else {
        format!("removed {removed}")
    });
    Ok(ExitCode::SUCCESS)
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", file.display()))
        }
        _ => Ok(()),
    }
}
