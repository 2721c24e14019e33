//! A bed's name on this machine: two runs at once never meet.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::cgroup;

const RUN: &str = "/run";
const PREFIX: &str = "weir-test-";

/// Where a bed lives: `/run/weir-test-<pid>-<random>` and a group of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    owner: i32,
    run_dir: PathBuf,
    cgroup: PathBuf,
}

impl Identity {
    /// A new name, owned by this process.
    pub fn new() -> Result<Self> {
        let random = RandomState::new().hash_one(std::time::Instant::now()) as u32;
        let owner = Pid::this().as_raw();
        Self::named(owner, &format!("{PREFIX}{owner}-{random:08x}"))
    }

    fn named(owner: i32, name: &str) -> Result<Self> {
        Ok(Self {
            owner,
            run_dir: Path::new(RUN).join(name),
            cgroup: cgroup::mount_point()?.join(name),
        })
    }

    /// Every bed that exists, by its directory or its group.
    pub fn all_on_this_machine() -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for place in [PathBuf::from(RUN), cgroup::mount_point()?] {
            for entry in
                fs::read_dir(&place).with_context(|| format!("list {}", place.display()))?
            {
                let name = match entry {
                    Ok(entry) => entry.file_name(),
                    // Somebody else's entry went while we read.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error).context("list beds"),
                };
                if let Some(name) = name.to_str()
                    && let Some(owner) = owner_in(name)
                {
                    all.push(Self::named(owner, name)?);
                }
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Does the process that made the bed still run?
    #[must_use]
    pub fn owner_lives(&self) -> bool {
        kill(Pid::from_raw(self.owner), None) != Err(nix::errno::Errno::ESRCH)
    }

    /// The bed's directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The bed's group.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }
}

fn owner_in(name: &str) -> Option<i32> {
    let (owner, random) = name.strip_prefix(PREFIX)?.split_once('-')?;
    if random.len() != 8 || !random.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    owner.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_beds_own_name_is_taken_for_one() {
        assert_eq!(owner_in("weir-test-4711-00c0ffee"), Some(4711));
        assert_eq!(owner_in("weir-test-4711"), None);
        assert_eq!(owner_in("weir-test-4711-rest"), None);
        assert_eq!(owner_in("weir"), None);
    }
}
