//! One layout of the tables follows another: what an upgrade, or the way back, makes of the maps
//! that are pinned.
//!
//! Promises:
//! - Programs and tables of one layout belong together: a packet meets the old programs with the
//!   old tables, or the new with the new.
//! - What only the programs know (flows, sockets' peers, affinity, what was judged) is *handed
//!   over* where its layout is the same: the map gets a second name, and for as long as both kinds
//!   of programs run they share it. There is no moment between a copy and a switch in which an
//!   entry could get lost.
//! - What the agent writes is filled beside the old, beginning with a copy, because entries that
//!   were handed over refer to its numbers.
//! - A directory has its layout's name once it is complete. An agent that is killed before leaves
//!   an [unfinished](Pins::unfinished) one, which the next one removes.
//! - The old maps go when the last link has been given its new program, which is after the tables
//!   were brought up to date: [`Succession::end`].
//!
//! | found | what becomes of it |
//! |---|---|
//! | nothing | the first start |
//! | this layout | it is adopted; others were left by an upgrade that did not end |
//! | a layout that this version knows (`Predecessor`) | handed over and copied |
//! | one that it does not know: a newer one, or too old | the tables begin empty. What was opened through the packet path begins anew: TCP connections may break. The agent says so. |

mod v3;
mod v4;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use tracing::warn;
use weir_ebpf::tables::{LAYOUT_VERSION, name};

use super::kernel::KernelTables;
use super::layout::layout_version;
use super::pins::{Pins, remove_directory};
use super::{Contents, Plan, Write};

/// A layout that this version of Weir can take over from.
struct Predecessor {
    /// The tables whose entries the programs write and that have not changed since.
    handed_over: &'static [&'static str],
    /// Reads what the agent wrote, as far as numbers are in it.
    contents: fn(&Pins) -> Result<Contents>,
}

/// This very layout under another number, as tests give to a copy of the program.
const SAME: Predecessor = Predecessor {
    handed_over: &[
        name::FLOWS,
        name::FLOW_CHANGES,
        name::SOCKETS,
        name::AFFINITY,
        name::FRAGMENTS,
        name::CONNECTIONS,
        name::COUNTERS,
    ],
    contents: |pins| KernelTables::open(pins)?.read(),
};

/// What is known of an older layout.
const fn predecessor(version: u32) -> Option<Predecessor> {
    match version {
        3 => Some(v3::PREDECESSOR),
        4 => Some(v4::PREDECESSOR),
        LAYOUT_VERSION.. => Some(SAME),
        _ => None,
    }
}

/// What became of the tables of another layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inheritance {
    /// There were none.
    #[default]
    None,
    /// They were taken over from this version.
    From(u32),
    /// They could not be: of these versions.
    Lost(Vec<u32>),
}

impl fmt::Display for Inheritance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = layout_version();
        match self {
            Self::None => f.write_str("no tables of another layout"),
            Self::From(version) => {
                write!(f, "tables of layout {version} taken over by layout {own}")
            }
            Self::Lost(versions) => write!(
                f,
                "tables of layout {} cannot be taken over by layout {own}: connections through \
                 services that are translated packet by packet begin anew, and may break",
                versions
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }
}

/// The succession to the tables of a pin directory, from before the programs are loaded to after
/// they are attached.
#[derive(Debug)]
pub struct Succession {
    /// Where the tables are in the end.
    pins: Pins,
    /// What an older layout's agent wrote, while it has not been copied.
    to_copy: Option<Contents>,
    inheritance: Inheritance,
}

impl Succession {
    /// Prepares the place at which maps are pinned while the programs are loaded.
    ///
    /// # Errors
    ///
    /// No BPF file system is there, or it cannot be written to.
    pub fn begin(pins: &Pins) -> Result<Self> {
        pins.check_mounted()?;
        for directory in pins.all_unfinished()? {
            remove_directory(&directory)?;
        }
        let mut succession = Self {
            pins: pins.clone(),
            to_copy: None,
            inheritance: Inheritance::None,
        };
        if !pins.maps().is_dir() {
            succession.inherit()?;
        }
        succession.place().prepare()?;
        Ok(succession)
    }

    fn inherit(&mut self) -> Result<()> {
        let mut others = self.pins.other_layouts()?;
        // The latest comes first: what is older was left by an upgrade that did not end.
        others.sort_unstable_by(|a, b| b.cmp(a));
        let known = others
            .iter()
            .filter(|version| **version < layout_version())
            .find_map(|version| Some((*version, predecessor(*version)?)));
        if let Some((version, predecessor)) = known {
            match self.hand_over(version, &predecessor) {
                Ok(contents) => {
                    self.to_copy = Some(contents);
                    self.inheritance = Inheritance::From(version);
                    return Ok(());
                }
                Err(error) => {
                    warn!("cannot take over the tables of layout {version}: {error:#}");
                    remove_directory(&self.pins.unfinished().maps())?;
                }
            }
        }
        if !others.is_empty() {
            self.inheritance = Inheritance::Lost(others);
        }
        Ok(())
    }

