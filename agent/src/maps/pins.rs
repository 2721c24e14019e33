//! The pin directory: where maps and links have names, and what must hold before one is used.
//!
//! ```text
//! <bpffs>/weir/v<LAYOUT_VERSION>/<TABLE>       maps; two layouts never share a directory
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
use aya::maps::{MapInfo, MapType};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{
    Affinity, AffinityKey, Backend, BackendKey, Cidr, Class, Connection, ConnectionKey, Flow,
    Fragment, FragmentKey, Frontend, FrontendKey, Interface, LAYOUT_VERSION, Node, Pod, PodAddr,
    Policy, Present, RuleKey, Service, ServiceName, ServingKey, SocketFlow, SocketKey, SourceRange,
    Tuple, name,
};

/// `BPF_F_NO_PREALLOC`: entries take memory when they are added.
const NO_PREALLOC: u32 = 1;

/// What a map must be for its bytes to mean what `weir_ebpf::tables` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    /// The map's type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Flags at creation.
    pub flags: u32,
}

impl Layout {
    const fn of<K, V>(map_type: MapType, flags: u32) -> Self {
        // Sizes of keys and values are far below `u32::MAX`.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "sizes of table layouts are small constants"
        )]
        Self {
            map_type,
            key_size: size_of::<K>() as u32,
            value_size: size_of::<V>() as u32,
            flags,
        }
    }

    fn found(info: &MapInfo) -> Self {
        Self {
            map_type: info.map_type().unwrap_or(MapType::Unspecified),
            key_size: info.key_size(),
            value_size: info.value_size(),
            flags: info.map_flags(),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            map_type,
            key_size,
            value_size,
            flags,
        } = self;
        write!(
            f,
            "{map_type:?}, keys of {key_size} bytes, values of {value_size} bytes, flags {flags:#x}"
        )
    }
}

/// Every table's layout.
#[must_use]
pub fn layouts() -> BTreeMap<&'static str, Layout> {
    BTreeMap::from([
        (
            name::FRONTENDS,
            Layout::of::<FrontendKey, Frontend>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::BACKENDS,
            Layout::of::<BackendKey, Backend>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SERVING,
            Layout::of::<ServingKey, Present>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SERVICE_NAMES,
            Layout::of::<u32, ServiceName>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SERVICES,
            Layout::of::<u32, Service>(MapType::Array, 0),
        ),
        (
            name::NODE_PORT_ADDRS,
            Layout::of::<Addr, Present>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::SOURCE_RANGES,
            Layout::of::<SourceRange, Present>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (
            name::SERVICE_CIDRS,
            Layout::of::<Cidr, Present>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (
            name::INTERFACES,
            Layout::of::<u32, Interface>(MapType::Hash, NO_PREALLOC),
        ),
        (name::NODE, Layout::of::<u32, Node>(MapType::Array, 0)),
        (
            name::PODS,
            Layout::of::<u32, Pod>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::POD_ADDRS,
            Layout::of::<PodAddr, Present>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::PEERS,
            Layout::of::<Addr, Class>(MapType::Hash, NO_PREALLOC),
        ),
        (
            name::PEER_RANGES,
            Layout::of::<Cidr, Class>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (
            name::RULES,
            Layout::of::<RuleKey, u32>(MapType::LpmTrie, NO_PREALLOC),
        ),
        (name::POLICY, Layout::of::<u32, Policy>(MapType::Array, 0)),
        (
            name::CONNECTIONS,
            Layout::of::<ConnectionKey, Connection>(MapType::LruHash, 0),
        ),
        (
            name::EVENTS,
            Layout {
                map_type: MapType::RingBuf,
                key_size: 0,
                value_size: 0,
                flags: 0,
            },
        ),
        (
            name::FRAGMENTS,
            Layout::of::<FragmentKey, Fragment>(MapType::LruHash, 0),
        ),
        (
            name::AFFINITY,
            Layout::of::<AffinityKey, Affinity>(MapType::LruHash, 0),
        ),
        (name::FLOWS, Layout::of::<Tuple, Flow>(MapType::LruHash, 0)),
        (
            name::SOCKETS,
            Layout::of::<SocketKey, SocketFlow>(MapType::LruHash, 0),
        ),
        (
            name::COUNTERS,
            Layout::of::<u32, u64>(MapType::PerCpuArray, 0),
        ),
    ])
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
}

impl Pins {
    /// The pin directory below a mounted BPF file system. Touches nothing.
    #[must_use]
    pub fn new(bpffs: &Path) -> Self {
        Self {
            bpffs: bpffs.to_path_buf(),
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
        self.root().join(format!("v{LAYOUT_VERSION}"))
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
        self.check_mounted()?;
        for directory in [self.root(), self.maps(), self.links(), self.qdiscs()] {
            match fs::DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("create {}", directory.display()));
                }
            }
        }
        Ok(())
    }

    /// The tables that are pinned now and how many entries each holds at most.
    ///
    /// # Errors
    ///
    /// A pinned map has another layout than ours. The message names it, what was expected and
    /// found, and what to do.
    pub fn check_layout(&self) -> Result<BTreeMap<&'static str, u32>> {
        let mut pinned = BTreeMap::new();
        for (table, expected) in layouts() {
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
    /// What to tell someone who looked for tables where there are none of this layout.
    ///
    /// # Errors
    ///
    /// The directory cannot be listed.
    pub fn nothing_here(&self) -> Result<String> {
        let others: Vec<String> = names(&self.root())?
            .into_iter()
            .filter(|name| {
                name.strip_prefix('v')
                    .is_some_and(|rest| rest.parse::<u32>().is_ok())
            })
            .filter(|name| !self.maps().ends_with(name))
            .collect();
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
        fs::create_dir_all(pins.root().join("v999999")).unwrap();
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
