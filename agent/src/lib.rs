//! The object's way.
//!
//! ```text
//! manifests directory │ node (netlink)
//!   └ sources    Event                                             effects
//!      └ model   Cluster: what the cluster says, validated        pure
//!         └ compile   Desired: what this node's tables should hold  pure, deterministic
//!            └ maps::diff   Plan: what must change, in order      pure
//!               └ maps::kernel   bpf(2)                           effects
//!                  └ observe   status, health, metrics            effects
//! ```
//!
//! The way back, for people: `maps::kernel` reads the pinned tables, [`listing`] makes rows of
//! them (pure), [`cli`] shows these.

pub mod agent;
mod api_server;
pub mod attach;
pub mod cli;
pub mod compile;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod fast_path;
pub mod kube_proxy;
pub mod listing;
pub mod logging;
mod lookup;
pub mod maps;
mod memory;
pub mod model;
mod news;
pub mod observe;
mod own_node;
pub mod schedule;
pub mod sources;
