//! Somebody else writes to the tables of an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, loaded_maps};
use weir_agent::maps::kernel::KernelTables;
use weir_agent::maps::{Plan, Write};
use weir_tests::bed::Agent;
use weir_tests::bed::wait::wait_for;

use super::PATIENCE;

/// Takes away all frontends and backends, and waits until the agent has put them back.
pub fn is_undone(agent: &Agent) -> Result<()> {
    let mut tables = tables(agent.id())?;
    let before = tables.read()?;
    ensure!(!before.frontends.is_empty(), "there are frontends");
    ensure!(!before.backends.is_empty(), "there are backends");
    let frontends = before.frontends.keys();
    let backends = before.backends.keys();
    let removals = frontends
        .map(|key| Write::RemoveFrontend(*key))
        .chain(backends.map(|key| Write::RemoveBackend(*key)));
    tables.apply(&Plan(removals.collect()))?;
    wait_for(
        || "what was taken from the tables to be there again".to_owned(),
        PATIENCE,
        || {
            let now = tables.read()?;
            Ok(now.frontends == before.frontends && now.backends == before.backends)
        },
    )
}

/// Those that a process has open.
fn tables(process: u32) -> Result<KernelTables> {
    let mut open = BTreeSet::new();
    let directory = format!("/proc/{process}/fdinfo");
    for info in fs::read_dir(&directory).with_context(|| format!("list {directory}"))? {
        // Its other files come and go.
        let text = fs::read_to_string(info?.path()).unwrap_or_default();
        let mut lines = text.lines();
        let id = lines.find_map(|line| line.strip_prefix("map_id:"));
        open.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    // Others' maps come and go, too.
    let maps = loaded_maps().filter_map(Result::ok);
    let ids: BTreeMap<String, u32> = maps
        .filter(|map| open.contains(&map.id()))
        .map(|map| (map.name_as_str().unwrap_or_default().to_owned(), map.id()))
        .collect();
    KernelTables::from_maps(|name| {
        let id = ids.get(name).with_context(|| format!("{name} is open"))?;
        MapData::from_id(*id).with_context(|| format!("open the map {name}"))
    })
}
