//! What becomes of a connection to a cluster IP, written a second time.
//!
//! Straight from the documented behaviour of Services (the API's documentation and kube-proxy's
//! published rules), field by field, for clarity and not for speed, and without a look at the
//! agent's compiler: tests compare the two. It knows manifests only through [`manifests`], which
//! says a [`World`] in the API's words.
//!
//! Where the documentation leaves open which of two contradicting entries of one endpoint counts,
//! every answer that follows from one of them is right: [`answers`] gives all.

pub mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What the cluster says, and the node that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The node's name.
    pub node: String,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// All services of one namespace.
    pub services: Vec<Service>,
    /// Their slices.
    pub slices: Vec<Slice>,
}

/// A service. Its age is its place in [`World::services`]: older ones come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Whether it is to be served at all.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy: Local`
    pub is_local: bool,
}

/// Whether a service is a proxy's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// It is.
    Ordinary,
    /// Labelled `service.kubernetes.io/service-proxy-name`.
    OfOtherProxy,
    /// `clusterIP: None`
    Headless,
}

/// `spec.ports[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the service has one.
    pub name: String,
    /// TCP, UDP, SCTP.
    pub protocol: &'static str,
    /// The port.
    pub port: u16,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Label `kubernetes.io/service-name`
    pub service: String,
    /// Label `service.kubernetes.io/headless`
    pub is_headless: bool,
    /// `addressType: IPv6`
    pub is_v6: bool,
    /// `ports`
    pub ports: Vec<SlicePort>,
    /// `endpoints`
    pub endpoints: Vec<Endpoint>,
}

/// `ports[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Of the service port.
    pub name: String,
    /// Of the service port.
    pub protocol: &'static str,
    /// `None`: not given.
    pub port: Option<u16>,
}

/// `endpoints[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses`, at least one.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`
    pub ready: Option<bool>,
    /// `conditions.serving`
    pub serving: Option<bool>,
    /// `conditions.terminating`
    pub terminating: Option<bool>,
    /// `nodeName`
    pub node: Option<String>,
    /// `hints.forNodes`
    pub for_nodes: Vec<String>,
    /// `hints.forZones`
    pub for_zones: Vec<String>,
}

impl Endpoint {
    fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    fn is_terminating(&self) -> bool {
        self.terminating.unwrap_or(false)
    }

    fn serves_while_terminating(&self) -> bool {
        self.serving.unwrap_or(true) && self.is_terminating()
    }
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// It is none of the proxy's business.
    LeftAlone,
    /// It goes to one of these, each as likely as the others.
    Served(BTreeSet<SocketAddr>),
    /// Refused: the service port has no endpoint anywhere.
    NoEndpoint,
    /// Refused: some service has the address, but none has this port.
    NoSuchPort,
    /// Dropped in silence: endpoints exist, but the policy is Local and none is on this node.
    NoneHere,
}

/// Every right answer to a connection from a pod or process of the node to this address.
#[must_use]
pub fn answers(world: &World, to: SocketAddr, protocol: &str) -> BTreeSet<Answer> {
    let at_address = || {
        world.services.iter().filter(|service| {
            service.kind == ServiceKind::Ordinary && service.cluster_ips.contains(&to.ip())
        })
    };
    let found = at_address().find_map(|service| {
        let port = service
            .ports
            .iter()
            .find(|port| port.port == to.port() && port.protocol == protocol)?;
        Some((service, port))
    });
    match found {
        Some((service, port)) => {
            let endpoints = endpoints(world, service, port, to.is_ipv6());
            readings(endpoints)
                .into_iter()
                .map(|endpoints| choose(world, service.is_local, &endpoints))
                .collect()
        }
        None if at_address().any(|service| !service.ports.is_empty()) => {
            BTreeSet::from([Answer::NoSuchPort])
        }
        None => BTreeSet::from([Answer::LeftAlone]),
    }
}

