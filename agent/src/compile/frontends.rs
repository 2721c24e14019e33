//! Where a service port is reached, and what stands in `FRONTENDS` there.
//!
//! An address, port and protocol belongs to one service port. Who comes first has it; in which
//! order they come is `services`' business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weir_ebpf::addr::{Addr, Port};
use weir_ebpf::tables::{Frontend, FrontendFlags, FrontendKey};

use crate::model::{Family, TrafficPolicy};

use super::names::{Subject, wire_protocol};
use super::sets::Numbers;
use super::{Reason, Skipped};

/// What kind of address it is: the kinds differ in whose traffic policy counts and whose source
/// is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ClusterIp,
    NodePort,
    /// Before `ExternalIp`: an address that a service has as both keeps its source ranges.
    LoadBalancerIp,
    ExternalIp,
}

/// An address of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub key: FrontendKey,
    pub kind: Kind,
}

impl Claim {
    /// The traffic policy for clients beyond this node, as the service has it for this kind.
    fn policy(&self, subject: &Subject<'_>) -> TrafficPolicy {
        match self.kind {
            Kind::ClusterIp => subject.service.internal_traffic_policy,
            Kind::NodePort | Kind::LoadBalancerIp | Kind::ExternalIp => {
                subject.service.external_traffic_policy
            }
        }
    }

    /// The traffic policy for this node's own pods and processes. A cluster IP is the cluster's own
    /// affair; at any other address they are served as if they had left the cluster and come back
    /// through whichever node (kube-proxy's short-circuit).
    fn own_policy(&self, subject: &Subject<'_>) -> TrafficPolicy {
        match self.kind {
            Kind::ClusterIp => subject.service.internal_traffic_policy,
            Kind::NodePort | Kind::LoadBalancerIp | Kind::ExternalIp => TrafficPolicy::Cluster,
        }
    }

    /// The policies under which endpoints are to be chosen for it.
    pub fn policies(&self, subject: &Subject<'_>) -> [TrafficPolicy; 2] {
        [self.own_policy(subject), self.policy(subject)]
    }

    /// Does the service say who may come here?
    pub fn is_restricted(&self, subject: &Subject<'_>) -> bool {
        self.kind == Kind::LoadBalancerIp
            && subject.service.source_ranges.of(subject.family).is_some()
    }

    /// What stands there.
    pub fn frontend(&self, subject: &Subject<'_>, numbers: &Numbers) -> Frontend {
        let flags = match (self.kind, self.policy(subject)) {
            (Kind::ClusterIp, TrafficPolicy::Cluster | TrafficPolicy::Local) => {
                FrontendFlags::MASQUERADE_OUTSIDE
            }
            (_, TrafficPolicy::Cluster) => {
                FrontendFlags::MASQUERADE_OUTSIDE.with(FrontendFlags::MASQUERADE_PODS)
            }
            (_, TrafficPolicy::Local) => FrontendFlags::NONE,
        };
        Frontend {
            service: numbers.of(self.own_policy(subject)),
            from_outside: numbers.of(self.policy(subject)),
            flags: if self.is_restricted(subject) {
                flags.with(FrontendFlags::SOURCE_RANGES)
            } else {
                flags
            },
        }
    }
}

/// Who has which address, and how much room is left for more.
pub(super) struct Owners<'a> {
    by_key: BTreeMap<FrontendKey, Subject<'a>>,
    /// Those that are known as addresses.
    cluster_ips: BTreeSet<Addr>,
    /// Those of them at which a service port has lost its port to an older service.
    disputed: BTreeSet<Addr>,
    room: usize,
}

/// There is no room for all addresses of a service port.
pub(super) struct Full;

impl<'a> Owners<'a> {
    pub fn new(capacity: u32) -> Self {
        Self {
            by_key: BTreeMap::new(),
            cluster_ips: BTreeSet::new(),
            disputed: BTreeSet::new(),
            room: usize::try_from(capacity).unwrap_or(usize::MAX),
        }
    }

    /// Gives a service port its addresses, but those that another has already; none at all where
    /// there is no room for all of them.
    pub fn claim(
        &mut self,
        subject: Subject<'a>,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<Claim>, Full> {
        let mut claims: Vec<Claim> = Vec::new();
        let mut disputed: BTreeSet<Addr> = BTreeSet::new();
        for claim in addresses(&subject) {
            if claims.iter().any(|own| own.key == claim.key) {
                continue;
            }
            match self.by_key.get(&claim.key) {
                None => claims.push(claim),
                Some(owner) => {
                    skipped.push(subject.skipped(taken(&claim, &subject, owner)));
                    if claim.kind == Kind::ClusterIp {
                        disputed.insert(claim.key.addr);
                    }
                }
            }
        }
        let new_addrs: BTreeSet<Addr> = claims
            .iter()
            .filter(|claim| claim.kind == Kind::ClusterIp)
            .map(|claim| claim.key.addr)
            .chain(disputed.iter().copied())
            .filter(|addr| !self.cluster_ips.contains(addr))
            .collect();
        let needed = claims.len() + new_addrs.len();
        if needed > self.room {
            return Err(Full);
        }
        self.room -= needed;
        self.cluster_ips.extend(new_addrs);
        self.disputed.extend(disputed);
        self.by_key
            .extend(claims.iter().map(|claim| (claim.key, subject)));
        Ok(claims)
    }

    /// Cluster IPs that remain a service's, though an older one has a port there: as its external
    /// IP, for example.
    pub fn disputed(self) -> BTreeSet<Addr> {
        self.disputed
    }
}

fn taken(claim: &Claim, subject: &Subject<'_>, owner: &Subject<'_>) -> Reason {
    let by = Some(owner.reference()).filter(|by| *by != subject.reference());
    match claim.kind {
        Kind::NodePort => Reason::NodePortTaken {
            port: claim.key.port.number(),
            by,
        },
        Kind::ClusterIp | Kind::LoadBalancerIp | Kind::ExternalIp => Reason::AddressTaken {
            addr: IpAddr::from(claim.key.addr),
            by,
        },
    }
}

/// Every address that the service names in the subject's family. Without a cluster IP of that
/// family there is none, as in kube-proxy.
fn addresses(subject: &Subject<'_>) -> Vec<Claim> {
    let Subject {
        service,
        port,
        family,
    } = *subject;
    let protocol = wire_protocol(port.protocol);
    let at = |addr: IpAddr, kind| Claim {
        key: FrontendKey::new(Addr::from(addr), Port::new(port.port.get()), protocol),
        kind,
    };
    let mut claims: Vec<Claim> = service
        .cluster_ips_of(family)
        .map(|addr| at(addr, Kind::ClusterIp))
        .collect();
    if claims.is_empty() {
        return claims;
    }
    claims.extend(port.node_port.map(|number| Claim {
        key: FrontendKey::node_port(family == Family::V4, Port::new(number.get()), protocol),
        kind: Kind::NodePort,
    }));
    for (addrs, kind) in [
        (&service.load_balancer_ips, Kind::LoadBalancerIp),
        (&service.external_ips, Kind::ExternalIp),
    ] {
        let addrs = addrs.iter().filter(|addr| Family::of(addr) == family);
        claims.extend(addrs.map(|addr| at(*addr, kind)));
    }
    claims
}
