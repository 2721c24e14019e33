//! What a row of the status says: pure, each from what it is given.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::ROWS;
use crate::{
    cli::output::{bad, duration_text, good},
    observe::{
        account::{Hooks, PacketHook},
        status::{PodInterface, Source, SourceState, Status, Table},
    },
};

/// Cells of a bar.
pub(super) const BAR: usize = 20;

/// Where there is nothing to say.
pub(super) fn dash() -> String {
    "-".to_owned()
}

/// `3m20s`, from then until now; a clock that was set back makes it nothing.
pub(super) fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second());
    duration_text(u64::try_from(seconds).unwrap_or(0))
}

pub(super) fn state_text(state: SourceState) -> String {
    match state {
        SourceState::Synced => good("synced"),
        SourceState::Listing => "listing".to_owned(),
        SourceState::Absent => "absent".to_owned(),
        SourceState::Failing => bad("failing"),
        SourceState::Forbidden => bad("forbidden"),
    }
}

/// `3 Service, 5 Pod`: kinds of which there is nothing are named where that is the news.
pub(super) fn kinds_text(rows: &[&Source], state: SourceState) -> String {
    let (none, some): (Vec<&Source>, Vec<&Source>) = rows.iter().partition(|row| row.objects == 0);
    let mut parts: Vec<String> = some
        .into_iter()
        .map(|row| format!("{} {}", row.objects, row.kind))
        .collect();
    if state != SourceState::Synced {
        parts.extend(none.into_iter().map(|row| row.kind.clone()));
    }
    if parts.is_empty() {
        "no objects".to_owned()
    } else {
        parts.join(", ")
    }
}

pub(super) fn share(table: &Table) -> f64 {
    table.entries as f64 / f64::from(table.capacity.max(1))
}

pub(super) fn table_row(table: &Table) -> [String; 5] {
    let Table {
        name,
        entries,
        capacity,
    } = table;
    let percent = share(table) * 100.0;
    let used = match percent {
        0.0 => "0%".to_owned(),
        percent if percent < 1.0 => "<1%".to_owned(),
        percent => format!("{percent:.0}%"),
    };
    let is_full = *entries >= *capacity as usize;
    let entries = if is_full {
        format!("{entries} (full)")
    } else {
        entries.to_string()
    };
    let bar = bar(share(table));
    // Programs' own tables forget what was used least when they are full; the others cannot.
    let bar = if percent >= 90.0 { bad(&bar) } else { bar };
    [name.clone(), bar, used, entries, capacity.to_string()]
}

/// A share of one as a bar; what is there at all has a cell, and only what is full has all.
pub(super) fn bar(share: f64) -> String {
    let cells = (0..BAR)
        .filter(|cell| share * BAR as f64 > *cell as f64)
        .count();
    let cells = if share < 1.0 { cells.min(BAR - 1) } else { BAR };
    format!("{}{}", "█".repeat(cells), "░".repeat(BAR - cells))
}

/// Names of interfaces by index, as far as the account has them.
pub(super) fn interface_names(status: Option<&Status>) -> BTreeMap<u32, &str> {
    let Some(status) = status else {
        return BTreeMap::new();
    };
    let pods = status.interfaces.iter().map(|it| (it.index, &*it.name));
    let network = status.network_interfaces.iter();
    let network = network.map(|it| (it.index, &*it.name));
    pods.chain(network).collect()
}

pub(super) fn interface_text(index: u32, names: &BTreeMap<u32, &str>) -> String {
    match names.get(&index) {
        Some(name) => (*name).to_owned(),
        None => format!("interface {index}"),
    }
}

pub(super) fn wide_hook(hook: &PacketHook, names: &BTreeMap<u32, &str>) -> [String; 5] {
    [
        hook.interface.to_string(),
        names
            .get(&hook.interface)
            .map_or_else(dash, |name| (*name).to_owned()),
        hook.hook.clone(),
        hook.mode.clone(),
        hook.program
            .map_or_else(|| "gone".to_owned(), |program| program.to_string()),
    ]
}

