//! From the BPF object to loaded programs and pinned maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfLoader};
use weir_ebpf::tables::{capacity, name};

use super::cgroup::{self, CgroupReport};
use super::checksum_field::{ChecksumField, fit};
use super::features::Features;
use super::netns_cookie::netns_cookie;
use super::plan::{Role, TcMode};
use super::programs::{self, HAND_OVER, ProgramReport, Programs};
use super::tc::{self, Loaded, TcReport};
use crate::maps::kernel::KernelTables;
use crate::maps::layout::layouts;
use crate::maps::pins::{KeptSize, Pins, kept_sizes};
use crate::maps::succession::{Inheritance, Succession};

/// The choice of `--tc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcChoice {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX, or fail.
    Tcx,
    /// clsact, also where the kernel has TCX.
    Clsact,
}

/// What to load, and how.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The BPF object.
    pub object: &'a [u8],
    /// A mounted BPF file system.
    pub bpffs: &'a Path,
    /// Entries each table holds at most, for maps that are not pinned yet. Tables that are not
    /// named keep the size in the object.
    pub capacities: BTreeMap<&'static str, u32>,
    /// How packet hooks hold programs.
    pub tc: TcChoice,
    /// What programs log: 0 nothing, 4 debug (see `aya_log::Level`).
    pub log_level: u8,
    /// Programs that are loaded at once, so that a kernel that refuses one says so before anything
    /// is written; others are with the first hook that needs them. [`HAND_OVER`] has none: it is
    /// loaded if it is here and this kernel can hand packets over.
    pub at_once: BTreeSet<&'static str>,
}

/// [`Options::log_level`] for a record of each packet (`aya_log_common::Level::Debug`).
pub const LOG_DEBUG: u8 = 4;

/// The sizes in `weir_ebpf::tables::capacity`, for [`Options::capacities`].
#[must_use]
pub fn default_capacities() -> BTreeMap<&'static str, u32> {
    BTreeMap::from([
        (name::FRONTENDS, capacity::FRONTENDS),
        (name::SERVICES, capacity::SERVICES),
        (name::SERVICE_NAMES, capacity::SERVICES),
        (name::BACKENDS, capacity::BACKENDS),
        (name::SERVING, capacity::BACKENDS),
        (name::FLOWS, capacity::FLOWS),
        (name::SOCKETS, capacity::SOCKETS),
        (name::NODE_PORT_ADDRS, capacity::NODE_PORT_ADDRS),
        (name::SOURCE_RANGES, capacity::SOURCE_RANGES),
        (name::SERVICE_CIDRS, capacity::SERVICE_CIDRS),
        (name::INTERFACES, capacity::INTERFACES),
        (name::FRAGMENTS, capacity::FRAGMENTS),
        (name::AFFINITY, capacity::AFFINITY),
        (name::PODS, capacity::PODS),
        (name::POD_ADDRS, capacity::POD_ADDRS),
        (name::RECEIVERS, capacity::POD_ADDRS),
        (name::PEERS, capacity::PEERS),
        (name::PEER_RANGES, capacity::PEER_RANGES),
        (name::RULES, capacity::RULES),
        (name::CONNECTIONS, capacity::CONNECTIONS),
    ])
}

/// The loaded programs and their pinned maps. Ending it detaches nothing.
#[derive(Debug)]
pub struct Dataplane {
    ebpf: Ebpf,
    pins: Pins,
    features: Features,
    mode: TcMode,
    programs: Programs,
    kept_sizes: Vec<KeptSize>,
    succession: Succession,
}

