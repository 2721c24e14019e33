//! The order in which the tables of network policy change.
//!
//! What is judged has two slots, of which one is in force ([`Policy`]). Every prefix of a plan leaves
//! tables by which every packet is judged wholly as before or wholly as after:
//!
//! - entries of `RULES` are written before anything refers to their numbers, and removed after;
//! - then what changes is written to the slots that are not in force; an entry that is new to its
//!   table says in the other what its addresses meant without it, and one that goes, what they
//!   will mean;
//! - then the revision is raised, which puts all of that in force at once;
//! - then the slots of before are brought up to date, and what has gone is removed;
//! - an interface whose pod was not known, or will not be, is judged by a flag then: it gets its
//!   pod by one write of its own, after the revision is raised and before that flag changes, or
//!   loses it after that;
//! - each time the policies' entry is written its epoch is raised, and after the last change of a
//!   pod's entry that was not in force by then, or loss of an address, it is raised once more:
//!   whatever was found out about a packet while any of that was otherwise
//!   ([`Vetting`](weir_ebpf::tables::Vetting)) is found out again.
//!
//! What a run that was interrupted left behind is no different from what must change: the slot in
//! force says what is in force, and the other is written anew.
//!
//! Where a table has no room for what comes beside what goes, there is a state between, with a
//! revision of its own, which lets pass no more than the states before and after do: whose policies
//! change is isolated without a rule, and whose properties change has none.

use std::collections::BTreeSet;

use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{
    ANYONE, Cidr, Class, NOBODY, Pod, PodState, Policy, PolicyFlags, RuleKey, Slot, Slots,
};

use super::Limits;
use super::change::differences;
use crate::maps::prefixes::LongestPrefix;
use crate::maps::{Contents, Write};

/// The writes that bring the tables of policies up to date.
pub(super) fn writes(desired: &Contents, actual: &Contents, limits: &Limits) -> Vec<Write> {
    let Some(between) = between(desired, actual, limits) else {
        return steps(desired, actual);
    };
    let mut plan = steps(&between, actual);
    let mut reached = actual.clone();
    for write in &plan {
        write.apply_to(&mut reached);
    }
    plan.extend(steps(desired, &reached));
    plan
}

/// What is judged by an entry of `PODS`, and by none.
fn is_known(pod: Option<&Pod>) -> bool {
    pod.is_some_and(|pod| pod.state != PodState::UNKNOWN)
}

