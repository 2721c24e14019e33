//! The socket hooks: programs at the root of the node's cgroup v2 tree.
//!
//! A link that an earlier agent pinned keeps its place and gets the new program in one step, so
//! no connection is opened without translation while agents change.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::bpf::{self, AttachType, Place};
use crate::maps::pins::Pins;

/// The programs and the hooks they belong to. `getpeername` and `recvmsg`, which translate back,
/// come before those that translate.
pub(super) const HOOKS: [(&str, AttachType); 8] = [
    ("getpeername4", AttachType::INET4_GETPEERNAME),
    ("getpeername6", AttachType::INET6_GETPEERNAME),
    ("recvmsg4", AttachType::UDP4_RECVMSG),
    ("recvmsg6", AttachType::UDP6_RECVMSG),
    ("sendmsg4", AttachType::UDP4_SENDMSG),
    ("sendmsg6", AttachType::UDP6_SENDMSG),
    ("connect4", AttachType::INET4_CONNECT),
    ("connect6", AttachType::INET6_CONNECT),
];

/// What was done at the socket hooks, by program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupReport {
    /// Newly attached.
    pub attached: Vec<&'static str>,
    /// Taken over from an earlier agent.
    pub replaced: Vec<&'static str>,
    /// Attached anew, because the pinned link stood at another cgroup or at one that is gone.
    pub moved: Vec<&'static str>,
}

/// A cgroup v2 directory.
pub(super) struct Cgroup {
    directory: File,
    id: u64,
}

impl Cgroup {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let directory = File::open(path)
            .with_context(|| format!("open the cgroup {} (--cgroup-root)", path.display()))?;
        let status = fstatfs(&directory).with_context(|| format!("look at {}", path.display()))?;
        if status.filesystem_type() != CGROUP2_SUPER_MAGIC {
            bail!(
                "{} is not a cgroup v2 directory; name the root of the node's cgroup v2 tree \
                 with --cgroup-root (often /sys/fs/cgroup or /sys/fs/cgroup/unified)",
                path.display()
            );
        }
        // kernfs shows a cgroup's id as the inode of its directory.
        let id = directory
            .metadata()
            .with_context(|| format!("look at {}", path.display()))?
            .ino();
        Ok(Self { directory, id })
    }

    /// Attaches a program beside those that are there.
    pub(super) fn attach(
        &self,
        program: BorrowedFd<'_>,
        attach_type: AttachType,
    ) -> io::Result<OwnedFd> {
        bpf::attach_to_cgroup(program, self.directory.as_fd(), attach_type)
    }
}

/// Leaves the cgroup with the given programs.
pub(super) fn attach<'program>(
    pins: &Pins,
    path: &Path,
    program: impl Fn(&'static str) -> BorrowedFd<'program>,
) -> Result<CgroupReport> {
    let cgroup = Cgroup::open(path)?;
    let mut report = CgroupReport::default();
    for (name, attach_type) in HOOKS {
        let pin = pins.link(name);
        let done = attach_one(&cgroup, &pin, program(name), attach_type)
            .with_context(|| format!("attach {name} to the cgroup {}", path.display()))?;
        match done {
            Done::Attached => report.attached.push(name),
            Done::Replaced => report.replaced.push(name),
            Done::Moved => report.moved.push(name),
        }
    }
    Ok(report)
}

enum Done {
    Attached,
    Replaced,
    Moved,
}

fn attach_one(
    cgroup: &Cgroup,
    pin: &Path,
    program: BorrowedFd<'_>,
    attach_type: AttachType,
) -> Result<Done> {
    let pinned = match bpf::get(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        link => Some(link.with_context(|| format!("open the pinned link {}", pin.display()))?),
    };
    if let Some(link) = &pinned {
        let info = bpf::link_info(link.as_fd())
            .with_context(|| format!("ask about the pinned link {}", pin.display()))?;
        if info.place == Place::Cgroup(cgroup.id) && info.attach_type == attach_type {
            match bpf::replace_program(link.as_fd(), program) {
                Ok(()) => return Ok(Done::Replaced),
                // The cgroup has gone since we looked.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("replace the program of {}", pin.display()));
                }
            }
        }
    }
    let link = cgroup.attach(program, attach_type).map_err(refused)?;
    let moved = pinned.is_some();
    if moved {
        bpf::unpin(pin).with_context(|| format!("remove {}", pin.display()))?;
    }
    bpf::pin(link.as_fd(), pin).with_context(|| format!("pin the link at {}", pin.display()))?;
    Ok(if moved { Done::Moved } else { Done::Attached })
}

/// What a cgroup's refusal means. Privileges do not lack: the programs are loaded.
fn refused(error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => anyhow!(
            "the kernel refuses (EPERM): another program is attached exclusively at or above this \
             cgroup (BPF_PROG_ATTACH without BPF_F_ALLOW_MULTI; see `bpftool cgroup tree`). Remove \
             it, or choose another cgroup with --cgroup-root"
        ),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_attachment_of_another_is_named() {
        let text = refused(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.contains("attached exclusively"), "{text}");
        let text = refused(io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(!text.contains("exclusively"), "{text}");
    }
}
