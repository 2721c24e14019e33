//! The answer to a packet that is refused: a TCP reset, or ICMP "port unreachable".
//!
//! The packet itself becomes its answer. Every field of the answer is written and every checksum
//! is complete; the link-layer addresses change places.

use bytemuck::{Pod, Zeroable};

use crate::{
    addr::Protocol,
    checksum,
    packet::{
        Headers, IcmpHeader, Ipv4Header, Ipv6Header, PacketMut, TcpFlags, TcpHeader, Transport,
    },
};

/// Turns a packet into its refusal. `None`: it must not be answered, or could not be changed.
// Not inlined: its headers need stack that the rest of a program has use for.
#[inline(never)]
pub fn answer<P: PacketMut>(packet: &mut P, headers: &Headers) -> Option<()> {
    match headers.kind() {
        Transport::Tcp(flags) => {
            // RFC 9293 section 3.10.7.1: a reset is never answered.
            if flags.contains(TcpFlags::RST) {
                return None;
            }
            reset(packet, headers)
        }
        Transport::Udp | Transport::Sctp(_) | Transport::Echo => unreachable(packet, headers),
        Transport::Other if headers.tuple.protocol != icmp_of(headers) => {
            unreachable(packet, headers)
        }
        // RFC 1122 section 3.2.2: never about an error or a later fragment. Nor about answers.
        Transport::LaterFragment
        | Transport::IcmpError(_)
        | Transport::EchoReply
        | Transport::Discovery
        | Transport::Other => None,
    }
}