fn steps(desired: &Contents, actual: &Contents) -> Vec<Write> {
    let Policy {
        revision,
        flags,
        epoch: _,
    } = actual.policy;
    let in_force = Slot::of(revision);
    let classes = Classes::new(desired, actual, in_force);
    let peers = classes.peers();
    let ranges = classes.ranges();
    let rules = Rules::new(desired, actual, in_force);
    let is_judged_otherwise = peers.iter().any(Changed::is_judged_otherwise)
        || ranges.iter().any(Changed::is_judged_otherwise)
        || rules.are_wrong_in_force
        || sets_of_known_pods_change(desired, actual, in_force);

    let mut plan = Vec::new();
    // Handed over is only what both say: the rest takes the way that is always right.
    let receivers = differences(&desired.receivers, &actual.receivers);
    let gone = receivers.filter(|(_, _, old)| old.is_some());
    plan.extend(gone.map(|(addr, ..)| Write::RemoveReceiver(*addr)));
    let loses_receivers = !plan.is_empty();
    let new = desired.pod_addrs.difference(&actual.pod_addrs);
    plan.extend(new.map(|addr| Write::PutPodAddr(*addr)));
    let put = rules.put.iter();
    plan.extend(put.map(|(key, rule)| Write::PutRule(*key, *rule)));
    let mut policy = actual.policy;
    if is_judged_otherwise {
        let wrong = rules.wrong.iter();
        plan.extend(wrong.map(|key| Write::RemoveRule(*key)));
        plan.extend(
            ranges
                .iter()
                .filter_map(|it| it.prepared(in_force))
                .map(|(range, class)| Write::PutPeerRange(range, class)),
        );
        plan.extend(
            peers
                .iter()
                .filter_map(|it| it.prepared(in_force))
                .map(|(addr, class)| Write::PutPeer(addr, class)),
        );
        prepare_pods(&mut plan, desired, actual, in_force);
        policy = Policy {
            revision: revision.wrapping_add(1),
            flags: unknown_as_before(desired.policy.flags, flags),
            ..policy.in_next_epoch()
        };
        plan.push(Write::PutPolicy(policy));
    }
    let pods = differences(&desired.pods, &actual.pods);
    let (known, unknown): (Vec<_>, Vec<_>) = pods.partition(|(_, new, _)| is_known(*new));
    let settle_pod = |(interface, new, _): (&u32, Option<&Pod>, Option<&Pod>)| match new {
        Some(pod) => Write::PutPod(*interface, *pod),
        None => Write::RemovePod(*interface),
    };
    plan.extend(known.into_iter().map(settle_pod));
    if policy.flags != desired.policy.flags {
        policy = Policy {
            flags: desired.policy.flags,
            ..policy.in_next_epoch()
        };
        plan.push(Write::PutPolicy(policy));
    }
    plan.extend(unknown.into_iter().map(settle_pod));
    // Each kind by itself: the kernel takes many writes of a kind at once.
    let put = peers.iter().filter_map(|it| Some((it.key, it.desired?)));
    plan.extend(put.map(|(addr, class)| Write::PutPeer(addr, class)));
    let gone = peers.iter().filter(|it| it.desired.is_none());
    plan.extend(gone.map(|it| Write::RemovePeer(it.key)));
    let put = ranges.iter().filter_map(|it| Some((it.key, it.desired?)));
    plan.extend(put.map(|(range, class)| Write::PutPeerRange(range, class)));
    let gone = ranges.iter().filter(|it| it.desired.is_none());
    plan.extend(gone.map(|it| Write::RemovePeerRange(it.key)));
    plan.extend(rules.unused.iter().map(|key| Write::RemoveRule(*key)));
    let gone = actual.pod_addrs.difference(&desired.pod_addrs);
    plan.extend(gone.map(|addr| Write::RemovePodAddr(*addr)));
    let loses_addrs = !actual.pod_addrs.is_subset(&desired.pod_addrs);
    if loses_addrs
        || loses_receivers
        || pods_are_asked_otherwise(desired, actual, is_judged_otherwise)
    {
        plan.push(Write::PutPolicy(policy.in_next_epoch()));
    }
    let receivers = differences(&desired.receivers, &actual.receivers);
    let put = receivers.filter_map(|(addr, new, _)| Some(Write::PutReceiver(*addr, *new?)));
    plan.extend(put);
    plan
}

/// Does what a packet at an interface is asked change with a write of its own, after the revision
/// was raised or without that? Else all of it was prepared before.
fn pods_are_asked_otherwise(desired: &Contents, actual: &Contents, is_raised: bool) -> bool {
    differences(&desired.pods, &actual.pods)
        .any(|(_, new, old)| !(is_raised && is_known(new) && is_known(old)))
}

/// New flags, but for what they say of interfaces that nobody knows.
fn unknown_as_before(new: PolicyFlags, old: PolicyFlags) -> PolicyFlags {
    let unknown = PolicyFlags::DENY_UNKNOWN.0;
    PolicyFlags(new.0 & !unknown | old.0 & unknown)
}

/// A key of a table of peers whose entry is not as desired.
#[derive(Clone, Copy, Debug)]
struct Changed<K> {
    key: K,
    desired: Option<Class>,
    actual: Option<Class>,
    /// The class of its addresses as it is in force.
    before: u32,
    /// The class of its addresses as it shall be.
    after: u32,
}

impl<K: Copy> Changed<K> {
    const fn is_judged_otherwise(&self) -> bool {
        self.before != self.after
    }

    /// The entry that says both, if it has to be written: then either slot can be in force.
    fn prepared(&self, in_force: Slot) -> Option<(K, Class)> {
        let class = Slots::both(self.after).with(in_force, self.before);
        (self.actual != Some(Class(class))).then_some((self.key, Class(class)))
    }
}

/// What addresses mean before and after.
struct Classes<'a> {
    desired: &'a Contents,
    actual: &'a Contents,
    in_force: Slot,
    ranges_before: LongestPrefix,
    ranges_after: LongestPrefix,
}

