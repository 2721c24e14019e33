//! What the agent's tables hold, and the writes that change it.

use std::collections::{BTreeMap, BTreeSet};

use weir_ebpf::tables::{
    Backend, BackendKey, Frontend, FrontendKey, Node, Service, ServiceName, ServingKey,
};

pub mod kernel;
pub mod pins;

/// The content of every table that the agent writes: what it should hold (*desired*) or what it
/// was last seen to hold (*actual*).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// `FRONTENDS`
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// `SERVICES`: an array in the kernel; entries that are all zero are left out here.
    pub services: BTreeMap<u32, Service>,
    /// `BACKENDS`
    pub backends: BTreeMap<BackendKey, Backend>,
    /// `SERVING`
    pub serving: BTreeSet<ServingKey>,
    /// `SERVICE_NAMES`
    pub service_names: BTreeMap<u32, ServiceName>,
    /// `NODE`
    pub node: Node,
}

/// One write to one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets an entry of `FRONTENDS`.
    PutFrontend(FrontendKey, Frontend),
    /// Removes one; absent is no error.
    RemoveFrontend(FrontendKey),
    /// Sets an entry of `SERVICES`. Removing one is setting it to zero.
    PutService(u32, Service),
    /// Sets an entry of `BACKENDS`.
    PutBackend(BackendKey, Backend),
    /// Removes one; absent is no error.
    RemoveBackend(BackendKey),
    /// Adds to `SERVING`.
    PutServing(ServingKey),
    /// Removes from it; absent is no error.
    RemoveServing(ServingKey),
    /// Sets an entry of `SERVICE_NAMES`.
    PutServiceName(u32, ServiceName),
    /// Removes one; absent is no error.
    RemoveServiceName(u32),
    /// Sets `NODE`.
    PutNode(Node),
}

/// The writes that lead from one [`Contents`] to another, in an order whose every prefix a
/// packet may safely meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Write>);
