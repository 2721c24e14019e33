//! What is so now: the agent's own account, joined with what the kernel says when somebody asks.
//!
//! The agent knows what it wrote; how full the programs' own tables are, and what is attached, only
//! the kernel knows. It is asked at most every two seconds or once for each synchronisation,
//! however many ask, on a thread where that keeps nobody waiting. Without an agent the same
//! questions are asked of the pins.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use weir_ebpf::tables::name;

use super::status::{Status, Table};
use crate::{
    attach::{self, State},
    maps::{kernel::KernelTables, pins::Pins},
};

/// How long an answer of the kernel's is good for.
const FRESH: Duration = Duration::from_secs(2);

/// The agent's account of itself, as it is shown to all who ask.
///
/// It changes with every synchronisation and is asked for now and then: it is changed where it is,
/// and copied for those who ask.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    status: Option<Status>,
    /// `None`: it has changed since somebody asked.
    copy: Option<Arc<Status>>,
}

impl Told {
    /// This is so from now on.
    pub fn tell(&self, status: Status) {
        *lock(&self.0) = Shared {
            status: Some(status),
            copy: None,
        };
    }

    /// This is different from now on, if anything was told before.
    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut shared = lock(&self.0);
        shared.copy = None;
        if let Some(status) = &mut shared.status {
            change(status);
        }
    }

    /// What is so. `None`: the agent has not got so far.
    #[must_use]
    pub fn now(&self) -> Option<Arc<Status>> {
        let mut shared = lock(&self.0);
        let Shared { status, copy } = &mut *shared;
        let status = status.as_ref()?;
        Some(Arc::clone(
            copy.get_or_insert_with(|| Arc::new(status.clone())),
        ))
    }
}

/// What an agent that runs answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What the agent says of itself.
    #[serde(flatten)]
    pub status: Status,
    /// What is attached.
    pub hooks: Hooks,
}

/// What of Weir's is attached, by the kernel's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Programs for sockets' calls.
    pub sockets: Vec<SocketHook>,
    /// Programs for packets.
    pub packets: Vec<PacketHook>,
    /// Why the kernel could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A program for sockets' calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketHook {
    /// Its name, as in `connect4`.
    pub program: String,
    /// The cgroup's number, which is the inode of its directory; `null`: the cgroup is gone.
    pub cgroup: Option<u64>,
}

/// A program for packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketHook {
    /// The interface's index.
    pub interface: u32,
    /// Its hook: `from_pod`, `to_pod`, `from_network`, `to_network`
    pub hook: String,
    /// How it is held: `tcx` or `clsact`
    pub mode: String,
    /// The program's number; `null`: the interface is gone, and only the pin is left.
    pub program: Option<u32>,
}

/// Asks the kernel what is attached.
#[must_use]
pub fn hooks(pins: &Pins) -> Hooks {
    match attach::attached(pins) {
        Ok(attached) => hooks_of(&attached),
        Err(error) => Hooks {
            error: Some(format!("{error:#}")),
            ..Hooks::default()
        },
    }
}

fn hooks_of(attached: &attach::Attached) -> Hooks {
    let sockets = attached.sockets.iter().map(|hook| SocketHook {
        program: hook.program.to_owned(),
        cgroup: hook.cgroup,
    });
    let packets = attached
        .packets
        .iter()
        .map(|(attachment, state)| PacketHook {
            interface: attachment.interface,
            hook: attachment.hook.name().to_owned(),
            mode: attachment.mode.to_string(),
            program: match state {
                State::Live(program) => Some(*program),
                State::Severed => None,
            },
        });
    Hooks {
        sockets: sockets.collect(),
        packets: packets.collect(),
        error: None,
    }
}

/// The entries of the tables that programs fill, counted by listing them: the kernel keeps no
/// count.
///
/// # Errors
/// A table cannot be listed.
pub fn count(tables: &KernelTables) -> Result<BTreeMap<&'static str, usize>> {
    Ok(BTreeMap::from([
        (name::FLOWS, entries(tables.flows())?),
        (name::SOCKETS, entries(tables.sockets())?),
        (name::AFFINITY, entries(tables.affinity())?),
        (name::CONNECTIONS, entries(tables.connections())?),
    ]))
}

