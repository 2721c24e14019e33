//! The kernel edge against the kernel: maps, pins, attachments, netlink.
//!
//! Each test has its own network namespace, BPF file system and cgroup ([`bed`]), gone after it.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at whatever it did not expect"
)]

mod attach;
mod bed;
mod commands;
mod compare;
mod interfaces;
mod node;
mod sockets;
mod succession;
mod tables;
mod tun;
