//! From what the cluster says to what this node's tables should hold.
//!
//! Pure and deterministic: the same cluster, node and numbers give the same bytes. Whatever of
//! the cluster does not reach the tables is [`Skipped`] with its reason. How the tables get there
//! is [`diff`](crate::maps::diff)'s business.
#![forbid(unsafe_code)]

mod choice;
mod frontends;
mod ids;
mod names;
mod ranges;
mod services;
mod sets;
mod skipped;
mod unchosen;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Cover, Node, PortRange, capacity};

use crate::maps::Contents;
use crate::model::{Cluster, ServiceRef};

use choice::Place;

pub use ids::Ids;
pub use skipped::{Part, Reason, Skipped, Table};
pub use unchosen::{Account, Unchosen, Unused, Why, WhyUnused};

/// What must be known of the node beside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeContext {
    /// Its name; the Node object of this name says more.
    pub name: String,
    /// Its IPv4 address where there is no Node object.
    pub addr_v4: Option<Ipv4Addr>,
    /// Its IPv6 address where there is no Node object.
    pub addr_v6: Option<Ipv6Addr>,
    /// Source ports for masqueraded flows.
    pub snat_ports: RangeInclusive<u16>,
    /// Ranges of cluster IPs, beside those that ServiceCIDR objects name.
    pub service_cidrs: Vec<IpNetwork>,
}

/// How many entries the tables hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Of `FRONTENDS`.
    pub frontends: u32,
    /// Of `SERVICES` and `SERVICE_NAMES`; number 0 is never given.
    pub services: u32,
    /// Of `BACKENDS` and `SERVING`.
    pub backends: u32,
    /// Of `SOURCE_RANGES`.
    pub source_ranges: u32,
    /// Of `SERVICE_CIDRS`.
    pub service_cidrs: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            frontends: capacity::FRONTENDS,
            services: capacity::SERVICES,
            backends: capacity::BACKENDS,
            source_ranges: capacity::SOURCE_RANGES,
            service_cidrs: capacity::SERVICE_CIDRS,
        }
    }
}

/// What the tables should hold, and what was left out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The tables.
    pub contents: Contents,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// The endpoints of each service that nobody is led to; services without any are left out.
    pub unchosen: BTreeMap<ServiceRef, Account>,
}

/// What this node's tables should hold.
pub fn compile(
    cluster: &Cluster,
    node: &NodeContext,
    ids: &mut Ids,
    capacities: &Capacities,
) -> Desired {
    let place = Place {
        node: &node.name,
        zone: cluster.node(&node.name).and_then(crate::model::Node::zone),
    };
    let mut desired = services::compile_services(cluster, place, ids, capacities);
    desired.contents.service_cidrs = ranges::compile_service_cidrs(
        cluster,
        &node.service_cidrs,
        capacities,
        &mut desired.skipped,
    );
    let mut entry = compile_node(cluster, node);
    ranges::compile_guards(&desired.contents, &mut entry);
    desired.contents.node = entry;
    desired
}

/// Once the Node object is there, it alone says which addresses the node has.
fn compile_node(cluster: &Cluster, node: &NodeContext) -> Node {
    let (v4, v6) = match cluster.node(&node.name) {
        Some(object) => (object.addr_v4(), object.addr_v6()),
        None => (node.addr_v4, node.addr_v6),
    };
    Node {
        addr_v4: v4.map_or(Addr::UNSPECIFIED, Addr::from),
        addr_v6: v6.map_or(Addr::UNSPECIFIED, Addr::from),
        cover_v4: Cover::NOTHING,
        cover_v6: Cover::NOTHING,
        snat_ports: [
            PortRange::new(*node.snat_ports.start(), *node.snat_ports.end()),
            PortRange::NONE,
        ],
        node_ports: PortRange::NONE,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
