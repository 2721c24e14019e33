//! Leaving the node as it was found.
//!
//! Removes everything of ours, of whatever layout version, and nothing else; again and again
//! with the same result. The caller holds the [`AgentLock`](super::AgentLock) and the
//! [`PinsLock`](super::PinsLock), so that no agent works meanwhile.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::bpf;
use super::clsact::Clsact;
use super::plan::TcMode;
use super::tc;
use crate::maps::pins::{Pins, names, remove_directory};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, by the names of their pins.
    pub links: Vec<String>,
    /// Filters, described.
    pub filters: Vec<String>,
    /// Interfaces whose clsact qdisc was ours.
    pub qdiscs: Vec<u32>,
    /// Maps, by layout version and name.
    pub maps: Vec<String>,
}

impl Removed {
    /// Was there nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            links,
            filters,
            qdiscs,
            maps,
        } = self;
        write!(
            f,
            "{} links, {} filters, {} qdiscs, {} maps",
            links.len(),
            filters.len(),
            qdiscs.len(),
            maps.len()
        )
    }
}

/// Detaches and unpins everything below the BPF file system, and removes our filters in the
/// calling thread's network namespace.
///
/// # Errors
///
/// No BPF file system is there, or something cannot be removed; what came before it is gone.
pub fn cleanup(bpffs: &Path) -> Result<Removed> {
    let pins = Pins::new(bpffs);
    pins.check_mounted()?;
    let mut removed = Removed::default();

    // Programs first, then what they use; requests before replies.
    let mut clsact = Clsact::open()?;
    let present = tc::present(&pins, &mut clsact)?;
    for attachment in present.keys().rev() {
        if attachment.mode == TcMode::Clsact {
            tc::remove(&pins, &mut clsact, *attachment)?;
            removed.filters.push(attachment.to_string());
        }
    }
    // Each takes the kernel some milliseconds. In this order what translates requests ends before
    // what translates replies back: connect before getpeername, from_… before to_….
    removed.links = names(&pins.links())?;
    for name in &removed.links {
        let path = pins.link(name);
        bpf::unpin(&path).with_context(|| format!("remove {}", path.display()))?;
    }

    removed.qdiscs = clsact.remove_empty_qdiscs(&pins)?;
    for name in names(&pins.qdiscs())? {
        // Another's filters are in it now, so it stays; it is no longer ours.
        remove_directory(&pins.qdiscs().join(name))?;
    }

    for layout in names(&pins.root())? {
        let directory = pins.root().join(&layout);
        for map in remove_directory(&directory)? {
            removed.maps.push(format!("{layout}/{map}"));
        }
    }
    remove_directory(&pins.root())?;
    Ok(removed)
}