    fn hand_over(&self, version: u32, predecessor: &Predecessor) -> Result<Contents> {
        let old = self.pins.of_layout(version);
        let contents = (predecessor.contents)(&old)?;
        let new = self.pins.unfinished();
        new.prepare()?;
        // Tables with these names have the layouts of today.
        let present = old.check_layout_of(predecessor.handed_over)?;
        for table in present.into_keys() {
            MapData::from_pin(old.map(table))
                .context("open it")
                .and_then(|map| map.pin(new.map(table)).context("give it another name"))
                .with_context(|| format!("hand over {}", old.map(table).display()))?;
        }
        Ok(contents)
    }

    /// Where maps are pinned until [`Succession::complete`].
    #[must_use]
    pub fn place(&self) -> Pins {
        match self.to_copy {
            Some(_) => self.pins.unfinished(),
            None => self.pins.clone(),
        }
    }

    /// All maps are there: fills them, and gives their directory its name. No program that reads
    /// them is attached yet.
    ///
    /// # Errors
    ///
    /// The tables cannot be opened, or not be written.
    pub fn complete(&mut self) -> Result<()> {
        let place = self.place();
        let Some(contents) = self.to_copy.take() else {
            return Ok(());
        };
        if let Err(error) = KernelTables::open(&place)?.apply(&Plan(puts(&contents))) {
            // As where a table was made smaller. What has lost its number gets another; flows
            // ask by it whether their backend still serves, and choose again.
            warn!("not every entry of the older layout could be copied: {error}");
        }
        fs::rename(place.maps(), self.pins.maps())
            .with_context(|| format!("rename {}", place.maps().display()))
    }

    /// Nothing was loaded: removes what was made for it.
    ///
    /// # Errors
    ///
    /// Something cannot be removed.
    pub fn give_up(&self) -> Result<()> {
        if self.to_copy.is_some() {
            remove_directory(&self.place().maps())?;
        }
        Ok(())
    }

    /// Every link has its program of this layout: removes the maps of all others. Gives their
    /// versions.
    ///
    /// # Errors
    ///
    /// A pin cannot be removed.
    pub fn end(&self) -> Result<Vec<u32>> {
        let others = self.pins.other_layouts()?;
        for version in &others {
            remove_directory(&self.pins.of_layout(*version).maps())?;
        }
        Ok(others)
    }

    /// What became of another layout's tables.
    #[must_use]
    pub const fn inheritance(&self) -> &Inheritance {
        &self.inheritance
    }
}

/// The writes that fill empty tables which nobody reads yet: in no particular order.
fn puts(contents: &Contents) -> Vec<Write> {
    let Contents {
        frontends,
        services,
        backends,
        serving,
        service_names,
        node_port_addrs,
        source_ranges,
        service_cidrs,
        interfaces,
        node,
        pods,
        pod_addrs,
        receivers,
        peers,
        peer_ranges,
        rules,
        policy,
    } = contents;
    let mut writes = Vec::new();
    fn each<K: Copy, V: Copy>(
        entries: &BTreeMap<K, V>,
        write: fn(K, V) -> Write,
    ) -> impl Iterator<Item = Write> {
        entries.iter().map(move |(key, value)| write(*key, *value))
    }
    // What numbers are in comes first: a table that is too small ends it.
    writes.extend(each(service_names, |number, name| {
        Write::PutServiceName(number, Box::new(name))
    }));
    writes.extend(each(services, Write::PutService));
    writes.extend(each(backends, Write::PutBackend));
    writes.extend(serving.iter().copied().map(Write::PutServing));
    writes.extend(each(frontends, Write::PutFrontend));
    writes.extend(node_port_addrs.iter().copied().map(Write::PutNodePortAddr));
    writes.extend(source_ranges.iter().copied().map(Write::PutSourceRange));
    writes.extend(service_cidrs.iter().copied().map(Write::PutServiceCidr));
    writes.extend(each(interfaces, Write::PutInterface));
    writes.push(Write::PutNode(Box::new(*node)));
    writes.extend(each(rules, Write::PutRule));
    writes.extend(each(peers, Write::PutPeer));
    writes.extend(each(peer_ranges, Write::PutPeerRange));
    writes.extend(pod_addrs.iter().copied().map(Write::PutPodAddr));
    writes.extend(each(receivers, Write::PutReceiver));
    writes.extend(each(pods, Write::PutPod));
    writes.push(Write::PutPolicy(*policy));
    writes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn older_layouts_are_known_and_the_oldest_are_not() {
        assert!(predecessor(LAYOUT_VERSION).is_some());
        assert!(predecessor(LAYOUT_VERSION - 1).is_some());
        assert!(predecessor(2).is_none());
    }

    #[test]
    fn a_directory_that_is_no_bpf_file_system_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let error = Succession::begin(&Pins::new(directory.path())).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    #[test]
    fn what_is_lost_is_said_with_its_versions() {
        let text = Inheritance::Lost(vec![9, 2]).to_string();
        assert!(text.contains("layout 9, 2 cannot"), "{text}");
    }

    #[test]
    fn unfinished_tables_are_nobodys() {
        let pins = Pins::new(Path::new("/bpf"));
        assert_ne!(pins.unfinished().maps(), pins.maps());
        assert!(
            !pins
                .unfinished()
                .maps()
                .ends_with(format!("v{LAYOUT_VERSION}"))
        );
    }
}
