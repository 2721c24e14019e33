//! Which bytes of a packet change when it is translated.
//!
//! Only addresses, ports and the checksums that cover them change. Translating to a tuple and
//! back again gives the packet as it was.

use bytemuck::{Pod, Zeroable};

use crate::{
    addr::{Addr, Port, Protocol},
    checksum,
    packet::{
        Cover, Headers, Ipv4Header, Packet, PacketMut, TCP_CHECKSUM, Transport, UDP_CHECKSUM,
    },
    tables::Tuple,
};

/// Offset of the checksum, the source and the destination in an IPv4 header (RFC 791).
pub(crate) const V4_CHECKSUM: u32 = 10;
pub(crate) const V4_SRC: u32 = 12;
pub(crate) const V4_DST: u32 = 16;
/// Offset of the hop limit in an IPv4 header, with which a word begins that ends with the checksum.
pub(crate) const V4_HOP_LIMIT: u32 = 8;
/// Offset of the hop limit in an IPv6 header (RFC 8200).
pub(crate) const V6_HOP_LIMIT: u32 = 7;
/// Offset of the source and the destination in an IPv6 header (RFC 8200).
pub(crate) const V6_SRC: u32 = 8;
pub(crate) const V6_DST: u32 = 24;

/// Gives a packet the addresses and ports of `to`. `None`: the packet could not be changed, and
/// may be changed in part, so it must not go on.
#[cfg(not(target_arch = "bpf"))]
pub fn translate<P: PacketMut>(packet: &mut P, headers: &Headers, to: &Tuple) -> Option<()> {
    if is_plain(headers) {
        translate_plain(packet, headers, to)
    } else {
        translate_any(packet, headers, to)
    }
}

/// Is it TCP or UDP behind an IPv4 header without options, as nearly all packets are?
#[inline(always)]
pub(crate) fn is_plain(headers: &Headers) -> bool {
    headers.is_v4
        && matches!(headers.kind(), Transport::Tcp(_) | Transport::Udp)
        && headers.transport == headers.network + Ipv4Header::LENGTH
}

/// Gives any packet the addresses and ports of `to`, one after the other. `None`: as in
/// [`translate_plain`].
#[inline(never)]
pub(crate) fn translate_any<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    to: &Tuple,
) -> Option<()> {
    let from = &headers.tuple;
    // First, where the verifier has few paths to follow through its checksum.
    let is_sctp = matches!(headers.kind(), Transport::Sctp(_));
    if is_sctp {
        translate_sctp_ports(packet, headers, to)?;
    }
    if from.src != to.src {
        translate_addr(packet, headers, from.src, to.src, V4_SRC, V6_SRC)?;
    }
    if from.dst != to.dst {
        translate_addr(packet, headers, from.dst, to.dst, V4_DST, V6_DST)?;
    }
    if is_sctp {
        return Some(());
    }
    if from.src_port != to.src_port {
        let change = checksum::port_difference(from.src_port, to.src_port);
        translate_port(packet, headers, 0, to.src_port, change)?;
    }
    if from.dst_port != to.dst_port {
        let change = checksum::port_difference(from.dst_port, to.dst_port);
        translate_port(packet, headers, 2, to.dst_port, change)?;
    }
    Some(())
}

/// From the checksum of an IPv4 header without options to the ports behind it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct V4Fields {
    checksum: u16,
    src: [u16; 2],
    dst: [u16; 2],
    src_port: Port,
    dst_port: Port,
}

impl V4Fields {
    #[inline(always)]
    fn new(checksum: u16, to: &Tuple) -> Self {
        Self {
            checksum,
            src: bytemuck::cast(to.src.0[3]),
            dst: bytemuck::cast(to.dst.0[3]),
            src_port: to.src_port,
            dst_port: to.dst_port,
        }
    }
}

/// The same from the hop limit on.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct V4FieldsAndHops {
    hops_and_protocol: u16,
    fields: V4Fields,
}

