//! Headers as they lie in a packet.

use bytemuck::{Pod, Zeroable};

use crate::addr::{Addr, Port};

/// An IPv4 header without options (RFC 791 section 3.1). Integers are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv4Header {
    /// Version 4 and the header's length in 32-bit words.
    pub version_length: u8,
    /// Type of service.
    pub tos: u8,
    /// Bytes of header and payload. Zero in frames above 64 KiB before segmentation.
    pub total_length: u16,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset in units of eight bytes.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: u8,
    /// Over the header.
    pub checksum: u16,
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
}

/// An IPv6 header (RFC 8200 section 3). Integers are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv6Header {
    /// Version 6, traffic class and flow label.
    pub version_class_flow: u32,
    /// Bytes behind this header.
    pub payload_length: u16,
    /// What the payload is, or the first extension header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
}

/// A TCP header without options (RFC 9293 section 3.1). Integers are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The header's length in 32-bit words, in the upper four bits.
    pub data_offset: u8,
    /// See [`TcpFlags`].
    pub flags: TcpFlags,
    /// Window.
    pub window: u16,
    /// Over pseudo-header, header and payload.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl Ipv4Header {
    /// Its bytes.
    pub(crate) const LENGTH: u32 = size_of::<Self>() as u32;
}

impl Ipv6Header {
    /// Its bytes.
    pub(crate) const LENGTH: u32 = size_of::<Self>() as u32;
}

impl UdpHeader {
    /// Its bytes.
    pub(crate) const LENGTH: u32 = size_of::<Self>() as u32;
}

impl TcpHeader {
    /// Its bytes.
    pub(crate) const LENGTH: u32 = size_of::<Self>() as u32;

    /// The bytes of one with its options, by what it says of that in `data_offset`.
    #[inline(always)]
    pub(crate) const fn length(data_offset: u8) -> u32 {
        (data_offset >> 4) as u32 * 4
    }
}

/// The flags of a TCP header (RFC 9293 section 3.1).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Are all flags of `other` set?
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is any flag of `other` set?
    #[inline(always)]
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Does this packet open a connection: SYN, and nothing that belongs to an open one or ends
    /// it?
    #[inline(always)]
    #[must_use]
    pub const fn is_opening(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }
}

/// A UDP header (RFC 768). Integers are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Bytes of header and payload.
    pub length: u16,
    /// Over pseudo-header, header and payload; over IPv4 zero means "none".
    pub checksum: u16,
}

/// The common header of SCTP (RFC 9260 section 3.1) and the type of the first chunk.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SctpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Verification tag.
    pub tag: u32,
    /// CRC32c over header and chunks, without addresses.
    pub checksum: u32,
    /// Type of the first chunk.
    pub chunk: u8,
    /// Its flags.
    pub chunk_flags: u8,
    /// Its length.
    pub chunk_length: u16,
}

/// What an ICMP or `ICMPv6` message begins with (RFC 792, RFC 4443 section 2.1); none that means
/// anything is shorter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct IcmpHeader {
    /// The message's type.
    pub kind: u8,
    /// What more there is to say of the type.
    pub code: u8,
    /// Over the message, with ICMPv6 over a pseudo-header as well.
    pub checksum: u16,
    /// What tells the echoes of one who asks from those of another (RFC 792, RFC 4443
    /// section 4.1). Of an error the first half of what its type has a use for, or none.
    pub identifier: Port,
    /// Which of them this is. Of an error the other half.
    pub sequence: u16,
}

impl IcmpHeader {
    /// Its bytes.
    pub(crate) const LENGTH: u32 = size_of::<Self>() as u32;
    /// Its type stands for no error and no question in either family (RFC 1812 section 4.3.3,
    /// RFC 4443 section 2.1: reserved).
    pub(crate) const NONE: Self = Self {
        kind: 255,
        code: 0,
        checksum: 0,
        identifier: Port(0),
        sequence: 0,
    };
}
