//! Leaving nothing behind, whatever ends a bed.
//!
//! A bed lasts in two places only: its directory in `/run` and its part of the cgroup tree (its
//! mounts and network namespaces live in its processes, see [`keeper`](super::keeper)). A process
//! of its own, the guardian, removes both as soon as the bed's owner has closed the pipe between
//! them: by dropping the bed, by a panic, or by being killed. Should the guardian itself be
//! killed, the next bed's [`reap`] does its work.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};

use super::cgroup;
use super::identity::Identity;

/// Held by the guardian while it lives.
const LOCK: &str = "guardian.lock";

/// The owner's end of the pipe, and the process at the other.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
}

impl Guardian {
    /// Makes the bed's two places and starts their guardian.
    pub fn start(helper: &Path, identity: &Identity) -> Result<Self> {
        fs::create_dir_all(identity.run_dir())
            .with_context(|| format!("create {}", identity.run_dir().display()))?;
        cgroup::create(identity.cgroup())?;
        let process = Command::new(helper)
            .arg("guard")
            .args([identity.run_dir(), identity.cgroup()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in the terminal is for the owner.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start the guardian {}", helper.display()))?;
        let mut guardian = Self { process };
        let mut ready = [0];
        guardian
            .process
            .stdout
            .as_mut()
            .context("the guardian has an output")?
            .read_exact(&mut ready)
            .context("the guardian did not start")?;
        Ok(guardian)
    }

    /// The guardian's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Has everything removed and waits for it. Asking twice is fine.
    pub fn finish(&mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait().context("wait for the guardian")?;
        ensure!(status.success(), "the guardian failed: {status}");
        Ok(())
    }
}

/// The guardian process itself: waits until its input ends, then removes the bed.
pub fn guard(run_dir: &Path, cgroup: &Path) -> Result<()> {
    // The owner's end is what ends a guardian, not the signal that ends the owner.
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect::<SigSet>()
        .thread_block()
        .context("block signals")?;
    let lock = File::create(run_dir.join(LOCK)).context("create the guardian's lock")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .context("take the guardian's lock")?;
    let mut owner = std::io::stdout();
    owner.write_all(b".").context("report to the owner")?;
    owner.flush().context("report to the owner")?;
    let mut rest = Vec::new();
    std::io::stdin()
        .read_to_end(&mut rest)
        .context("wait for the owner's end")?;
    remove(run_dir, cgroup)
}

/// Removes what beds left whose owner and guardian are both dead.
pub fn reap() -> Result<()> {
    for identity in Identity::all_on_this_machine()? {
        if !identity.owner_lives() && !guardian_lives(identity.run_dir())? {
            remove(identity.run_dir(), identity.cgroup())?;
        }
    }
    Ok(())
}

fn remove(run_dir: &Path, cgroup: &Path) -> Result<()> {
    let groups = cgroup::remove(cgroup);
    match fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", run_dir.display()))?;
        }
        Ok(()) | Err(_) => {}
    }
    groups
}

fn guardian_lives(run_dir: &Path) -> Result<bool> {
    let path: PathBuf = run_dir.join(LOCK);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    Ok(Flock::lock(lock, FlockArg::LockSharedNonblock).is_err())
}