/// Entries of the service port's endpoints, by where they answer.
type Entries<'a> = BTreeMap<SocketAddr, Vec<&'a Endpoint>>;
/// One of them each.
type Endpoints<'a> = BTreeMap<SocketAddr, &'a Endpoint>;

fn endpoints<'a>(
    world: &'a World,
    service: &Service,
    port: &ServicePort,
    is_v6: bool,
) -> Entries<'a> {
    let mut entries = Entries::new();
    for slice in &world.slices {
        if slice.service != service.name || slice.is_headless || slice.is_v6 != is_v6 {
            continue;
        }
        for slice_port in &slice.ports {
            if slice_port.name != port.name || slice_port.protocol != port.protocol {
                continue;
            }
            let Some(number) = slice_port.port.filter(|number| *number != 0) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let at = SocketAddr::new(endpoint.addresses[0], number);
                entries.entry(at).or_default().push(endpoint);
            }
        }
    }
    entries
}

/// "The same IP:port in two slices: the one not terminating wins." Of several such any may.
fn readings(entries: Entries<'_>) -> Vec<Endpoints<'_>> {
    let mut readings = vec![Endpoints::new()];
    for (at, entries) in entries {
        let (terminating, staying): (Vec<_>, Vec<_>) = entries
            .into_iter()
            .partition(|endpoint| endpoint.is_terminating());
        let possible = if staying.is_empty() {
            terminating
        } else {
            staying
        };
        readings = readings
            .iter()
            .flat_map(|reading| {
                possible.iter().map(move |endpoint| {
                    let mut reading = reading.clone();
                    reading.insert(at, *endpoint);
                    reading
                })
            })
            .collect();
    }
    readings
}

fn choose(world: &World, is_local: bool, endpoints: &Endpoints<'_>) -> Answer {
    let that = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
        endpoints
            .iter()
            .filter(|(_, endpoint)| wanted(endpoint))
            .map(|(at, _)| *at)
            .collect()
    };
    let ready = that(&Endpoint::is_ready);
    let last_resort = that(&Endpoint::serves_while_terminating);
    if ready.is_empty() && last_resort.is_empty() {
        return Answer::NoEndpoint;
    }
    if !is_local {
        return Answer::Served(if ready.is_empty() {
            last_resort
        } else {
            pass_topology_filter(world, &ready, endpoints)
        });
    }
    let here = that(&|endpoint| endpoint.node.as_ref() == Some(&world.node));
    let ready: BTreeSet<SocketAddr> = ready.intersection(&here).copied().collect();
    let last_resort: BTreeSet<SocketAddr> = last_resort.intersection(&here).copied().collect();
    match (ready.is_empty(), last_resort.is_empty()) {
        (false, _) => Answer::Served(ready),
        (true, false) => Answer::Served(last_resort),
        (true, true) => Answer::NoneHere,
    }
}

/// "By node when every ready endpoint has a node hint and one names this node; else by zone when
/// every ready endpoint has a zone hint and one names this node's zone; else all."
fn pass_topology_filter(
    world: &World,
    ready: &BTreeSet<SocketAddr>,
    endpoints: &Endpoints<'_>,
) -> BTreeSet<SocketAddr> {
    let mut without_node_hint = 0;
    let mut without_zone_hint = 0;
    let mut for_this_node = BTreeSet::new();
    let mut for_this_zone = BTreeSet::new();
    for at in ready {
        let Endpoint {
            for_nodes,
            for_zones,
            ..
        } = endpoints[at];
        without_node_hint += usize::from(for_nodes.is_empty());
        without_zone_hint += usize::from(for_zones.is_empty());
        if for_nodes.contains(&world.node) {
            for_this_node.insert(*at);
        }
        if let Some(zone) = &world.zone
            && for_zones.contains(zone)
        {
            for_this_zone.insert(*at);
        }
    }
    if without_node_hint == 0 && !for_this_node.is_empty() {
        for_this_node
    } else if without_zone_hint == 0 && !for_this_zone.is_empty() {
        for_this_zone
    } else {
        ready.clone()
    }
}
