//! What a process and its tables cost, by the kernel's word.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::loaded_maps;

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

/// How long all threads of a process have run. One that has ended is not counted any more.
pub fn run_time(process: u32) -> Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).context("list its threads")?;
    let mut total = 0;
    for task in tasks {
        // It may end while the others are looked at.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let nanoseconds = text.split_whitespace().next();
        total += nanoseconds
            .and_then(|it| it.parse::<u64>().ok())
            .context("schedstat begins with a time")?;
    }
    Ok(Duration::from_nanos(total))
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
