//! What becomes of a connection to a service, written a second time.
//!
//! Straight from the documented behaviour of Services (the API's documentation and kube-proxy's
//! published rules), field by field, for clarity and not for speed, and without a look at the
//! agent's compiler or the datapath: tests compare them. It knows manifests only through
//! [`manifests`], which says a [`World`] in the API's words.
//!
//! One new connection, or the first packet of a flow, is one question. Each file answers a part:
//! [`frontends`] which service port an address leads to, [`endpoints`] which of its endpoints
//! may serve, [`affinity`] which of them has to; this one puts them together, and says whether
//! the client is let in and with what source address the backend meets it.
//!
//! Where the documentation leaves open which of two contradicting entries of one endpoint counts,
//! every answer that follows from one of them is right: [`answers`] gives all.
//!
//! Whether policies allow a connection is another question, and [`policy`] answers it by itself.

pub mod affinity;
pub mod endpoints;
pub mod frontends;
pub mod manifests;
pub mod nftables;
pub mod policy;
#[cfg(test)]
mod tests;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use affinity::Sticky;
use endpoints::{Chosen, Policy, Reading};
use frontends::{Found, Role};
use world::{Service, World};

/// Who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// The pod of this node that has this address.
    Pod(IpAddr),
    /// A process in the node's own network.
    Node,
    /// Anyone beyond the node, another node's pods included.
    Outside(IpAddr),
}

impl Client {
    /// The address by which the proxy knows the client in a family.
    #[must_use]
    pub fn address(self, world: &World, is_v6: bool) -> Option<IpAddr> {
        match self {
            Self::Pod(addr) | Self::Outside(addr) => Some(addr),
            Self::Node => world.node.address(is_v6),
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It is none of the proxy's business.
    LeftAlone,
    /// It goes to an endpoint.
    Served(Served),
    /// Refused: the service port has no endpoint anywhere.
    NoEndpoint,
    /// Refused: some service has the address, but none has this port.
    NoSuchPort,
    /// Dropped in silence: endpoints exist, but the policy is Local and none is on this node.
    NoneHere,
    /// Dropped in silence: `loadBalancerSourceRanges` does not name the client.
    NotInSourceRanges,
    /// Dropped in silence rather than routed out of the node: a `ServiceCIDR` has the address, and
    /// no service.
    UnusedServiceAddress,
}

/// Where a connection may go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// The endpoints, each as likely as the others, and with what source each sees the client.
    pub endpoints: BTreeMap<SocketAddr, Source>,
    /// Whether the service port remembers where its clients went.
    pub sticky: Option<Sticky>,
}

/// The source address that an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The client's.
    Client,
    /// The node's, so that the reply comes back through it.
    Node,
}

/// Every right answer to a new connection.
#[must_use]
pub fn answers(world: &World, client: Client, to: SocketAddr, protocol: &str) -> BTreeSet<Answer> {
    let (service, port, role) = match frontends::find(world, to, protocol) {
        Found::Frontend {
            service,
            port,
            role,
        } => (service, port, role),
        Found::UnknownPort => return BTreeSet::from([Answer::NoSuchPort]),
        Found::UnusedServiceAddress => return BTreeSet::from([Answer::UnusedServiceAddress]),
        Found::Nothing => return BTreeSet::from([Answer::LeftAlone]),
    };
    // Before anything else: who is not let in does not learn whether the service has endpoints.
    if role == Role::LoadBalancer && !is_let_in(world, service, client, to) {
        return BTreeSet::from([Answer::NotInSourceRanges]);
    }
    let answer = |reading: &Reading<'_>| match reading
        .choose(&world.node, traffic_policy(service, client, role))
    {
        Chosen::NoneAnywhere => Answer::NoEndpoint,
        Chosen::NoneHere => Answer::NoneHere,
        Chosen::These(endpoints) => Answer::Served(Served {
            endpoints: endpoints
                .into_iter()
                .map(|at| (at, source(world, service, client, role, at, reading)))
                .collect(),
            sticky: Sticky::of(service, port),
        }),
    };
    endpoints::readings(world, service, port, to.is_ipv6())
        .iter()
        .map(answer)
        .collect()
}

/// "Ranges of the other family do not count; where none is left, everybody is let in."
fn is_let_in(world: &World, service: &Service, client: Client, to: SocketAddr) -> bool {
    let mut ranges = service
        .source_ranges
        .iter()
        .filter(|range| range.is_ipv6() == to.is_ipv6())
        .peekable();
    ranges.peek().is_none()
        || client
            .address(world, to.is_ipv6())
            .is_some_and(|addr| ranges.any(|range| range.contains(addr)))
}

/// The internal policy is for cluster IPs, whoever asks. The external policy is for everything
/// else, but only for clients beyond the node: the node and its pods use such an address as if
/// they had gone up to the load balancer and come back at any node.
fn traffic_policy(service: &Service, client: Client, role: Role) -> Policy {
    let is_local = match (role.is_external(), client) {
        (false, _) => service.internal_is_local,
        (true, Client::Outside(_)) => service.external_is_local,
        (true, Client::Pod(_) | Client::Node) => false,
    };
    if is_local {
        Policy::Local
    } else {
        Policy::Cluster
    }
}

/// "Kept for a local backend and for policy Local; otherwise masqueraded. Pod to cluster IP is never
/// masqueraded." A pod that reaches itself has to see somebody else.
fn source(
    world: &World,
    service: &Service,
    client: Client,
    role: Role,
    at: SocketAddr,
    reading: &Reading<'_>,
) -> Source {
    let is_here = reading.is_on(&world.node, at);
    match client {
        // It has the node's address already.
        Client::Node => Source::Client,
        Client::Pod(addr) if addr == at.ip() => Source::Node,
        Client::Pod(_) | Client::Outside(_) if is_here => Source::Client,
        Client::Pod(_) if !role.is_external() => Source::Client,
        Client::Pod(_) | Client::Outside(_) if role.is_external() && service.external_is_local => {
            Source::Client
        }
        Client::Pod(_) | Client::Outside(_) => Source::Node,
    }
}
