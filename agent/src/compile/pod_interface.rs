//! What must be known of the pods' interfaces on this node, and how their policies are kept.
//!
//! Which interface is a pod's, what stands behind it and who claims it is told by the node and by
//! the records of its CNI plugins; what follows from that for the tables is the compiler's
//! business.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::PodRef;

/// An interface of the node that leads to a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInterface {
    /// The number that the node's network namespace knows the pod's by (`IFLA_LINK_NETNSID`).
    pub netns: i32,
    /// The addresses that the pod may use at it: those inside its namespace, link-local ones
    /// too, and those that its record names.
    pub addrs: BTreeSet<IpAddr>,
    /// Do packets for it need nothing of the node but to be put there: is it a veth that is no
    /// port of another device, and whose other end is in another network namespace?
    pub is_direct: bool,
    /// The pod that the interface was made for, where a record says so.
    pub pod: Option<Claimed>,
}

/// The pod that an interface was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Its namespace and name.
    pub pod: PodRef,
    /// Its UID; empty where the container runtime does not tell it.
    pub uid: String,
}

/// What the operator decided about policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyOptions {
    /// What an interface may do whose pod is not known.
    pub unknown_pods: UnknownPods,
    /// Are packets of a pod dropped whose source address is not that pod's?
    pub source_check: bool,
    /// Do connections go on that were opened before the policy forbade them?
    pub keep_established: bool,
    /// May packets be handed over to pods past the node's IP layer? Whether they are is not
    /// compiled: that is a flag of its own, which others set.
    pub fast_path: bool,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self {
            unknown_pods: UnknownPods::Auto,
            source_check: true,
            keep_established: false,
            fast_path: true,
        }
    }
}

/// What a pod may do as long as nothing is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownPods {
    /// Nothing while there is any policy for the node to enforce, else everything.
    #[default]
    Auto,
    /// Nothing.
    Deny,
    /// Everything.
    Allow,
}
