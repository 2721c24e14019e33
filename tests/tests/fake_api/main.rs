//! The fake API server, asked by the client that the agent uses.

#![forbid(unsafe_code)]

mod client;
mod lists;
mod refusals;
mod watcher;
mod watches;
