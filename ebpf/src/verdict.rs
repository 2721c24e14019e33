//! What is decided about a packet, and why: closed and numbered, each with the sentence an
//! operator reads.

/// Why a packet or a call is refused with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectReason {
    /// The service port has no backend.
    NoBackend,
    /// A service has the address, and none has the port.
    NoSuchPort,
    /// The service's source ranges leave out the node, whose process calls. Packets are dropped
    /// for it: [`DropReason::SourceRange`].
    SourceRange,
}

impl RejectReason {
    /// For programs: the name in metrics, which never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no_backend",
            Self::NoSuchPort => "no_such_port",
            Self::SourceRange => "source_range",
        }
    }

    /// For operators.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NoBackend => "the service has no endpoint to send this to",
            Self::NoSuchPort => "a service has this cluster IP, but none has this port of it",
            Self::SourceRange => "the service's loadBalancerSourceRanges leave out this node",
        }
    }
}

/// Why a packet is dropped in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Truncated or contradictory headers.
    Malformed,
    /// No source port was free for a flow whose source must be translated.
    NoSourcePort,
    /// The kernel refused to change the packet.
    NotRewritten,
    /// An answer was due, but the packet must not be answered (a TCP reset, for example).
    Unanswerable,
    /// The service's endpoints are on other nodes, and its traffic policy is Local.
    NoLocalEndpoint,
    /// The service's source ranges leave out the client.
    SourceRange,
    /// A packet to a service's address was about to leave the node.
    ServiceAddress,
    /// The node has no address of the family for a flow whose source must be translated.
    NoNodeAddress,
    /// A later fragment to a cluster IP, or of a pod under policy, whose first one was not seen
    /// or not let through.
    NoFirstFragment,
    /// Policies isolate the pod that sends it, and no rule allows it.
    EgressPolicy,
    /// Policies isolate the pod that is to receive it, and no rule allows it.
    IngressPolicy,
    /// A pod sent it from an address that is not the pod's.
    ForgedSource,
    /// Nobody knows yet which pod the interface belongs to.
    UnknownPod,
}

impl DropReason {
    /// For programs: the name in metrics, which never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoSourcePort => "no_source_port",
            Self::NotRewritten => "not_rewritten",
            Self::Unanswerable => "unanswerable",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::SourceRange => "source_range",
            Self::ServiceAddress => "service_address",
            Self::NoNodeAddress => "no_node_address",
            Self::NoFirstFragment => "no_first_fragment",
            Self::EgressPolicy => "egress_policy",
            Self::IngressPolicy => "ingress_policy",
            Self::ForgedSource => "forged_source",
            Self::UnknownPod => "unknown_pod",
        }
    }

    /// For operators.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Malformed => "the packet's headers are truncated or contradict each other",
            Self::NoSourcePort => "no source port was free to translate the flow's source to",
            Self::NotRewritten => "the kernel refused to change the packet",
            Self::Unanswerable => "the packet was refused, and must not be answered",
            Self::NoLocalEndpoint => {
                "endpoints exist, but the traffic policy is Local and none is on this node"
            }
            Self::SourceRange => "the service's loadBalancerSourceRanges leave out the client",
            Self::ServiceAddress => {
                "a packet to a service's address, which nobody serves, was about to leave the node"
            }
            Self::NoNodeAddress => "the node has no address of this family to masquerade with",
            Self::NoFirstFragment => "a fragment came without the first one, which has the ports",
            Self::EgressPolicy => "network policies isolate the sender, and no rule allows this",
            Self::IngressPolicy => "network policies isolate the receiver, and no rule allows this",
            Self::ForgedSource => "the pod sent it from an address that is not its own",
            Self::UnknownPod => "it is not known yet which pod the interface belongs to",
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// None of our business, or known and to be left as it is.
    Pass,
    /// Goes on with other addresses.
    Translate,
    /// A later fragment of which no first one was translated: left as it is. Where the datagram
    /// is addressed to a service, the fragment has overtaken its first one.
    PassFragment,
    /// Answered and not passed on.
    Reject(RejectReason),
    /// Not passed on.
    Drop(DropReason),
}

