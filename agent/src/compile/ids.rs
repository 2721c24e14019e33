//! Stable numbers, slots and revisions.
//!
//! Promises:
//! - a set of endpoints, of a service port, an address family and a traffic policy, keeps its
//!   number for as long as it exists, over restarts too: the tables themselves remember
//!   ([`Ids::from_contents`]);
//! - a backend keeps its slot while others come and go, but for the last one, which fills the
//!   slot that became free: a removal writes a handful of entries;
//! - the revision of a number is raised by one whenever its set of backends has changed, when the
//!   number is given to another service port, and when the tables show that such a change was
//!   begun and not finished;
//! - a number that becomes free is not given again at once while there are others, so that no
//!   packet meets another service port's backends under it.
//!
//! Number 0 is never given. The numbers of policies are given otherwise: see [`policies`].

mod packed;
pub(super) mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use weir_ebpf::tables::{Backend, BackendKey, Service, ServiceFlags, ServiceName, ServingKey};

use crate::lookup::Lookup;
use crate::maps::{Contents, UNSETTLED};

use packed::{PackedName, Sought};
use policies::PolicyIds;

/// Who has which number, and who has which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    numbers: Lookup<PackedName, u32>,
    /// By number. Numbers that were given once stay, so that their revisions never go back.
    entries: BTreeMap<u32, Entry>,
    /// Numbers without a service port, but those that are `resting`.
    free: BTreeSet<u32>,
    /// Numbers that have become free with what is compiled now.
    resting: BTreeSet<u32>,
    policies: PolicyIds,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    revision: u32,
    flags: ServiceFlags,
    affinity: u32,
    affinity_timeout: u32,
    slots: Vec<Backend>,
    /// The revision has to be raised even if the backends stay the same.
    must_raise: bool,
}

impl Ids {
    /// The numbers, slots and revisions that these tables hold.
    #[must_use]
    pub fn from_contents(contents: &Contents) -> Self {
        let known: BTreeSet<u32> = contents
            .services
            .keys()
            .chain(contents.service_names.keys())
            .copied()
            .chain(contents.backends.keys().map(|key| key.service))
            .chain(contents.serving.iter().map(|key| key.service))
            .filter(|number| *number != 0)
            .collect();
        let mut ids = Self {
            policies: PolicyIds::from_contents(contents),
            ..Self::default()
        };
        for number in known {
            ids.entries
                .insert(number, Entry::from_contents(contents, number));
            let name = contents.service_names.get(&number).map(PackedName::from);
            match name {
                // Should two numbers have the same name, the lower is kept.
                Some(name) if !ids.numbers.contains_key(&name) => {
                    ids.numbers.insert(name, number);
                }
                Some(_) | None => {
                    ids.free.insert(number);
                }
            }
        }
        for number in &ids.free {
            if let Some(entry) = ids.entries.get_mut(number) {
                entry.clear();
            }
        }
        ids
    }

    /// The numbers of what policies come to.
    pub(super) const fn policies(&mut self) -> &mut PolicyIds {
        &mut self.policies
    }

    /// Takes back the numbers of all other service ports.
    pub(super) fn release_all_but(&mut self, wanted: BTreeSet<&ServiceName>) {
        self.free.append(&mut self.resting);
        let Self {
            numbers,
            entries,
            free: _,
            resting,
            policies: _,
        } = self;
        numbers.retain(|name, number| {
            let keep = wanted.contains(&ServiceName::from(name));
            if !keep {
                if let Some(entry) = entries.get_mut(number) {
                    entry.clear();
                }
                resting.insert(*number);
            }
            keep
        });
    }

