//! Do the tables hold what was written there? Without building what they hold.
//!
//! The agent alone writes these tables, so that nearly always they do, and to find that out takes
//! no more than a look at each entry: it is walked over as the kernel gives it, looked up in what is
//! wanted, and counted. Where everything that is there is wanted and there are as many, nothing is
//! missing. What is to be done where something differs, [`KernelTables::read`] and `diff` say.
//!
//! The tables are compared one [`Part`] at a time: all of them at once take tens of milliseconds
//! with ten thousand services, during which no change would be written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use weir_ebpf::tables::{Policy, Service};

use super::{Entries, KernelTables, PrefixTable, Table, syscall};
use crate::maps::Contents;

/// What is compared together: about as many entries each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `FRONTENDS`
    Frontends,
    /// `BACKENDS`
    Backends,
    /// `SERVING`
    Serving,
    /// `SERVICES` as far as numbers are given, `SERVICE_NAMES`, and what stands beside services.
    Services,
    /// The tables of policies and of this node's pods.
    Policies,
}

impl Part {
    /// Together everything that the agent writes.
    pub const ALL: [Self; 5] = [
        Self::Frontends,
        Self::Backends,
        Self::Serving,
        Self::Services,
        Self::Policies,
    ];

    /// In so many turns each part has one.
    #[expect(clippy::cast_possible_truncation, reason = "they are few")]
    pub const TURNS: u32 = 2 * Self::ALL.len() as u32;

    /// Which part has this turn; every other one is nobody's.
    #[must_use]
    pub const fn of_turn(turn: u32) -> Option<Self> {
        let turn = turn % Self::TURNS;
        if turn.is_multiple_of(2) {
            Some(Self::ALL[turn as usize / 2])
        } else {
            None
        }
    }
}

/// The name of a table that holds something else than is wanted of it.
type Different = Option<&'static str>;

impl KernelTables {
    /// The name of a table of this part that holds something else than these contents with this
    /// `POLICY`, if there is one. What `SERVICES` holds beyond the last number in use is not looked
    /// at: no frontend leads there.
    ///
    /// # Errors
    ///
    /// The kernel refuses to list a table, which is named.
    pub fn differing(
        &self,
        part: Part,
        contents: &Contents,
        policy: Policy,
    ) -> Result<Option<&'static str>> {
        let differing: &[Different] = match part {
            Part::Frontends => &[self.frontends.unless_holds(&contents.frontends)?],
            Part::Backends => &[self.backends.unless_holds(&contents.backends)?],
            Part::Serving => &[self.serving.unless_keys(&contents.serving)?],
            Part::Services => &[
                self.services.unless_begins_with(&contents.services)?,
                self.service_names.unless_holds(&contents.service_names)?,
                self.node_port_addrs
                    .unless_keys(&contents.node_port_addrs)?,
                self.source_ranges.unless_keys(&contents.source_ranges)?,
                self.service_cidrs.unless_keys(&contents.service_cidrs)?,
                self.interfaces.unless_holds(&contents.interfaces)?,
                self.node.unless_is(contents.node)?,
            ],
            Part::Policies => &[
                self.pods.unless_holds(&contents.pods)?,
                self.pod_addrs.unless_keys(&contents.pod_addrs)?,
                self.receivers.unless_holds(&contents.receivers)?,
                self.peers.unless_holds(&contents.peers)?,
                self.peer_ranges.unless_holds(&contents.peer_ranges)?,
                self.rules.unless_holds(&contents.rules)?,
                self.policy.unless_is(policy)?,
            ],
        };
        Ok(differing.iter().find_map(|name| *name))
    }
}

/// Is each of these entries wanted, and are there so many?
fn are<K, V>(
    entries: impl IntoIterator<Item = io::Result<(K, V)>>,
    count: usize,
    is_wanted: impl Fn(&K, &V) -> bool,
) -> io::Result<bool> {
    let mut seen = 0;
    for entry in entries {
        let (key, value) = entry?;
        if !is_wanted(&key, &value) {
            return Ok(false);
        }
        seen += 1;
    }
    Ok(seen == count)
}

impl<K: Pod + Ord, V: Pod + PartialEq> Table<K, V> {
    fn unless(&self, holds: io::Result<bool>) -> Result<Different> {
        let holds = holds.with_context(|| format!("read the table {}", self.name))?;
        Ok((!holds).then_some(self.name))
    }

    fn unless_holds(&self, wanted: &BTreeMap<K, V>) -> Result<Different> {
        self.unless(are(self.entries(), wanted.len(), |key, value| {
            wanted.get(key) == Some(value)
        }))
    }

    fn unless_keys(&self, wanted: &BTreeSet<K>) -> Result<Different> {
        self.unless(are(self.entries(), wanted.len(), |key, _| {
            wanted.contains(key)
        }))
    }
}

impl Table<u32, Service> {
    /// Of an array: what is not wanted is zero.
    fn unless_begins_with(&self, wanted: &BTreeMap<u32, Service>) -> Result<Different> {
        let count = wanted.last_key_value().map_or(0, |(last, _)| last + 1);
        let count = count.min(self.capacity) as usize;
        let entries = Entries::first(self.fd(), count);
        self.unless(are(entries, count, |number, service| {
            wanted.get(number).copied().unwrap_or_default() == *service
        }))
    }
}

impl<V: Pod + PartialEq + Default> Table<u32, V> {
    /// Of an array of one.
    fn unless_is(&self, wanted: V) -> Result<Different> {
        let value = self.get(&0)?.unwrap_or_default();
        Ok((value != wanted).then_some(self.name))
    }
}

impl<K: Pod + Ord, V: Pod + PartialEq> PrefixTable<K, V> {
    fn unless_holds(&self, wanted: &BTreeMap<K, V>) -> Result<Different> {
        self.unless(wanted.len(), |key, value| wanted.get(key) == Some(value))
    }

    fn unless_keys(&self, wanted: &BTreeSet<K>) -> Result<Different> {
        self.unless(wanted.len(), |key, _| wanted.contains(key))
    }

    fn unless(&self, count: usize, is_wanted: impl Fn(&K, &V) -> bool) -> Result<Different> {
        let holds = match are(self.0.entries(), count, &is_wanted) {
            Err(error) if syscall::has_no_batches(&error) => {
                let entries = self.collect_each();
                entries.and_then(|entries| are(entries.into_iter().map(Ok), count, is_wanted))
            }
            holds => holds,
        };
        self.0.unless(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_one_turn_in_so_many() {
        for first in [0, 3, 17] {
            let turns = (first..first + Part::TURNS).filter_map(Part::of_turn);
            let turns: Vec<Part> = turns.collect();
            assert_eq!(turns.len(), Part::ALL.len(), "{turns:?}");
            assert!(
                Part::ALL.iter().all(|part| turns.contains(part)),
                "{turns:?}"
            );
        }
    }
}
