//! The packets of attacks, without link-layer headers, and how one is known again.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, PacketBuilderStep,
};
use weir_ebpf::packet::TcpFlags;
use weir_tests::bed::raw::ends;
use weir_tests::scenario::frame;
use weir_tests::scenario::packet::{Body, Chunk, ErrorKind, Fragment, Packet, Tcp};

const HOPS: u8 = 64;
/// Payload of a first fragment: with UDP's header a multiple of eight bytes. The later one begins
/// further on; what is between is never sent, so that no stack puts the datagram together.
const FIRST: u16 = 800;

/// A datagram.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let builder = network(from.ip(), to.ip())?.udp(from.port(), to.port());
    let mut packet = Vec::new();
    builder.write(&mut packet, payload)?;
    Ok(packet)
}

/// A segment with these flags.
pub fn tcp(from: SocketAddr, to: SocketAddr, flags: TcpFlags) -> Result<Vec<u8>> {
    bytes(&Packet::new(from, to, Body::Tcp(Tcp::new(flags))))
}

/// A packet with this chunk.
pub fn sctp(from: SocketAddr, to: SocketAddr, chunk: Chunk) -> Result<Vec<u8>> {
    bytes(&Packet::new(from, to, Body::Sctp(chunk)))
}

/// An echo request or reply.
pub fn echo(from: IpAddr, to: IpAddr, is_reply: bool, id: u16) -> Result<Vec<u8>> {
    let echo = IcmpEchoHeader { id, seq: 1 };
    let mut packet = Vec::new();
    let payload = b"attack";
    let step = network(from, to)?;
    match (from.is_ipv4(), is_reply) {
        (true, false) => step
            .icmpv4(Icmpv4Type::EchoRequest(echo))
            .write(&mut packet, payload)?,
        (true, true) => step
            .icmpv4(Icmpv4Type::EchoReply(echo))
            .write(&mut packet, payload)?,
        (false, false) => step
            .icmpv6(Icmpv6Type::EchoRequest(echo))
            .write(&mut packet, payload)?,
        (false, true) => step
            .icmpv6(Icmpv6Type::EchoReply(echo))
            .write(&mut packet, payload)?,
    }
    Ok(packet)
}

/// "Port unreachable", said by this address about a datagram that went from `about.0` to `about.1`.
pub fn unreachable(from: IpAddr, about: (SocketAddr, SocketAddr)) -> Result<Vec<u8>> {
    let quoted = Packet::new(about.0, about.1, Body::Udp { has_checksum: true });
    let body = Body::Error(ErrorKind::PortUnreachable, Box::new(quoted));
    let place = |addr| SocketAddr::new(addr, 0);
    bytes(&Packet::new(place(from), place(about.0.ip()), body))
}

/// A part of a long datagram, which is known by a number.
pub fn fragment(
    from: SocketAddr,
    to: SocketAddr,
    which: Fragment,
    identification: u16,
) -> Result<Vec<u8>> {
    let (body, payload) = match which {
        Fragment::First => (Body::Udp { has_checksum: true }, FIRST),
        // Only its place in the datagram tells that this is no header of UDP.
        Fragment::Later => (Body::Other(17), 64),
    };
    let mut packet = Packet::new(from, to, body);
    packet.payload = payload;
    packet.network.fragment = Some(which);
    packet.network.identification = identification;
    bytes(&packet)
}

/// Whether a packet that arrived is this one: its hop limit is another, and IPv4's checksum.
pub fn is_same(seen: &[u8], sent: &[u8]) -> bool {
    let essence = |packet: &[u8]| -> Option<Vec<u8>> {
        let mut packet = packet.to_owned();
        let changing: &[usize] = match packet.first()? >> 4 {
            4 => &[8, 10, 11],
            _ => &[7],
        };
        for &place in changing {
            *packet.get_mut(place)? = 0;
        }
        Some(packet)
    };
    essence(seen) == essence(sent)
}

/// RFC 4861 section 4: messages of `ICMPv6` by which neighbours and routers find each other.
pub fn is_neighbour_discovery(packet: &[u8]) -> bool {
    let is_icmpv6 = packet.first().is_some_and(|byte| byte >> 4 == 6) && packet.get(6) == Some(&58);
    is_icmpv6
        && packet
            .get(40)
            .is_some_and(|kind| (133..=137).contains(kind))
}

/// The port that a packet is for, if its protocol begins with ports.
pub fn destination_port(packet: &[u8]) -> Option<u16> {
    let transport = match packet.first()? >> 4 {
        4 => usize::from(packet[0] & 0xf) * 4,
        _ => 40,
    };
    let port = packet.get(transport + 2..transport + 4)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}

/// For a failure's report.
pub fn describe(packet: &[u8]) -> String {
    let Some((from, to)) = ends(packet) else {
        return frame::hex(packet);
    };
    let shown = &packet[..packet.len().min(80)];
    format!("the packet from {from} to {to} ({})", frame::hex(shown))
}

fn bytes(packet: &Packet) -> Result<Vec<u8>> {
    let mut packet = packet.clone();
    // The kernel gives one to a sender that has none.
    packet.network.dont_fragment = false;
    Ok(frame::build(&packet)?.split_off(frame::ETHERNET))
}

fn network(from: IpAddr, to: IpAddr) -> Result<PacketBuilderStep<IpHeaders>> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = etherparse::Ipv4Header {
                time_to_live: HOPS,
                source: from.octets(),
                destination: to.octets(),
                // Any but zero, for which the kernel would choose one.
                identification: 0x4321,
                ..etherparse::Ipv4Header::default()
            };
            header.dont_fragment = false;
            Ok(PacketBuilder::ip(IpHeaders::Ipv4(
                header,
                etherparse::Ipv4Extensions::default(),
            )))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            Ok(PacketBuilder::ipv6(from.octets(), to.octets(), HOPS))
        }
        (from, to) => bail!("{from} and {to} are of two families"),
    }
}
