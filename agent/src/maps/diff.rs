//! The order in which a node's tables change.
//!
//! A packet may arrive between any two writes, and the agent may be killed there. Whatever is
//! referred to is therefore written before what refers to it, and removed after it; every prefix
//! of a [`Plan`] leaves tables a packet may safely meet:
//!
//! - a frontend's number has an entry in `SERVICES`, and each slot below its count holds a
//!   backend that is in `SERVING`;
//! - a frontend leads to backends that it led to before or will lead to after, or that its
//!   service port has meanwhile been given, and to no other service port's;
//! - a flow that asked `SERVING` under the revision a service port ends with has had the final
//!   answer: the final revision is written after the last removal from `SERVING`;
//! - where an address alone is known, so is every port of it that is known before and after:
//!   what is refused as unknown really is;
//! - where a frontend asks who may come, whoever may before and after may now, and nobody who may
//!   neither before nor after;
//! - the guards in the node's entry let pass every address and node port that is in the tables;
//! - the addresses of a range are for services only while the frontends in it are complete;
//! - slot 0 is the last to go: whoever read a count before it was lowered finds a backend there;
//! - a change that was begun and not finished can be seen in the tables, by the bit
//!   [`UNSETTLED`] or because `SERVING` lists other backends than the slots hold, so that the
//!   next agent raises the revision again (see [`Ids`](crate::compile::Ids)).
//!
//! Removals that nothing refers to come first, and service ports that shrink before those that
//! grow, so that a table filled to its capacity can still change. Writing is `kernel`'s business.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use weir_ebpf::tables::{
    Backend, BackendKey, Frontend, FrontendFlags, FrontendKey, Node, PortRange, Service,
    ServiceName, ServingKey, SourceRange,
};

use super::{Contents, Plan, UNSETTLED, Write, cover};

/// The writes that turn the actual tables into the desired ones.
#[must_use]
pub fn diff(desired: &Contents, actual: &Contents) -> Plan {
    let changes = changes(desired, actual);
    let mut handed_over = re_pointed(desired, actual, &changes, Change::is_handed_over);
    handed_over.extend(newly_restricted(desired, actual, &changes));
    // While such a frontend is missing, packets to it are to be left alone, not refused.
    let addresses = handed_over
        .iter()
        .map(|key| FrontendKey::address_only(key.addr));
    handed_over.extend(addresses.collect::<Vec<_>>());
    let moved = re_pointed(desired, actual, &changes, Change::is_retired);
    let still_used: BTreeSet<u32> = moved
        .iter()
        .filter_map(|key| actual.frontends.get(key))
        .flat_map(numbers)
        .collect();

    let mut retired_first = Vec::new();
    let mut retired_last = Vec::new();
    let mut shrinking = Vec::new();
    let mut growing = Vec::new();
    let mut new = Vec::new();
    for (number, change) in &changes {
        if change.is_retired() {
            if still_used.contains(number) {
                retired_last.push(change);
            } else {
                retired_first.push(change);
            }
        } else if change.is_new() {
            new.push(change);
        } else if change.adds_slots() {
            growing.push(change);
        } else {
            shrinking.push(change);
        }
    }

    let mut plan = Vec::new();
    let widened = widened(&desired.node, &actual.node);
    if widened != actual.node {
        plan.push(Write::PutNode(widened));
    }
    surroundings(&mut plan, desired, actual);
    let gone = actual.service_cidrs.difference(&desired.service_cidrs);
    plan.extend(gone.map(|cidr| Write::RemoveServiceCidr(*cidr)));
    let removed =
        |key: &FrontendKey| !desired.frontends.contains_key(key) || handed_over.contains(key);
    plan.extend(
        actual
            .frontends
            .keys()
            .filter(|key| removed(key))
            .map(|key| Write::RemoveFrontend(*key)),
    );
    settle(&mut plan, &retired_first);
    for change in shrinking.into_iter().chain(growing) {
        settle(&mut plan, &[change]);
    }
    settle(&mut plan, &new);
    let put = desired.frontends.iter().filter(|(key, frontend)| {
        handed_over.contains(*key) || actual.frontends.get(*key) != Some(*frontend)
    });
    let write = |(key, frontend): (&FrontendKey, &Frontend)| Write::PutFrontend(*key, *frontend);
    let (addresses, ports): (Vec<_>, Vec<_>) = put.partition(|(key, _)| key.is_address_only());
    let is_present =
        |key: &FrontendKey| actual.frontends.contains_key(key) && !handed_over.contains(key);
    let (present, absent): (Vec<_>, Vec<_>) =
        ports.into_iter().partition(|(key, _)| is_present(key));
    plan.extend(present.into_iter().map(write));
    for change in changes.values().filter(|change| change.keeps_owner()) {
        remove_ranges(&mut plan, change);
    }
    plan.extend(absent.into_iter().chain(addresses).map(write));
    settle(&mut plan, &retired_last);
    let new = desired.service_cidrs.difference(&actual.service_cidrs);
    plan.extend(new.map(|cidr| Write::PutServiceCidr(*cidr)));
    if desired.node != widened {
        plan.push(Write::PutNode(desired.node));
    }
    Plan(plan)
}

