//! The pin directory: where maps and links have names, and what must hold before one is used.
//!
//! ```text
//! <bpffs>/weir/v<layout version>/<TABLE>       maps; two layouts never share a directory
//! <bpffs>/weir/v<layout version>-new/<TABLE>   those of a layout that takes over, until they are filled
//! <bpffs>/weir/links/<program>                 a cgroup link
//! <bpffs>/weir/links/<program>-<ifindex>       a TCX link
//! <bpffs>/weir/qdiscs/<ifindex>                a directory: the clsact qdisc there is ours
//! ```
//!
//! Links stand outside the layout's directory, because a new layout's programs take over the
//! links of the old one.
//!
//! Neither the kernel nor aya compares a pinned map with what a program or reader takes it for:
//! a value larger than expected is written past the reader's buffer. So every pinned map is
//! compared with its layout here, before anything is loaded or opened.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::layout::{Layout, layout_version, layouts};

/// The end of the name of a directory whose maps are not filled yet. The kernel keeps names with
/// dots for itself.
const UNFINISHED: &str = "-new";

fn directory(version: u32) -> String {
    format!("v{version}")
}

/// A map that stays as large as an earlier agent made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSize {
    /// The table.
    pub table: &'static str,
    /// Entries it holds at most.
    pub pinned: u32,
    /// Entries it was asked to hold.
    pub wanted: u32,
}

impl fmt::Display for KeptSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            pinned,
            wanted,
        } = self;
        write!(
            f,
            "the table {table} keeps its {pinned} entries instead of {wanted}: an earlier agent \
             made it; `weir cleanup` before the next start gives it the new size"
        )
    }
}

/// A pin directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    /// The name of the directory of maps.
    layout: String,
}

impl Pins {
    /// The pin directory below a mounted BPF file system. Touches nothing.
    #[must_use]
    pub fn new(bpffs: &Path) -> Self {
        Self {
            bpffs: bpffs.to_path_buf(),
            layout: directory(layout_version()),
        }
    }

    /// The same with the maps of another layout.
    #[must_use]
    pub fn of_layout(&self, version: u32) -> Self {
        Self {
            bpffs: self.bpffs.clone(),
            layout: directory(version),
        }
    }

    /// The same with maps that nobody may take for complete.
    #[must_use]
    pub fn unfinished(&self) -> Self {
        Self {
            bpffs: self.bpffs.clone(),
            layout: format!("{}{UNFINISHED}", self.layout),
        }
    }

    /// Everything of ours.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.bpffs.join("weir")
    }

    /// The maps of this layout.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root().join(&self.layout)
    }

    /// One map.
    #[must_use]
    pub fn map(&self, table: &str) -> PathBuf {
        self.maps().join(table)
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root().join("links")
    }

    /// One link.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Which clsact qdiscs are ours.
    #[must_use]
    pub fn qdiscs(&self) -> PathBuf {
        self.root().join("qdiscs")
    }

    /// The sign that the clsact qdisc of an interface is ours.
    #[must_use]
    pub fn qdisc(&self, interface: u32) -> PathBuf {
        self.qdiscs().join(interface.to_string())
    }

    /// The interfaces whose clsact qdisc is ours.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn marked_qdiscs(&self) -> Result<Vec<u32>> {
        let names = names(&self.qdiscs())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Is a BPF file system mounted there?
    ///
    /// # Errors
    ///
    /// There is not; the message says how to mount one.
    pub fn check_mounted(&self) -> Result<()> {
        let path = self.bpffs.display();
        let found = match statfs(&self.bpffs) {
            Ok(status) if status.filesystem_type() == BPF_FS_MAGIC => return Ok(()),
            Ok(_) => "no BPF file system is mounted there".to_owned(),
            Err(errno) => io::Error::from(errno).to_string(),
        };
        bail!(
            "{path} cannot hold pinned maps: {found}. Mount one with `mount -t bpf bpf {path}` \
             (as a pod: mount the host's /sys/fs/bpf), or name another with --bpffs"
        )
    }

    /// Makes the directories, after [`Pins::check_mounted`].
    ///
    /// # Errors
    ///
    /// No BPF file system is there, or a directory cannot be made.
    pub fn prepare(&self) -> Result<()> {
        self.prepare_root()?;
        for directory in [self.maps(), self.links(), self.qdiscs()] {
            make(&directory)?;
        }
        Ok(())
    }

    /// Makes the directory of everything of ours, after [`Pins::check_mounted`].
    ///
    /// # Errors
    ///
    /// No BPF file system is there, or the directory cannot be made.
    pub fn prepare_root(&self) -> Result<()> {
        self.check_mounted()?;
        make(&self.root())
    }

    /// The tables that are pinned now and how many entries each holds at most.
    ///
    /// # Errors
    ///
    /// A pinned map has another layout than ours. The message names it, what was expected and
    /// found, and what to do.
    pub fn check_layout(&self) -> Result<BTreeMap<&'static str, u32>> {
        self.check(layouts())
    }

    /// The same of some tables.
    ///
    /// # Errors
    ///
    /// As for [`Pins::check_layout`].
    pub fn check_layout_of(&self, tables: &[&str]) -> Result<BTreeMap<&'static str, u32>> {
        let mut wanted = layouts();
        wanted.retain(|table, _| tables.contains(table));
        self.check(wanted)
    }

    fn check(&self, tables: BTreeMap<&'static str, Layout>) -> Result<BTreeMap<&'static str, u32>> {
        let mut pinned = BTreeMap::new();
        for (table, expected) in tables {
            let path = self.map(table);
            match fs::symlink_metadata(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("look at {}", path.display()));
                }
            }
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("ask about the pinned map {}", path.display()))?;
            let found = Layout::found(&info);
            if found != expected {
                bail!(
                    "the pinned map {} has another layout than this version of Weir: found \
                     {found}; expected {expected}. Remove what is pinned with `weir cleanup` \
                     (this interrupts translated connections), then start the agent again",
                    path.display()
                );
            }
            pinned.insert(table, info.max_entries());
        }
        Ok(pinned)
    }
}

