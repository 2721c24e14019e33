//! The agent's way to hear from an API server, against a server that misbehaves.

#![forbid(unsafe_code)]

mod clusters;
mod history;
mod listener;
#[path = "../policies/mod.rs"]
#[allow(
    dead_code,
    reason = "of what makes random policies only the clusters are used here"
)]
mod policies;
mod rights;
mod trouble;
