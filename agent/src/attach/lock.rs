//! One agent per run directory.
//!
//! A second one, as where a rolling update starts the next before the last has ended, waits: it
//! says who holds the lock, touches nothing, and takes over when the first ends. What cannot wait,
//! such as `weir cleanup`, is refused instead.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

/// Held by the running agent; the kernel lets go of it when the agent ends, however it ends.
#[derive(Debug)]
pub struct AgentLock {
    _file: Flock<File>,
}

/// What came of a try.
enum Attempt {
    Taken(AgentLock),
    /// By this process, as far as the lock says.
    Held(String),
    /// The file was removed or exchanged meanwhile: what was locked is nobody's lock any more.
    Outdated,
}

/// [`AgentLock::is_held`] takes the lock for a moment; that is not another agent.
const PATIENCE: Duration = Duration::from_millis(500);
/// From one try to the next, at first.
const SOON: Duration = Duration::from_millis(10);
/// And where another agent is known to run: traffic goes on whoever holds the lock.
const LATER: Duration = Duration::from_millis(200);

impl AgentLock {
    /// Takes the lock, which is a file, and writes our process id into it.
    ///
    /// # Errors
    ///
    /// The file cannot be made, or another process, which is named, holds the lock.
    pub fn acquire(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::attempt(path)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::Held(holder) if Instant::now() >= deadline => bail!(
                    "another agent runs here (process {holder} holds {}): stop it first, or give \
                     this one its own --run-dir and --bpffs",
                    path.display()
                ),
                Attempt::Held(_) | Attempt::Outdated => std::thread::sleep(SOON),
            }
        }
    }

    /// Takes the lock as soon as nobody else has it, and says so while another agent does.
    ///
    /// # Errors
    ///
    /// The file cannot be made, or the kernel refuses.
    pub async fn wait(path: &Path) -> Result<Self> {
        let start = Instant::now();
        let mut named = None;
        loop {
            match Self::attempt(path)? {
                Attempt::Taken(lock) => {
                    if named.is_some() {
                        info!("the other agent has ended: taking over");
                    }
                    return Ok(lock);
                }
                Attempt::Held(holder) if start.elapsed() >= PATIENCE => {
                    if named.as_ref() != Some(&holder) {
                        warn!(
                            "another agent runs here (process {holder} holds {}): waiting until it ends",
                            path.display()
                        );
                        named = Some(holder);
                    }
                    tokio::time::sleep(LATER).await;
                }
                Attempt::Held(_) | Attempt::Outdated => tokio::time::sleep(SOON).await,
            }
        }
    }

    fn attempt(path: &Path) -> Result<Attempt> {
        // `weir cleanup` removes the file, and the directory if it is empty.
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("open the lock {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) if !is_at(&file, path) => Ok(Attempt::Outdated),
            Ok(mut file) => {
                file.set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .with_context(|| format!("write to the lock {}", path.display()))?;
                Ok(Attempt::Taken(Self { _file: file }))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // Only for the message: an unreadable file means an unknown holder.
                Ok(Attempt::Held(match file.read_to_string(&mut holder) {
                    Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
                    _ => "unknown".to_owned(),
                }))
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

/// Does the path still lead to this file or directory?
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
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

    #[test]
    fn the_lock_of_a_dead_process_is_taken_with_its_directory_or_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/agent.lock");
        drop(AgentLock::acquire(&path).unwrap());
        fs::write(&path, "4194305\n").unwrap();
        drop(AgentLock::acquire(&path).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_lock_of_the_path_and_not_of_a_removed_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.lock");
        let held = AgentLock::acquire(&path).unwrap();
        let waiting = AgentLock::wait(&path);
        tokio::pin!(waiting);
        // Time enough for one try.
        tokio::select! {
            biased;
            outcome = &mut waiting => panic!("the lock is held: {outcome:?}"),
            () = tokio::task::yield_now() => {}
        }
        // As `weir cleanup` does.
        fs::remove_file(&path).unwrap();
        drop(held);
        let taken = waiting.await.unwrap();
        assert!(AgentLock::is_held(&path).unwrap(), "it is the path's");
        drop(taken);
        assert!(!AgentLock::is_held(&path).unwrap());
    }
}
