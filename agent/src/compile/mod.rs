//! From what the cluster says to what this node's tables should hold.
//!
//! Pure and deterministic: the same cluster, node and numbers give the same bytes. Whatever of
//! the cluster does not reach the tables is [`Skipped`] with its reason. How the tables get there
//! is [`diff`](crate::maps::diff)'s business.
#![forbid(unsafe_code)]

mod choice;
mod compiler;
mod endpoints;
mod few;
mod frontends;
mod health_checks;
mod ids;
mod names;
mod node;
mod pod_interface;
mod policies;
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

pub use compiler::{Compiler, Extent};
pub use health_checks::HealthCheck;
pub use ids::Ids;
pub use node::{InterfaceAddresses, NodeContext};
pub use pod_interface::{Claimed, PodInterface, PolicyOptions, UnknownPods};
pub use policies::property::{Namespaces, Property};
pub use policies::report::{PodReport, PolicyNames, RuleName, SubjectSet};
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
    /// Of `PODS`.
    pub pods: u32,
    /// Of `POD_ADDRS`.
    pub pod_addrs: u32,
    /// Of `PEERS`.
    pub peers: u32,
    /// Of `PEER_RANGES`.
    pub peer_ranges: u32,
    /// Of `RULES`.
    pub rules: u32,
}

impl Capacities {
    /// Of the table that can be full.
    const fn of(&self, table: Table) -> u32 {
        match table {
            Table::Frontends => self.frontends,
            Table::Services => self.services,
            Table::ServiceCidrs => self.service_cidrs,
            Table::Pods => self.pods,
            Table::PodAddrs => self.pod_addrs,
            Table::Peers => self.peers,
            Table::PeerRanges => self.peer_ranges,
            Table::Rules => self.rules,
        }
    }
}

impl Capacities {
    /// Tables in which all policies have room: for what is only imagined.
    #[must_use]
    pub fn with_room_for_policies() -> Self {
        Self {
            pods: u32::MAX,
            pod_addrs: u32::MAX,
            peers: u32::MAX,
            peer_ranges: u32::MAX,
            rules: u32::MAX,
            ..Self::default()
        }
    }
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            frontends: capacity::FRONTENDS,
            services: capacity::SERVICES,
            backends: capacity::BACKENDS,
            source_ranges: capacity::SOURCE_RANGES,
            service_cidrs: capacity::SERVICE_CIDRS,
            pods: capacity::PODS,
            pod_addrs: capacity::POD_ADDRS,
            peers: capacity::PEERS,
            peer_ranges: capacity::PEER_RANGES,
            rules: capacity::RULES,
        }
    }
}

/// What the tables should hold, and what was left out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The tables.
    pub contents: Contents,
    /// How many service ports there are, each family for itself.
    pub service_ports: usize,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// The endpoints of each service that nobody is led to; services without any are left out.
    pub unchosen: BTreeMap<ServiceRef, Account>,
    /// What load balancers ask this node, by the service that they ask about.
    pub health_checks: BTreeMap<ServiceRef, HealthCheck>,
    /// What the numbers of policies in the tables stand for.
    pub policies: PolicyNames,
    /// What is in force at each pod's interface, by its index.
    pub pods: BTreeMap<u32, PodReport>,
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
    policies::compile_policies(cluster, node, ids.policies(), capacities, &mut desired);
    desired.health_checks = health_checks::health_checks(cluster, &node.name);
    desired
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
