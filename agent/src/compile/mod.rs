//! From what the cluster says to what this node's tables should hold.
//!
//! Pure and deterministic: the same cluster, node and numbers give the same bytes. Whatever of
//! the cluster does not reach the tables is [`Skipped`] with its reason. How the tables get there
//! is [`diff`](crate::maps::diff)'s business.
#![forbid(unsafe_code)]

mod choice;
mod frontends;
mod health_checks;
mod ids;
mod names;
mod node;
mod pod_interface;
mod ranges;
mod services;
mod sets;
mod skipped;
mod unchosen;

use std::collections::BTreeMap;

use weir_ebpf::tables::capacity;

use crate::maps::Contents;
use crate::model::{Cluster, ServiceRef};

use choice::Place;

pub use health_checks::HealthCheck;
pub use ids::Ids;
pub use node::{InterfaceAddresses, NodeContext};
pub use pod_interface::{Claimed, PodInterface, PolicyOptions, UnknownPods};
pub use skipped::{Part, Reason, Skipped, Table};
pub use unchosen::{Account, Unchosen, Unused, Why, WhyUnused};

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
    /// What load balancers ask this node, by the service that they ask about.
    pub health_checks: BTreeMap<ServiceRef, HealthCheck>,
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
    node::compile_node(cluster, node, &mut desired.contents);
    ranges::compile_guards(&mut desired.contents);
    desired.health_checks = health_checks::health_checks(cluster, &node.name);
    desired
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