impl Verdict {
    /// Every verdict, in the order of their numbers.
    pub const ALL: [Self; 19] = [
        Self::Pass,
        Self::Translate,
        Self::Reject(RejectReason::NoBackend),
        Self::Drop(DropReason::Malformed),
        Self::Drop(DropReason::NoSourcePort),
        Self::Drop(DropReason::NotRewritten),
        Self::Drop(DropReason::Unanswerable),
        Self::Reject(RejectReason::NoSuchPort),
        Self::Drop(DropReason::NoLocalEndpoint),
        Self::PassFragment,
        Self::Drop(DropReason::SourceRange),
        Self::Drop(DropReason::ServiceAddress),
        Self::Drop(DropReason::NoNodeAddress),
        Self::Drop(DropReason::NoFirstFragment),
        Self::Reject(RejectReason::SourceRange),
        Self::Drop(DropReason::EgressPolicy),
        Self::Drop(DropReason::IngressPolicy),
        Self::Drop(DropReason::ForgedSource),
        Self::Drop(DropReason::UnknownPod),
    ];

    /// What becomes of the packet, in a word: the name in metrics, which never changes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Translate => "translate",
            Self::PassFragment => "pass_fragment",
            Self::Reject(_) => "reject",
            Self::Drop(_) => "drop",
        }
    }

    /// The verdict's number, which never changes its meaning within a layout version.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Pass => 0,
            Self::Translate => 1,
            Self::Reject(RejectReason::NoBackend) => 2,
            Self::Drop(DropReason::Malformed) => 3,
            Self::Drop(DropReason::NoSourcePort) => 4,
            Self::Drop(DropReason::NotRewritten) => 5,
            Self::Drop(DropReason::Unanswerable) => 6,
            Self::Reject(RejectReason::NoSuchPort) => 7,
            Self::Drop(DropReason::NoLocalEndpoint) => 8,
            Self::PassFragment => 9,
            Self::Drop(DropReason::SourceRange) => 10,
            Self::Drop(DropReason::ServiceAddress) => 11,
            Self::Drop(DropReason::NoNodeAddress) => 12,
            Self::Drop(DropReason::NoFirstFragment) => 13,
            Self::Reject(RejectReason::SourceRange) => 14,
            Self::Drop(DropReason::EgressPolicy) => 15,
            Self::Drop(DropReason::IngressPolicy) => 16,
            Self::Drop(DropReason::ForgedSource) => 17,
            Self::Drop(DropReason::UnknownPod) => 18,
        }
    }
}

/// Where a packet or a call was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// A packet that a pod sends.
    FromPod,
    /// A packet that a pod receives.
    ToPod,
    /// A socket call: `connect` or `sendmsg`.
    Socket,
    /// A packet that comes from beyond the node.
    FromNetwork,
    /// A packet that leaves the node.
    ToNetwork,
}

impl Hook {
    /// Every hook, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::FromPod,
        Self::ToPod,
        Self::Socket,
        Self::FromNetwork,
        Self::ToNetwork,
    ];

    /// The name, as in the object and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::Socket => "socket",
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
        }
    }

    /// The hook's number, which never changes its meaning within a layout version.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::FromPod => 0,
            Self::ToPod => 1,
            Self::Socket => 2,
            Self::FromNetwork => 3,
            Self::ToNetwork => 4,
        }
    }
}

/// Counters a hook has at most.
pub const COUNTERS_PER_HOOK: u32 = 32;

/// Entries of the `COUNTERS` table.
pub const COUNTERS: u32 = 8 * COUNTERS_PER_HOOK;

/// The entry of `COUNTERS` that counts events which found no room: the last one, which no hook has.
pub const LOST_EVENTS: u32 = COUNTERS - 1;

/// The entry of `COUNTERS` that counts packets (or calls) with this verdict at this hook.
#[inline(always)]
#[must_use]
pub const fn counter(hook: Hook, verdict: Verdict) -> u32 {
    hook.number() * COUNTERS_PER_HOOK + verdict.number()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_hook_and_verdict_has_its_own_counter() {
        let counters: BTreeSet<u32> = Hook::ALL
            .into_iter()
            .flat_map(|hook| Verdict::ALL.map(|verdict| counter(hook, verdict)))
            .collect();
        assert_eq!(counters.len(), Hook::ALL.len() * Verdict::ALL.len());
        assert!(counters.iter().all(|&index| index < COUNTERS));
    }

    #[test]
    fn verdicts_are_numbered_in_order() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict.number() as usize, index);
        }
    }
}
