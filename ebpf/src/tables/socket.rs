//! Sockets that speak to services.

use bytemuck::{Pod, Zeroable};

use super::FlowRole;
use super::Nanos;
use crate::addr::{Addr, Port, Protocol};

/// What a socket calls its peer, or what its peer is called in packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct SocketKey {
    /// `SO_COOKIE`, unique on this kernel until it restarts.
    pub cookie: u64,
    /// The peer: of a request the frontend, of a reply the backend.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// [`FlowRole::FORWARD`] or [`FlowRole::REPLY`].
    pub role: FlowRole,
    /// Zero.
    pub reserved: u32,
}

/// The other name of the peer in a [`SocketKey`]. Written by the programs. When the table is
/// full the least recently used goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct SocketFlow {
    /// The peer's other address: of a request the backend's, of a reply the frontend's.
    pub addr: Addr,
    /// Its port.
    pub port: Port,
    /// Zero.
    pub reserved: u16,
    /// As in [`Flow`](super::Flow).
    pub service: u32,
    /// As in [`Flow`](super::Flow).
    pub revision: u32,
    /// Zero.
    pub reserved_tail: u32,
    /// When a datagram was last seen, to the second.
    pub last_seen: Nanos,
}