fn entries<T>(mut all: impl Iterator<Item = std::io::Result<T>>) -> Result<usize> {
    Ok(all.try_fold(0, |count, entry| entry.map(|_| count + 1))?)
}

/// Every table as it is pinned, without an agent.
///
/// # Errors
/// None is pinned, they are of another layout, or may not be read.
pub fn pinned_tables(pins: &Pins) -> Result<Vec<Table>> {
    let tables = KernelTables::open_read_only(pins)?;
    let contents = tables.read()?;
    let counted = count(&tables)?;
    let rows = tables
        .capacities()
        .into_iter()
        .filter_map(|(name, capacity)| {
            let entries = contents
                .entries(name)
                .or_else(|| counted.get(name).copied())?;
            Some(Table {
                name: name.to_owned(),
                entries,
                capacity,
            })
        });
    Ok(rows.collect())
}

/// Joins both halves of the account.
pub struct Accountant {
    told: Told,
    pins: Pins,
    tables: KernelTables,
    /// What the kernel said last.
    kernel: Mutex<Option<Heard>>,
}

/// What the kernel said, and when.
struct Heard {
    at: Instant,
    generation: u64,
    tables: Vec<Table>,
    hooks: Hooks,
}

impl fmt::Debug for Accountant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accountant").finish_non_exhaustive()
    }
}

impl Accountant {
    /// With nothing asked yet.
    #[must_use]
    pub fn new(told: Told, pins: Pins, tables: KernelTables) -> Self {
        Self {
            told,
            pins,
            tables,
            kernel: Mutex::new(None),
        }
    }

    /// What is so now. May block. `None`: the agent has not got so far.
    #[must_use]
    pub fn account(&self) -> Option<Account> {
        let mut status = (*self.told.now()?).clone();
        let mut kernel = lock(&self.kernel);
        let heard = match kernel.take() {
            Some(heard) if heard.generation == status.generation && heard.at.elapsed() < FRESH => {
                heard
            }
            Some(_) | None => self.ask(status.generation),
        };
        status.tables.extend(heard.tables.iter().cloned());
        let hooks = heard.hooks.clone();
        *kernel = Some(heard);
        Some(Account { status, hooks })
    }

    fn ask(&self, generation: u64) -> Heard {
        let capacities = self.tables.capacities();
        // Where one cannot be counted the metrics' log says why; the others are of use still.
        let counted = count(&self.tables).unwrap_or_default();
        let tables = counted.into_iter().map(|(name, entries)| Table {
            name: name.to_owned(),
            entries,
            capacity: capacities.get(name).copied().unwrap_or(0),
        });
        Heard {
            at: Instant::now(),
            generation,
            tables: tables.collect(),
            hooks: hooks(&self.pins),
        }
    }
}

/// Whoever panicked with one of these left it whole: they are changed by single assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::{Attached, Attachment, TcHook, TcMode};

    #[test]
    fn what_is_attached_keeps_its_names_in_json() {
        let attachment = |hook, mode| Attachment {
            hook,
            interface: 7,
            mode,
        };
        let attached = Attached {
            sockets: vec![attach::SocketHook {
                program: "connect4",
                cgroup: Some(1),
            }],
            packets: BTreeMap::from([
                (attachment(TcHook::FromPod, TcMode::Tcx), State::Live(12)),
                (
                    attachment(TcHook::ToNetwork, TcMode::Clsact),
                    State::Severed,
                ),
            ]),
        };
        assert_eq!(
            serde_json::to_value(hooks_of(&attached)).unwrap(),
            serde_json::json!({
                "sockets": [{"program": "connect4", "cgroup": 1}],
                "packets": [
                    {"interface": 7, "hook": "to_network", "mode": "clsact", "program": null},
                    {"interface": 7, "hook": "from_pod", "mode": "tcx", "program": 12},
                ],
            })
        );
    }
}
