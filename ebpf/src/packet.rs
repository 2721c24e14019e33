//! Bytes → [`Headers`].
//!
//! Parsing promises: no bytes make it panic; a truncated or contradictory packet is
//! [`NotParsed::Malformed`], never misread; what is not IP is told apart from what is broken.
//! What lies behind an encryption or an unknown header is left to others
//! ([`Transport::Other`]).

mod transport;
mod wire;

use bytemuck::{Pod, Zeroable};

use crate::{
    addr::{Addr, Port, Protocol},
    checksum::ChecksumKind,
    tables::{ConnectionKey, Tuple},
};

pub use transport::{Kind, Transport};
pub(crate) use transport::{TCP_CHECKSUM, UDP_CHECKSUM, is_echo_reply, is_echo_request};
pub(crate) use wire::IcmpHeader;
pub use wire::{Ipv4Header, Ipv6Header, SctpHeader, TcpFlags, TcpHeader, UdpHeader};

/// A packet that can be read.
///
/// Two implementations: the kernel's socket buffer, and bytes in memory.
pub trait Packet {
    /// Reads a value at an offset from the packet's first byte; `None` beyond its end.
    fn load<T: Pod>(&self, offset: u32) -> Option<T>;
    /// The same for what mostly lies near the packet's beginning, of at least two bytes: cheaper
    /// where it does.
    #[inline(always)]
    fn load_near<T: Pod>(&self, offset: u32) -> Option<T> {
        self.load(offset)
    }
    /// The same, but `None` also where it would not be cheap.
    #[inline(always)]
    fn peek<T: Pod>(&self, offset: u32) -> Option<T> {
        self.load(offset)
    }
    /// The packet's length in bytes, link-layer header included.
    fn len(&self) -> u32;
    /// The `EtherType` of the network header, in host byte order.
    fn ether_type(&self) -> u16;
    /// Where the network header begins: behind the link-layer header.
    fn network_offset(&self) -> u32;
    /// Bytes of payload in each of the segments that it is cut into when it leaves a device; zero: it
    /// is not cut.
    fn segment_payload(&self) -> u32 {
        0
    }
    /// Is it the business of the node's own IP layer: addressed to the node on this link, and with
    /// no VLAN tag?
    fn is_for_ip_layer(&self) -> bool {
        true
    }
    /// What the sockets of the pod's network namespace, which has this number, say of a TCP
    /// connection.
    fn opener(&self, netns: i32, connection: &ConnectionKey) -> Opener;
    /// Is there nothing at all?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which side opened a TCP connection of a pod, by what the pod's own sockets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// No socket there has this connection, or none can be asked.
    Unknown,
    /// The pod: it has the connection, and nobody listens at its port.
    Pod,
    /// The other side: the pod has the connection, and listens at its port.
    Peer,
}

/// A packet that can be changed, too.
pub trait PacketMut: Packet {
    /// Writes a value that no checksum of the network device covers in a way that changes: a
    /// field whose change another store cancels, or one outside any sum.
    fn store<T: Pod>(&mut self, offset: u32, value: &T) -> Option<()>;
    /// The same of a value that most likely lies near the packet's beginning: see
    /// [`Packet::load_near`].
    #[inline(always)]
    fn store_near<T: Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        match self.poke(offset, value) {
            Some(()) => Some(()),
            None => self.store(offset, value),
        }
    }
    /// The same, but `None` also where it would not be cheap: see [`Packet::peek`].
    #[inline(always)]
    fn poke<T: Pod>(&mut self, offset: u32, value: &T) -> Option<()> {
        self.store(offset, value)
    }
    /// Lets `change` read and alter a value in place that lies near the packet's beginning. `None`:
    /// it does not.
    #[inline(always)]
    fn edit<T: Pod, R>(&mut self, offset: u32, change: impl FnOnce(&Self, &mut T) -> R) -> Option<R>
    where
        Self: Sized,
    {
        let mut value = self.peek(offset)?;
        let result = change(self, &mut value);
        self.poke(offset, &value)?;
        Some(result)
    }
    /// Writes a field of the IPv6 header. The sum that a device took over the whole packet
    /// (`CHECKSUM_COMPLETE`) changes with it: no header checksum cancels it, as IPv4's does.
    fn store_v6<T: Pod>(&mut self, offset: u32, value: &T) -> Option<()>;
    /// Changes the IPv4 header's checksum at `offset` by a [`crate::checksum::difference`].
    fn adjust_header_checksum(&mut self, offset: u32, difference: u32) -> Option<()>;
    /// What stands in the transport checksum, so that to change it nobody need be asked. `None`: that is
    /// not known, or a device has taken a sum over the whole packet, which changes with it
    /// (`CHECKSUM_COMPLETE`).
    fn checksum_kind(&self) -> Option<ChecksumKind> {
        None
    }
    /// Changes the transport header's checksum at `offset`.
    fn adjust_transport_checksum(
        &mut self,
        offset: u32,
        difference: u32,
        cover: Cover,
        protocol: Protocol,
    ) -> Option<()>;
    /// What an SCTP packet's checksum changes by: [`crate::crc32c::difference`].
    fn sctp_difference(ports: u32, length: u32) -> u32 {
        crate::crc32c::difference(ports, length)
    }
    /// Cuts the packet `keep` bytes behind the beginning of its network header, then makes
    /// `room` before the network header (behind the link-layer header).
    fn reshape(&mut self, keep: u32, room: u32) -> Option<()>;
    /// Exchanges the link-layer source and destination.
    fn swap_link_addresses(&mut self) -> Option<()>;
}