/// Gives a [plain](is_plain) packet the addresses and ports of `to`: what changes lies together and
/// is written at once. `None`: the packet could not be changed, and may be changed in part, so it
/// must not go on.
#[inline(always)]
pub(crate) fn translate_plain<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    to: &Tuple,
) -> Option<()> {
    let Some(before) = checksum_at_hand(packet, headers, to) else {
        return translate_any(packet, headers, to);
    };
    let addrs = adjust_plain_checksum(packet, headers, to, before)?;
    let offset = packet.network_offset() + V4_CHECKSUM;
    let checksum: u16 = packet.peek(offset)?;
    let fields = V4Fields::new(checksum::replace(checksum, addrs), to);
    packet.poke(offset, &fields)
}

/// [`translate_plain`], and a hop taken as forwarding does (RFC 1812 section 5.3.1).
#[inline(always)]
pub(crate) fn translate_plain_and_take_hop<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    to: &Tuple,
) -> Option<()> {
    let Some(before) = checksum_at_hand(packet, headers, to) else {
        return translate_any_and_take_hop(packet, headers, to);
    };
    let addrs = adjust_plain_checksum(packet, headers, to, before)?;
    let offset = packet.network_offset() + V4_HOP_LIMIT;
    let [hops_and_protocol, checksum]: [u16; 2] = packet.peek(offset)?;
    let fewer = one_hop_fewer(hops_and_protocol)?;
    let change = checksum::add(addrs, hop_difference(hops_and_protocol, fewer));
    let fields = V4FieldsAndHops {
        hops_and_protocol: fewer,
        fields: V4Fields::new(checksum::replace(checksum, change), to),
    };
    packet.poke(offset, &fields)
}

/// [`translate_any`], and a hop taken.
#[inline(never)]
pub(crate) fn translate_any_and_take_hop<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    to: &Tuple,
) -> Option<()> {
    translate_any(packet, headers, to)?;
    take_hop(packet, headers)
}

/// Takes one hop from a packet, as forwarding does (RFC 1812 section 5.3.1, RFC 8200 section 3).
/// `None`: it has none left, or cannot be changed.
#[inline(always)]
pub(crate) fn take_hop<P: PacketMut>(packet: &mut P, headers: &Headers) -> Option<()> {
    if headers.is_v4 {
        let offset = headers.network + V4_HOP_LIMIT;
        let [hops_and_protocol, checksum]: [u16; 2] = packet.load_near(offset)?;
        let fewer = one_hop_fewer(hops_and_protocol)?;
        let change = hop_difference(hops_and_protocol, fewer);
        packet.store_near(offset, &[fewer, checksum::replace(checksum, change)])
    } else {
        let offset = headers.network + V6_HOP_LIMIT - 1;
        let [next, hops]: [u8; 2] = packet.load_near(offset)?;
        packet.store_v6(offset, &[next, hops.checked_sub(1)?])
    }
}

/// The word of an IPv4 header that begins with the hop limit, with one less of them.
#[inline(always)]
fn one_hop_fewer(hops_and_protocol: u16) -> Option<u16> {
    let [hops, protocol] = hops_and_protocol.to_ne_bytes();
    Some(u16::from_ne_bytes([hops.checked_sub(1)?, protocol]))
}

#[inline(always)]
fn hop_difference(before: u16, after: u16) -> u32 {
    u32::from(!before) + u32::from(after)
}

/// The transport checksum of a [plain](is_plain) packet. `None`: it is not at hand, or what becomes of
/// it would not tell whether a device completes it (see [`checksum::after_ports`]).
#[inline(always)]
fn checksum_at_hand<P: Packet>(packet: &P, headers: &Headers, to: &Tuple) -> Option<u16> {
    if checksum::is_zero(plain_difference(&headers.tuple, to)) {
        return None;
    }
    packet.peek(plain_checksum(packet, headers))
}

/// Where the transport checksum of a [plain](is_plain) packet stands: a number that the compiler
/// knows for each protocol, since verifiers before Linux 6.2 lose track of one that is read.
#[inline(always)]
fn plain_checksum<P: Packet>(packet: &P, headers: &Headers) -> u32 {
    let transport = packet.network_offset() + Ipv4Header::LENGTH;
    match headers.kind() {
        Transport::Udp => transport + UDP_CHECKSUM,
        _ => transport + TCP_CHECKSUM,
    }
}

