//! A packet as a scenario means it: every field a value, apart from its bytes ([`super::frame`])
//! and its text ([`super::notation`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use weir_ebpf::packet::TcpFlags;

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source; port 0 where the protocol has none.
    pub src: SocketAddr,
    /// Destination, of the same family.
    pub dst: SocketAddr,
    /// What the network header carries.
    pub body: Body,
    /// Bytes behind the transport header.
    pub payload: u16,
    /// The network header.
    pub network: Network,
    /// What is wrong with the frame.
    pub damage: Damage,
    /// The link-layer addresses have changed places: an answer.
    pub is_answer: bool,
}

/// A transport header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// RFC 9293
    Tcp(Tcp),
    /// RFC 768
    Udp {
        /// The sender took no checksum.
        has_checksum: bool,
    },
    /// RFC 9260, with one chunk.
    Sctp(Chunk),
    /// An echo request or its reply, by ICMP or `ICMPv6`.
    Echo(Echo),
    /// Another message of ICMP or `ICMPv6`, by its type; of the latter one that has to do with
    /// neighbours, such as 135 (RFC 4861).
    Message(u8),
    /// "Port unreachable", by ICMP or `ICMPv6`, about a packet of which it quotes this.
    PortUnreachable(Vec<u8>),
    /// An ICMP or `ICMPv6` error about a packet of which it quotes the network header, and behind
    /// it the payload's number of bytes; the eight that RFC 792 asks for if that is zero.
    Error(ErrorKind, Box<Packet>),
    /// Anything else.
    Other(u8),
}

/// An echo request or its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Is it the reply?
    pub is_reply: bool,
    /// Which of its conversations the sender means.
    pub identifier: u16,
}

impl Echo {
    /// A request.
    pub const REQUEST: Self = Self {
        is_reply: false,
        identifier: 7,
    };
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody listens there.
    PortUnreachable,
    /// The packet is longer than the next link takes: its length.
    TooBig(u16),
    /// The packet has made too many hops.
    TimeExceeded,
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Flags.
    pub flags: TcpFlags,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Window.
    pub window: u16,
    /// Options, in 32-bit words.
    pub options: u8,
}

/// The type of an SCTP chunk (RFC 9260 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk(pub u8);

/// What is chosen in a network header apart from addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// IPv4: may not be fragmented.
    pub dont_fragment: bool,
    /// Identification; of IPv6 only that of a fragment.
    pub identification: u16,
    /// IPv4: options, in 32-bit words.
    pub options: u8,
    /// IPv6: flow label.
    pub flow_label: u32,
    /// IPv6: extension headers, in order; a fragment header comes last, by `fragment`.
    pub extensions: Vec<Extension>,
    /// Which fragment of a datagram it is, if it is one.
    pub fragment: Option<Fragment>,
}

/// An IPv6 extension header (RFC 8200 section 4, RFC 4302).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options.
    HopByHop,
    /// Destination options.
    Destination,
    /// Routing.
    Routing,
    /// Authentication.
    Authentication,
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Begins with the transport header.
    First,
    /// Does not.
    Later,
}

/// What a frame says or holds that it should not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The network header's length field (IPv4 total length, IPv6 payload length).
    pub length: Option<u16>,
    /// The IPv4 header's own length, in 32-bit words.
    pub header_words: Option<u8>,
    /// The TCP header's own length, in 32-bit words.
    pub data_offset: Option<u8>,
    /// The version in the network header.
    pub version: Option<u8>,
    /// Bytes behind the network packet. Not damage in itself: Ethernet pads short frames.
    pub padding: u16,
    /// Bytes that are left of the frame.
    pub cut: Option<u16>,
}

impl Packet {
    /// A packet with ordinary headers.
    #[must_use]
    pub fn new(src: SocketAddr, dst: SocketAddr, body: Body) -> Self {
        Self {
            src,
            dst,
            body,
            payload: 0,
            network: Network::default(),
            damage: Damage::default(),
            is_answer: false,
        }
    }

    /// The same packet with source and destination exchanged.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ..self.clone()
        }
    }

    /// The packet that a peer would answer with, in the ordinary course of the protocol.
    #[must_use]
    pub fn reply(&self) -> Self {
        let body = match &self.body {
            Body::Tcp(tcp) if tcp.flags.is_opening() => Body::Tcp(Tcp {
                acknowledgement: tcp.sequence.wrapping_add(1),
                ..Tcp::new(TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0))
            }),
            Body::Tcp(_) => Body::Tcp(Tcp::new(TcpFlags::ACK)),
            Body::Sctp(Chunk::INIT) => Body::Sctp(Chunk::INIT_ACK),
            Body::Sctp(Chunk::COOKIE_ECHO) => Body::Sctp(Chunk::COOKIE_ACK),
            Body::Sctp(_) => Body::Sctp(Chunk::DATA),
            Body::Echo(echo) => Body::Echo(Echo {
                is_reply: !echo.is_reply,
                ..*echo
            }),
            other @ (Body::Udp { .. }
            | Body::Message(_)
            | Body::PortUnreachable(_)
            | Body::Error(..)
            | Body::Other(_)) => other.clone(),
        };
        Self::new(self.dst, self.src, body)
    }

    /// Is it IPv4?
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// Does the transport header begin with ports?
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        matches!(self.body, Body::Tcp(_) | Body::Udp { .. } | Body::Sctp(_))
    }
}

