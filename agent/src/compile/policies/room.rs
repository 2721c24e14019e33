//! What is left out where a table has no room for all.
//!
//! It is never left out in a way that allows more. Without its ranges or entries a rule would
//! mean something else, so that it is a policy that goes without its rules, the one that needs
//! the most room first; it still isolates. A pod's address goes without properties of its own: no
//! selector finds it. A pod's own addresses that do not fit are forged to the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_ebpf::tables::{Pod as Entry, PodState, PolicyFlags, Slots};

use crate::compile::{Capacities, Desired, Reason, Skipped, Table};
use crate::model::{Kind, ObjectRef, Pod, PodRef, PolicyRef};

use super::draft::Draft;
use super::property::Property;

/// The policies that have to go without their rules.
pub(super) fn policies_without_room(
    draft: &Draft<'_>,
    capacities: &Capacities,
) -> BTreeMap<PolicyRef, Table> {
    let ranges = excess(draft.ranges.classes.len(), capacities.peer_ranges);
    let entries = excess(draft.entries.len(), capacities.rules);
    if ranges + entries == 0 {
        return BTreeMap::new();
    }
    let (table, excess, needs) = if ranges > 0 {
        (Table::PeerRanges, ranges, ranges_by_policy(draft))
    } else {
        (Table::Rules, entries, entries_by_policy(draft))
    };
    let mut by_need: Vec<(usize, &PolicyRef)> = needs
        .into_iter()
        .map(|(policy, need)| (need, policy))
        .collect();
    by_need.sort_unstable_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
    let mut left_out = BTreeMap::new();
    let mut freed = 0;
    for (need, policy) in by_need {
        if freed >= excess || need == 0 {
            break;
        }
        freed += need;
        left_out.insert(policy.clone(), table);
    }
    left_out
}

fn excess(wanted: usize, capacity: u32) -> usize {
    wanted.saturating_sub(entries(capacity))
}

fn entries(capacity: u32) -> usize {
    usize::try_from(capacity).unwrap_or(usize::MAX)
}

fn ranges_by_policy<'a>(draft: &'a Draft<'_>) -> BTreeMap<&'a PolicyRef, usize> {
    let mut needs = BTreeMap::new();
    for version in draft.versions.values() {
        let peers = version.rules.iter().filter_map(|rule| rule.peers.as_ref());
        let peers: BTreeSet<u64> = peers.flatten().copied().collect();
        let properties = peers
            .iter()
            .filter_map(|number| draft.properties.get(number));
        let ranges = properties.map(|property| match property {
            Property::Block(block) => 1 + block.except.len(),
            Property::Pod { .. } | Property::Port { .. } => 0,
        });
        *needs.entry(&version.policy).or_default() += ranges.sum::<usize>();
    }
    needs
}

fn entries_by_policy<'a>(draft: &'a Draft<'_>) -> BTreeMap<&'a PolicyRef, usize> {
    let mut needs = BTreeMap::new();
    for entry in &draft.entries {
        if let Some(version) = draft.versions.get(&entry.rule.version) {
            *needs.entry(&version.policy).or_default() += 1;
        }
    }
    needs
}

/// Leaves out what does not fit of what is written by address or interface, and says whose it is.
pub(super) fn leave_out_addresses(
    owners: &BTreeMap<IpAddr, &Pod>,
    capacities: &Capacities,
    desired: &mut Desired,
) {
    let mut left_out: BTreeSet<(PodRef, Table)> = BTreeSet::new();
    let contents = &mut desired.contents;
    for _ in 0..excess(contents.peers.len(), capacities.peers) {
        let Some((addr, _)) = contents.peers.pop_last() else {
            break;
        };
        if let Some(pod) = owners.get(&IpAddr::from(addr)) {
            left_out.insert((pod.id.clone(), Table::Peers));
        }
    }
    let mut in_order: Vec<u32> = contents.pods.keys().copied().collect();
    // Those that are isolated stay longest.
    let is_isolated = |pod: &Entry| pod.egress != Slots::both(0) || pod.ingress != Slots::both(0);
    in_order.sort_by_key(|index| !contents.pods.get(index).is_some_and(is_isolated));
    for index in in_order.into_iter().skip(entries(capacities.pods)) {
        if contents
            .pods
            .remove(&index)
            .as_ref()
            .is_some_and(is_isolated)
        {
            // Whatever the operator wants of pods that nobody knows: this one is known.
            contents.policy.flags = contents.policy.flags.with(PolicyFlags::DENY_UNKNOWN);
        }
        contents.pod_addrs.retain(|addr| addr.interface != index);
        contents
            .receivers
            .retain(|_, receiver| receiver.interface != index);
        if let Some(report) = desired.pods.get_mut(&index) {
            report.state = PodState::UNKNOWN;
            left_out.extend(report.pod.clone().map(|pod| (pod, Table::Pods)));
        }
    }
    // What is not there takes the long way.
    for _ in 0..excess(contents.receivers.len(), capacities.pod_addrs) {
        contents.receivers.pop_last();
    }
    for _ in 0..excess(contents.pod_addrs.len(), capacities.pod_addrs) {
        let Some(addr) = contents.pod_addrs.pop_last() else {
            break;
        };
        if let Some(entry) = contents.pods.get_mut(&addr.interface) {
            entry.forget_addr(addr.addr);
        }
        let pod = desired.pods.get(&addr.interface);
        left_out.extend(
            pod.and_then(|it| it.pod.clone())
                .map(|pod| (pod, Table::PodAddrs)),
        );
    }
    for (pod, table) in left_out {
        desired.skipped.push(Skipped {
            object: ObjectRef::new(Kind::Pod, &pod.namespace, &pod.name),
            part: None,
            reason: Reason::NoRoom {
                table,
                capacity: capacities.of(table),
            },
        });
    }
}