/// What the addresses of a [plain](is_plain) packet change by.
#[inline(always)]
pub(crate) const fn plain_difference(from: &Tuple, to: &Tuple) -> u32 {
    checksum::add(
        checksum::v4_difference(from.src, to.src),
        checksum::v4_difference(from.dst, to.dst),
    )
}

/// What the ports of a packet change by.
#[inline(always)]
pub(crate) const fn port_difference(from: &Tuple, to: &Tuple) -> u32 {
    checksum::add(
        checksum::port_difference(from.src_port, to.src_port),
        checksum::port_difference(from.dst_port, to.dst_port),
    )
}

/// Brings the transport checksum of a [plain](is_plain) packet up to date, which was `before`, and
/// gives the difference of the addresses.
///
/// Where it is not known what stands there, the kernel is asked once: for what addresses change, which
/// may also be part of a sum that a device has taken over the packet. To ask it for ports as well costs
/// more than to find out what it did.
#[inline(always)]
fn adjust_plain_checksum<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    to: &Tuple,
    before: u16,
) -> Option<u32> {
    let (from, protocol) = (&headers.tuple, headers.tuple.protocol);
    let offset = plain_checksum(packet, headers);
    let (addrs, ports) = (plain_difference(from, to), port_difference(from, to));
    let is_udp = protocol == Protocol::UDP;
    let checksum = if let Some(kind) = packet.checksum_kind() {
        checksum::changed(before, kind, addrs, checksum::add(addrs, ports), is_udp)
    } else {
        packet.adjust_transport_checksum(offset, addrs, Cover::PseudoHeader, protocol)?;
        let fields = (before, packet.peek(offset)?);
        checksum::after_ports(fields, addrs, ports, is_udp)
    };
    packet.poke(offset, &checksum)?;
    Some(addrs)
}

/// Offset of the checksum in an SCTP packet (RFC 9260 section 3.1).
const SCTP_CHECKSUM: u32 = 8;

/// SCTP's checksum covers the ports and no address.
///
/// Where the stack has left it to a device it is written later, over whatever stands there. Of a
/// datagram in fragments nobody knows the length yet: `None`.
#[inline(always)]
fn translate_sctp_ports<P: PacketMut>(packet: &mut P, headers: &Headers, to: &Tuple) -> Option<()> {
    let from = &headers.tuple;
    let ports: u32 = bytemuck::cast([
        from.src_port.0 ^ to.src_port.0,
        from.dst_port.0 ^ to.dst_port.0,
    ]);
    if ports == 0 {
        return Some(());
    }
    if headers.is_fragment {
        return None;
    }
    let checksum: u32 = packet.load(headers.transport + SCTP_CHECKSUM)?;
    let checksum = checksum ^ P::sctp_difference(ports, headers.end - headers.transport);
    packet.store(headers.transport + SCTP_CHECKSUM, &checksum)?;
    packet.store(headers.transport, &[to.src_port, to.dst_port])
}

#[inline(always)]
fn translate_addr<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    from: Addr,
    to: Addr,
    v4_offset: u32,
    v6_offset: u32,
) -> Option<()> {
    let change = checksum::difference(from, to);
    if let Some(offset) = headers.kind().checksum_offset() {
        packet.adjust_transport_checksum(
            headers.transport + offset,
            change,
            Cover::PseudoHeader,
            headers.tuple.protocol,
        )?;
    }
    if headers.is_v4 {
        packet.adjust_header_checksum(headers.network + V4_CHECKSUM, change)?;
        packet.store(headers.network + v4_offset, &to.0[3])
    } else {
        packet.store_v6(headers.network + v6_offset, &to)
    }
}

#[inline(always)]
fn translate_port<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    offset: u32,
    to: Port,
    change: u32,
) -> Option<()> {
    let checksum_offset = headers.kind().checksum_offset()?;
    packet.adjust_transport_checksum(
        headers.transport + checksum_offset,
        change,
        Cover::Transport,
        headers.tuple.protocol,
    )?;
    packet.store(headers.transport + offset, &to)
}
