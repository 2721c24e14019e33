//! Which endpoints of a service port are chosen on this node.
//!
//! The rules of kube-proxy (`pkg/proxy/topology.go`, `endpointslicecache.go`). All of them look
//! at one service port in one family: hints of another port's endpoints decide nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::model::{Endpoint, EndpointGroup, Family, ServicePort, TrafficPolicy};

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

/// Every endpoint of this family that has the service port's name and protocol, each once.
pub(super) fn candidates<'a>(
    groups: impl IntoIterator<Item = &'a EndpointGroup>,
    port: &ServicePort,
    family: Family,
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
                candidates
                    .entry((endpoint.addr, target.port))
                    .and_modify(|known| {
                        if rank(endpoint) > rank(known) {
                            *known = endpoint;
                        }
                    })
                    .or_insert(endpoint);
            }
        }
    }
    candidates
}
