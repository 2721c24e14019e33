//! What an agent left in the kernel, read without the agent's help.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use aya::programs::{SchedClassifier, TcAttachType};

use super::node::Node;

/// Where the kernel has `CONFIG_BPF_PRELOAD`.
const KERNELS_OWN: [&str; 2] = ["maps.debug", "progs.debug"];

impl Node {
    /// Every file and directory that somebody pinned below the node's BPF file system.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let bpffs = self.bpffs();
        self.keeper().run(move || {
            let mut found = Vec::new();
            list(&bpffs, &mut found)?;
            // The kernel puts its own iterators into every new BPF file system.
            found.retain(|pin| !KERNELS_OWN.iter().any(|own| pin == &bpffs.join(own)));
            found.sort();
            Ok(found)
        })
    }

    /// The kernel's numbers of the pinned maps, by name.
    pub fn map_ids(&self) -> Result<BTreeMap<String, u32>> {
        let pins = self.pins()?;
        self.keeper().run(move || {
            let mut ids = BTreeMap::new();
            for pin in pins {
                let is_link = pin.components().any(|part| part.as_os_str() == "links");
                if is_link || pin.is_dir() {
                    continue;
                }
                let info = MapInfo::from_pin(&pin)
                    .with_context(|| format!("look at the map {}", pin.display()))?;
                let name = pin.file_name().context("a pin has a name")?;
                ids.insert(name.to_string_lossy().into_owned(), info.id());
            }
            Ok(ids)
        })
    }

    /// The numbers of TCX programs at the pods' links; links without any are left out.
    pub fn tc_programs(&self) -> Result<BTreeMap<String, Vec<u32>>> {
        let links = self.pod_links();
        self.namespace().enter(|| {
            let mut found = BTreeMap::new();
            for link in links {
                let ids = tc_programs(&link)?;
                if !ids.is_empty() {
                    found.insert(link, ids);
                }
            }
            Ok(found)
        })
    }

    /// The numbers of TCX programs at one link.
    pub fn tc_programs_at(&self, link: &str) -> Result<Vec<u32>> {
        self.namespace().enter(|| tc_programs(link))
    }

    /// The pods' links that carry a clsact queueing discipline.
    pub fn clsact_links(&self) -> Result<Vec<String>> {
        let links = self.pod_links();
        self.namespace().run(async |netlink| {
            let mut found = Vec::new();
            for link in links {
                if netlink.has_clsact(&link).await? {
                    found.push(link);
                }
            }
            Ok(found)
        })
    }
}

/// In the network namespace of the calling thread.
fn tc_programs(link: &str) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) = SchedClassifier::query_tcx(link, direction)
            .with_context(|| format!("list the programs at {link}"))?;
        ids.extend(programs.iter().map(aya::programs::ProgramInfo::id));
    }
    Ok(ids)
}

/// What goes while it is looked at is not there.
fn list(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("list {}", directory.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        }
        found.push(entry.path());
    }
    Ok(())
}
