//! Which endpoints of a service port are chosen on this node.
//!
//! The rules of kube-proxy (`pkg/proxy/topology.go`, `endpointslicecache.go`) for the traffic
//! policy Cluster. Topology and the policy Local narrow the same candidates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::model::{Endpoint, EndpointGroup, Family, ServicePort};

/// Where an endpoint answers.
pub(super) type Target = (IpAddr, NonZeroU16);

/// The endpoints chosen for a service port, each once, in order.
///
/// Those that are ready; when none is, those that still serve while they terminate.
pub(super) fn choose<'a>(
    groups: impl IntoIterator<Item = &'a EndpointGroup>,
    port: &ServicePort,
    family: Family,
) -> Vec<Target> {
    let candidates = candidates(groups, port, family);
    let those = |wanted: fn(&Endpoint) -> bool| {
        candidates
            .iter()
            .filter(|(_, endpoint)| wanted(endpoint))
            .map(|(target, _)| *target)
            .collect::<Vec<_>>()
    };
    let ready = those(|endpoint| endpoint.is_ready);
    if ready.is_empty() {
        those(|endpoint| endpoint.is_serving && endpoint.is_terminating)
    } else {
        ready
    }
}

/// Every endpoint of this family that has the service port's name and protocol.
///
/// An endpoint may be in two slices while it moves from one to the other: the entry that does not
/// terminate is believed, and of two such the one that is ready.
fn candidates<'a>(
    groups: impl IntoIterator<Item = &'a EndpointGroup>,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<Target, Endpoint> {
    let rank = |endpoint: &Endpoint| {
        (
            !endpoint.is_terminating,
            endpoint.is_ready,
            endpoint.is_serving,
        )
    };
    let mut candidates: BTreeMap<Target, Endpoint> = BTreeMap::new();
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
                            *known = *endpoint;
                        }
                    })
                    .or_insert(*endpoint);
            }
        }
    }
    candidates
}
