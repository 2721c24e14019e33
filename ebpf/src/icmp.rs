//! ICMP errors about translated flows (RFC 792, RFC 4443, RFC 5508 section 4): whoever sends one
//! quotes the packet as it saw it, whoever receives it looks for the packet as it sent it.
//!
//! Promises: an error about a packet of a translated flow arrives speaking of the packet that its
//! receiver sent, with every checksum over the change right; an error about anything else is
//! left alone. A quoted packet proves nothing: no flow is opened, moved on or kept alive by it.

use bytemuck::Zeroable as _;

use crate::{
    addr::{Addr, Port, Protocol},
    checksum, conntrack,
    datapath::Workspace,
    nat::{V4_CHECKSUM, V4_DST, V4_SRC, V6_DST, V6_SRC},
    packet::{self, Headers, IcmpHeader, Ipv4Header, Ipv6Header, Packet, PacketMut},
    tables::{Tables, Tuple},
};

/// Offset of the checksum.
const CHECKSUM: u32 = 2;
/// Bytes that an error quotes at least of what stands behind the network header (RFC 792).
const QUOTED_AT_LEAST: u32 = 8;

/// The packet that an error quotes, cut short as it may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quote {
    /// As in [`Headers`], of the quoted packet.
    pub(crate) tuple: Tuple,
    /// Could it be read, and is the error addressed to who sent it?
    pub(crate) is_read: bool,
    /// Offset of its network header.
    network: u32,
    /// Offset of its ports.
    transport: u32,
    /// Offset of its transport checksum, where it is quoted and covers the addresses; else zero.
    checksum: u32,
    /// The error is about to leave the node.
    pub(crate) is_leaving_node: bool,
}

/// Reads the packet that an error quotes into `work`.
#[inline(always)]
pub(crate) fn read<P: Packet>(packet: &P, work: &mut Workspace) {
    let Workspace { headers, quote, .. } = work;
    quote.is_read = read_quote(packet, headers, quote).is_some()
        // An answer to the quoted packet goes to where the error goes.
        && quote.tuple.src == headers.tuple.dst;
}

/// Finds the flow whose translation undoes the one that the quoted packet, which has been read,
/// went through. `true`: the error is to be translated by it, at this hook. It is put into `work`.
#[inline(never)]
pub(crate) fn find_flow<T: Tables>(tables: &T, work: &mut Workspace, is_entering: bool) -> bool {
    let Workspace { flow, quote, .. } = work;
    if !quote.is_read || !quote.tuple.protocol.has_ports() {
        return false;
    }
    let now = tables.now();
    let answer = quote.tuple.reversed();
    tables
        .flow_entry(&answer, |entry| {
            *flow = *entry;
            entry.role.is_entering() == is_entering
                // Its source is not known before a packet has left the node.
                && !entry.to.src.is_unspecified()
                && !conntrack::is_expired(entry, now)
        })
        .unwrap_or(false)
}

/// Translates an error as answers to the packet it quotes are translated: by the flow in
/// `work`. The quoted packet becomes the one that this answers. The error's source is translated
/// where it is the one that would have answered, and where the error leaves the node, as Linux's
/// own translation does it: beyond the node a router's address may be unknown, fail a reverse path
/// filter, or be that of the very router it comes to. To a pod a router keeps its address.
///
/// `None`: the packet could not be changed, and may be changed in part.
// All checksums are changed by what the stored words say, so that they follow whatever was
// quoted. In sum over the packet nothing changes, as with any right checksum: a device's sum over
// it stays true.
#[inline(never)]
pub(crate) fn translate<P: PacketMut>(packet: &mut P, work: &Workspace) -> Option<()> {
    let Workspace {
        headers,
        flow,
        quote,
        ..
    } = work;
    let answer = &flow.to;
    let is_from_answerer = headers.tuple.src == quote.tuple.dst || quote.is_leaving_node;
    let mut change = translate_quote(packet, headers.is_v4, quote, answer)?;
    let (from, to) = (&headers.tuple, answer);
    if is_from_answerer && from.src != to.src {
        let of_addr = translate_addr(packet, headers, [from.src, to.src], [V4_SRC, V6_SRC])?;
        change = checksum::add(change, of_addr);
    }
    if from.dst != to.dst {
        let of_addr = translate_addr(packet, headers, [from.dst, to.dst], [V4_DST, V6_DST])?;
        change = checksum::add(change, of_addr);
    }
    replace_checksum(packet, headers.transport + CHECKSUM, change, false)?;
    Some(())
}

/// Gives the error itself another address, at the offset that it has in its family's header.
/// Returns the change of the sum that its ICMP checksum covers: of `ICMPv6` the pseudo-header, too.
#[inline(always)]
fn translate_addr<P: PacketMut>(
    packet: &mut P,
    headers: &Headers,
    [from, to]: [Addr; 2],
    [v4_offset, v6_offset]: [u32; 2],
) -> Option<u32> {
    let difference = checksum::difference(from, to);
    if headers.is_v4 {
        packet.adjust_header_checksum(headers.network + V4_CHECKSUM, difference)?;
        packet.store(headers.network + v4_offset, &to.0[3])?;
        Some(0)
    } else {
        packet.store(headers.network + v6_offset, &to)?;
        Some(difference)
    }
}