impl Dataplane {
    /// Loads the programs that are asked for; adopts the maps that are pinned, after comparing their
    /// layouts, or takes over from those of another version ([`Succession`]), and pins the others.
    /// Attaches nothing.
    ///
    /// # Errors
    ///
    /// No BPF file system is there, a pinned map has another layout, or the kernel refuses a map
    /// or program, which is named. Maps that were pinned for the first time are gone again.
    pub fn load(options: &Options<'_>) -> Result<Self> {
        let features = Features::probe()?;
        let mode = choose(options.tc, features.tcx)?;
        let pins = Pins::new(options.bpffs);
        let mut succession = Succession::begin(&pins)?;
        let place = succession.place();
        let pinned = place.check_layout()?;
        let loaded = load_object(options, &place, features)
            .and_then(|ebpf| check_object(&place).map(|()| ebpf))
            .and_then(|ebpf| load_programs(ebpf, options, features))
            .and_then(|loaded| succession.complete().map(|()| loaded));
        let (ebpf, programs) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                unpin_new(&place, &pinned.keys().copied().collect());
                if let Err(error) = succession.give_up() {
                    tracing::warn!("cannot remove unfinished tables again: {error:#}");
                }
                return Err(error);
            }
        };
        Ok(Self {
            ebpf,
            kept_sizes: kept_sizes(&pinned, &options.capacities),
            pins,
            features,
            mode,
            programs,
            succession,
        })
    }

    /// What became of the tables of another layout that were pinned.
    #[must_use]
    pub fn inheritance(&self) -> &Inheritance {
        self.succession.inheritance()
    }

    /// Every hook has its program of this layout: removes the maps of others, and gives their
    /// versions.
    ///
    /// # Errors
    ///
    /// A pin cannot be removed.
    pub fn retire_other_layouts(&self) -> Result<Vec<u32>> {
        self.succession.end()
    }

    /// Opens the tables for reading and writing.
    ///
    /// # Errors
    ///
    /// Someone removed or exchanged a pin meanwhile.
    pub fn tables(&self) -> Result<KernelTables> {
        KernelTables::open(&self.pins)
    }

    /// Attaches the socket programs to the root of a cgroup v2 tree.
    ///
    /// # Errors
    ///
    /// It is none, or the kernel refuses a program, which is named.
    pub fn attach_cgroup(&mut self, root: &Path) -> Result<CgroupReport> {
        let hooks = cgroup::HOOKS.iter().map(|(name, _)| *name);
        self.programs.load_all(&mut self.ebpf, &hooks.collect())?;
        let fds: BTreeMap<&str, &ProgramFd> = cgroup::HOOKS
            .iter()
            .map(|(name, _)| Ok((*name, programs::of(&self.ebpf, name)?.fd()?)))
            .collect::<Result<_>>()?;
        cgroup::attach(&self.pins, root, |name| fds[name].as_fd())
    }

    /// Attaches to the given interfaces, by index, the packet programs of their roles, and
    /// detaches them from all others. Programs that are needed for the first time are loaded.
    ///
    /// # Errors
    ///
    /// What is attached cannot be listed. A failure at one interface is in the report, and so is
    /// that of a program, at each interface that needs it.
    pub fn sync_interfaces(&mut self, wanted: &BTreeMap<u32, Role>) -> Result<TcReport> {
        let needed = wanted.values().flat_map(|role| role.hooks());
        let needed: BTreeSet<&'static str> = needed.map(|(_, program)| *program).collect();
        let refused = self.programs.load(&mut self.ebpf, &needed)?;
        let mut loaded: BTreeMap<&str, (u32, &ProgramFd)> = BTreeMap::new();
        for name in needed {
            if !refused.contains_key(name) {
                let program = programs::of(&self.ebpf, name)?;
                loaded.insert(name, (program.info()?.id(), program.fd()?));
            }
        }
        tc::sync(&self.pins, self.mode, wanted, |name| {
            match (loaded.get(name), refused.get(name)) {
                (Some(&(id, fd)), _) => Ok(Loaded { id, fd: fd.as_fd() }),
                (None, Some(error)) => Err(anyhow!("{error:#}")),
                (None, None) => Err(anyhow!("the program {name} is not loaded")),
            }
        })
    }

    /// What the kernel can do.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// How packet hooks hold programs.
    #[must_use]
    pub fn tc_mode(&self) -> TcMode {
        self.mode
    }

    /// Every program that is loaded.
    #[must_use]
    pub fn programs(&self) -> &[ProgramReport] {
        self.programs.reports()
    }

    /// Tables that stay as large as an earlier agent made them.
    #[must_use]
    pub fn kept_sizes(&self) -> &[KeptSize] {
        &self.kept_sizes
    }

    /// The pin directory.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(super) fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    /// aya's view, for its log and for running programs in tests.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

fn choose(choice: TcChoice, tcx: bool) -> Result<TcMode> {
    match choice {
        TcChoice::Auto | TcChoice::Tcx if tcx => Ok(TcMode::Tcx),
        TcChoice::Auto | TcChoice::Clsact => Ok(TcMode::Clsact),
        TcChoice::Tcx => bail!(
            "this kernel has no TCX (Linux 6.6 and later); start without --tc=tcx to use clsact"
        ),
    }
}

fn load_object(options: &Options<'_>, pins: &Pins, features: Features) -> Result<Ebpf> {
    let cookie = netns_cookie()?;
    let bits = features.bits();
    let checksum_field = features.checksum_field.map_or(0, ChecksumField::number);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("HOST_NETNS_COOKIE", &cookie, true)
        .override_global("FEATURES", &bits, true)
        .override_global("CHECKSUM_FIELD", &checksum_field, true)
        .override_global(aya_log::LEVEL, &options.log_level, false);
    for table in layouts().into_keys() {
        loader.map_pin_path(table, pins.map(table));
    }
    for (table, entries) in &options.capacities {
        ensure!(
            *entries > 0,
            "the table {table} must hold at least one entry"
        );
        loader.map_max_entries(table, *entries);
    }
    let object = fit(options.object, features.checksum_field);
    let object = bytemuck::cast_slice(&object);
    loader.load(object).context("load the BPF object")
}

/// The object itself may be of another build than this agent.
fn check_object(pins: &Pins) -> Result<()> {
    let pinned = pins
        .check_layout()
        .context("the BPF object does not fit this agent; build both from the same sources")?;
    for table in layouts().into_keys() {
        ensure!(
            pinned.contains_key(table),
            "the BPF object has no map {table}; build it and the agent from the same sources"
        );
    }
    Ok(())
}

fn load_programs(
    mut ebpf: Ebpf,
    options: &Options<'_>,
    features: Features,
) -> Result<(Ebpf, Programs)> {
    programs::check(&ebpf)?;
    let mut at_once = options.at_once.clone();
    if !features.redirect_peer {
        at_once.remove(HAND_OVER);
    }
    let mut programs = Programs::default();
    programs.load_all(&mut ebpf, &at_once)?;
    programs.set_next(&mut ebpf)?;
    Ok((ebpf, programs))
}

/// Undoes the pinning of a load that failed.
fn unpin_new(pins: &Pins, before: &BTreeSet<&str>) {
    for table in layouts().into_keys() {
        if before.contains(table) {
            continue;
        }
        let path = pins.map(table);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a pinned map again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clsact_can_be_forced_where_tcx_is_there() {
        assert_eq!(choose(TcChoice::Auto, true).unwrap(), TcMode::Tcx);
        assert_eq!(choose(TcChoice::Auto, false).unwrap(), TcMode::Clsact);
        assert_eq!(choose(TcChoice::Tcx, true).unwrap(), TcMode::Tcx);
        assert_eq!(choose(TcChoice::Clsact, true).unwrap(), TcMode::Clsact);
        assert!(
            choose(TcChoice::Tcx, false)
                .unwrap_err()
                .to_string()
                .contains("Linux 6.6")
        );
    }
}
