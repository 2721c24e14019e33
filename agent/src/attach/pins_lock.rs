//! One agent per directory of pins, whatever its run directory.
//!
//! The directory itself is locked, so that whoever means the same tables meets the same lock. As
//! long as it is held the BPF file system cannot be unmounted but lazily, and one that is
//! unmounted so keeps its pins, and with them the programs at work.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use super::lock::is_at;
use crate::maps::pins::Pins;

/// Held by the running agent; the kernel lets go of it when the agent ends, however it ends.
#[derive(Debug)]
pub struct PinsLock {
    directory: Flock<File>,
}

/// What came of a try.
enum Attempt {
    Taken(PinsLock),
    /// By this process, as far as the kernel says.
    Held(String),
    /// The directory was removed meanwhile: what was locked is nobody's lock any more.
    Outdated,
}

/// Until a directory that is removed and made again stays.
const PATIENCE: Duration = Duration::from_millis(500);
/// From one try to the next.
const SOON: Duration = Duration::from_millis(10);
/// And where another agent is known to run: traffic goes on whoever holds the lock.
const LATER: Duration = Duration::from_millis(200);

impl PinsLock {
    /// Takes the lock as soon as nobody else has it, and says so while another agent does. Makes
    /// the directory.
    ///
    /// # Errors
    ///
    /// No BPF file system is there, or the kernel refuses.
    pub async fn wait(pins: &Pins) -> Result<Self> {
        let mut named = None;
        loop {
            pins.prepare_root()?;
            match Self::attempt(&pins.root())? {
                Attempt::Taken(lock) => {
                    if named.is_some() {
                        info!("the other agent has ended: taking over");
                    }
                    return Ok(lock);
                }
                Attempt::Held(holder) => {
                    if named.as_ref() != Some(&holder) {
                        warn!(
                            "another agent works with the tables at {} (process {holder}, with \
                             another --run-dir): waiting until it ends",
                            pins.root().display()
                        );
                        named = Some(holder);
                    }
                    tokio::time::sleep(LATER).await;
                }
                Attempt::Outdated => tokio::time::sleep(SOON).await,
            }
        }
    }

    /// Takes the lock of a directory; `None` where there is no such directory.
    ///
    /// # Errors
    ///
    /// Another process, which is named, holds it, or the kernel refuses.
    pub fn acquire(pins: &Pins) -> Result<Option<Self>> {
        let root = pins.root();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if !root.is_dir() {
                return Ok(None);
            }
            match Self::attempt(&root)? {
                Attempt::Taken(lock) => return Ok(Some(lock)),
                Attempt::Held(holder) => bail!(
                    "another agent works with the tables at {} (process {holder})",
                    root.display()
                ),
                Attempt::Outdated if Instant::now() < deadline => std::thread::sleep(SOON),
                Attempt::Outdated => {
                    bail!("{} is removed and made again all the time", root.display())
                }
            }
        }
    }

    /// Does the path lead to another directory by now, or to none?
    #[must_use]
    pub fn is_outdated(&self, pins: &Pins) -> bool {
        !is_at(&self.directory, &pins.root())
    }

    /// Something below the directory that is locked, wherever its path leads.
    pub(super) fn path(&self, below: &Path) -> PathBuf {
        let directory = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        Path::new(&directory).join(below)
    }

    fn attempt(root: &Path) -> Result<Attempt> {
        let directory = match File::open(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Outdated),
            result => result.with_context(|| format!("open {}", root.display()))?,
        };
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) if !is_at(&directory, root) => Ok(Attempt::Outdated),
            Ok(directory) => Ok(Attempt::Taken(Self { directory })),
            Err((directory, Errno::EWOULDBLOCK)) => Ok(Attempt::Held(holder(&directory))),
            Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", root.display())),
        }
    }
}

/// Who holds the lock of a directory, only for the message.
fn holder(directory: &File) -> String {
    let inode = directory.metadata().map(|status| status.ino());
    let locks = fs::read_to_string("/proc/locks");
    match (inode, locks) {
        (Ok(inode), Ok(locks)) => holder_in(&locks, inode),
        _ => None,
    }
    .unwrap_or_else(|| "unknown".to_owned())
}

/// `1: FLOCK  ADVISORY  WRITE 19815 00:2b:9529626 0 EOF`: the process, then the device and the
/// inode. A process beyond ours is zero or below.
fn holder_in(locks: &str, inode: u64) -> Option<String> {
    let end = format!(":{inode}");
    locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1) == Some(&"FLOCK"))
        .filter(|words| words.get(5).is_some_and(|word| word.ends_with(&end)))
        .find_map(|words| words[4].parse::<u32>().ok().filter(|&process| process > 0))
        .map(|process| process.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_the_process_that_locked_that_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 11 00:2b:9529626 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 12 00:2b:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE -1 00:2b:99 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 14 00:2b:77 0 EOF\n";
        assert_eq!(holder_in(locks, 77).as_deref(), Some("14"));
        assert_eq!(holder_in(locks, 7).as_deref(), None);
        assert_eq!(holder_in(locks, 99).as_deref(), None);
    }

    #[test]
    fn a_directory_is_locked_once_and_one_that_was_made_anew_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        assert!(PinsLock::acquire(&pins).unwrap().is_none());
        fs::create_dir(pins.root()).unwrap();
        let held = PinsLock::acquire(&pins).unwrap().unwrap();
        let error = PinsLock::acquire(&pins).unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        assert!(error.contains(&process), "{error}");
        assert!(!held.is_outdated(&pins));
        // The number of a directory that is still open is nobody else's.
        fs::remove_dir(pins.root()).unwrap();
        assert!(held.is_outdated(&pins));
        fs::create_dir(pins.root()).unwrap();
        assert!(held.is_outdated(&pins));
        assert!(PinsLock::acquire(&pins).unwrap().is_some());
    }
}