impl Pins {
    /// The versions of the other layouts whose maps are pinned here, in order.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn other_layouts(&self) -> Result<Vec<u32>> {
        let names = names(&self.root())?;
        let versions = names.iter().filter(|name| **name != self.layout);
        let mut versions: Vec<u32> = versions
            .filter_map(|name| name.strip_prefix('v')?.parse().ok())
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The directories of maps that an agent did not finish.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn all_unfinished(&self) -> Result<Vec<PathBuf>> {
        let names = names(&self.root())?;
        let unfinished = names.iter().filter(|name| name.ends_with(UNFINISHED));
        Ok(unfinished.map(|name| self.root().join(name)).collect())
    }

    /// What to tell someone who looked for tables where there are none of this layout.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn nothing_here(&self) -> Result<String> {
        let others = self.other_layouts()?;
        let others: Vec<String> = others.into_iter().map(directory).collect();
        let here = self.maps();
        let here = here.display();
        Ok(if others.is_empty() {
            format!(
                "no tables at {here}: has an agent run here? (--bpffs names another BPF file \
                 system)"
            )
        } else {
            format!(
                "no tables at {here}: those there are of another version of Weir ({}), which can \
                 show them",
                others.join(", ")
            )
        })
    }
}

fn make(directory: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("create {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// The names in a directory, in order; none where there is no directory.
///
/// # Errors
///
/// It cannot be listed.
pub fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                    .collect()
            })
            .with_context(|| format!("list {}", directory.display()))?,
    };
    names.sort_unstable();
    Ok(names)
}

/// Removes a directory with the files in it; absent is no error. Gives their names.
///
/// # Errors
///
/// One cannot be removed, or the directory holds another one.
pub fn remove_directory(directory: &Path) -> Result<Vec<String>> {
    let names = names(directory)?;
    for name in &names {
        let path = directory.join(name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(names),
    }
}

/// The pinned maps whose size differs from the configured one.
#[must_use]
pub fn kept_sizes(
    pinned: &BTreeMap<&'static str, u32>,
    wanted: &BTreeMap<&'static str, u32>,
) -> Vec<KeptSize> {
    pinned
        .iter()
        .filter_map(|(table, pinned)| {
            let wanted = wanted.get(table)?;
            (pinned != wanted).then_some(KeptSize {
                table,
                pinned: *pinned,
                wanted: *wanted,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use weir_ebpf::tables::name;

    use super::*;

    #[test]
    fn a_directory_that_is_no_bpf_file_system_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::new(directory.path()).prepare().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("mount -t bpf"), "{text}");
        assert!(
            fs::read_dir(directory.path()).unwrap().next().is_none(),
            "something was made in a directory that is not ours"
        );
    }

    #[test]
    fn a_missing_directory_is_refused_with_the_way_out() {
        let error = Pins::new(Path::new("/nonexistent/bpf"))
            .prepare()
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("No such file"), "{text}");
        assert!(text.contains("mount -t bpf bpf /nonexistent/bpf"), "{text}");
    }

    #[test]
    fn whoever_looks_for_tables_is_told_where_and_of_other_versions() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        let text = pins.nothing_here().unwrap();
        let here = pins.maps().display().to_string();
        assert!(
            text.contains(&here) && text.contains("has an agent run here?"),
            "{text}"
        );
        fs::create_dir_all(pins.of_layout(999_999).maps()).unwrap();
        fs::create_dir_all(pins.links()).unwrap();
        fs::create_dir_all(pins.maps()).unwrap();
        let text = pins.nothing_here().unwrap();
        assert!(text.contains("(v999999)"), "{text}");
    }

    #[test]
    fn only_a_pinned_map_of_another_size_is_kept() {
        let pinned = BTreeMap::from([(name::FRONTENDS, 10), (name::FLOWS, 20)]);
        let wanted = BTreeMap::from([
            (name::FRONTENDS, 11),
            (name::FLOWS, 20),
            (name::SOCKETS, 30),
        ]);
        assert_eq!(
            kept_sizes(&pinned, &wanted),
            [KeptSize {
                table: name::FRONTENDS,
                pinned: 10,
                wanted: 11
            }]
        );
    }
}