impl<'a> Classes<'a> {
    fn new(desired: &'a Contents, actual: &'a Contents, in_force: Slot) -> Self {
        Self {
            desired,
            actual,
            in_force,
            ranges_before: actual.peer_ranges.keys().collect(),
            ranges_after: desired.peer_ranges.keys().collect(),
        }
    }

    fn before(&self, entry: Option<&Class>, around: Option<Cidr>) -> u32 {
        let of_range = || self.actual.peer_ranges.get(&around?);
        let class = entry.or_else(of_range);
        class.map_or(ANYONE, |class| class.0.get(self.in_force))
    }

    fn after(&self, entry: Option<&Class>, around: Option<Cidr>) -> u32 {
        let of_range = || self.desired.peer_ranges.get(&around?);
        let class = entry.or_else(of_range);
        class.map_or(ANYONE, |class| class.0.get(Slot::Even))
    }

    fn peers(&self) -> Vec<Changed<Addr>> {
        differences(&self.desired.peers, &self.actual.peers)
            .map(|(addr, desired, actual)| Changed {
                key: *addr,
                desired: desired.copied(),
                actual: actual.copied(),
                before: self.before(actual, self.ranges_before.of(*addr)),
                after: self.after(desired, self.ranges_after.of(*addr)),
            })
            .collect()
    }

    fn ranges(&self) -> Vec<Changed<Cidr>> {
        differences(&self.desired.peer_ranges, &self.actual.peer_ranges)
            .map(|(range, desired, actual)| Changed {
                key: *range,
                desired: desired.copied(),
                actual: actual.copied(),
                before: self.before(actual, self.ranges_before.around(*range)),
                after: self.after(desired, self.ranges_after.around(*range)),
            })
            .collect()
    }
}

/// The pods that are known before and after, but whose sets are others.
fn sets_of_known_pods_change(desired: &Contents, actual: &Contents, in_force: Slot) -> bool {
    differences(&desired.pods, &actual.pods).any(|(_, new, old)| match (new, old) {
        (Some(new), Some(old)) => {
            let changes = |new: Slots, old: Slots| new.get(in_force) != old.get(in_force);
            is_known(Some(new))
                && is_known(Some(old))
                && (changes(new.egress, old.egress) || changes(new.ingress, old.ingress))
        }
        (Some(_), None) | (None, Some(_)) | (None, None) => false,
    })
}

/// Writes to pods' slots what they shall say.
fn prepare_pods(plan: &mut Vec<Write>, desired: &Contents, actual: &Contents, in_force: Slot) {
    let denies_unknown = desired.policy.flags.contains(PolicyFlags::DENY_UNKNOWN);
    for (interface, new, old) in differences(&desired.pods, &actual.pods) {
        let Some(old) = old.filter(|old| is_known(Some(old))) else {
            continue;
        };
        // One that nobody will know is judged as the flag will say.
        let by_flag = Slots::both(if denies_unknown { NOBODY } else { 0 });
        let unknown = Pod {
            egress: by_flag,
            ingress: by_flag,
            ..*old
        };
        let new = new.filter(|new| is_known(Some(new))).unwrap_or(&unknown);
        let prepared = Pod {
            egress: new.egress.with(in_force, old.egress.get(in_force)),
            ingress: new.ingress.with(in_force, old.ingress.get(in_force)),
            ..*new
        };
        if prepared != *old {
            plan.push(Write::PutPod(*interface, prepared));
        }
    }
}

/// What has to be written to `RULES`.
struct Rules {
    /// Entries that are missing, or say something else.
    put: Vec<(RuleKey, u32)>,
    /// Entries to be removed that are between a subject set and a class in force before and after.
    wrong: Vec<RuleKey>,
    /// Other entries to be removed: of numbers that nothing will refer to.
    unused: Vec<RuleKey>,
    /// Is any entry as it should not be between numbers in force before and after? No change of
    /// policies does that, but somebody else.
    are_wrong_in_force: bool,
}

