//! One agent per pin directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Held by the running agent; the kernel lets go of it when the agent ends, however it ends.
#[derive(Debug)]
pub struct AgentLock {
    _file: Flock<File>,
}

impl AgentLock {
    /// Takes the lock, which is a file, and writes our process id into it.
    ///
    /// # Errors
    ///
    /// The file cannot be made, or another process, which is named, holds the lock.
    pub fn acquire(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("open the lock {}", path.display()))?;
        match lock_patiently(file) {
            Ok(mut file) => {
                file.set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .with_context(|| format!("write to the lock {}", path.display()))?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // Only for the message: an unreadable file means an unknown holder.
                let holder = match file.read_to_string(&mut holder) {
                    Ok(_) if !holder.trim().is_empty() => holder.trim(),
                    _ => "unknown",
                };
                bail!(
                    "another agent runs here (process {holder} holds {}): stop it first, or give \
                     this one its own --run-dir and --bpffs",
                    path.display()
                )
            }
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("take the lock {}", path.display()))
            }
        }
    }

    /// Does a process hold the lock? One that is not there is held by nobody.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or the kernel does not say.
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(error).with_context(|| format!("open the lock {}", path.display()));
            }
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(false),
            Err((_, Errno::EWOULDBLOCK)) => Ok(true),
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("ask for the lock {}", path.display()))
            }
        }
    }
}

/// [`AgentLock::is_held`] takes the lock for a moment; that is not another agent.
const PATIENCE: Duration = Duration::from_millis(500);

fn lock_patiently(mut file: File) -> Result<Flock<File>, (File, Errno)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((returned, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = returned,
            result => return result,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.lock");
        let held = AgentLock::acquire(&path).unwrap();
        let text = AgentLock::acquire(&path).unwrap_err().to_string();
        assert!(
            text.contains(&format!("process {} holds", std::process::id())),
            "{text}"
        );
        assert!(AgentLock::is_held(&path).unwrap());
        drop(held);
        assert!(!AgentLock::is_held(&path).unwrap());
        AgentLock::acquire(&path).unwrap();
    }
}
