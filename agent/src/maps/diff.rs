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
//!   [`UNSETTLED`](super::UNSETTLED) or because `SERVING` lists other backends than the slots hold, so that the
//!   next agent raises the revision again (see [`Ids`](crate::compile::Ids)).
//!
//! Removals that nothing refers to come first, and service ports that shrink before those that
//! grow. Where a table has no room for what comes beside what goes ([`Limits`]), what goes goes
//! first: a table that is full can still change, and a service port that is exchanged then drops
//! packets for as long as its writes take. Writing is `kernel`'s business.
//!
//! Policies have tables of their own and come first: `policies` says in which order. Their epoch is
//! raised last where what was none of services' business becomes a service's: programs at pods'
//! interfaces keep for a moment what they found out about a packet.
#![forbid(unsafe_code)]

mod change;
mod policies;

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::tables::{Frontend, FrontendFlags, FrontendKey, Node, PortRange};

use super::{Contents, Plan, Write, cover};
use change::{Change, changes, changes_of, differences, exchange, remove_ranges, settle};

/// What tables hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `BACKENDS` and `SERVING`
    pub backends: usize,
    /// `SOURCE_RANGES`
    pub source_ranges: usize,
    /// `PODS`
    pub pods: usize,
    /// `POD_ADDRS`
    pub pod_addrs: usize,
    /// `PEERS`
    pub peers: usize,
    /// `PEER_RANGES`
    pub peer_ranges: usize,
    /// `RULES`
    pub rules: usize,
}

impl Limits {
    /// There is room for everything.
    pub const AMPLE: Self = Self {
        backends: usize::MAX,
        source_ranges: usize::MAX,
        pods: usize::MAX,
        pod_addrs: usize::MAX,
        peers: usize::MAX,
        peer_ranges: usize::MAX,
        rules: usize::MAX,
    };
}

/// The writes that turn the actual tables into the desired ones, with room for both. The revision
/// and the epoch of policies are the plan's own affair: whatever is desired of them is not looked at.
#[must_use]
pub fn diff(desired: &Contents, actual: &Contents) -> Plan {
    diff_within(desired, actual, Limits::AMPLE)
}

/// The writes that turn the actual tables into the desired ones, neither of which holds more than
/// this, and no table between them does.
#[must_use]
pub fn diff_within(desired: &Contents, actual: &Contents, limits: Limits) -> Plan {
    let mut plan = Plan(policies::writes(desired, actual, &limits));
    add_services(&mut plan, desired, actual, desired, limits);
    plan
}

/// Adds what [`of_services`] gives, and the next epoch where programs must ask anew.
fn add_services(
    plan: &mut Plan,
    desired: &Contents,
    actual: &Contents,
    whole: &Contents,
    limits: Limits,
) {
    let policy = plan.policy().unwrap_or(actual.policy);
    let writes = of_services(desired, actual, whole, limits);
    let takes_more = takes_more(&writes, actual);
    plan.0.extend(writes);
    if takes_more {
        plan.0.push(Write::PutPolicy(policy.in_next_epoch()));
    }
}

/// Do these writes make a service's what was none of services' business, and does not lie among the
/// cluster IPs?
fn takes_more(writes: &[Write], actual: &Contents) -> bool {
    let removed = writes.iter().filter_map(|write| match write {
        Write::RemoveFrontend(key) => Some(key),
        _ => None,
    });
    let removed: BTreeSet<_> = removed.collect();
    let is_absent =
        |key: &FrontendKey| !actual.frontends.contains_key(key) || removed.contains(key);
    writes.iter().any(|write| match write {
        Write::PutNodePortAddr(_) => true,
        Write::PutFrontend(key, _) => !actual.node.covers(key.addr) && is_absent(key),
        _ => false,
    })
}