/// What a change in a transport checksum comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// An address: part of the pseudo-header, which a partial checksum already contains.
    PseudoHeader,
    /// A field of the transport header itself.
    Transport,
}

/// The `EtherType` of IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// The `EtherType` of IPv6.
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Addresses, ports and protocol. An echo's identifier stands in the place of the port of
    /// whoever asked, as if it were one. Zero where there are none.
    pub tuple: Tuple,
    /// Offset of the network header.
    pub network: u32,
    /// Offset of the transport header.
    pub transport: u32,
    /// Offset of the first byte behind the network packet: link-layer padding may follow.
    pub end: u32,
    /// Of a fragment: which datagram, as in [`crate::tables::FragmentKey`]. Else of no meaning.
    pub identification: u32,
    /// Is it IPv4?
    pub is_v4: bool,
    /// Is it a part of a datagram?
    pub is_fragment: bool,
    /// What stands at `transport`; see [`Headers::kind`].
    pub kind: Kind,
}

impl Headers {
    /// Those of no packet.
    #[must_use]
    pub fn none() -> Self {
        Self {
            tuple: Tuple::zeroed(),
            network: 0,
            transport: 0,
            end: 0,
            identification: 0,
            is_v4: false,
            is_fragment: false,
            kind: Kind::new(Kind::OTHER, 0),
        }
    }

    /// What stands behind the network header.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> Transport {
        self.kind.get()
    }
}

/// Why there are no [`Headers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotParsed {
    /// Not IP: ARP, for example.
    NotIp,
    /// IP by its `EtherType`, but truncated or contradictory.
    Malformed,
}

/// Extension headers read at most. RFC 8200 section 4.1 recommends each once, which makes five
/// with the second destination options and without those of IPsec.
const EXTENSION_HEADERS: usize = 5;

/// Reads the headers of a packet.
///
/// # Errors
/// See [`NotParsed`].
#[cfg(not(target_arch = "bpf"))]
pub fn parse<P: Packet>(packet: &P) -> Result<Headers, NotParsed> {
    let mut headers = Headers::none();
    parse_into(packet, &mut headers).map(|()| headers)
}

/// Reads the headers of a packet into a place of the caller's. On failure what is there means
/// nothing.
///
/// # Errors
/// See [`NotParsed`].
#[inline(always)]
pub fn parse_into<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), NotParsed> {
    match parse_plain(packet, headers) {
        Some(()) => Ok(()),
        None => parse_any(packet, headers),
    }
}

