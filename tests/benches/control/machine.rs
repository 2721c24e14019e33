//! What a process and its tables cost, by the kernel's word.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// What of a process is in memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// `VmRSS`, in bytes.
    pub resident: u64,
    /// `VmHWM`, in bytes.
    pub peak: u64,
}

/// Memory of a process.
pub fn memory(process: u32) -> Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).context("read its status")?;
    let of = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number =
            line.and_then(|rest| rest.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok());
        number
            .map(|kibibytes: u64| kibibytes * 1024)
            .with_context(|| format!("its status has no {field}"))
    };
    Ok(Memory {
        resident: of("VmRSS")?,
        peak: of("VmHWM")?,
    })
}

/// How long all threads of a process have run, those that have ended too.
pub fn run_time(process: u32) -> Result<Duration> {
    let process = Pid::from_raw(i32::try_from(process).context("a process id fits")?);
    let clock = clock_getcpuclockid(process).context("find the process's clock")?;
    let now = clock.now().context("read the process's clock")?;
    Ok(Duration::from(now))
}

/// What each BPF map costs that a process has open, in bytes, by its name.
pub fn maps(process: u32) -> Result<BTreeMap<String, u64>> {
    let mut costs = BTreeMap::new();
    let infos = fs::read_dir(format!("/proc/{process}/fdinfo")).context("list its files")?;
    for info in infos {
        let Ok(text) = fs::read_to_string(info?.path()) else {
            continue;
        };
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line?.trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            costs.insert(id, bytes);
        }
    }
    let ids: BTreeSet<u64> = costs.keys().copied().collect();
    let mut by_name = BTreeMap::new();
    for map in loaded_maps() {
        // Others' maps come and go.
        let Ok(map) = map else { continue };
        let id = u64::from(map.id());
        if ids.contains(&id) {
            let name = map.name_as_str().unwrap_or_default().to_owned();
            by_name.insert(name, costs[&id]);
        }
    }
    Ok(by_name)
}