/// Gives the quoted packet the addresses and ports of the one that `answer` answers. Returns the
/// change of the sum over the quoted bytes.
#[inline(never)]
fn translate_quote<P: PacketMut>(
    packet: &mut P,
    is_v4: bool,
    quote: &Quote,
    answer: &Tuple,
) -> Option<u32> {
    let addresses = checksum::add(
        checksum::difference(quote.tuple.src, answer.dst),
        checksum::difference(quote.tuple.dst, answer.src),
    );
    let ports = checksum::add(
        checksum::port_difference(quote.tuple.src_port, answer.dst_port),
        checksum::port_difference(quote.tuple.dst_port, answer.src_port),
    );
    let all = checksum::add(addresses, ports);
    let mut change = all;
    if is_v4 {
        let of_header = replace_checksum(packet, quote.network + V4_CHECKSUM, addresses, false)?;
        change = checksum::add(change, of_header);
        packet.store(quote.network + V4_SRC, &answer.dst.0[3])?;
        packet.store(quote.network + V4_DST, &answer.src.0[3])?;
    } else {
        packet.store(quote.network + V6_SRC, &answer.dst)?;
        packet.store(quote.network + V6_DST, &answer.src)?;
    }
    packet.store(quote.transport, &[answer.dst_port, answer.src_port])?;
    if quote.checksum != 0 {
        let is_udp = quote.tuple.protocol == Protocol::UDP;
        let of_transport = replace_checksum(packet, quote.checksum, all, is_udp)?;
        change = checksum::add(change, of_transport);
    }
    Some(change)
}

/// Changes a checksum by a difference of what it covers; returns by how much it changed itself.
/// Of UDP zero means "none" (RFC 768).
#[inline(always)]
fn replace_checksum<P: PacketMut>(
    packet: &mut P,
    offset: u32,
    difference: u32,
    is_udp: bool,
) -> Option<u32> {
    let old: u16 = packet.load(offset)?;
    if is_udp && old == 0 {
        return Some(0);
    }
    let mut new = checksum::replace(old, difference);
    if is_udp && new == 0 {
        new = 0xffff;
    }
    packet.store(offset, &new)?;
    Some(u32::from(!old) + u32::from(new))
}

impl Quote {
    /// That of no packet.
    pub(crate) fn none() -> Self {
        Self {
            tuple: Tuple::zeroed(),
            is_read: false,
            network: 0,
            transport: 0,
            checksum: 0,
            is_leaving_node: false,
        }
    }
}

/// Reads the quoted packet. Its length fields speak of the packet as it was, and are not looked
/// at. `None`: there is none, it is cut too short, or it must not have been complained about.
#[inline(never)]
fn read_quote<P: Packet>(packet: &P, headers: &Headers, quote: &mut Quote) -> Option<()> {
    let network = headers.transport + IcmpHeader::LENGTH;
    let (protocol, transport);
    if headers.is_v4 {
        let ip: Ipv4Header = packet.load(network)?;
        let header_length = u32::from(ip.version_length & 0x0f) * 4;
        if ip.version_length >> 4 != 4
            || header_length < Ipv4Header::LENGTH
            || packet::is_later_v4(&ip)
        {
            return None;
        }
        quote.tuple.src = Addr::from_v4_word(ip.src);
        quote.tuple.dst = Addr::from_v4_word(ip.dst);
        (protocol, transport) = (Protocol(ip.protocol), network + header_length);
    } else {
        let ip: Ipv6Header = packet.load(network)?;
        if u32::from_be(ip.version_class_flow) >> 28 != 6 || ip.src.is_v4() | ip.dst.is_v4() {
            return None;
        }
        let chain = packet::follow_extensions(packet, network + 40, ip.next_header)?;
        if chain.is_later {
            return None;
        }
        quote.tuple.src = ip.src;
        quote.tuple.dst = ip.dst;
        (protocol, transport) = (Protocol(chain.next), chain.transport);
    }
    if transport + QUOTED_AT_LEAST > headers.end {
        return None;
    }
    let [src_port, dst_port] = match protocol {
        Protocol::ICMP | Protocol::ICMPV6 if (protocol == Protocol::ICMP) == headers.is_v4 => {
            read_quoted_echo(packet, headers.is_v4, transport)?
        }
        _ if protocol.has_ports() => packet.load(transport)?,
        _ => [Port(0); 2],
    };
    quote.tuple.src_port = src_port;
    quote.tuple.dst_port = dst_port;
    quote.tuple.protocol = protocol;
    quote.tuple.is_beside = 0;
    quote.tuple.reserved = [0; 2];
    quote.network = network;
    quote.transport = transport;
    quote.checksum = match protocol {
        Protocol::UDP => transport + 6,
        Protocol::TCP if transport + 18 <= headers.end => transport + 16,
        // SCTP's covers ports only, which its flows keep.
        _ => 0,
    };
    Some(())
}

/// An echo's identifier, in the place that it has in [`Headers`]. `None`: it is another message,
/// and belongs to no conversation.
#[inline(always)]
fn read_quoted_echo<P: Packet>(packet: &P, is_v4: bool, transport: u32) -> Option<[Port; 2]> {
    let icmp: IcmpHeader = packet.load(transport)?;
    if packet::is_echo_request(icmp.kind, is_v4) {
        Some([icmp.identifier, Port(0)])
    } else if packet::is_echo_reply(icmp.kind, is_v4) {
        Some([Port(0), icmp.identifier])
    } else {
        None
    }
}