/// The headers of nearly all packets: IPv4 without options, not in fragments, with UDP or TCP, and
/// with nothing wrong about it. `None`: it is another, or more must be read to tell.
///
/// Here a call would cost as much as what is done.
#[inline(always)]
pub fn parse_plain<P: Packet>(packet: &P, headers: &mut Headers) -> Option<()> {
    if packet.ether_type() != ETHER_TYPE_IPV4 {
        return None;
    }
    let network = packet.network_offset();
    let plain: PlainV4 = packet.peek(network)?;
    let total_length = u32::from(u16::from_be(plain.ip.total_length));
    if plain.ip.version_length != 0x45
        || u16::from_be(plain.ip.fragment) & 0x3fff != 0
        || total_length > packet.len().checked_sub(network)?
    {
        return None;
    }
    let protocol = Protocol(plain.ip.protocol);
    let (kind, length) = match protocol {
        Protocol::UDP => (Kind::new(Kind::UDP, 0), UdpHeader::LENGTH),
        Protocol::TCP => {
            let behind: TcpBehindPorts = packet.peek(network + size_of::<PlainV4>() as u32)?;
            let length = TcpHeader::length(behind.data_offset);
            if length < TcpHeader::LENGTH {
                return None;
            }
            (Kind::new(Kind::TCP, behind.flags.0), length)
        }
        _ => return None,
    };
    if total_length < Ipv4Header::LENGTH + length {
        return None;
    }
    headers.tuple.src = Addr::from_v4_word(plain.ip.src);
    headers.tuple.dst = Addr::from_v4_word(plain.ip.dst);
    headers.tuple.src_port = plain.src_port;
    headers.tuple.dst_port = plain.dst_port;
    headers.tuple.protocol = protocol;
    headers.tuple.is_beside = 0;
    headers.tuple.reserved = [0; 2];
    headers.network = network;
    headers.transport = network + 20;
    headers.end = network + total_length;
    headers.identification = plain.ip.identification.into();
    headers.is_v4 = true;
    headers.is_fragment = false;
    headers.kind = kind;
    Some(())
}

/// An IPv4 header without options, and the first eight bytes behind it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct PlainV4 {
    ip: Ipv4Header,
    src_port: Port,
    dst_port: Port,
    behind: u32,
}

/// What stands behind that in a TCP header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TcpBehindPorts {
    acknowledgement: u32,
    data_offset: u8,
    flags: TcpFlags,
    window: u16,
    checksum_and_urgent: [u16; 2],
}

/// [`parse_into`] for any packet.
///
/// # Errors
/// See [`NotParsed`].
// Not inlined: what it reads on the way needs stack only until it is done, and the verifier
// follows what comes after once, not for each kind of packet.
#[inline(never)]
pub fn parse_any<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), NotParsed> {
    match packet.ether_type() {
        ETHER_TYPE_IPV4 => parse_v4(packet, headers).ok_or(NotParsed::Malformed),
        ETHER_TYPE_IPV6 => parse_v6(packet, headers).ok_or(NotParsed::Malformed),
        _ => Err(NotParsed::NotIp),
    }
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, headers: &mut Headers) -> Option<()> {
    let network = packet.network_offset();
    let ip: Ipv4Header = packet.load_near(network)?;
    let header_length = u32::from(ip.version_length & 0x0f) * 4;
    if ip.version_length >> 4 != 4 || header_length < Ipv4Header::LENGTH {
        return None;
    }
    let available = packet.len().checked_sub(network)?;
    let total_length = match u32::from(u16::from_be(ip.total_length)) {
        0 if available > MAX_LENGTH => available,
        length => length,
    };
    if total_length < header_length || total_length > available {
        return None;
    }
    headers.tuple.src = Addr::from_v4_word(ip.src);
    headers.tuple.dst = Addr::from_v4_word(ip.dst);
    headers.network = network;
    headers.transport = network + header_length;
    headers.end = network + total_length;
    headers.identification = ip.identification.into();
    headers.is_v4 = true;
    // More fragments, or not the first.
    headers.is_fragment = u16::from_be(ip.fragment) & 0x3fff != 0;
    let is_later = is_later_v4(&ip);
    parse_transport(packet, headers, Protocol(ip.protocol), is_later, ip.ttl)
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, headers: &mut Headers) -> Option<()> {
    let network = packet.network_offset();
    let ip: Ipv6Header = packet.load_near(network)?;
    if u32::from_be(ip.version_class_flow) >> 28 != 6 {
        return None;
    }
    // It would be taken for the IPv4 packet with the same addresses. Linux drops it, too
    // (draft-itojun-v6ops-v4mapped-harmful).
    if ip.src.is_v4() | ip.dst.is_v4() {
        return None;
    }
    let available = packet.len().checked_sub(network)?;
    // Zero announces a jumbogram (RFC 2675), whose hop-by-hop option has the length.
    let total_length = match u32::from(u16::from_be(ip.payload_length)) {
        0 if ip.next_header == HOP_BY_HOP || available > MAX_LENGTH + 40 => available,
        length => length + 40,
    };
    if total_length > available {
        return None;
    }

    let chain = follow_extensions(packet, network + 40, ip.next_header)?;
    headers.tuple.src = ip.src;
    headers.tuple.dst = ip.dst;
    headers.network = network;
    headers.transport = chain.transport;
    headers.end = network + total_length;
    headers.identification = chain.identification;
    headers.is_v4 = false;
    headers.is_fragment = chain.is_fragment;
    let protocol = Protocol(chain.next);
    parse_transport(packet, headers, protocol, chain.is_later, ip.hop_limit)
}

