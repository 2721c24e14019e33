//! The product and the test bed with real sockets, in network namespaces.
//!
//! Every test has a bed of its own and needs root; run them by `cargo xtask test network`, which
//! builds the binary and names it in `WEIR_BINARY`.

#![forbid(unsafe_code)]

mod api_server;
mod bed;
mod commands;
mod fast_path;
mod health;
mod lifecycle;
mod lifetime;
mod oracle;
mod outside;
mod packet;
mod socket;
mod status;
mod takeover;
mod uplink;
mod why;
mod world;
