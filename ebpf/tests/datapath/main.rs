//! Tests of the packet logic on the host, one subject a file. They are one program: what they share,
//! the logic over tables in memory, is compiled once.

mod by_bridge;
mod common;
mod conversations;
mod errors;
mod exact_match;
mod flow_cache;
mod flows;
mod hand_over;
mod layouts;
mod parsing;
mod policy;
mod policy_attacks;
mod policy_changes;
mod policy_conversations;
mod policy_events;
mod rejection;
mod routes;
mod shortcut;
mod sockets;
mod translation;
mod vetting;
