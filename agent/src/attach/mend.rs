//! Pins that have gone from under a running agent: someone removed them, or the BPF file system
//! was unmounted.
//!
//! The agent itself needs none, and packets meet the same tables; but the next agent would find
//! nothing, and a link lives as long as its pin. So they are put back: maps, which the agent has
//! open, and links, as far as the directory they were in still has them. What has ended with its
//! pin is for the next synchronisation to attach anew.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::bpf;
use super::cgroup;
use super::load::Dataplane;
use super::pins_lock::PinsLock;
use crate::maps::layout::layouts;
use crate::maps::pins::{Pins, names};

/// What was put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// The names of tables.
    pub maps: Vec<&'static str>,
    /// The names of links that were still at work.
    pub links: Vec<String>,
    /// The names of links that have ended.
    pub ended: Vec<&'static str>,
}

impl Mended {
    /// Was everything where it belongs?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Dataplane {
    /// Puts back pins that are gone. The lock is that of the directory, afterwards of the one that
    /// is there now.
    ///
    /// # Errors
    ///
    /// No BPF file system is there, another agent has taken it, or something cannot be pinned.
    pub fn mend_pins(&self, lock: &mut PinsLock) -> Result<Mended> {
        let pins = self.pins();
        pins.prepare()
            .context("tables and programs go on, but the next agent would not find them")?;
        let mut mended = Mended::default();
        if lock.is_outdated(pins) {
            let new = PinsLock::acquire(pins)?.context("the directory was removed again")?;
            mended.links = move_links(lock, pins)?;
            *lock = new;
        }
        for table in layouts().into_keys() {
            let path = pins.map(table);
            if path.exists() {
                continue;
            }
            let map = self
                .ebpf()
                .map(table)
                .with_context(|| format!("the agent has not the table {table} open"))?;
            map.pin(&path)
                .with_context(|| format!("pin {table} at {}", path.display()))?;
            mended.maps.push(table);
        }
        let hooks = cgroup::HOOKS.iter().map(|(name, _)| *name);
        mended.ended = hooks.filter(|name| !pins.link(name).exists()).collect();
        Ok(mended)
    }
}

/// Gives the links of a directory that no path leads to any more their places in another, and the
/// signs of our qdiscs.
fn move_links(from: &PinsLock, to: &Pins) -> Result<Vec<String>> {
    let below = |directory: &Path| {
        let name = directory.file_name().unwrap_or_default();
        from.path(Path::new(name))
    };
    let links = below(&to.links());
    let mut moved = Vec::new();
    for name in names(&links)? {
        let link = bpf::get(&links.join(&name)).with_context(|| format!("open the link {name}"))?;
        let path = to.link(&name);
        if !path.exists() {
            bpf::pin(link.as_fd(), &path)
                .with_context(|| format!("pin the link at {}", path.display()))?;
            moved.push(name);
        }
    }
    for name in names(&below(&to.qdiscs()))? {
        let path = to.qdiscs().join(name);
        if !path.exists() {
            fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        }
    }
    Ok(moved)
}
