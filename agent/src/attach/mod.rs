//! Programs: loading them, and which interface and cgroup gets which.
//!
//! Invariants:
//! - We remove only what we attached. Ours is what is pinned in our directory, and filters that
//!   carry our priority, handle and name.
//! - Restarting the agent interrupts no flow: maps and links are pinned, programs replaced
//!   behind their links in one step.
//! - [`cleanup`] leaves the node as it was found.
//!
//! A start is [`AgentLock::wait`], [`PinsLock::wait`], [`Dataplane::load`], filling the tables, then
//! [`Dataplane::attach_cgroup`] and [`Dataplane::sync_interfaces`], so that no program meets an
//! empty table, and last [`Dataplane::retire_other_layouts`].
#![allow(
    unsafe_code,
    reason = "links and socket options have commands that no crate wraps"
)]

mod bpf;
mod btf;
mod cgroup;
mod checksum_field;
mod cleanup;
mod clsact;
mod events;
mod features;
mod foreign;
mod inspect;
mod load;
mod lock;
mod log;
mod mend;
pub(crate) mod netlink;
mod netns_cookie;
pub mod object;
mod pins_lock;
mod plan;
mod programs;
mod sockets;
mod tc;
mod wanted;
pub(crate) mod xtables;

pub use cgroup::CgroupReport;
pub use checksum_field::{ChecksumField, fit};
pub use cleanup::{Removed, cleanup};
pub use events::EventReader;
pub use features::Features;
pub use foreign::{Guests, OwnPrograms, foreign_programs};
pub use inspect::{Attached, SocketHook, attached};
pub use load::{Dataplane, LOG_DEBUG, Options, TcChoice, default_capacities};
pub use lock::AgentLock;
pub use log::follow_log;
pub use mend::Mended;
pub use netns_cookie::{netns_cookie, netns_cookie_by_program};
pub use pins_lock::PinsLock;
pub use plan::{Action, Attachment, Role, State, TC_PROGRAMS, TcHook, TcMode, plan};
pub use programs::{HAND_OVER, ProgramReport, of_every_node};
pub use sockets::{destroy_stale_udp_sockets, probe_socket_destruction};
pub use tc::TcReport;
pub use wanted::wanted;