/// Is this a fragment that is not the first?
#[inline(always)]
pub(crate) const fn is_later_v4(ip: &Ipv4Header) -> bool {
    u16::from_be(ip.fragment) & 0x1fff != 0
}

/// What the extension headers of an IPv6 packet lead to.
pub(crate) struct Chain {
    /// What stands behind them.
    pub next: u8,
    /// Where that is.
    pub transport: u32,
    /// Is this a fragment that is not the first?
    pub is_later: bool,
    is_fragment: bool,
    identification: u32,
}

/// Reads extension headers from the end of the IPv6 header on, the first of which it announces
/// as `next`. `None`: they are truncated, or stand where they must not.
#[inline(always)]
pub(crate) fn follow_extensions<P: Packet>(packet: &P, offset: u32, next: u8) -> Option<Chain> {
    let mut chain = Chain {
        next,
        transport: offset,
        is_later: false,
        is_fragment: false,
        identification: 0,
    };
    for position in 0..EXTENSION_HEADERS {
        if chain.is_later || !is_extension(chain.next) {
            break;
        }
        // RFC 8200 section 4.1: only directly behind the IPv6 header.
        if chain.next == HOP_BY_HOP && position != 0 {
            return None;
        }
        let header: ExtensionHeader = packet.load(chain.transport)?;
        let length = match chain.next {
            FRAGMENT => {
                let offset_and_more = u16::from_be(header.fragment_offset);
                chain.is_later = offset_and_more & 0xfff8 != 0;
                // Neither offset nor more: whole after all (RFC 6946).
                chain.is_fragment = offset_and_more & 0xfff9 != 0;
                chain.identification = header.identification;
                8
            }
            _ => (u32::from(header.length) + 1) * 8,
        };
        chain.next = header.next_header;
        chain.transport += length;
    }
    Some(chain)
}

/// What a length field of 16 bits can say. A frame before segmentation may be longer, and then
/// says zero.
const MAX_LENGTH: u32 = 0xffff;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
// Not the authentication header (RFC 4302), in neither family: what it protects must not be
// translated.
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// The beginning of any IPv6 extension header, none of which is shorter than eight bytes; offset,
/// flags and identification only in a fragment header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ExtensionHeader {
    next_header: u8,
    length: u8,
    fragment_offset: u16,
    identification: u32,
}

