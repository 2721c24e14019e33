//! What changes about one number, and the order of the writes about it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;

use weir_ebpf::tables::{
    Backend, BackendKey, Service, ServiceFlags, ServiceName, ServingKey, SourceRange,
};

use crate::maps::{Contents, UNSETTLED, Write};

/// What changes about one number, apart from the frontends that lead to it.
#[derive(Default)]
pub(super) struct Change {
    number: u32,
    old_name: Option<ServiceName>,
    new_name: Option<ServiceName>,
    old: Service,
    new: Service,
    ranges_added: Vec<SourceRange>,
    pub ranges_removed: Vec<SourceRange>,
    serving_added: Vec<ServingKey>,
    pub serving_removed: Vec<ServingKey>,
    backends_put: Vec<(BackendKey, Backend)>,
    pub backends_removed: Vec<BackendKey>,
}

impl Change {
    /// Belongs to no service port any more.
    pub(super) fn is_retired(&self) -> bool {
        self.new_name.is_none()
    }

    /// Belonged to none before.
    pub(super) fn is_new(&self) -> bool {
        self.old_name.is_none()
    }

    /// Belongs to the same as before.
    pub(super) fn keeps_owner(&self) -> bool {
        !self.is_retired() && self.old_name == self.new_name
    }

    /// Goes from one service port to another in one step.
    pub(super) fn is_handed_over(&self) -> bool {
        !self.is_retired() && !self.is_new() && self.old_name != self.new_name
    }

    pub(super) fn adds_slots(&self) -> bool {
        self.new.backend_count > self.old.backend_count
    }
}

/// All writes about these numbers. Each kind in one run, since they do not refer to each other.
pub(super) fn settle(plan: &mut Vec<Write>, changes: &[&Change]) {
    for change in changes {
        if let Some(name) = change.new_name
            && change.old_name != change.new_name
        {
            plan.push(Write::PutServiceName(change.number, name));
        }
    }
    for change in changes {
        let added = change.ranges_added.iter();
        plan.extend(added.map(|range| Write::PutSourceRange(*range)));
    }
    for change in changes {
        plan.extend(
            change
                .serving_added
                .iter()
                .map(|key| Write::PutServing(*key)),
        );
    }
    for change in changes {
        plan.extend(
            change
                .backends_put
                .iter()
                .map(|(key, backend)| Write::PutBackend(*key, *backend)),
        );
    }
    for change in changes {
        // While backends leave `SERVING` the revision cannot be final: a flow that asks now
        // might still be told that its backend serves.
        let now = if change.serving_removed.is_empty() {
            change.new
        } else {
            Service {
                revision: change.new.revision | UNSETTLED,
                ..change.new
            }
        };
        if now != change.old {
            plan.push(Write::PutService(change.number, now));
        }
    }
    for change in changes {
        plan.extend(
            change
                .backends_removed
                .iter()
                .rev()
                .map(|key| Write::RemoveBackend(*key)),
        );
    }
    for change in changes {
        plan.extend(
            change
                .serving_removed
                .iter()
                .map(|key| Write::RemoveServing(*key)),
        );
    }
    for change in changes {
        if !change.serving_removed.is_empty() {
            plan.push(Write::PutService(change.number, change.new));
        }
    }
    for change in changes {
        // Those of a service port that stays may be asked for until its frontends have changed.
        if !change.keeps_owner() {
            remove_ranges(plan, change);
        }
    }
    for change in changes {
        if change.old_name.is_some() && change.new_name.is_none() {
            plan.push(Write::RemoveServiceName(change.number));
        }
    }
}

