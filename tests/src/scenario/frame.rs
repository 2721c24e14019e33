//! A [`Packet`]'s bytes: a full Ethernet frame with correct checksums.
//!
//! Built by the crate `etherparse` and not by Weir's own code, since these bytes judge it. The
//! checksums are taken over everything each time, never adjusted.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header,
    Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader, icmpv4, icmpv6,
};

use super::packet::{Body, Chunk, ErrorKind, Extension, Fragment, Packet, Tcp};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Fragment offset of a later fragment, in units of eight bytes.
const LATER: u16 = 185;
/// Upper half of the identification of a datagram in fragments (IPv6).
const DATAGRAM: u32 = 0x8765_0000;

/// The frame that carries a packet.
///
/// # Errors
/// The packet's parts are too long.
pub fn build(packet: &Packet) -> Result<Vec<u8>> {
    let mut frame = link_header(packet, if packet.is_v4() { 0x0800 } else { 0x86dd });
    let transport = transport(packet)?;
    match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = Ipv4Header {
                identification: packet.network.identification,
                dont_fragment: packet.network.dont_fragment,
                time_to_live: packet.network.ttl,
                protocol: protocol(packet),
                source: src.octets(),
                destination: dst.octets(),
                // "No operation" (RFC 791).
                options: vec![1_u8; usize::from(packet.network.options) * 4]
                    .as_slice()
                    .try_into()
                    .context("IPv4 options are too long")?,
                ..Ipv4Header::default()
            };
            match packet.network.fragment {
                Some(Fragment::First) => header.more_fragments = true,
                Some(Fragment::Later) => header.fragment_offset = LATER.try_into()?,
                None => {}
            }
            header.set_payload_len(transport.len())?;
            header.total_len = packet.damage.length.unwrap_or(header.total_len);
            header.header_checksum = header.calc_header_checksum();
            frame.extend(header.to_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let extensions = extensions(packet);
            let length = u16::try_from(extensions.bytes.len() + transport.len())?;
            let header = Ipv6Header {
                flow_label: Ipv6FlowLabel::try_new(packet.network.flow_label)?,
                payload_length: packet.damage.length.unwrap_or(length),
                next_header: extensions.first,
                hop_limit: packet.network.ttl,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            frame.extend(header.to_bytes());
            frame.extend(extensions.bytes);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            anyhow::bail!("{packet}: source and destination are of two families")
        }
    }
    frame.extend(transport);
    damage(packet, &mut frame);
    Ok(frame)
}

/// A frame that carries no IP packet.
#[must_use]
pub fn build_other(ether_type: u16) -> Vec<u8> {
    let mut frame = [GATEWAY, CLIENT].concat();
    frame.extend(ether_type.to_be_bytes());
    frame.extend(filling(46));
    frame
}

/// Where the transport header begins in a packet's frame.
#[must_use]
pub fn transport_offset(packet: &Packet) -> usize {
    ETHERNET
        + if packet.is_v4() {
            20 + usize::from(packet.network.options) * 4
        } else {
            40 + extensions(packet).bytes.len()
        }
}

/// Source and destination in the frame of a packet that was translated from this one.
///
/// # Errors
/// The frame is too short to hold them.
pub fn places(frame: &[u8], like: &Packet) -> Result<(SocketAddr, SocketAddr)> {
    let bytes = |offset: usize, length: usize| {
        frame
            .get(offset..offset + length)
            .with_context(|| format!("the frame ends before byte {}", offset + length))
    };
    let addr = |which: usize| -> Result<IpAddr> {
        Ok(if like.is_v4() {
            <[u8; 4]>::try_from(bytes(ETHERNET + 12 + 4 * which, 4)?)?.into()
        } else {
            <[u8; 16]>::try_from(bytes(ETHERNET + 8 + 16 * which, 16)?)?.into()
        })
    };
    let port = |which: usize| -> Result<u16> {
        if !like.has_ports() {
            return Ok(0);
        }
        let place = bytes(transport_offset(like) + 2 * which, 2)?;
        Ok(u16::from_be_bytes(place.try_into()?))
    };
    Ok((
        SocketAddr::new(addr(0)?, port(0)?),
        SocketAddr::new(addr(1)?, port(1)?),
    ))
}

fn link_header(packet: &Packet, ether_type: u16) -> Vec<u8> {
    let (to, from) = if packet.is_answer {
        (CLIENT, GATEWAY)
    } else {
        (GATEWAY, CLIENT)
    };
    let mut frame = [to, from].concat();
    frame.extend(ether_type.to_be_bytes());
    frame
}

