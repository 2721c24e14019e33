//! `weir cleanup`.

use std::{fs, io, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use super::output;
use crate::{
    attach::{self, AgentLock, PinsLock},
    config::{Paths, lock_file, prepared_kubeconfig},
    kube_proxy,
    maps::pins::Pins,
    observe::{endpoints, socket, status},
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

/// Removes programs, tables, pins, what keeps the connections of a former kube-proxy, and what the
/// agent has left in its run directory.
fn clean_up(paths: &Paths) -> Result<ExitCode> {
    let lock = lock_file(&paths.run_dir);
    // An agent that runs would attach everything again.
    let end_it = "nothing was removed: an agent that runs would bring everything back; end it \
                  first (delete the DaemonSet, or its pod on this node)";
    let held = match paths.run_dir.is_dir() {
        true => Some(AgentLock::acquire(&lock).context(end_it)?),
        false => None,
    };
    let _pins = PinsLock::acquire(&Pins::new(&paths.bpffs)).context(end_it)?;
    let detached = attach::cleanup(&paths.bpffs)?;
    let is_released = kube_proxy::release()?;
    let mut files = 0;
    for file in [
        status::file(&paths.run_dir),
        socket::path(&paths.run_dir),
        prepared_kubeconfig(&paths.run_dir),
    ] {
        files += usize::from(removed(&file, fs::remove_file(&file))?);
    }
    let directory = endpoints::directory(&paths.run_dir);
    files += usize::from(removed(&directory, fs::remove_dir_all(&directory))?);
    removed(&lock, fs::remove_file(&lock))?;
    drop(held);
    // Someone else may keep something there, or it is a mount point.
    let _ = fs::remove_dir(&paths.run_dir);
    let mut said = Vec::new();
    if !detached.is_empty() {
        said.push(detached.to_string());
    }
    if is_released {
        said.push(format!("the nftables tables {}", kube_proxy::HOLDER));
    }
    if files > 0 {
        said.push(format!("the agent's files in {}", paths.run_dir.display()));
    }
    output::line(&if said.is_empty() {
        "nothing to remove: no program, table, pin or file of weir was found".to_owned()
    } else {
        format!("removed {}", said.join(", "))
    });
    Ok(ExitCode::SUCCESS)
}

/// Was it there?
fn removed(path: &Path, result: io::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}