/// All writes about one number where a table has no room for its old entries beside the new ones:
/// while they are exchanged it has no backend, and what arrives is dropped, to come again.
pub(super) fn exchange(plan: &mut Vec<Write>, change: &Change) {
    let Change { number, new, .. } = *change;
    if let Some(name) = change.new_name
        && change.old_name != change.new_name
    {
        plan.push(Write::PutServiceName(number, name));
    }
    let mut now = change.old;
    if !change.serving_removed.is_empty() || !change.backends_removed.is_empty() {
        now = Service {
            backend_count: 0,
            revision: new.revision | UNSETTLED,
            flags: ServiceFlags::DROPS_WITHOUT_BACKEND,
            ..new
        };
        plan.push(Write::PutService(number, now));
    }
    let removed = change.backends_removed.iter().rev();
    plan.extend(removed.map(|key| Write::RemoveBackend(*key)));
    let removed = change.serving_removed.iter();
    plan.extend(removed.map(|key| Write::RemoveServing(*key)));
    let added = change.ranges_added.iter();
    plan.extend(added.map(|range| Write::PutSourceRange(*range)));
    let added = change.serving_added.iter();
    plan.extend(added.map(|key| Write::PutServing(*key)));
    let put = change.backends_put.iter();
    plan.extend(put.map(|(key, backend)| Write::PutBackend(*key, *backend)));
    if now != new {
        plan.push(Write::PutService(number, new));
    }
    if change.is_retired() && change.old_name.is_some() {
        plan.push(Write::RemoveServiceName(number));
    }
}

pub(super) fn remove_ranges(plan: &mut Vec<Write>, change: &Change) {
    let removed = change.ranges_removed.iter();
    plan.extend(removed.map(|range| Write::RemoveSourceRange(*range)));
}

/// What changes, by number; numbers without change are left out.
pub(super) fn changes(desired: &Contents, actual: &Contents) -> BTreeMap<u32, Change> {
    let mut changes: BTreeMap<u32, Change> = BTreeMap::new();
    for (number, _, _) in differences(&desired.service_names, &actual.service_names) {
        changes.entry(*number).or_default();
    }
    for (number, _, _) in differences(&desired.services, &actual.services) {
        changes.entry(*number).or_default();
    }
    for (key, new, _) in differences(&desired.backends, &actual.backends) {
        let change = changes.entry(key.service).or_default();
        match new {
            Some(backend) => change.backends_put.push((*key, *backend)),
            None => change.backends_removed.push(*key),
        }
    }
    for range in desired.source_ranges.difference(&actual.source_ranges) {
        let change = changes.entry(range.service).or_default();
        change.ranges_added.push(*range);
    }
    for range in actual.source_ranges.difference(&desired.source_ranges) {
        let change = changes.entry(range.service).or_default();
        change.ranges_removed.push(*range);
    }
    for key in desired.serving.difference(&actual.serving) {
        changes
            .entry(key.service)
            .or_default()
            .serving_added
            .push(*key);
    }
    for key in actual.serving.difference(&desired.serving) {
        changes
            .entry(key.service)
            .or_default()
            .serving_removed
            .push(*key);
    }
    for (number, change) in &mut changes {
        let service = |contents: &Contents| contents.services.get(number).copied();
        change.number = *number;
        change.old = service(actual).unwrap_or_default();
        change.new = service(desired).unwrap_or_default();
        change.old_name = actual.service_names.get(number).copied();
        change.new_name = desired.service_names.get(number).copied();
    }
    changes
}

/// The keys at which two ordered maps differ, with what each holds there: desired, actual.
pub(super) fn differences<'a, K: Ord, V: PartialEq>(
    desired: &'a BTreeMap<K, V>,
    actual: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let mut desired: Peekable<_> = desired.iter().peekable();
    let mut actual: Peekable<_> = actual.iter().peekable();
    std::iter::from_fn(move || {
        let order = match (desired.peek(), actual.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((wanted, _)), Some((present, _))) => wanted.cmp(present),
        };
        let new = if order.is_le() { desired.next() } else { None };
        let old = if order.is_ge() { actual.next() } else { None };
        let key = new.or(old)?.0;
        Some((
            key,
            new.map(|(_, value)| value),
            old.map(|(_, value)| value),
        ))
    })
    .filter(|(_, new, old)| new != old)
}