fn protocol(packet: &Packet) -> IpNumber {
    match &packet.body {
        Body::Tcp(_) => IpNumber::TCP,
        Body::Udp { .. } => IpNumber::UDP,
        Body::Sctp(_) => IpNumber::SCTP,
        Body::Echo(_) | Body::Message(_) | Body::PortUnreachable(_) | Body::Error(..) => {
            if packet.is_v4() {
                IpNumber::ICMP
            } else {
                IpNumber::IPV6_ICMP
            }
        }
        Body::Other(number) => IpNumber(*number),
    }
}

/// Transport header and payload.
fn transport(packet: &Packet) -> Result<Vec<u8>> {
    let payload = filling(packet.payload.into());
    Ok(match &packet.body {
        Body::Tcp(tcp) => tcp_segment(packet, tcp, &payload)?,
        Body::Udp { has_checksum } => udp_datagram(packet, *has_checksum, &payload)?,
        Body::Sctp(chunk) => sctp_packet(packet, *chunk, &payload)?,
        Body::Echo(echo) => {
            let header = IcmpEchoHeader {
                id: echo.identifier,
                seq: 1,
            };
            let (v4, v6) = if echo.is_reply {
                (Icmpv4Type::EchoReply(header), Icmpv6Type::EchoReply(header))
            } else {
                (
                    Icmpv4Type::EchoRequest(header),
                    Icmpv6Type::EchoRequest(header),
                )
            };
            icmp(packet, v4, v6, &payload)?
        }
        Body::Message(number) => icmp(
            packet,
            Icmpv4Type::Unknown {
                type_u8: *number,
                code_u8: 0,
                bytes5to8: [0; 4],
            },
            Icmpv6Type::Unknown {
                type_u8: *number,
                code_u8: 0,
                bytes5to8: [0; 4],
            },
            &payload,
        )?,
        Body::PortUnreachable(quote) => icmp(
            packet,
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
            quote,
        )?,
        Body::Error(kind, quote) => {
            let (v4, v6) = match *kind {
                ErrorKind::PortUnreachable => (
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port),
                    Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port),
                ),
                ErrorKind::TooBig(mtu) => (
                    Icmpv4Type::DestinationUnreachable(
                        icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
                    ),
                    Icmpv6Type::PacketTooBig { mtu: mtu.into() },
                ),
                ErrorKind::TimeExceeded => (
                    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
                    Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
                ),
            };
            let quoted = build(quote)?;
            let behind = match packet.payload {
                0 => 8,
                length => length.into(),
            };
            let end = quoted.len().min(transport_offset(quote) + behind);
            icmp(packet, v4, v6, &quoted[ETHERNET..end])?
        }
        Body::Other(_) => payload,
    })
}

fn tcp_segment(packet: &Packet, tcp: &Tcp, payload: &[u8]) -> Result<Vec<u8>> {
    let has = |bit| tcp.flags.0 & bit != 0;
    let mut header = TcpHeader {
        source_port: packet.src.port(),
        destination_port: packet.dst.port(),
        sequence_number: tcp.sequence,
        acknowledgment_number: tcp.acknowledgement,
        fin: has(0x01),
        syn: has(0x02),
        rst: has(0x04),
        psh: has(0x08),
        ack: has(0x10),
        urg: has(0x20),
        ece: has(0x40),
        cwr: has(0x80),
        window_size: tcp.window,
        ..TcpHeader::default()
    };
    // "No operation" (RFC 9293 section 3.2).
    header
        .set_options_raw(&vec![1; usize::from(tcp.options) * 4])
        .map_err(|_| anyhow::anyhow!("TCP options are too long"))?;
    header.checksum = match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)?
        }
        (src, dst) => header.calc_checksum_ipv6_raw(octets(src), octets(dst), payload)?,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    Ok(bytes)
}

fn udp_datagram(packet: &Packet, has_checksum: bool, payload: &[u8]) -> Result<Vec<u8>> {
    let mut header = UdpHeader {
        source_port: packet.src.port(),
        destination_port: packet.dst.port(),
        length: u16::try_from(UdpHeader::LEN + payload.len())?,
        checksum: 0,
    };
    if has_checksum {
        header.checksum = match (packet.src.ip(), packet.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), payload)?
            }
            (src, dst) => header.calc_checksum_ipv6_raw(octets(src), octets(dst), payload)?,
        };
    }
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(payload);
    Ok(bytes)
}

