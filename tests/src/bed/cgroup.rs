//! A bed's own part of the cgroup v2 tree: made, left and removed without touching the rest.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::wait_for;

/// Where cgroup v2 is mounted on this machine.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mount_point_in(&mounts).context(
        "no cgroup2 file system is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup",
    )
}

fn mount_point_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let target = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
    })
}

/// Makes a group and its parents.
pub fn create(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("create cgroup {}", group.display()))
}

/// Moves the calling process into a group. Sockets it opens from now on belong there.
pub fn enter(group: &Path) -> Result<()> {
    let procs = group.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("move into cgroup {}", group.display()))
}

/// Longest wait for processes that were killed, which a busy machine gives no time to end.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends every process in a group and below, then removes it. A group that is not there is fine, and
/// so is one that somebody else removes meanwhile.
pub fn remove(group: &Path) -> Result<()> {
    wait_for(
        || format!("the processes in cgroup {} to end", group.display()),
        LIMIT,
        || match end_processes(group).and_then(|()| is_populated(group)) {
            Ok(is_populated) => Ok(!is_populated),
            Err(_) if !group.exists() => Ok(true),
            Err(error) => Err(error)
                .with_context(|| format!("end the processes in cgroup {}", group.display())),
        },
    )?;
    remove_tree(group)
}

/// Kills what lives in a group and below.
fn end_processes(group: &Path) -> Result<()> {
    let all_at_once = group.join("cgroup.kill");
    if all_at_once.exists() {
        fs::write(&all_at_once, "1")?;
        return Ok(());
    }
    // Before Linux 5.14: one by one, again and again, since they may have children meanwhile.
    for process in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
        match kill(Pid::from_raw(process.parse()?), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("kill {process}")),
        }
    }
    for child in children(group)? {
        end_processes(&child)?;
    }
    Ok(())
}

/// The groups directly below a group; none where it is gone.
fn children(group: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("list cgroup {}", group.display()))?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

/// Does a process live in the group or below it?
fn is_populated(group: &Path) -> Result<bool> {
    let path = group.join("cgroup.events");
    let events = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    match events
        .lines()
        .find_map(|line| line.strip_prefix("populated "))
    {
        Some(value) => Ok(value != "0"),
        None => bail!("{} does not say `populated`", path.display()),
    }
}

/// Removes the deepest groups first: a group with children cannot be removed.
fn remove_tree(group: &Path) -> Result<()> {
    for child in children(group)? {
        remove_tree(&child)?;
    }
    // A process that has just ended may hold its group a moment longer.
    wait_for(
        || format!("cgroup {} to become free", group.display()),
        LIMIT,
        || match fs::remove_dir(group) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(error).with_context(|| format!("remove cgroup {}", group.display())),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_mount_is_found_beside_version_one() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            mount_point_in(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(mount_point_in("proc /proc proc rw 0 0\n"), None);
    }
}