/// The family's ICMP.
#[inline(always)]
const fn icmp_of(headers: &Headers) -> Protocol {
    if headers.is_v4 {
        Protocol::ICMP
    } else {
        Protocol::ICMPV6
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ResetV4 {
    ip: Ipv4Header,
    tcp: TcpHeader,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ResetV6 {
    ip: Ipv6Header,
    tcp: TcpHeader,
}

#[inline(always)]
fn reset<P: PacketMut>(packet: &mut P, headers: &Headers) -> Option<()> {
    let request: TcpHeader = packet.load(headers.transport)?;
    let tcp = reset_header(&request, headers.end - headers.transport);
    let tcp = TcpHeader {
        checksum: tcp_checksum(headers, &tcp),
        ..tcp
    };
    if headers.is_v4 {
        let ip = ipv4_header(headers, Protocol::TCP, 40)?;
        replace(packet, headers, 40, 0, &ResetV4 { ip, tcp })
    } else {
        let ip = ipv6_header(headers, Protocol::TCP, 20);
        replace(packet, headers, 60, 0, &ResetV6 { ip, tcp })
    }
}

/// RFC 9293 section 3.10.7.1: what a closed port answers. `length` is that of the TCP segment,
/// header included.
#[inline(always)]
fn reset_header(request: &TcpHeader, length: u32) -> TcpHeader {
    let (sequence, acknowledgement, flags) = if request.flags.contains(TcpFlags::ACK) {
        (request.acknowledgement, 0, TcpFlags::RST)
    } else {
        let data = length.saturating_sub(TcpHeader::length(request.data_offset));
        let syn = u32::from(request.flags.contains(TcpFlags::SYN));
        let fin = u32::from(request.flags.contains(TcpFlags::FIN));
        let next = u32::from_be(request.sequence).wrapping_add(data + syn + fin);
        (0, next.to_be(), TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0))
    };
    TcpHeader {
        src_port: request.dst_port,
        dst_port: request.src_port,
        sequence,
        acknowledgement,
        data_offset: 5 << 4,
        flags,
        window: 0,
        checksum: 0,
        urgent: 0,
    }
}

#[inline(always)]
fn tcp_checksum(headers: &Headers, tcp: &TcpHeader) -> u16 {
    let words: [u32; 5] = bytemuck::cast(*tcp);
    let pseudo = pseudo_header_sum(headers, Protocol::TCP, 20);
    checksum::finish(checksum::add(pseudo, checksum::sum_words(words)))
}

/// RFC 9293 section 3.1 and RFC 8200 section 8.1: addresses, length, protocol. The mapped prefix
/// of an IPv4 address sums to 0xffff, which is zero in ones' complement.
#[inline(always)]
fn pseudo_header_sum(headers: &Headers, protocol: Protocol, length: u32) -> u32 {
    let addresses = checksum::add(
        checksum::sum_words(headers.tuple.src.0),
        checksum::sum_words(headers.tuple.dst.0),
    );
    let rest = checksum::add(length.to_be(), u32::from(protocol.0).to_be());
    checksum::add(addresses, rest)
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UnreachableV4 {
    ip: Ipv4Header,
    icmp: IcmpHeader,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UnreachableV6 {
    ip: Ipv6Header,
    icmp: IcmpHeader,
}

/// Words of the refused packet that its answer quotes at most: the longest IPv4 header, or an
/// IPv6 header with twenty bytes of extensions, and the beginning of an SCTP packet.
const QUOTED_WORDS: u32 = 20;

#[inline(always)]
fn unreachable<P: PacketMut>(packet: &mut P, headers: &Headers) -> Option<()> {
    // RFC 792 quotes the header and 64 bits behind it: the ports. RFC 4443 asks for as much as
    // fits; stacks need no more than the ports to find the socket, but of SCTP the tag of an INIT
    // (RFC 9260 section 10). Whole words, for the sum.
    let wanted = match headers.kind() {
        Transport::Sctp(_) => 20,
        _ => 8,
    };
    let quoted = ((headers.transport + wanted).min(headers.end) - headers.network) & !3;
    if quoted > QUOTED_WORDS * 4 {
        return None;
    }
    let mut sum = 0;
    for word in 0..QUOTED_WORDS {
        if word * 4 >= quoted {
            break;
        }
        let value: u32 = packet.load(headers.network + word * 4)?;
        sum = checksum::add(sum, value);
    }
    if headers.is_v4 {
        // Destination unreachable, port unreachable.
        let icmp = IcmpHeader {
            kind: 3,
            code: 3,
            ..IcmpHeader::default()
        };
        let icmp = with_checksum(icmp, sum);
        let ip = ipv4_header(headers, Protocol::ICMP, 28 + quoted)?;
        replace(packet, headers, quoted, 28, &UnreachableV4 { ip, icmp })
    } else {
        let icmp = IcmpHeader {
            kind: 1,
            code: 4,
            ..IcmpHeader::default()
        };
        let pseudo = pseudo_header_sum(headers, Protocol::ICMPV6, 8 + quoted);
        let icmp = with_checksum(icmp, checksum::add(sum, pseudo));
        let ip = ipv6_header(headers, Protocol::ICMPV6, 8 + quoted);
        replace(packet, headers, quoted, 48, &UnreachableV6 { ip, icmp })
    }
}

#[inline(always)]
fn with_checksum(icmp: IcmpHeader, sum_of_rest: u32) -> IcmpHeader {
    let words: [u32; 2] = bytemuck::cast(icmp);
    let sum = checksum::add(checksum::sum_words(words), sum_of_rest);
    IcmpHeader {
        checksum: checksum::finish(sum),
        ..icmp
    }
}

/// The header of the answer: from the destination to the source.
#[inline(always)]
fn ipv4_header(headers: &Headers, protocol: Protocol, total_length: u32) -> Option<Ipv4Header> {
    let header = Ipv4Header {
        version_length: 0x45,
        tos: 0,
        total_length: u16::try_from(total_length).ok()?.to_be(),
        identification: 0,
        fragment: 0x4000_u16.to_be(),
        ttl: 64,
        protocol: protocol.0,
        checksum: 0,
        src: headers.tuple.dst.0[3],
        dst: headers.tuple.src.0[3],
    };
    let words: [u32; 5] = bytemuck::cast(header);
    Some(Ipv4Header {
        checksum: checksum::finish(checksum::sum_words(words)),
        ..header
    })
}

#[inline(always)]
fn ipv6_header(headers: &Headers, protocol: Protocol, payload_length: u32) -> Ipv6Header {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a header and at most 80 quoted bytes"
    )]
    let payload_length = (payload_length as u16).to_be();
    Ipv6Header {
        version_class_flow: 0x6000_0000_u32.to_be(),
        payload_length,
        next_header: protocol.0,
        hop_limit: 64,
        src: headers.tuple.dst,
        dst: headers.tuple.src,
    }
}

#[inline(always)]
fn replace<P: PacketMut, H: Pod>(
    packet: &mut P,
    headers: &Headers,
    keep: u32,
    room: u32,
    head: &H,
) -> Option<()> {
    packet.reshape(keep, room)?;
    packet.store(headers.network, head)?;
    packet.swap_link_addresses()
}