/// One row for each place where the same programs stand.
pub(super) fn hook_rows(
    hooks: &Hooks,
    status: Option<&Status>,
    names: &BTreeMap<u32, &str>,
) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    let mut cgroups: BTreeMap<Option<u64>, Vec<&str>> = BTreeMap::new();
    for hook in &hooks.sockets {
        cgroups.entry(hook.cgroup).or_default().push(&hook.program);
    }
    let root = status.and_then(|status| status.cgroup_root.as_ref());
    for (cgroup, programs) in cgroups {
        let place = match (cgroup, root) {
            (None, _) => bad("a cgroup that is gone"),
            (Some(_), Some(root)) => root.display().to_string(),
            (Some(inode), None) => format!("the cgroup with inode {inode}"),
        };
        rows.push(["sockets".to_owned(), programs.join(", "), place]);
    }
    // Interfaces by what stands at them: mostly two kinds.
    let mut at: BTreeMap<u32, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for hook in hooks.packets.iter().filter(|hook| hook.program.is_some()) {
        let programs = at.entry(hook.interface).or_default();
        programs.insert((&hook.hook, &hook.mode));
    }
    let mut alike: BTreeMap<BTreeSet<(&str, &str)>, Vec<u32>> = BTreeMap::new();
    for (interface, programs) in at {
        alike.entry(programs).or_default().push(interface);
    }
    for (programs, interfaces) in alike {
        let held: BTreeSet<&str> = programs.iter().map(|(_, mode)| *mode).collect();
        let hooks: BTreeSet<&str> = programs.iter().map(|(hook, _)| *hook).collect();
        let is_pod = hooks.iter().all(|hook| hook.ends_with("_pod"));
        let is_whole = hooks.len() == 2;
        let label = if is_pod { "pods" } else { "network" };
        let all: Vec<String> = interfaces
            .iter()
            .map(|index| interface_text(*index, names))
            .collect();
        let place = if is_whole && is_pod {
            format!("{} interfaces", all.len())
        } else {
            let (shown, missing) = (all.len().min(ROWS), all.len().saturating_sub(ROWS));
            let more = if missing > 0 {
                format!(" and {missing} more")
            } else {
                String::new()
            };
            format!("{}{more}", all[..shown].join(", "))
        };
        let hooks: Vec<&str> = hooks.into_iter().collect();
        let held: Vec<&str> = held.into_iter().collect();
        rows.push([
            label.to_owned(),
            format!("{} ({})", hooks.join(", "), held.join(", ")),
            if is_whole { place } else { bad(&place) },
        ]);
    }
    rows
}

/// `12 pod interfaces: 10 programmed, 1 isolated (labels not known yet), 1 unknown`
pub(super) fn pods_line(interfaces: &[PodInterface]) -> String {
    let states = [
        ("programmed", ""),
        ("isolated", " (labels not known yet)"),
        ("unknown", ""),
    ];
    let parts: Vec<String> = states
        .into_iter()
        .filter_map(|(state, remark)| {
            let count = interfaces.iter().filter(|it| it.state == state).count();
            (count > 0).then(|| format!("{count} {state}{remark}"))
        })
        .collect();
    let all = format!("{} pod interfaces", interfaces.len());
    if parts.is_empty() {
        all
    } else {
        format!("{all} ({})", parts.join(", "))
    }
}

pub(super) fn pod_row(interface: &PodInterface) -> [String; 6] {
    let PodInterface {
        index,
        name,
        pod,
        state,
        ingress,
        egress,
    } = interface;
    let policies = |policies: &[String]| match policies {
        [] => dash(),
        policies => policies.join(", "),
    };
    [
        index.to_string(),
        name.clone(),
        pod.clone().unwrap_or_else(dash),
        state.clone(),
        policies(ingress),
        policies(egress),
    ]
}