impl Tcp {
    /// A header with these flags and ordinary numbers.
    #[must_use]
    pub fn new(flags: TcpFlags) -> Self {
        Self {
            flags,
            sequence: 1_000,
            acknowledgement: if flags.contains(TcpFlags::ACK) {
                5_000
            } else {
                0
            },
            window: 64_240,
            options: 0,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            ttl: 64,
            dont_fragment: false,
            identification: 0x1234,
            options: 0,
            flow_label: 0x6_789a,
            extensions: Vec::new(),
            fragment: None,
        }
    }
}

impl Chunk {
    /// User data.
    pub const DATA: Self = Self(0);
    /// Opens an association.
    pub const INIT: Self = Self(1);
    /// Answers `INIT`.
    pub const INIT_ACK: Self = Self(2);
    /// Answers `INIT ACK`.
    pub const COOKIE_ECHO: Self = Self(10);
    /// Answers `COOKIE ECHO`.
    pub const COOKIE_ACK: Self = Self(11);

    /// Every type with its name in the notation.
    pub const NAMES: [(Self, &'static str); 9] = [
        (Self::DATA, "data"),
        (Self::INIT, "init"),
        (Self::INIT_ACK, "init-ack"),
        (Self(6), "abort"),
        (Self(7), "shutdown"),
        (Self(8), "shutdown-ack"),
        (Self::COOKIE_ECHO, "cookie-echo"),
        (Self::COOKIE_ACK, "cookie-ack"),
        (Self(14), "shutdown-complete"),
    ];
}

/// The TCP flags with their names in the notation.
pub const FLAG_NAMES: [(u8, &str); 8] = [
    (0x02, "syn"),
    (0x01, "fin"),
    (0x04, "rst"),
    (0x10, "ack"),
    (0x08, "psh"),
    (0x20, "urg"),
    (0x40, "ece"),
    (0x80, "cwr"),
];

/// As in the notation, with what differs from an ordinary packet.
impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, kind) = match &self.body {
            Body::Tcp(tcp) => ("tcp".to_owned(), format!(" {}", flag_words(tcp.flags))),
            Body::Udp { .. } => ("udp".to_owned(), String::new()),
            Body::Sctp(chunk) => ("sctp".to_owned(), format!(" {chunk}")),
            Body::Echo(echo) => {
                let kind = if echo.is_reply { "reply" } else { "request" };
                let mut text = format!(" echo-{kind}");
                if echo.identifier != Echo::REQUEST.identifier {
                    text += &format!(", echo {}", echo.identifier);
                }
                ("icmp".to_owned(), text)
            }
            Body::Message(number) => ("icmp".to_owned(), format!(" type-{number}")),
            Body::PortUnreachable(quote) => (
                "icmp".to_owned(),
                format!(" port-unreachable, quoting {} bytes", quote.len()),
            ),
            Body::Error(kind, quote) => ("icmp".to_owned(), format!(" {kind:?} about ({quote})")),
            Body::Other(number) => (format!("protocol {number}"), String::new()),
        };
        let place = |place: SocketAddr| -> Box<dyn fmt::Display> {
            if self.has_ports() {
                Box::new(place)
            } else {
                Box::new(place.ip())
            }
        };
        write!(f, "{word} {} > {}{kind}", place(self.src), place(self.dst))?;
        if let Body::Tcp(tcp) = &self.body {
            write!(f, ", seq {}, acks {}", tcp.sequence, tcp.acknowledgement)?;
        }
        if self.payload != 0 {
            write!(f, ", len {}", self.payload)?;
        }
        Ok(())
    }
}

impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(chunk, _)| chunk == self) {
            Some((_, name)) => f.pad(name),
            None => write!(f, "chunk {}", self.0),
        }
    }
}

fn flag_words(flags: TcpFlags) -> String {
    FLAG_NAMES
        .iter()
        .filter(|(bit, _)| flags.0 & bit != 0)
        .map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join("+")
}

/// Do both addresses belong to one family?
#[must_use]
pub const fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
