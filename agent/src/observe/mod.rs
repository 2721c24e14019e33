//! What the agent tells of itself: people by `weir status`, load balancers and dashboards by
//! HTTP.
//!
//! [`report`] keeps the [`status`], to which [`account`] adds what the kernel says; [`surface`] has
//! the ports. What they say is computed without
//! clocks and sockets, in [`health`], [`changes`], [`idle`] and [`metrics`]; [`http`] and [`listeners`] know
//! sockets and nothing of what is said.

pub mod account;
pub mod changes;
pub mod endpoints;
pub mod events;
pub mod health;
pub mod http;
pub mod idle;
pub mod listeners;
pub mod metrics;
pub mod present;
pub mod report;
pub mod socket;
pub mod socket_routes;
pub mod sources;
pub mod status;
pub mod status_file;
pub mod surface;
#[cfg(test)]
mod testing;