/// The rest, where the network header has been read.
#[inline(always)]
fn parse_transport<P: Packet>(
    packet: &P,
    headers: &mut Headers,
    protocol: Protocol,
    is_later_fragment: bool,
    hop_limit: u8,
) -> Option<()> {
    let (src_port, dst_port, kind, length) = match protocol {
        _ if is_later_fragment => (Port(0), Port(0), Kind::new(Kind::LATER_FRAGMENT, 0), 0),
        Protocol::TCP => {
            let tcp: TcpHeader = packet.load_near(headers.transport)?;
            let length = TcpHeader::length(tcp.data_offset);
            if length < TcpHeader::LENGTH {
                return None;
            }
            (
                tcp.src_port,
                tcp.dst_port,
                Kind::new(Kind::TCP, tcp.flags.0),
                length,
            )
        }
        Protocol::UDP => {
            let udp: UdpHeader = packet.load_near(headers.transport)?;
            (
                udp.src_port,
                udp.dst_port,
                Kind::new(Kind::UDP, 0),
                UdpHeader::LENGTH,
            )
        }
        Protocol::SCTP => {
            let sctp: SctpHeader = packet.load(headers.transport)?;
            (
                sctp.src_port,
                sctp.dst_port,
                Kind::new(Kind::SCTP, sctp.chunk),
                16,
            )
        }
        Protocol::ICMP | Protocol::ICMPV6 if (protocol == Protocol::ICMP) == headers.is_v4 => {
            // What padding of the link layer says is no message.
            let icmp: IcmpHeader = match packet.load(headers.transport) {
                Some(icmp) if headers.transport + IcmpHeader::LENGTH <= headers.end => icmp,
                _ => IcmpHeader::NONE,
            };
            let (kind, is_v4) = (icmp.kind, headers.is_v4);
            let number = if transport::is_icmp_error(kind, is_v4) {
                Kind::ICMP_ERROR
            } else if is_echo_request(kind, is_v4) {
                Kind::ECHO
            } else if is_echo_reply(kind, is_v4) {
                Kind::ECHO_REPLY
            } else if !is_v4 && transport::is_discovery(kind, hop_limit, headers.tuple.src) {
                Kind::DISCOVERY
            } else {
                Kind::OTHER
            };
            let (src_port, dst_port) = match number {
                Kind::ECHO => (icmp.identifier, Port(0)),
                Kind::ECHO_REPLY => (Port(0), icmp.identifier),
                _ => (Port(0), Port(0)),
            };
            (src_port, dst_port, Kind::new(number, kind), 0)
        }
        _ => (Port(0), Port(0), Kind::new(Kind::OTHER, 0), 0),
    };
    if headers.end.checked_sub(headers.transport)? < length {
        return None;
    }
    headers.tuple.src_port = src_port;
    headers.tuple.dst_port = dst_port;
    headers.tuple.protocol = protocol;
    headers.tuple.is_beside = 0;
    headers.tuple.reserved = [0; 2];
    headers.kind = kind;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::Buffer;

    /// Frames that are mostly plain, each with something else about it now and then.
    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let now_and_then = |usual: u8| prop_oneof![6 => Just(usual), 1 => any::<u8>()];
        let fields = (
            now_and_then(0x45),
            prop_oneof![4 => Just(Protocol::UDP.0), 4 => Just(Protocol::TCP.0), 1 => any::<u8>()],
            now_and_then(0),
            now_and_then(0x50),
            prop_oneof![4 => Just(None), 1 => any::<u16>().prop_map(Some)],
            proptest::collection::vec(any::<u8>(), 0..80),
        );
        fields.prop_map(
            |(version_length, protocol, fragment, data_offset, length, payload)| {
                let mut frame = vec![0; 14 + 20];
                frame.extend(payload);
                let whole = u16::try_from(frame.len() - 14).expect("a short frame");
                frame[12..14].copy_from_slice(&ETHER_TYPE_IPV4.to_be_bytes());
                frame[14] = version_length;
                frame[16..18].copy_from_slice(&length.unwrap_or(whole).to_be_bytes());
                frame[18..20].copy_from_slice(&[1, 2]);
                frame[20] = fragment;
                frame[23] = protocol;
                frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
                if let Some(byte) = frame.get_mut(34 + 12) {
                    *byte = data_offset;
                }
                frame
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn plain_packets_are_read_as_any_others(frame in any_frame()) {
            let buffer = Buffer::<128>::new(&frame).expect("a short frame");
            let (mut plain, mut whole) = (Headers::none(), Headers::none());
            if parse_plain(&buffer, &mut plain).is_some() {
                prop_assert_eq!(parse_any(&buffer, &mut whole), Ok(()));
                prop_assert_eq!(plain, whole);
            }
        }
    }

    #[test]
    fn a_plain_packet_is_taken_for_one() {
        let mut frame = vec![0; 14 + 20 + 20];
        frame[12..14].copy_from_slice(&ETHER_TYPE_IPV4.to_be_bytes());
        frame[14] = 0x45;
        frame[17] = 40;
        frame[34 + 12] = 0x50;
        for protocol in [Protocol::UDP, Protocol::TCP] {
            frame[23] = protocol.0;
            let buffer = Buffer::<64>::new(&frame).expect("a short frame");
            assert!(parse_plain(&buffer, &mut Headers::none()).is_some());
        }
    }
}
