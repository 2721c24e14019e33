//! The cluster as policies see it: who owns an address, and what policies say of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{Cluster, Direction, NetworkPolicy, Pod, PodRef, youngest_by_addr};

/// The cluster, with its pods and nodes by address.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    cluster: Cluster,
    owners: BTreeMap<IpAddr, PodRef>,
    nodes: BTreeMap<IpAddr, String>,
}

impl Scene {
    /// The scene of a cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        let owners = youngest_by_addr(cluster.pods())
            .into_iter()
            .map(|(addr, pod)| (addr, pod.id.clone()))
            .collect();
        let nodes = cluster.nodes().flat_map(|node| {
            let addrs = node.addrs.iter();
            addrs.map(|addr| (*addr, node.name.clone()))
        });
        Self {
            nodes: nodes.collect(),
            owners,
            cluster,
        }
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The pod whose traffic has this address: of those that have it, the one created last. An
    /// address is given to a pod when no other uses it.
    #[must_use]
    pub fn owner(&self, addr: IpAddr) -> Option<&Pod> {
        self.pod(self.owners.get(&addr)?)
    }

    /// The name of the node that has this address.
    #[must_use]
    pub fn node_at(&self, addr: IpAddr) -> Option<&str> {
        self.nodes.get(&addr).map(String::as_str)
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, pod: &PodRef) -> Option<&Pod> {
        self.cluster.pod(&pod.namespace, &pod.name)
    }

    /// Has a pod an address of its own, of which it is the owner?
    #[must_use]
    pub fn has_network(&self, pod: &Pod) -> bool {
        let addrs = pod.own_addrs().iter();
        addrs
            .filter_map(|addr| self.owners.get(addr))
            .any(|owner| *owner == pod.id)
    }

    /// The policies that isolate a pod in a direction, those that cannot be read too, by namespace
    /// and name. A host-network pod is no subject of policies.
    pub fn isolating(
        &self,
        pod: &Pod,
        direction: Direction,
    ) -> impl Iterator<Item = &NetworkPolicy> {
        let policies = self.cluster.network_policies();
        policies.filter(move |policy| {
            policy.id.namespace == pod.id.namespace
                && !pod.is_host_network
                && policy.isolates(direction)
                && policy.pod_selector.selects(&pod.labels)
        })
    }
}