/// The writes to all tables but those of policies, of which these are a part of `whole`, with all
/// that changes.
fn of_services(
    desired: &Contents,
    actual: &Contents,
    whole: &Contents,
    limits: Limits,
) -> Vec<Write> {
    let changes = changes(desired, actual);
    let is_tight = is_tight(whole, changes.values(), limits);
    let mut handed_over = re_pointed(desired, actual, &changes, |it| it.is_handed_over());
    handed_over.extend(newly_restricted(desired, actual, &changes));
    let mut moved = re_pointed(desired, actual, &changes, |it| it.is_retired());
    if is_tight {
        handed_over.append(&mut moved);
    }
    // While such a frontend is missing, packets to it are to be left alone, not refused.
    let addresses = handed_over
        .iter()
        .map(|key| FrontendKey::address_only(key.addr));
    handed_over.extend(addresses.collect::<Vec<_>>());
    let still_used: BTreeSet<u32> = moved
        .iter()
        .filter_map(|key| actual.frontends.get(key))
        .flat_map(numbers)
        .collect();

    let steps = Steps::of(changes.values(), |number| still_used.contains(&number));

    let mut plan = Vec::new();
    let widened = widened(&desired.node, &actual.node);
    if widened != actual.node {
        plan.push(Write::PutNode(Box::new(widened)));
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
    if is_tight {
        for change in changes.values() {
            remove_ranges(&mut plan, change);
        }
    }
    steps.take(&mut plan, is_tight);
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
    for change in changes.values().filter(|it| it.keeps_owner() && !is_tight) {
        remove_ranges(&mut plan, change);
    }
    plan.extend(absent.into_iter().chain(addresses).map(write));
    settle(&mut plan, &steps.retired_last);
    let new = desired.service_cidrs.difference(&actual.service_cidrs);
    plan.extend(new.map(|cidr| Write::PutServiceCidr(*cidr)));
    if desired.node != widened {
        plan.push(Write::PutNode(Box::new(desired.node)));
    }
    plan
}

/// The writes that [`diff_within`] gives, where the tables are known to differ in nothing but what
/// these numbers have, and where that is said, in the tables of policies. Without frontends, the
/// numbers keep their service ports, and differ in `SERVICES`, `BACKENDS` and `SERVING`; with them,
/// these may differ, and whatever the numbers have in any table. The work is as large as they are.
#[must_use]
pub fn diff_parts(
    desired: &Contents,
    actual: &Contents,
    (numbers, frontends): (&BTreeSet<u32>, Option<&BTreeSet<FrontendKey>>),
    policies: bool,
    limits: Limits,
) -> Plan {
    let mut plan = Plan(match policies {
        true => policies::writes(desired, actual, &limits),
        false => Vec::new(),
    });
    if let Some(frontends) = frontends {
        let part = |contents: &Contents| contents.of_parts(numbers, frontends);
        add_services(&mut plan, &part(desired), &part(actual), desired, limits);
        return plan;
    }
    let changes = changes_of(numbers, desired, actual);
    let is_tight = is_tight(desired, &changes, limits);
    Steps::of(&changes, |_| false).take(&mut plan.0, is_tight);
    plan
}

/// What changes about numbers, by when it may.
#[derive(Default)]
struct Steps<'a> {
    retired_first: Vec<&'a Change<'a>>,
    shrinking: Vec<&'a Change<'a>>,
    growing: Vec<&'a Change<'a>>,
    new: Vec<&'a Change<'a>>,
    /// Frontends lead there until they have changed.
    retired_last: Vec<&'a Change<'a>>,
}

impl<'a> Steps<'a> {
    fn of(
        changes: impl IntoIterator<Item = &'a Change<'a>>,
        is_still_used: impl Fn(u32) -> bool,
    ) -> Self {
        let mut steps = Self::default();
        for change in changes {
            let step = if change.is_retired() && is_still_used(change.number()) {
                &mut steps.retired_last
            } else if change.is_retired() {
                &mut steps.retired_first
            } else if change.is_new() {
                &mut steps.new
            } else if change.adds_slots() {
                &mut steps.growing
            } else {
                &mut steps.shrinking
            };
            step.push(change);
        }
        steps
    }

    /// The writes of all but the last.
    fn take(&self, plan: &mut Vec<Write>, is_tight: bool) {
        for step in [
            &self.retired_first,
            &self.shrinking,
            &self.growing,
            &self.new,
        ] {
            if is_tight {
                for change in step {
                    exchange(plan, change);
                }
            } else {
                settle(plan, step);
            }
        }
    }
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

/// Is there a table that does not hold what goes beside what comes?
fn is_tight<'a>(
    desired: &Contents,
    changes: impl IntoIterator<Item = &'a Change<'a>> + Clone,
    limits: Limits,
) -> bool {
    let going =
        |count: fn(&Change<'_>) -> usize| changes.clone().into_iter().map(count).sum::<usize>();
    let backends = desired.backends.len() + going(|it| it.backends_removed.len());
    let serving = desired.serving.len() + going(|it| it.serving_removed.len());
    let ranges = desired.source_ranges.len() + going(|it| it.ranges_removed.len());
    backends.max(serving) > limits.backends || ranges > limits.source_ranges
}

/// What stands beside the services, and refers to nothing.
fn surroundings(plan: &mut Vec<Write>, desired: &Contents, actual: &Contents) {
    let interfaces = || differences(&desired.interfaces, &actual.interfaces);
    let gone = interfaces().filter(|(_, new, _)| new.is_none());
    plan.extend(gone.map(|(index, _, _)| Write::RemoveInterface(*index)));
    let put = interfaces().filter_map(|(index, new, _)| Some((index, new?)));
    plan.extend(put.map(|(index, interface)| Write::PutInterface(*index, *interface)));
    let gone = actual.node_port_addrs.difference(&desired.node_port_addrs);
    plan.extend(gone.map(|addr| Write::RemoveNodePortAddr(*addr)));
    let new = desired.node_port_addrs.difference(&actual.node_port_addrs);
    plan.extend(new.map(|addr| Write::PutNodePortAddr(*addr)));
}

/// The numbers that a frontend leads to.
const fn numbers(frontend: &Frontend) -> [u32; 2] {
    [frontend.service, frontend.from_outside]
}

/// The frontends that lead to a number with such a change and shall lead to another.
fn re_pointed(
    desired: &Contents,
    actual: &Contents,
    changes: &BTreeMap<u32, Change<'_>>,
    such: impl Fn(&Change<'_>) -> bool,
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
    changes: &BTreeMap<u32, Change<'_>>,
) -> Vec<FrontendKey> {
    let lets_fewer_in =
        |change: &Change<'_>| change.keeps_owner() && !change.ranges_removed.is_empty();
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

#[cfg(test)]
mod tests;
