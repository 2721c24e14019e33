//! What changes about one number, and the order of the writes about it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::tables::{
    Backend, BackendKey, Service, ServiceFlags, ServiceName, ServingKey, SourceRange,
};

use crate::maps::{Contents, UNSETTLED, Write};

/// What changes about one number, apart from the frontends that lead to it.
#[derive(Default)]
pub(super) struct Change<'a> {
    number: u32,
    old_name: Option<&'a ServiceName>,
    new_name: Option<&'a ServiceName>,
    old: Service,
    new: Service,
    ranges_added: Vec<SourceRange>,
    pub ranges_removed: Vec<SourceRange>,
    serving_added: Vec<ServingKey>,
    pub serving_removed: Vec<ServingKey>,
    backends_put: Vec<(BackendKey, Backend)>,
    pub backends_removed: Vec<BackendKey>,
}

impl<'a> Change<'a> {
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

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

    /// Notes whose the number is, and what `SERVICES` holds of it.
    fn stands_between(&mut self, number: u32, desired: &'a Contents, actual: &'a Contents) {
        let service = |contents: &Contents| contents.services.get(&number).copied();
        self.number = number;
        self.old = service(actual).unwrap_or_default();
        self.new = service(desired).unwrap_or_default();
        self.old_name = actual.service_names.get(&number);
        self.new_name = desired.service_names.get(&number);
    }

    /// A slot holds something else; `None`: nothing any more.
    fn backend(&mut self, key: BackendKey, new: Option<&Backend>) {
        match new {
            Some(backend) => self.backends_put.push((key, *backend)),
            None => self.backends_removed.push(key),
        }
    }

    /// A backend is to serve; `None`: it is not to any more.
    fn serving(&mut self, key: ServingKey, new: Option<&()>) {
        match new {
            Some(()) => self.serving_added.push(key),
            None => self.serving_removed.push(key),
        }
    }
}

/// All writes about these numbers. Each kind in one run, since they do not refer to each other.
pub(super) fn settle(plan: &mut Vec<Write>, changes: &[&Change<'_>]) {
    for change in changes {
        if let Some(name) = change.new_name
            && change.old_name != change.new_name
        {
            plan.push(Write::PutServiceName(change.number, Box::new(*name)));
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
pub(super) fn exchange(plan: &mut Vec<Write>, change: &Change<'_>) {
    let Change { number, new, .. } = *change;
    if let Some(name) = change.new_name
        && change.old_name != change.new_name
    {
        plan.push(Write::PutServiceName(number, Box::new(*name)));
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

pub(super) fn remove_ranges(plan: &mut Vec<Write>, change: &Change<'_>) {
    let removed = change.ranges_removed.iter();
    plan.extend(removed.map(|range| Write::RemoveSourceRange(*range)));
}

/// What changes, by number; numbers without change are left out.
pub(super) fn changes<'a>(
    desired: &'a Contents,
    actual: &'a Contents,
) -> BTreeMap<u32, Change<'a>> {
    let mut changes: BTreeMap<u32, Change<'_>> = BTreeMap::new();
    for (number, _, _) in differences(&desired.service_names, &actual.service_names) {
        changes.entry(*number).or_default();
    }
    for (number, _, _) in differences(&desired.services, &actual.services) {
        changes.entry(*number).or_default();
    }
    for (key, new, _) in differences(&desired.backends, &actual.backends) {
        changes.entry(key.service).or_default().backend(*key, new);
    }
    for range in desired.source_ranges.difference(&actual.source_ranges) {
        let change = changes.entry(range.service).or_default();
        change.ranges_added.push(*range);
    }
    for range in actual.source_ranges.difference(&desired.source_ranges) {
        let change = changes.entry(range.service).or_default();
        change.ranges_removed.push(*range);
    }
    for (key, new, _) in differences(present(&desired.serving), present(&actual.serving)) {
        changes.entry(key.service).or_default().serving(*key, new);
    }
    for (number, change) in &mut changes {
        change.stands_between(*number, desired, actual);
    }
    changes
}

/// The same of these numbers alone, in order, but for source ranges. The work follows their number.
pub(super) fn changes_of<'a>(
    numbers: &BTreeSet<u32>,
    desired: &'a Contents,
    actual: &'a Contents,
) -> Vec<Change<'a>> {
    let mut changes = Vec::with_capacity(numbers.len());
    for &number in numbers {
        let mut change = Change::default();
        change.stands_between(number, desired, actual);
        for (key, new, _) in differences(desired.slots_of(number), actual.slots_of(number)) {
            change.backend(*key, new);
        }
        let serving = |contents: &'a Contents| present(contents.serving_of(number));
        for (key, new, _) in differences(serving(desired), serving(actual)) {
            change.serving(*key, new);
        }
        changes.push(change);
    }
    changes
}

fn present<'a, K: 'a>(
    keys: impl IntoIterator<Item = &'a K>,
) -> impl Iterator<Item = (&'a K, &'a ())> {
    keys.into_iter().map(|key| (key, &()))
}

/// The keys at which two ordered tables differ, with what each holds there: desired, actual.
pub(super) fn differences<'a, K: Ord + 'a, V: PartialEq + 'a>(
    desired: impl IntoIterator<Item = (&'a K, &'a V)>,
    actual: impl IntoIterator<Item = (&'a K, &'a V)>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let mut desired = desired.into_iter().peekable();
    let mut actual = actual.into_iter().peekable();
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
