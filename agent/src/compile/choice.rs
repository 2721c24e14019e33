//! Which endpoints of a service port are chosen on this node.
//!
//! The rules of kube-proxy (`pkg/proxy/topology.go`, `endpointslicecache.go`). All of them look
//! at one service port in one family: hints of another port's endpoints decide nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::model::{Endpoint, EndpointGroup, Family, ServicePort, TrafficPolicy};

use super::Why;

/// Where an endpoint answers.
pub(super) type Target = (IpAddr, NonZeroU16);

/// The node that chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Its name.
    pub node: &'a str,
    /// The zone that it is in.
    pub zone: Option<&'a str>,
}

impl Place<'_> {
    /// Is this endpoint on the node?
    pub(super) fn has(&self, endpoint: &Endpoint) -> bool {
        endpoint.node.as_deref() == Some(self.node)
    }
}

/// What a service port is led to on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chosen<'a> {
    /// To these endpoints, at least one, each once, in order.
    Endpoints(Vec<(Target, &'a Endpoint)>),
    /// To nobody, because none is on this node, where the policy Local looks; others are.
    OnlyElsewhere,
    /// To nobody, because nobody serves it anywhere.
    Nobody,
}

/// Every endpoint of a service port in one family, each once.
pub(super) type Candidates<'a> = BTreeMap<Target, &'a Endpoint>;

/// Chooses among the endpoints of a service port.
pub(super) fn choose<'a>(
    candidates: &Candidates<'a>,
    policy: TrafficPolicy,
    place: Place<'_>,
) -> Chosen<'a> {
    let those = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<(Target, &'a Endpoint)> {
        candidates
            .iter()
            .filter(|(_, endpoint)| wanted(endpoint))
            .map(|(target, endpoint)| (*target, *endpoint))
            .collect()
    };
    let chosen = match policy {
        TrafficPolicy::Cluster => {
            let preference = Preference::of(candidates.values().copied(), place);
            // Endpoints that are about to go are the last resort: topology is no matter then.
            or_else(
                those(&|endpoint| endpoint.is_ready && preference.allows(endpoint, place)),
                || those(&is_last_resort),
            )
        }
        TrafficPolicy::Local => or_else(
            those(&|endpoint| endpoint.is_ready && place.has(endpoint)),
            || those(&|endpoint| is_last_resort(endpoint) && place.has(endpoint)),
        ),
    };
    if !chosen.is_empty() {
        Chosen::Endpoints(chosen)
    } else if candidates
        .values()
        .any(|endpoint| endpoint.is_ready || is_last_resort(endpoint))
    {
        Chosen::OnlyElsewhere
    } else {
        Chosen::Nobody
    }
}

/// Says of each endpoint of a service port why it is not chosen; `None`: it is. The same
/// decision as [`choose`]'s, asked the other way round.
pub(super) fn why_not(
    candidates: &Candidates<'_>,
    policy: TrafficPolicy,
    place: Place<'_>,
) -> impl Fn(&Endpoint) -> Option<Why> {
    let is_near = move |endpoint: &Endpoint| match policy {
        TrafficPolicy::Cluster => true,
        TrafficPolicy::Local => place.has(endpoint),
    };
    let mut endpoints = candidates.values();
    let is_any_ready = endpoints.any(|endpoint| endpoint.is_ready && is_near(endpoint));
    let preference = match policy {
        TrafficPolicy::Cluster => Preference::of(candidates.values().copied(), place),
        TrafficPolicy::Local => Preference::Anywhere,
    };
    move |endpoint| {
        if !endpoint.is_ready && !is_last_resort(endpoint) {
            return Some(if endpoint.is_terminating {
                Why::NotServing
            } else {
                Why::NotReady
            });
        }
        if !is_near(endpoint) {
            return Some(Why::OtherNode);
        }
        match (is_any_ready, endpoint.is_ready) {
            (true, true) if preference.allows(endpoint, place) => None,
            (true, true) => Some(match preference {
                Preference::SameNode => Why::HintsOtherNodes,
                Preference::SameZone | Preference::Anywhere => Why::HintsOtherZones,
            }),
            (true, false) => Some(Why::Terminating),
            // It is the last resort.
            (false, _) => None,
        }
    }
}

/// Serves while it terminates: chosen only where none is ready.
const fn is_last_resort(endpoint: &Endpoint) -> bool {
    endpoint.is_serving && endpoint.is_terminating
}

fn or_else<T>(chosen: Vec<T>, other: impl FnOnce() -> Vec<T>) -> Vec<T> {
    if chosen.is_empty() { other() } else { chosen }
}

/// Which of the ready endpoints are near enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preference {
    /// Those with a hint for this node.
    SameNode,
    /// Those with a hint for this node's zone.
    SameZone,
    /// All.
    Anywhere,
}

impl Preference {
    /// Hints of a kind count only where every ready endpoint has one and they leave somebody to
    /// go to from here: half a set of hints is one that is being changed.
    fn of<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone, place: Place<'_>) -> Self {
        let ready = endpoints.filter(|endpoint| endpoint.is_ready);
        let all_name_nodes = ready
            .clone()
            .all(|endpoint| !endpoint.hints.nodes.is_empty());
        let all_name_zones = ready
            .clone()
            .all(|endpoint| !endpoint.hints.zones.is_empty());
        let anyone = |preference: Self| {
            ready
                .clone()
                .any(|endpoint| preference.allows(endpoint, place))
        };
        if all_name_nodes && anyone(Self::SameNode) {
            Self::SameNode
        } else if all_name_zones && anyone(Self::SameZone) {
            Self::SameZone
        } else {
            Self::Anywhere
        }
    }

    fn allows(self, endpoint: &Endpoint, place: Place<'_>) -> bool {
        match self {
            Self::SameNode => endpoint.hints.nodes.iter().any(|node| node == place.node),
            Self::SameZone => place
                .zone
                .is_some_and(|own| endpoint.hints.zones.iter().any(|zone| zone == own)),
            Self::Anywhere => true,
        }
    }
}

/// Which of two entries for one endpoint is believed: the greater.
///
/// An endpoint may be in two slices while it moves from one to the other: the entry that does not
/// terminate is believed, and of two such the one that is ready.
pub(super) const fn rank(endpoint: &Endpoint) -> (bool, bool, bool) {
    (
        !endpoint.is_terminating,
        endpoint.is_ready,
        endpoint.is_serving,
    )
}

/// Every endpoint of this family that has the service port's name and protocol, each once; `lost`
/// is told of entries that are not believed.
pub(super) fn candidates<'a>(
    groups: impl IntoIterator<Item = &'a EndpointGroup>,
    port: &ServicePort,
    family: Family,
    mut lost: impl FnMut(Target, &'a Endpoint),
) -> Candidates<'a> {
    let mut candidates = Candidates::new();
    for group in groups {
        if group.family != family {
            continue;
        }
        let targets = group
            .ports
            .iter()
            .filter(|target| target.name == port.name && target.protocol == port.protocol);
        for target in targets {
            for endpoint in &group.endpoints {
                let target = (endpoint.addr, target.port);
                match candidates.entry(target) {
                    Entry::Vacant(entry) => {
                        entry.insert(endpoint);
                    }
                    Entry::Occupied(mut entry) if rank(endpoint) > rank(entry.get()) => {
                        lost(target, entry.insert(endpoint));
                    }
                    Entry::Occupied(_) => lost(target, endpoint),
                }
            }
        }
    }
    candidates
}
