//! What session affinity remembers.
//!
//! One memory for each service port, whatever its addresses; a client is its address. An entry
//! counts while it is younger than the timeout since its last use and its endpoint is among those
//! that may be chosen now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::endpoints::{self, Chosen, Policy};
use super::world::{Affinity, Service, ServiceKind, ServicePort, World};

/// `timeoutSeconds` where it is not given.
const DEFAULT_TIMEOUT_SECONDS: u32 = 10_800;

/// A service port that remembers its clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sticky {
    /// The service.
    pub service: String,
    /// Its port's name.
    pub port: String,
    /// Its port's protocol.
    pub protocol: &'static str,
    /// For how long a client that stays away is remembered.
    pub timeout: Duration,
}

impl Sticky {
    /// What the service port remembers, if it does.
    #[must_use]
    pub fn of(service: &Service, port: &ServicePort) -> Option<Self> {
        let Affinity { timeout_seconds } = service.affinity?;
        let seconds = timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        Some(Self {
            service: service.name.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            timeout: Duration::from_secs(seconds.into()),
        })
    }
}

/// Who went where, and when.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    entries: BTreeMap<Key, Entry>,
}

/// A client of a service port: the service, its port's name and protocol, the client's address.
type Key = (String, String, &'static str, IpAddr);

#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: SocketAddr,
    last_used: Duration,
}

impl Memory {
    /// Where the client has to go, of the endpoints that may be chosen now: `None` where it may go
    /// to any.
    #[must_use]
    pub fn recall(
        &self,
        sticky: &Sticky,
        client: IpAddr,
        now: Duration,
        endpoints: &BTreeSet<SocketAddr>,
    ) -> Option<SocketAddr> {
        let entry = self.entries.get(&key(sticky, client))?;
        let is_fresh = now.saturating_sub(entry.last_used) < sticky.timeout;
        (is_fresh && endpoints.contains(&entry.endpoint)).then_some(entry.endpoint)
    }

    /// Where the client went before, though that has ceased to count: its time has been up for less
    /// than as long again, and its endpoint is still there. It may go there again, by chance alone.
    #[must_use]
    pub fn faded(
        &self,
        sticky: &Sticky,
        client: IpAddr,
        now: Duration,
        endpoints: &BTreeSet<SocketAddr>,
    ) -> Option<SocketAddr> {
        let entry = self.entries.get(&key(sticky, client))?;
        let age = now.saturating_sub(entry.last_used);
        let has_faded = sticky.timeout < age && age < 2 * sticky.timeout;
        (has_faded && endpoints.contains(&entry.endpoint)).then_some(entry.endpoint)
    }

    /// The client has gone there.
    pub fn remember(
        &mut self,
        sticky: &Sticky,
        client: IpAddr,
        now: Duration,
        endpoint: SocketAddr,
    ) {
        let entry = Entry {
            endpoint,
            last_used: now,
        };
        self.entries.insert(key(sticky, client), entry);
    }

    /// Forgets what a change of the cluster may have made void, be it only for a while: clients of
    /// service ports that are gone, and those that went to endpoints that are.
    pub fn keep_what_is_true_in(&mut self, world: &World) {
        self.entries.retain(|(service, port, protocol, _), entry| {
            world.services.iter().any(|it| {
                it.name == *service
                    && it.kind == ServiceKind::Ordinary
                    && it.affinity.is_some()
                    && it.ports.iter().any(|it_port| {
                        it_port.name == *port
                            && it_port.protocol == *protocol
                            && is_always_an_endpoint(world, it, it_port, entry.endpoint)
                    })
            })
        });
    }
}

fn is_always_an_endpoint(
    world: &World,
    service: &Service,
    port: &ServicePort,
    endpoint: SocketAddr,
) -> bool {
    endpoints::readings(world, service, port, endpoint.is_ipv6())
        .iter()
        .all(|reading| {
            [Policy::Cluster, Policy::Local].into_iter().any(|policy| {
                matches!(reading.choose(&world.node, policy),
                    Chosen::These(chosen) if chosen.contains(&endpoint))
            })
        })
}

fn key(sticky: &Sticky, client: IpAddr) -> Key {
    (
        sticky.service.clone(),
        sticky.port.clone(),
        sticky.protocol,
        client,
    )
}
