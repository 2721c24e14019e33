//! Which endpoints of a service port are chosen under a traffic policy.
//!
//! Where the documentation leaves open which of two contradicting entries of one endpoint counts,
//! there is more than one [`Reading`], and each is right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::world::{Endpoint, Node, Service, ServicePort, World};

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

    fn is_on(&self, node: &Node) -> bool {
        self.node.as_ref() == Some(&node.name)
    }
}

/// A traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Endpoints anywhere.
    Cluster,
    /// Those of the node that is asked.
    Local,
}

/// The endpoints under a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chosen {
    /// These, each as likely as the others.
    These(BTreeSet<SocketAddr>),
    /// Nothing serves anywhere.
    NoneAnywhere,
    /// Something serves, but the policy is Local and nothing is on this node.
    NoneHere,
}

/// One entry for each place at which the service port is answered.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a>(BTreeMap<SocketAddr, &'a Endpoint>);

/// Every way to read the slices of a service port in one family.
///
/// "The same IP:port in two slices: the one not terminating wins." Of several such any may.
#[must_use]
pub fn readings<'a>(
    world: &'a World,
    service: &Service,
    port: &ServicePort,
    is_v6: bool,
) -> Vec<Reading<'a>> {
    let mut readings = vec![Reading::default()];
    for (at, entries) in entries(world, service, port, is_v6) {
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
                    reading.0.insert(at, *endpoint);
                    reading
                })
            })
            .collect();
    }
    readings
}

/// All entries by where they answer, each kind of entry once.
fn entries<'a>(
    world: &'a World,
    service: &Service,
    port: &ServicePort,
    is_v6: bool,
) -> BTreeMap<SocketAddr, Vec<&'a Endpoint>> {
    let mut entries: BTreeMap<SocketAddr, Vec<&Endpoint>> = BTreeMap::new();
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

impl Reading<'_> {
    /// Is this endpoint on the node?
    #[must_use]
    pub fn is_on(&self, node: &Node, at: SocketAddr) -> bool {
        self.0.get(&at).is_some_and(|endpoint| endpoint.is_on(node))
    }

    /// The endpoints that a policy chooses.
    #[must_use]
    pub fn choose(&self, node: &Node, policy: Policy) -> Chosen {
        let ready = self.that(Endpoint::is_ready);
        let last_resort = self.that(Endpoint::serves_while_terminating);
        if ready.is_empty() && last_resort.is_empty() {
            return Chosen::NoneAnywhere;
        }
        match policy {
            Policy::Cluster if ready.is_empty() => Chosen::These(last_resort),
            Policy::Cluster => Chosen::These(self.pass_topology_filter(node, &ready)),
            Policy::Local => {
                let here = self.that(|endpoint| endpoint.is_on(node));
                let ready: BTreeSet<SocketAddr> = ready.intersection(&here).copied().collect();
                let last_resort: BTreeSet<SocketAddr> =
                    last_resort.intersection(&here).copied().collect();
                match (ready.is_empty(), last_resort.is_empty()) {
                    (false, _) => Chosen::These(ready),
                    (true, false) => Chosen::These(last_resort),
                    (true, true) => Chosen::NoneHere,
                }
            }
        }
    }

    fn that(&self, wanted: impl Fn(&Endpoint) -> bool) -> BTreeSet<SocketAddr> {
        let entries = self.0.iter();
        entries
            .filter(|(_, endpoint)| wanted(endpoint))
            .map(|(at, _)| *at)
            .collect()
    }

    /// "By node when every ready endpoint has a node hint and one names this node; else by zone
    /// when every ready endpoint has a zone hint and one names this node's zone; else all."
    fn pass_topology_filter(
        &self,
        node: &Node,
        ready: &BTreeSet<SocketAddr>,
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
            } = self.0[at];
            without_node_hint += usize::from(for_nodes.is_empty());
            without_zone_hint += usize::from(for_zones.is_empty());
            if for_nodes.contains(&node.name) {
                for_this_node.insert(*at);
            }
            if let Some(zone) = &node.zone
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
}