impl Rules {
    fn new(desired: &Contents, actual: &Contents, in_force: Slot) -> Self {
        let before = Referred::new(actual, in_force);
        let after = Referred::new(desired, Slot::Even);
        let is_of_both = |key: &RuleKey| before.has(key) && after.has(key);
        let (mut put, mut wrong, mut unused) = (Vec::new(), Vec::new(), Vec::new());
        let mut are_wrong_in_force = false;
        for (key, new, _) in differences(&desired.rules, &actual.rules) {
            let is_in_force = is_of_both(key);
            are_wrong_in_force |= is_in_force;
            match new {
                Some(rule) => put.push((*key, *rule)),
                None if is_in_force => wrong.push(*key),
                None => unused.push(*key),
            }
        }
        Self {
            put,
            wrong,
            unused,
            are_wrong_in_force,
        }
    }
}

/// The numbers that entries in force refer to.
struct Referred {
    subjects: BTreeSet<u32>,
    classes: BTreeSet<u32>,
}

impl Referred {
    fn new(contents: &Contents, slot: Slot) -> Self {
        let pods = contents.pods.values().filter(|pod| is_known(Some(pod)));
        let classes = contents.peers.values().chain(contents.peer_ranges.values());
        Self {
            subjects: pods
                .flat_map(|pod| [pod.egress.get(slot), pod.ingress.get(slot)])
                .collect(),
            classes: classes
                .map(|class| class.0.get(slot))
                .chain([ANYONE])
                .collect(),
        }
    }

    fn has(&self, key: &RuleKey) -> bool {
        self.subjects.contains(&key.subject) && self.classes.contains(&key.class)
    }
}

/// The state to go through where a table has no room for what comes beside what goes.
fn between(desired: &Contents, actual: &Contents, limits: &Limits) -> Option<Contents> {
    let in_force = actual.policy.slot();
    let rules = exceed(desired.rules.keys(), actual.rules.keys(), limits.rules);
    let peers = exceed(desired.peers.keys(), actual.peers.keys(), limits.peers);
    let ranges = exceed(
        desired.peer_ranges.keys(),
        actual.peer_ranges.keys(),
        limits.peer_ranges,
    );
    let pods = exceed(desired.pods.keys(), actual.pods.keys(), limits.pods);
    let addrs = exceed(
        desired.pod_addrs.iter(),
        actual.pod_addrs.iter(),
        limits.pod_addrs,
    );
    if !(rules || peers || ranges || pods || addrs) {
        return None;
    }
    let mut between = actual.clone();
    let settle = |slots: &mut Slots| *slots = Slots::both(slots.get(in_force));
    for pod in between.pods.values_mut() {
        settle(&mut pod.egress);
        settle(&mut pod.ingress);
    }
    for class in between
        .peers
        .values_mut()
        .chain(between.peer_ranges.values_mut())
    {
        settle(&mut class.0);
    }
    if rules {
        between
            .rules
            .retain(|key, rule| desired.rules.get(key) == Some(rule));
        for (interface, pod) in &mut between.pods {
            let new = desired.pods.get(interface).copied().unwrap_or_default();
            for (slots, new) in [
                (&mut pod.egress, new.egress),
                (&mut pod.ingress, new.ingress),
            ] {
                if *slots != new {
                    *slots = Slots::both(NOBODY);
                }
            }
        }
    }
    if peers {
        between.peers.retain(|addr, class| {
            let new = desired.peers.get(addr);
            if new != Some(class) {
                class.0 = Slots::both(ANYONE);
            }
            new.is_some()
        });
    }
    if ranges {
        // A range that goes before others come would leave its addresses to a wider one.
        between.peer_ranges.retain(|range, class| {
            class.0 = Slots::both(ANYONE);
            desired.peer_ranges.contains_key(range)
        });
    }
    if pods {
        // Whose entry goes early was not one that nobody knows.
        between.policy.flags = between.policy.flags.with(PolicyFlags::DENY_UNKNOWN);
        between
            .pods
            .retain(|interface, _| desired.pods.contains_key(interface));
    }
    if addrs {
        between
            .pod_addrs
            .retain(|addr| desired.pod_addrs.contains(addr));
    }
    Some(between)
}

/// Are there more keys in either than this?
fn exceed<'a, K: Ord + 'a>(
    one: impl ExactSizeIterator<Item = &'a K>,
    other: impl ExactSizeIterator<Item = &'a K>,
    limit: usize,
) -> bool {
    // Nearly always there is room for all of both.
    one.len() + other.len() > limit && one.chain(other).collect::<BTreeSet<&K>>().len() > limit
}