fn sctp_packet(packet: &Packet, chunk: Chunk, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend(packet.src.port().to_be_bytes());
    bytes.extend(packet.dst.port().to_be_bytes());
    bytes.extend(0x1357_9bdf_u32.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([chunk.0, 0]);
    bytes.extend(u16::try_from(4 + payload.len())?.to_be_bytes());
    bytes.extend(payload);
    // RFC 9260 appendix A.
    let checksum = crc32c::crc32c(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

fn icmp(packet: &Packet, v4: Icmpv4Type, v6: Icmpv6Type, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = if packet.is_v4() {
        Icmpv4Header::with_checksum(v4, payload).to_bytes().to_vec()
    } else {
        let (src, dst) = (octets(packet.src.ip()), octets(packet.dst.ip()));
        Icmpv6Header::with_checksum(v6, src, dst, payload)?
            .to_bytes()
            .to_vec()
    };
    bytes.extend(payload);
    Ok(bytes)
}

/// The extension headers of an IPv6 packet, and what the IPv6 header announces.
struct Extensions {
    first: IpNumber,
    bytes: Vec<u8>,
}

fn extensions(packet: &Packet) -> Extensions {
    let mut headers: Vec<(IpNumber, Vec<u8>)> = packet
        .network
        .extensions
        .iter()
        .map(|extension| match extension {
            // Six bytes of padding (RFC 8200 section 4.2).
            Extension::HopByHop => (
                IpNumber::IPV6_HEADER_HOP_BY_HOP,
                vec![0, 0, 1, 4, 0, 0, 0, 0],
            ),
            // Fourteen bytes of padding: two units of eight bytes.
            Extension::Destination => (
                IpNumber::IPV6_DESTINATION_OPTIONS,
                [vec![0, 1, 1, 12], vec![0; 12]].concat(),
            ),
            // An experimental type with no segment left.
            Extension::Routing => (IpNumber::IPV6_ROUTE_HEADER, vec![0, 0, 253, 0, 0, 0, 0, 0]),
            // RFC 4302: length in words, less two; index, sequence number, 12 bytes of check value.
            Extension::Authentication => (
                IpNumber::AUTHENTICATION_HEADER,
                [vec![0, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], vec![0xab; 12]].concat(),
            ),
        })
        .collect();
    if let Some(fragment) = packet.network.fragment {
        let offset_and_more = match fragment {
            Fragment::First => 1,
            Fragment::Later => LATER << 3,
        };
        let mut header = vec![0, 0];
        header.extend(u16::to_be_bytes(offset_and_more));
        header.extend((DATAGRAM | u32::from(packet.network.identification)).to_be_bytes());
        headers.push((IpNumber::IPV6_FRAGMENTATION_HEADER, header));
    }
    let mut next = protocol(packet);
    for (number, header) in headers.iter_mut().rev() {
        header[0] = next.0;
        next = *number;
    }
    Extensions {
        first: next,
        bytes: headers.into_iter().flat_map(|(_, header)| header).collect(),
    }
}

fn damage(packet: &Packet, frame: &mut Vec<u8>) {
    let damage = packet.damage;
    if let Some(words) = damage.header_words {
        frame[ETHERNET] = (frame[ETHERNET] & 0xf0) | words;
    }
    if let Some(version) = damage.version {
        frame[ETHERNET] = (frame[ETHERNET] & 0x0f) | (version << 4);
    }
    if let Some(words) = damage.data_offset {
        let place = transport_offset(packet) + 12;
        frame[place] = (frame[place] & 0x0f) | (words << 4);
    }
    frame.extend(filling(damage.padding.into()));
    if let Some(length) = damage.cut {
        frame.truncate(length.into());
    }
}

/// Bytes that are neither zero nor alike.
fn filling(length: usize) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, reason = "any byte will do")]
    (0..length).map(|index| (index * 31 + 7) as u8).collect()
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Says where two frames differ.
///
/// # Errors
/// They do.
pub fn compare(actual: &[u8], expected: &[u8]) -> Result<()> {
    ensure!(
        actual.len() == expected.len(),
        "the frame has {} bytes, expected {}:\n  actual   {}\n  expected {}",
        actual.len(),
        expected.len(),
        hex(actual),
        hex(expected)
    );
    let differing: Vec<usize> = (0..actual.len())
        .filter(|&index| actual[index] != expected[index])
        .collect();
    ensure!(
        differing.is_empty(),
        "the frame differs at bytes {differing:?}:\n  actual   {}\n  expected {}",
        hex(actual),
        hex(expected)
    );
    Ok(())
}

/// Bytes that [`hex`] shows.
const SHOWN: usize = 256;

/// Bytes in words of two, the link-layer header apart; of a long frame the beginning.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate().take(SHOWN) {
        if index == ETHERNET {
            text.push_str(" |");
        }
        if index % 2 == 0 && index > 0 {
            text.push(' ');
        }
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > SHOWN {
        let _ = write!(text, " … of {} bytes", bytes.len());
    }
    text
}
