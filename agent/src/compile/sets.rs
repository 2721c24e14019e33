//! Who answers: the endpoints of a service port, as each traffic policy in use chooses them.
//!
//! A service port has at most two such sets, Cluster and Local, and a number for each. Only those
//! are made that some address of it leads to.

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::addr::{Addr, Port};
use weir_ebpf::tables::{Backend, ServiceFlags};

use crate::model::{Affinity, Cluster, EndpointGroup, ServiceRef, TrafficPolicy};

use super::choice::{Candidates, Chosen, Place, candidates, choose, why_not};
use super::frontends::Claim;
use super::names::Subject;
use super::{Account, Why};

/// Every policy, in the order in which sets are made.
pub(super) const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];

/// Endpoints chosen under one policy.
pub(super) struct Set {
    pub policy: TrafficPolicy,
    pub backends: BTreeSet<Backend>,
    pub flags: ServiceFlags,
}

/// The numbers of a service port's sets.
pub(super) struct Numbers(pub Vec<(TrafficPolicy, u32)>);

impl Numbers {
    /// The number of the endpoints chosen under this policy; 0, which is never given, where that
    /// is not in use.
    pub fn of(&self, policy: TrafficPolicy) -> u32 {
        let mut numbers = self.0.iter();
        numbers
            .find(|(own, _)| *own == policy)
            .map_or(0, |(_, number)| *number)
    }
}

/// The policies under which endpoints are chosen for these addresses of a service port.
pub(super) fn policies(subject: &Subject<'_>, claims: &[Claim]) -> Vec<TrafficPolicy> {
    let used = |policy: &TrafficPolicy| {
        let mut policies = claims.iter().flat_map(|claim| claim.policies(subject));
        policies.any(|used| used == *policy)
    };
    POLICIES.into_iter().filter(used).collect()
}

/// The sets of a service port that are chosen under these policies.
pub(super) fn sets(
    subject: &Subject<'_>,
    policies: &[TrafficPolicy],
    groups: &[&EndpointGroup],
    place: Place<'_>,
    account: &mut Account,
) -> Vec<Set> {
    let candidates = candidates(
        groups.iter().copied(),
        subject.port,
        subject.family,
        |target, endpoint| account.add(subject, None, target, Some(endpoint), Why::Duplicate),
    );
    let sets: Vec<Set> = policies
        .iter()
        .map(|&policy| set(policy, &candidates, place))
        .collect();
    for set in &sets {
        if set.backends.len() < candidates.len() {
            explain(subject, set.policy, &candidates, place, account);
        }
    }
    sets
}

/// Says why some of the endpoints are not in the set of this policy.
fn explain(
    subject: &Subject<'_>,
    policy: TrafficPolicy,
    candidates: &Candidates<'_>,
    place: Place<'_>,
    account: &mut Account,
) {
    let why_not = why_not(candidates, policy, place);
    for (target, endpoint) in candidates {
        if let Some(why) = why_not(endpoint) {
            account.add(subject, Some(policy), *target, Some(endpoint), why);
        }
    }
}

fn set(policy: TrafficPolicy, candidates: &Candidates<'_>, place: Place<'_>) -> Set {
    let mut set = Set {
        policy,
        backends: BTreeSet::new(),
        flags: ServiceFlags::NONE,
    };
    match choose(candidates, policy, place) {
        Chosen::Nobody => {}
        Chosen::OnlyElsewhere => set.flags = ServiceFlags::DROPS_WITHOUT_BACKEND,
        Chosen::Endpoints(endpoints) => {
            for ((addr, port), endpoint) in endpoints {
                let (addr, port) = (Addr::from(addr), Port::new(port.get()));
                set.backends.insert(if place.has(endpoint) {
                    Backend::local(addr, port)
                } else {
                    Backend::new(addr, port)
                });
            }
        }
    }
    set
}

/// Seconds for which a silent client keeps its backend; zero: it chooses each time.
pub(super) fn affinity_timeout(affinity: Affinity) -> u32 {
    match affinity {
        Affinity::None => 0,
        Affinity::ClientIp(timeout) => u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX),
    }
}

/// The endpoints of each service.
pub(super) fn groups_by_service(cluster: &Cluster) -> BTreeMap<&ServiceRef, Vec<&EndpointGroup>> {
    groups_of(cluster, |_| true)
}

/// The endpoints of each of these services: those of its slices, or where it has none those of
/// the core Endpoints of its name.
pub(super) fn groups_of(
    cluster: &Cluster,
    wanted: impl Fn(&ServiceRef) -> bool,
) -> BTreeMap<&ServiceRef, Vec<&EndpointGroup>> {
    let mut groups: BTreeMap<&ServiceRef, Vec<&EndpointGroup>> = BTreeMap::new();
    for slice in cluster.endpoint_slices() {
        if wanted(&slice.service) {
            groups.entry(&slice.service).or_default().push(&slice.group);
        }
    }
    for endpoints in cluster.endpoints() {
        if wanted(&endpoints.service) {
            groups
                .entry(&endpoints.service)
                .or_insert_with(|| endpoints.groups.iter().collect());
        }
    }
    groups
}