    /// Takes back the numbers of these sets of endpoints.
    pub(super) fn release<'a>(&mut self, names: impl IntoIterator<Item = &'a ServiceName>) {
        self.free.append(&mut self.resting);
        self.take_back(names);
    }

    fn take_back<'a>(&mut self, names: impl IntoIterator<Item = &'a ServiceName>) {
        for name in names {
            if let Some(number) = self.numbers.remove(Sought::from(name).key()) {
                self.entries.entry(number).or_default().clear();
                self.resting.insert(number);
            }
        }
    }

    /// Can each of these sets of endpoints that has no number get one below `end`?
    pub(super) fn suffice<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ServiceName>,
        end: u32,
    ) -> bool {
        let names = names.into_iter();
        let wanted = names.filter(|name| self.known(name).is_none()).count();
        let last = self.entries.last_key_value().map_or(0, |(last, _)| *last);
        let never_given = end.saturating_sub(1).saturating_sub(last);
        let never_given = usize::try_from(never_given).unwrap_or(usize::MAX);
        let wanted = wanted.saturating_sub(never_given);
        let given_back = self.free.range(..end).chain(self.resting.range(..end));
        given_back.take(wanted).count() == wanted
    }

    /// The numbers of these sets of endpoints, given now where they have none; `None`, and none is
    /// given, when there are not enough below `end`.
    pub(super) fn numbers(&mut self, names: &[ServiceName], end: u32) -> Option<Vec<u32>> {
        // A number that is given only to be taken back would have another revision each time.
        if self.suffice(names, end) {
            return names.iter().map(|name| self.number(name, end)).collect();
        }
        self.take_back(names);
        None
    }

    /// The number that this set of endpoints has, if it has one.
    pub(super) fn known(&self, name: &ServiceName) -> Option<u32> {
        self.numbers.get(Sought::from(name).key()).copied()
    }

    /// The number of this set of endpoints, given now if it has none; `None` when all numbers
    /// below `end` are taken.
    fn number(&mut self, name: &ServiceName, end: u32) -> Option<u32> {
        if let Some(number) = self.known(name) {
            return Some(number);
        }
        let lowest = |numbers: &BTreeSet<u32>| numbers.first().copied();
        let next = || match self.entries.last_key_value() {
            Some((last, _)) => last.checked_add(1),
            None => Some(1),
        };
        let number = [lowest(&self.free), next(), lowest(&self.resting)]
            .into_iter()
            .flatten()
            .find(|number| *number < end)?;
        self.free.remove(&number);
        self.resting.remove(&number);
        self.numbers.insert(PackedName::from(name), number);
        self.entries.entry(number).or_default().must_raise = true;
        Some(number)
    }

    /// Gives these backends the slots of this number, at most `room` of them, and says how many
    /// have one. Those that have one already come first.
    pub(super) fn place(
        &mut self,
        number: u32,
        backends: &BTreeSet<Backend>,
        room: usize,
    ) -> usize {
        self.entries
            .get_mut(&number)
            .map_or(0, |entry| entry.fill(backends, room))
    }

    /// Those of these backends that have no slot of this number.
    pub(super) fn without_slot(
        &self,
        number: u32,
        backends: &BTreeSet<Backend>,
    ) -> Vec<(IpAddr, NonZeroU16)> {
        let slots = self.entries.get(&number).map(|entry| &entry.slots);
        let slots: BTreeSet<&Backend> = slots.into_iter().flatten().collect();
        backends
            .iter()
            .filter(|backend| !slots.contains(backend))
            .filter_map(|backend| {
                let port = NonZeroU16::new(backend.port.number())?;
                Some((IpAddr::from(backend.addr), port))
            })
            .collect()
    }

    /// How the service port of this number differs from the usual. No backend comes or goes with
    /// it: the revision stays.
    pub(super) fn set_flags(&mut self, number: u32, flags: ServiceFlags) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.flags = flags;
        }
    }

    /// For how many seconds the clients of a service port, whose sets have these numbers, keep
    /// their backends. The sets remember together, under one of their numbers, which stays the
    /// same while it is one of them.
    pub(super) fn set_affinity(&mut self, numbers: &[u32], timeout: u32) {
        let known = numbers.iter().filter_map(|number| self.entries.get(number));
        let known = known.map(|entry| entry.affinity);
        let affinity = known
            .filter(|affinity| numbers.contains(affinity))
            .chain(numbers.iter().copied())
            .next()
            .filter(|_| timeout > 0)
            .unwrap_or(0);
        for number in numbers {
            if let Some(entry) = self.entries.get_mut(number) {
                entry.affinity = affinity;
                entry.affinity_timeout = timeout;
            }
        }
    }

    /// Writes every table that is kept by number, of which these hold nothing yet.
    pub(super) fn write_to(&self, contents: &mut Contents) {
        // Collected, which leaves no room between entries; inserted in order they would have half
        // of the room to themselves.
        contents.service_names = self
            .numbers
            .ordered(|name, number| (*number, ServiceName::from(name)));
        let entries = || self.entries.iter().map(|(number, entry)| (*number, entry));
        contents.services = entries()
            .filter_map(|(number, entry)| Some((number, entry.written()?)))
            .collect();
        contents.backends = entries()
            .flat_map(|(number, entry)| entry.backends(number))
            .collect();
        contents.serving = entries()
            .flat_map(|(number, entry)| entry.serving(number))
            .collect();
    }

    /// Writes what the tables hold of one number instead of what they held of it.
    pub(super) fn rewrite(&self, number: u32, contents: &mut Contents) {
        contents.remove_number(number);
        if let Some(entry) = self.entries.get(&number) {
            entry.write_to(contents, number);
        }
    }
}

