//! Which pod stands behind an interface, and whose an address is.
//!
//! A pod is found by the record that claims its interface, before its object has any address. Where
//! there is no record it is the pod of this node that has one of the interface's addresses.
//!
//! Of several pods that have an address by their objects it is the one created last that has it: a
//! completed pod has given its own back, and so has an older one, even if nobody has said so yet.
//! What is claimed at an interface of this node is known better than that.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::compile::NodeContext;
use crate::compile::pod_interface::{Claimed, PodInterface};
use crate::model::{Cluster, Pod, PodRef, youngest_by_addr, youngest_of};

/// An interface of this node, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Its index.
    pub index: u32,
    /// What else is known of it.
    pub interface: &'a PodInterface,
    /// Whose it is.
    pub pod: Whose<'a>,
}

/// Whose an interface is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose<'a> {
    /// Nobody knows.
    Unknown,
    /// That pod's, of which only the name is known.
    Named(&'a PodRef),
    /// This pod's.
    Known(&'a Pod),
}

/// Every interface that leads to a pod.
pub(super) fn places<'a>(cluster: &'a Cluster, node: &'a NodeContext) -> Vec<Place<'a>> {
    let is_here = |pod: &&Pod| pod.node.as_ref().is_none_or(|name| *name == node.name);
    let by_addr = youngest_by_addr(cluster.pods().filter(is_here));
    let whose = |interface: &'a PodInterface| match &interface.pod {
        Some(claimed) => claimed_pod(cluster, node, claimed, interface)
            .map_or(Whose::Named(&claimed.pod), Whose::Known),
        None => {
            let pods = interface.addrs.iter().filter_map(|addr| by_addr.get(addr));
            let youngest = pods.copied().max_by_key(|pod| pod.age());
            youngest.map_or(Whose::Unknown, Whose::Known)
        }
    };
    node.pod_interfaces
        .iter()
        .map(|(index, interface)| Place {
            index: *index,
            interface,
            pod: whose(interface),
        })
        .collect()
}

/// The object of the pod that an interface was made for.
///
/// An object with another UID is of another pod with that name, older or younger: its labels are
/// not this pod's. But the object that stands for a static pod has a UID of its own; one of this
/// node that has an address of the interface is this pod's.
fn claimed_pod<'a>(
    cluster: &'a Cluster,
    node: &NodeContext,
    claimed: &Claimed,
    interface: &PodInterface,
) -> Option<&'a Pod> {
    let pod = cluster.pod(&claimed.pod.namespace, &claimed.pod.name)?;
    let is_same = claimed.uid.is_empty() || pod.uid.is_empty() || claimed.uid == pod.uid;
    let is_here = || pod.node.as_ref() == Some(&node.name);
    let has_addr = || {
        pod.own_addrs()
            .iter()
            .any(|addr| interface.addrs.contains(addr))
    };
    (is_same || (is_here() && has_addr())).then_some(pod)
}

/// Whose an address is, as far as it is a pod's whose labels are known.
pub(super) fn owners<'a>(
    cluster: &'a Cluster,
    node: &NodeContext,
    places: &[Place<'a>],
) -> BTreeMap<IpAddr, &'a Pod> {
    let mut owners = youngest_by_addr(cluster.pods());
    let is_elsewhere = |pod: &Pod| pod.node.as_ref().is_some_and(|name| *name != node.name);
    let claimed = || places.iter().filter(|place| place.interface.pod.is_some());
    // A pod that is only named here, or has no address by its object, has what its interface has;
    // but it takes nothing from the pods of other nodes, whatever it has given itself.
    let mut unnamed: BTreeMap<IpAddr, Option<&Pod>> = BTreeMap::new();
    for place in claimed() {
        let pod = match place.pod {
            Whose::Unknown => continue,
            Whose::Named(_) => None,
            Whose::Known(pod)
                if pod.addrs.is_empty() && !pod.is_host_network && !pod.is_completed =>
            {
                Some(pod)
            }
            Whose::Known(_) => continue,
        };
        for addr in place.interface.addrs.iter().filter(|addr| is_unique(addr)) {
            let known = unnamed.entry(*addr).or_default();
            *known = (*known).into_iter().chain(pod).max_by_key(|pod| pod.age());
        }
    }
    for (addr, pod) in unnamed {
        if owners.get(&addr).is_some_and(|pod| is_elsewhere(pod)) {
            continue;
        }
        match pod {
            Some(pod) => owners.insert(addr, pod),
            None => owners.remove(&addr),
        };
    }
    // An address of its object that its interface has not may be another's by now.
    let known = claimed().filter_map(|place| match place.pod {
        Whose::Known(pod) => Some((pod, &place.interface.addrs)),
        Whose::Named(_) | Whose::Unknown => None,
    });
    let by_object = known.flat_map(|(pod, here)| {
        let addrs = pod.own_addrs().iter();
        addrs
            .filter(move |addr| here.is_empty() || here.contains(addr))
            .map(move |addr| (*addr, pod))
    });
    owners.extend(youngest_of(by_object));
    owners
}

/// Is this an address that no other pod has?
const fn is_unique(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    }
}
