//! What of ours is attached, and where: asked of the kernel, for people.
//!
//! Changes nothing and needs no agent: links have pins, filters a name and a place of their own.
//! Filters are those of the calling thread's network namespace.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};

use super::bpf::{self, Place};
use super::cgroup;
use super::clsact::Clsact;
use super::plan::{Attachment, State};
use super::tc;
use crate::maps::pins::Pins;

/// A socket program and the link that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketHook {
    /// The program's name.
    pub program: &'static str,
    /// The cgroup that it stands at, by the inode of its directory; `None`: that is gone.
    pub cgroup: Option<u64>,
}

/// Everything of ours that is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// At the cgroup.
    pub sockets: Vec<SocketHook>,
    /// At interfaces.
    pub packets: BTreeMap<Attachment, State>,
}

/// Asks the kernel.
///
/// # Errors
///
/// Pins or filters cannot be listed, which mostly means missing privileges.
pub fn attached(pins: &Pins) -> Result<Attached> {
    let mut sockets = Vec::new();
    for (program, _) in cgroup::HOOKS {
        let path = pins.link(program);
        let link = match bpf::get(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            link => link.with_context(|| format!("open the pinned link {}", path.display()))?,
        };
        let info = bpf::link_info(link.as_fd())
            .with_context(|| format!("ask about the pinned link {}", path.display()))?;
        let cgroup = match info.place {
            Place::Cgroup(0) | Place::Interface(_) | Place::Other(_) => None,
            Place::Cgroup(id) => Some(id),
        };
        sockets.push(SocketHook { program, cgroup });
    }
    let mut clsact = Clsact::open()?;
    Ok(Attached {
        sockets,
        packets: tc::present(pins, &mut clsact)?,
    })
}