impl Entry {
    fn from_contents(contents: &Contents, number: u32) -> Self {
        let service = contents.services.get(&number).copied().unwrap_or_default();
        let mut slots = Vec::new();
        let in_order = (0..service.backend_count).zip(contents.backends_of(number));
        for (wanted, (slot, backend)) in in_order {
            if slot != wanted {
                break;
            }
            slots.push(backend);
        }
        let distinct: BTreeSet<Backend> = slots.iter().map(|slot| slot.identity()).collect();
        let serving: BTreeSet<Backend> =
            contents.serving_of(number).map(|key| key.backend).collect();
        // A number that has a name but no revision was given, and not written, just before.
        let is_settled = (1..UNSETTLED).contains(&service.revision)
            && usize::try_from(service.backend_count) == Ok(distinct.len())
            && distinct == serving;
        Self {
            revision: service.revision & !UNSETTLED,
            flags: service.flags,
            affinity: service.affinity,
            affinity_timeout: service.affinity_timeout,
            slots,
            must_raise: !is_settled,
        }
    }

    fn service(&self) -> Service {
        Service {
            // A table holds no more than `u32::MAX` entries, which `room` has seen to.
            backend_count: u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
            revision: self.revision,
            flags: self.flags,
            affinity_timeout: self.affinity_timeout,
            affinity: self.affinity,
            reserved: 0,
        }
    }

    /// Writes it to the tables, which hold nothing of its number.
    fn write_to(&self, contents: &mut Contents, number: u32) {
        let service = self.written();
        contents.services.extend(service.map(|it| (number, it)));
        contents.backends.extend(self.backends(number));
        contents.serving.extend(self.serving(number));
    }

    /// What stands in `SERVICES`, where anything does.
    fn written(&self) -> Option<Service> {
        Some(self.service()).filter(|service| *service != Service::default())
    }

    fn backends(&self, service: u32) -> impl Iterator<Item = (BackendKey, Backend)> {
        let slots = (0..).zip(&self.slots);
        slots.map(move |(slot, backend)| (BackendKey { service, slot }, *backend))
    }

    fn serving(&self, service: u32) -> impl Iterator<Item = ServingKey> {
        self.slots.iter().map(move |slot| ServingKey {
            service,
            backend: slot.identity(),
        })
    }

    /// Belongs to no service port any more.
    fn clear(&mut self) {
        self.flags = ServiceFlags::NONE;
        self.affinity = 0;
        self.affinity_timeout = 0;
        self.fill(&BTreeSet::new(), 0);
    }

    /// Makes the slots hold these backends, at most `room` of them, with as few slots changed as
    /// can be, and raises the revision if the set is another one. Says how many slots there are.
    fn fill(&mut self, backends: &BTreeSet<Backend>, room: usize) -> usize {
        let mut missing = backends.clone();
        let mut free_slots = Vec::new();
        for (slot, backend) in self.slots.iter().enumerate() {
            // Each backend has the first slot that holds it.
            if !missing.remove(backend) {
                free_slots.push(slot);
            }
        }
        let mut changed = !free_slots.is_empty();
        let mut missing = missing.into_iter();
        let mut free_slots = free_slots.into_iter();
        let kept = self.slots.len() - free_slots.len();
        let addable = room.saturating_sub(kept);
        for backend in missing.by_ref().take(addable) {
            changed = true;
            match free_slots.next() {
                Some(slot) => self.slots[slot] = backend,
                None => self.slots.push(backend),
            }
        }
        // What is left of the free slots is filled from the end, the last one first, so that
        // what moves is never itself free.
        for slot in free_slots.rev() {
            self.slots.swap_remove(slot);
        }
        if self.slots.len() > room {
            changed = true;
            self.slots.truncate(room);
        }
        if self.slots.capacity() > self.slots.len() + self.slots.len() / 2 {
            self.slots.shrink_to_fit();
        }
        if changed || self.must_raise {
            self.must_raise = false;
            // The top bit is not the revision's, and 0 is no revision.
            self.revision = (self.revision + 1) & !UNSETTLED;
            self.revision = self.revision.max(1);
        }
        self.slots.len()
    }
}
