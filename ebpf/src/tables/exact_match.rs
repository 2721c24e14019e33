//! What is done with packets that are like one before them.

use bytemuck::{Pod, Zeroable};

use super::{Nanos, Policy};
use crate::addr::{Port, Protocol};

/// What a processor did last with a packet at a pod's interface, and with which packets it does the
/// same without another question: the value of `EXACT_MATCHES`. Written by the programs.
///
/// Of IPv4 alone: addresses are words in network byte order.
///
/// Invariants:
/// - It counts as long as everything does that was found out about that packet: none of it is of
///   another time than `until` and the three numbers allow that are read again.
/// - Its slot is the processor's own, and its programs at interfaces do not interrupt each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ExactMatch {
    /// It counts before this time.
    pub until: Nanos,
    /// What `FLOW_CHANGES` must still say of the tuple.
    pub changes: u64,
    /// What `POLICY` must still say.
    pub policy: Policy,
    /// The service port that must still have this revision; [`ExactMatch::NO_SERVICE`]: none is
    /// asked.
    pub service: u32,
    /// Its revision; of none [`ExactMatch::NO_REVISION`].
    pub revision: u32,
    /// The pod's interface.
    pub interface: u32,
    /// [`ExactMatch::FROM_POD`] where the pod sends; else by which interface a packet came that the
    /// pod receives, zero where the node sends it.
    pub came_by: u32,
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// TCP or UDP; zero: nothing was done yet.
    pub protocol: Protocol,
    /// The type of service.
    pub traffic_class: u8,
    /// [`Decision::number`](crate::datapath::Decision::number) of what was decided at that
    /// interface.
    pub here: u8,
    /// The same at the receiver's, where it is another one.
    pub there: u8,
    /// The bytes of the longest IP packet that is known to fit.
    pub longest: u32,
    /// The receiver's interface; zero: it goes on as it is, and what follows says nothing.
    pub receiver: u32,
    /// Source address afterwards.
    pub to_src: u32,
    /// Destination address afterwards.
    pub to_dst: u32,
    /// Source port afterwards.
    pub to_src_port: Port,
    /// Destination port afterwards.
    pub to_dst_port: Port,
    /// One where any of these is another than before.
    pub is_translated: u16,
    /// One where the packet had no flow: what ends a connection is like the rest of it then.
    pub is_without_flow: u16,
    /// What the addresses change by: a [`checksum::difference`](crate::checksum::difference).
    pub addrs: u32,
    /// What addresses and ports change by together.
    pub all: u32,
}

impl ExactMatch {
    /// No service port has this number.
    pub const NO_SERVICE: u32 = u32::MAX;
    /// The revision of none.
    pub const NO_REVISION: u32 = 0;
    /// No interface has this index.
    pub const FROM_POD: u32 = u32::MAX;
}
