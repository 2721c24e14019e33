//! Everything that may have a say in what the node forwards, as it is now.

use anyhow::Result;

use super::{judge::Found, netfilter, routes, rules};
use crate::{
    attach::{Guests, OwnPrograms, foreign_programs},
    kube_proxy::virtual_servers,
    maps::pins::Pins,
    sources::node::NodeState,
};

/// The interfaces at which packets come that may be handed over, or to which they would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Where programs of others would see them: index, name, and where they pass.
    pub guests: Vec<(u32, String, Guests)>,
    /// Interfaces to the network with a routing table of their own.
    pub apart: Vec<String>,
    /// All interfaces to the network.
    pub networks: Vec<u32>,
}

impl Places {
    /// Those of a node.
    #[must_use]
    pub fn of(node: &NodeState) -> Self {
        let pods = node.pod_interfaces.iter();
        // The IP layer sees the bridge, not what hangs on it.
        let networks = node.network_interfaces.iter();
        let networks = networks.filter(|(_, interface)| !interface.is_bridged);
        let guests = pods
            .map(|(index, interface)| (*index, interface.name.clone(), Guests::Both))
            .chain(networks.clone().map(|(index, interface)| {
                // What leaves there takes its way through the node as ever.
                (*index, interface.name.clone(), Guests::Ingress)
            }))
            .collect();
        let apart = networks
            .clone()
            .filter(|(_, interface)| interface.is_port)
            .map(|(_, interface)| interface.name.clone())
            .collect();
        Self {
            guests,
            apart,
            networks: networks.map(|(index, _)| *index).collect(),
        }
    }
}

/// Looks; notes which programs are ours, for the next time. The calling thread's network namespace
/// is the node's.
///
/// # Errors
/// Something cannot be looked at.
pub fn look(pins: &Pins, places: &Places, own: &mut OwnPrograms) -> Result<Found> {
    Ok(Found {
        chains: netfilter::chains()?,
        legacy: netfilter::legacy()?,
        servers: virtual_servers()?,
        ipsec: netfilter::ipsec_policies()?,
        programs: foreign_programs(pins, &places.guests, own)?,
        apart: places.apart.clone(),
        rules: rules::by_port()?,
        narrow: routes::narrower_than_link(&places.networks)?,
    })
}
