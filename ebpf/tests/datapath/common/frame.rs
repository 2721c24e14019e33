//! Frames, built and judged with a library that shares nothing with ours (`etherparse`).

use std::net::IpAddr;

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    TcpHeader,
};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    packet::{self, Headers, TcpFlags},
    tables::Tuple,
};

/// Source and destination of the link layer in every built frame.
pub const LINK: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
/// Sequence and acknowledgement number of every built segment.
pub const SEQUENCE: u32 = 0xfffe_fdfc;
/// See [`SEQUENCE`].
pub const ACKNOWLEDGEMENT: u32 = 0x0102_0304;

/// A SYN.
pub const SYN: TcpFlags = TcpFlags::SYN;
/// An acknowledgement with nothing else.
pub const ACK: TcpFlags = TcpFlags::ACK;
/// The second segment of a handshake.
pub const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
/// The end of one direction.
pub const FIN_ACK: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0);

fn ip(tuple: &Tuple, protocol: IpNumber, payload: usize) -> IpHeaders {
    match (tuple.src.into(), tuple.dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => IpHeaders::Ipv4(
            Ipv4Header {
                dont_fragment: true,
                fragment_offset: IpFragOffset::ZERO,
                identification: 0x4242,
                ..Ipv4Header::new(
                    payload.try_into().expect("a short payload"),
                    64,
                    protocol,
                    src.octets(),
                    dst.octets(),
                )
                .expect("a short payload")
            },
            etherparse::Ipv4Extensions::default(),
        ),
        (IpAddr::V6(src), IpAddr::V6(dst)) => IpHeaders::Ipv6(
            Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::try_new(0x1_2345).expect("twenty bits"),
                payload_length: payload.try_into().expect("a short payload"),
                next_header: protocol,
                hop_limit: 64,
                source: src.octets(),
                destination: dst.octets(),
            },
            etherparse::Ipv6Extensions::default(),
        ),
        (src, dst) => panic!("{src} and {dst} are of two families"),
    }
}

/// A TCP segment with complete checksums.
pub fn tcp(tuple: &Tuple, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(
        tuple.src_port.number(),
        tuple.dst_port.number(),
        SEQUENCE,
        0xffff,
    );
    header.syn = flags.contains(TcpFlags::SYN);
    header.fin = flags.contains(TcpFlags::FIN);
    header.rst = flags.contains(TcpFlags::RST);
    header.ack = flags.contains(TcpFlags::ACK);
    header.acknowledgment_number = if header.ack { ACKNOWLEDGEMENT } else { 0 };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(LINK.0, LINK.1)
        .ip(ip(tuple, IpNumber::TCP, 0))
        .tcp_header(header)
        .write(&mut frame, payload)
        .expect("a vector takes any bytes");
    frame
}

/// A UDP datagram with complete checksums.
pub fn udp(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(LINK.0, LINK.1)
        .ip(ip(tuple, IpNumber::UDP, 0))
        .udp(tuple.src_port.number(), tuple.dst_port.number())
        .write(&mut frame, payload)
        .expect("a vector takes any bytes");
    frame
}

/// An SCTP packet.
pub fn sctp(tuple: &Tuple, chunks: &[u8]) -> Vec<u8> {
    let mut sctp = Vec::new();
    sctp.extend(tuple.src_port.number().to_be_bytes());
    sctp.extend(tuple.dst_port.number().to_be_bytes());
    sctp.extend([0; 8]);
    sctp.extend(chunks);
    let checksum = crc32c::crc32c(&sctp);
    sctp[8..12].copy_from_slice(&checksum.to_le_bytes());
    raw(tuple, Protocol::SCTP, &sctp)
}

/// An IP packet with any payload.
pub fn raw(tuple: &Tuple, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(LINK.0, LINK.1)
        .ip(ip(tuple, IpNumber(protocol.0), 0))
        .write(&mut frame, IpNumber(protocol.0), payload)
        .expect("a vector takes any bytes");
    frame
}

/// A packet with the protocol of its tuple: TCP with these flags, UDP, or SCTP with DATA.
pub fn of(tuple: &Tuple, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    match tuple.protocol {
        Protocol::TCP => tcp(tuple, flags, payload),
        Protocol::UDP => udp(tuple, payload),
        Protocol::SCTP => sctp(tuple, &[0, 3, 0, 4]),
        other => panic!("no frame of {other}"),
    }
}

/// Our own reading of a frame that must be readable.
pub fn headers(frame: &[u8]) -> Headers {
    let buffer = Buffer::<4096>::new(frame).expect("a short frame");
    packet::parse(&buffer).expect("a frame of ours parses")
}

/// The tuple of a frame.
pub fn tuple_of(frame: &[u8]) -> Tuple {
    headers(frame).tuple
}

/// The sum of RFC 1071 over big-endian words, its plain definition.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut sum = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// Panics unless every checksum in the frame is right: IPv4 header, TCP, UDP, ICMP, `ICMPv6`.
/// A UDP checksum of zero over IPv4 or IPv6 is "none".
pub fn assert_checksums(frame: &[u8]) {
    let headers = headers(frame);
    let (network, transport, end) = (
        headers.network as usize,
        headers.transport as usize,
        headers.end as usize,
    );
    let mut pseudo = Vec::new();
    if headers.is_v4 {
        assert_eq!(
            sum(&frame[network..network + 20]),
            0xffff,
            "the IPv4 header's checksum is wrong in {frame:02x?}"
        );
        pseudo.extend(&frame[network + 12..network + 20]);
    } else {
        pseudo.extend(&frame[network + 8..network + 40]);
    }
    let payload = &frame[transport..end];
    pseudo.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
    pseudo.extend([0, 0, 0, headers.tuple.protocol.0]);
    let covered = match headers.tuple.protocol {
        Protocol::UDP if payload[6..8] == [0, 0] => return,
        Protocol::TCP | Protocol::UDP | Protocol::ICMPV6 => [&pseudo, payload].concat(),
        Protocol::ICMP => payload.to_vec(),
        _ => return,
    };
    assert_eq!(
        sum(&covered),
        0xffff,
        "the {} checksum is wrong in {frame:02x?}",
        headers.tuple.protocol
    );
}