/// The node's entry while tables hold what they held and what they will hold: its guards let
/// everything pass that either has. The rest is in force at once, since what is translated from
/// now on may need it.
fn widened(desired: &Node, actual: &Node) -> Node {
    let (old, new) = (actual.node_ports, desired.node_ports);
    Node {
        cover_v4: cover::join(actual.cover_v4, desired.cover_v4),
        cover_v6: cover::join(actual.cover_v6, desired.cover_v6),
        node_ports: if old.count() == 0 {
            new
        } else if new.count() == 0 {
            old
        } else {
            PortRange::new(old.min.min(new.min), old.max.max(new.max))
        },
        ..*desired
    }
}

/// What stands beside the services, and refers to nothing.
fn surroundings(plan: &mut Vec<Write>, desired: &Contents, actual: &Contents) {
    for (index, new, _) in differences(&desired.interfaces, &actual.interfaces) {
        plan.push(match new {
            Some(interface) => Write::PutInterface(*index, *interface),
            None => Write::RemoveInterface(*index),
        });
    }
    let gone = actual.node_port_addrs.difference(&desired.node_port_addrs);
    plan.extend(gone.map(|addr| Write::RemoveNodePortAddr(*addr)));
    let new = desired.node_port_addrs.difference(&actual.node_port_addrs);
    plan.extend(new.map(|addr| Write::PutNodePortAddr(*addr)));
}

/// What changes about one number, apart from the frontends that lead to it.
#[derive(Default)]
struct Change {
    number: u32,
    old_name: Option<ServiceName>,
    new_name: Option<ServiceName>,
    old: Service,
    new: Service,
    ranges_added: Vec<SourceRange>,
    ranges_removed: Vec<SourceRange>,
    serving_added: Vec<ServingKey>,
    serving_removed: Vec<ServingKey>,
    backends_put: Vec<(BackendKey, Backend)>,
    backends_removed: Vec<BackendKey>,
}

impl Change {
    /// Belongs to no service port any more.
    fn is_retired(&self) -> bool {
        self.new_name.is_none()
    }

    /// Belonged to none before.
    fn is_new(&self) -> bool {
        self.old_name.is_none()
    }

    /// Belongs to the same as before.
    fn keeps_owner(&self) -> bool {
        !self.is_retired() && self.old_name == self.new_name
    }

    /// Goes from one service port to another in one step.
    fn is_handed_over(&self) -> bool {
        !self.is_retired() && !self.is_new() && self.old_name != self.new_name
    }

    fn adds_slots(&self) -> bool {
        self.new.backend_count > self.old.backend_count
    }
}

/// All writes about these numbers. Each kind in one run, since they do not refer to each other.
fn settle(plan: &mut Vec<Write>, changes: &[&Change]) {
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

fn remove_ranges(plan: &mut Vec<Write>, change: &Change) {
    let removed = change.ranges_removed.iter();
    plan.extend(removed.map(|range| Write::RemoveSourceRange(*range)));
}

/// The numbers that a frontend leads to.
const fn numbers(frontend: &Frontend) -> [u32; 2] {
    [frontend.service, frontend.from_outside]
}

/// The frontends that lead to a number with such a change and shall lead to another.
fn re_pointed(
    desired: &Contents,
    actual: &Contents,
    changes: &BTreeMap<u32, Change>,
    such: impl Fn(&Change) -> bool,
) -> BTreeSet<FrontendKey> {
    actual
        .frontends
        .iter()
        .filter(|(_, frontend)| {
            let mut changes = numbers(frontend)
                .into_iter()
                .flat_map(|it| changes.get(&it));
            changes.any(&such)
        })
        .filter(|(key, frontend)| {
            desired
                .frontends
                .get(*key)
                .is_some_and(|wanted| wanted != *frontend)
        })
        .map(|(key, _)| *key)
        .collect()
}

/// The frontends that come to a service port just when it lets fewer clients in: they must not
/// lead there while those of before still may come.
fn newly_restricted(
    desired: &Contents,
    actual: &Contents,
    changes: &BTreeMap<u32, Change>,
) -> Vec<FrontendKey> {
    let lets_fewer_in = |change: &Change| change.keeps_owner() && !change.ranges_removed.is_empty();
    desired
        .frontends
        .iter()
        .filter(|(_, new)| {
            new.flags.contains(FrontendFlags::SOURCE_RANGES)
                && changes.get(&new.service).is_some_and(lets_fewer_in)
        })
        .filter(|(key, new)| {
            let old = actual.frontends.get(*key);
            old.is_some_and(|old| old.service != new.service)
        })
        .map(|(key, _)| *key)
        .collect()
}

/// What changes, by number; numbers without change are left out.
fn changes(desired: &Contents, actual: &Contents) -> BTreeMap<u32, Change> {
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
fn differences<'a, K: Ord, V: PartialEq>(
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

#[cfg(test)]
mod tests;
