//! The text of packets in scenarios.
//!
//! ```text
//! PROTOCOL SOURCE > DESTINATION [KIND], SETTING, SETTING …
//!
//! tcp 10.200.0.2:40000 > 10.32.0.140:80 syn
//! tcp [fd00:10:200::2]:40000 > [fd00:10:32::8c]:80 fin+ack, len 10, ext hop-by-hop
//! udp 10.200.0.2:40000 > 10.32.0.10:53, zero-checksum
//! sctp 10.200.0.2:40000 > 10.32.0.140:80 init
//! icmp 10.200.0.2 > 10.32.0.140 echo-request
//! icmp 10.200.0.3 > 10.200.0.2 echo-reply, echo 4711
//! icmp fe80::2 > ff02::1:ff00:1 type-135, ttl 255, len 16
//! protocol 47 10.200.0.2 > 10.32.0.140
//! arp        ethertype 0x88cc
//! ```
//!
//! | setting | means |
//! |---|---|
//! | `len N` | bytes of payload |
//! | `seq N`, `acks N` | TCP's sequence and acknowledgement number |
//! | `echo N` | the identifier of an echo |
//! | `zero-checksum` | UDP without a checksum |
//! | `options N`, `tcp-options N` | words of options in the IPv4 or TCP header |
//! | `ext hop-by-hop`, `destination`, `routing`, `authentication` | an IPv6 extension header; repeats |
//! | `fragment first`, `fragment later` | part of a datagram |
//! | `id N` | identification: which datagram a fragment belongs to |
//! | `ttl N`, `df` | time to live or hop limit; don't fragment |
//! | `padded N` | N bytes behind the packet, as Ethernet pads short frames |
//! | `cut N` | only the first N bytes of the frame are left |
//! | `length N`, `header-words N`, `data-offset N`, `version N` | what the network header's length field, its own length, the TCP header's own length and the version falsely say |
//!
//! An error about an earlier packet is described by whom it comes from:
//! `error too-big 1400 from 10.240.0.1 about NAME`, `port-unreachable` or `time-exceeded`. It quotes
//! what became of that packet, the header and `len` bytes behind it; expected is
//! `error from ADDRESS about NAME`, quoting the packet as it was sent.
//!
//! In what is expected a port may be `*`: any of the node's ports for translated sources.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use weir_ebpf::packet::TcpFlags;

use super::packet::{self, Body, Chunk, Echo, Extension, FLAG_NAMES, Fragment, Packet, Tcp};

/// A packet's text, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notation {
    /// The text itself.
    pub text: String,
    /// Source.
    pub src: Place,
    /// Destination.
    pub dst: Place,
    /// The protocol, and what kind of packet of it.
    pub body: BodyText,
    /// The rest.
    pub settings: Settings,
}

/// An address and what is said of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: PortText,
}

/// What is said of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortText {
    /// Nothing: the protocol has none.
    None,
    /// This one.
    Number(u16),
    /// `*`
    Any,
}

/// What is said of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyText {
    /// `tcp`, with flags if they are said.
    Tcp(Option<TcpFlags>),
    /// `udp`
    Udp,
    /// `sctp`, with the first chunk if it is said.
    Sctp(Option<Chunk>),
    /// `icmp … echo-request`, `icmp … echo-reply`
    Echo {
        /// Which.
        is_reply: bool,
    },
    /// `icmp … type-N`
    Message(u8),
    /// `icmp … port-unreachable`
    PortUnreachable,
    /// `protocol N`
    Other(u8),
}

/// Everything behind the destination but the kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(Vec<Setting>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Len(u16),
    Sequence(u32),
    Acknowledges(u32),
    Echo(u16),
    ZeroChecksum,
    Options(u8),
    TcpOptions(u8),
    Extension(Extension),
    Fragment(Fragment),
    Identification(u16),
    Ttl(u8),
    DontFragment,
    Padded(u16),
    Cut(u16),
    Length(u16),
    HeaderWords(u8),
    DataOffset(u8),
    Version(u8),
}

impl Notation {
    /// Reads the text of a packet.
    ///
    /// # Errors
    /// Says what was expected at the place that cannot be understood.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).with_context(|| format!("in the packet {text:?}"))
    }

    fn read(text: &str) -> Result<Self> {
        let (protocol, rest) = word(text);
        let (number, rest) = match protocol {
            "protocol" => {
                let (number, rest) = word(rest);
                (Some(parse_number(number)?), rest)
            }
            _ => (None, rest),
        };
        let (src, rest) = word(rest);
        let (arrow, rest) = word(rest);
        ensure!(arrow == ">", "expected `>` behind the source {src:?}");
        let (dst, rest) = word(rest);
        let (kind, settings) = kind_and_settings(rest)?;
        let body = match (protocol, number) {
            ("tcp", _) => BodyText::Tcp(kind.map(parse_flags).transpose()?),
            ("udp", _) if kind.is_none() => BodyText::Udp,
            ("sctp", _) => BodyText::Sctp(kind.map(parse_chunk).transpose()?),
            ("icmp", _) => match kind {
                Some("echo-request") => BodyText::Echo { is_reply: false },
                Some("echo-reply") => BodyText::Echo { is_reply: true },
                Some("port-unreachable") => BodyText::PortUnreachable,
                Some(kind) if kind.starts_with("type-") => {
                    BodyText::Message(parse_number(&kind["type-".len()..])?)
                }
                _ => bail!("expected `echo-request`, `echo-reply`, `port-unreachable` or `type-N`"),
            },
            (_, Some(number)) if kind.is_none() => BodyText::Other(number),
            ("udp" | "protocol", _) => bail!("unknown setting {:?}", kind.unwrap_or_default()),
            _ => bail!("expected tcp, udp, sctp, icmp or protocol, not {protocol:?}"),
        };
        let has_ports = matches!(body, BodyText::Tcp(_) | BodyText::Udp | BodyText::Sctp(_));
        let src = Place::parse(src, has_ports)?;
        let dst = Place::parse(dst, has_ports)?;
        ensure!(
            packet::same_family(src.addr, dst.addr),
            "source and destination are of two families"
        );
        Ok(Self {
            text: text.to_owned(),
            src,
            dst,
            body,
            settings,
        })
    }

    /// The packet that the text describes.
    ///
    /// # Errors
    /// The text leaves something open.
    pub fn to_packet(&self) -> Result<Packet> {
        let body = match self.body {
            BodyText::Tcp(flags) => Body::Tcp(Tcp::new(flags.context("TCP needs its flags")?)),
            BodyText::Udp => Body::Udp { has_checksum: true },
            BodyText::Sctp(chunk) => Body::Sctp(chunk.context("SCTP needs its first chunk")?),
            BodyText::Echo { is_reply } => Body::Echo(Echo {
                is_reply,
                ..Echo::REQUEST
            }),
            BodyText::Message(number) => Body::Message(number),
            BodyText::PortUnreachable => bail!("an ICMP error cannot be sent: it quotes a packet"),
            BodyText::Other(number) => Body::Other(number),
        };
        let mut packet = Packet::new(self.src.exact()?, self.dst.exact()?, body);
        self.settings.apply_to(&mut packet)?;
        Ok(packet)
    }
}

impl Place {
    fn parse(text: &str, has_port: bool) -> Result<Self> {
        if !has_port {
            let addr = text
                .parse()
                .with_context(|| format!("{text:?} is not an address without a port"))?;
            return Ok(Self {
                addr,
                port: PortText::None,
            });
        }
        let expected = || format!("{text:?} is not `ADDRESS:PORT`, `[V6-ADDRESS]:PORT`");
        let (addr, port) = text.rsplit_once(':').with_context(expected)?;
        let port = match port {
            "*" => PortText::Any,
            number => PortText::Number(number.parse().with_context(expected)?),
        };
        let bare = addr
            .strip_prefix('[')
            .and_then(|addr| addr.strip_suffix(']'));
        let addr: IpAddr = bare.unwrap_or(addr).parse().with_context(expected)?;
        ensure!(addr.is_ipv6() == bare.is_some(), expected());
        Ok(Self { addr, port })
    }

    fn exact(self) -> Result<SocketAddr> {
        let port = match self.port {
            PortText::None => 0,
            PortText::Number(number) => number,
            PortText::Any => bail!("`*` is only for what is expected"),
        };
        Ok(SocketAddr::new(self.addr, port))
    }
}

impl Settings {
    /// Gives a packet these settings.
    ///
    /// # Errors
    /// A setting does not fit the packet's protocol or family.
    pub fn apply_to(&self, packet: &mut Packet) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|setting| setting.apply_to(packet))
    }
}

impl Setting {
    fn apply_to(self, packet: &mut Packet) -> Result<()> {
        let is_v4 = packet.is_v4();
        let (network, damage) = (&mut packet.network, &mut packet.damage);
        match (self, &mut packet.body) {
            (Self::Len(bytes), _) => packet.payload = bytes,
            (Self::Sequence(number), Body::Tcp(tcp)) => tcp.sequence = number,
            (Self::Acknowledges(number), Body::Tcp(tcp)) => tcp.acknowledgement = number,
            (Self::Echo(identifier), Body::Echo(echo)) => echo.identifier = identifier,
            (Self::TcpOptions(words), Body::Tcp(tcp)) => tcp.options = words,
            (Self::DataOffset(words), Body::Tcp(_)) => damage.data_offset = Some(words),
            (Self::ZeroChecksum, Body::Udp { has_checksum }) => *has_checksum = false,
            (Self::Options(words), _) if is_v4 => network.options = words,
            (Self::DontFragment, _) if is_v4 => network.dont_fragment = true,
            (Self::HeaderWords(words), _) if is_v4 => damage.header_words = Some(words),
            (Self::Extension(extension), _) if !is_v4 => network.extensions.push(extension),
            (Self::Fragment(fragment), _) => network.fragment = Some(fragment),
            (Self::Identification(number), _) => network.identification = number,
            (Self::Ttl(hops), _) => network.ttl = hops,
            (Self::Padded(bytes), _) => damage.padding = bytes,
            (Self::Cut(bytes), _) => damage.cut = Some(bytes),
            (Self::Length(bytes), _) => damage.length = Some(bytes),
            (Self::Version(version), _) => damage.version = Some(version),
            (
                setting @ (Self::Sequence(_)
                | Self::Acknowledges(_)
                | Self::TcpOptions(_)
                | Self::DataOffset(_)
                | Self::Echo(_)
                | Self::ZeroChecksum
                | Self::Options(_)
                | Self::DontFragment
                | Self::HeaderWords(_)
                | Self::Extension(_)),
                _,
            ) => bail!("{setting:?} does not fit {packet}"),
        }
        Ok(())
    }

    /// `None`: the text is no setting.
    fn parse(text: &str) -> Result<Option<Self>> {
        let (name, value) = word(text);
        Ok(Some(match name {
            "len" => Self::Len(parse_number(value)?),
            "seq" => Self::Sequence(parse_number(value)?),
            "acks" => Self::Acknowledges(parse_number(value)?),
            "echo" => Self::Echo(parse_number(value)?),
            "zero-checksum" => Self::ZeroChecksum,
            "options" => Self::Options(parse_number(value)?),
            "tcp-options" => Self::TcpOptions(parse_number(value)?),
            "ext" => Self::Extension(match value {
                "hop-by-hop" => Extension::HopByHop,
                "destination" => Extension::Destination,
                "routing" => Extension::Routing,
                "authentication" => Extension::Authentication,
                _ => bail!("unknown extension header {value:?}"),
            }),
            "fragment" => Self::Fragment(match value {
                "first" => Fragment::First,
                "later" => Fragment::Later,
                _ => bail!("expected `fragment first` or `fragment later`"),
            }),
            "id" => Self::Identification(parse_number(value)?),
            "ttl" => Self::Ttl(parse_number(value)?),
            "df" => Self::DontFragment,
            "padded" => Self::Padded(parse_number(value)?),
            "cut" => Self::Cut(parse_number(value)?),
            "length" => Self::Length(parse_number(value)?),
            "header-words" => Self::HeaderWords(parse_number(value)?),
            "data-offset" => Self::DataOffset(parse_number(value)?),
            "version" => Self::Version(parse_number(value)?),
            _ => return Ok(None),
        }))
    }
}

/// Reads what follows the destination: a kind, if the first part is no setting, and settings.
///
/// # Errors
/// A part is neither.
pub fn kind_and_settings(text: &str) -> Result<(Option<&str>, Settings)> {
    let mut kind = None;
    let mut settings = Vec::new();
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    for (index, part) in parts.enumerate() {
        match Setting::parse(part)? {
            Some(setting) => settings.push(setting),
            None if index == 0 => kind = Some(part),
            None => bail!("unknown setting {part:?}"),
        }
    }
    Ok((kind, Settings(settings)))
}

/// Reads `syn+ack`.
///
/// # Errors
/// Names the word that is no flag.
pub fn parse_flags(text: &str) -> Result<TcpFlags> {
    let mut flags = 0;
    for word in text.split('+') {
        let (bit, _) = FLAG_NAMES
            .iter()
            .find(|(_, name)| *name == word)
            .with_context(|| format!("{word:?} is no TCP flag"))?;
        flags |= bit;
    }
    Ok(TcpFlags(flags))
}

/// Reads `init-ack`.
///
/// # Errors
/// Names the word that is no chunk.
pub fn parse_chunk(text: &str) -> Result<Chunk> {
    Chunk::NAMES
        .iter()
        .find(|(_, name)| *name == text)
        .map(|(chunk, _)| *chunk)
        .with_context(|| format!("{text:?} is no SCTP chunk"))
}

/// The first word and what follows it.
#[must_use]
pub fn word(text: &str) -> (&str, &str) {
    let text = text.trim();
    let (first, rest) = text
        .find(|c: char| c.is_whitespace() || c == ',')
        .map_or((text, ""), |end| text.split_at(end));
    (first, rest.trim())
}

/// A number, decimal or `0x…`.
///
/// # Errors
/// It is none, or too large.
pub fn parse_number<T: TryFrom<u32>>(text: &str) -> Result<T> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number
        .ok()
        .and_then(|number| T::try_from(number).ok())
        .with_context(|| format!("{text:?} is not a number in range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_written_as_it_is_read() {
        for text in [
            "tcp 10.200.0.2:40000 > 10.32.0.140:80 syn, seq 1000, acks 0",
            "tcp [fd00:10:200::2]:40000 > [fd00:10:32::8c]:80 rst+ack, seq 0, acks 7, len 3",
            "udp 10.200.0.2:40000 > 10.32.0.10:53, len 12",
            "sctp 10.200.0.2:40000 > 10.32.0.140:80 cookie-echo",
            "icmp fd00:10:200::2 > fd00:10:32::8c echo-request",
            "icmp 10.200.0.3 > 10.200.0.2 echo-reply, echo 4711, len 8",
            "icmp fe80::2 > ff02::1:ff00:1 type-135, len 16",
            "protocol 47 10.200.0.2 > 10.32.0.140",
        ] {
            let packet = Notation::parse(text).unwrap().to_packet().unwrap();
            assert_eq!(packet.to_string(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, complaint) in [
            ("tpc 10.200.0.2:1 > 10.32.0.140:80 syn", "expected tcp, udp"),
            (
                "tcp 10.200.0.2:1 > 10.32.0.140:80 sin",
                "\"sin\" is no TCP flag",
            ),
            ("tcp 10.200.0.2:1 > 10.32.0.140:80", "TCP needs its flags"),
            ("tcp 10.200.0.2 > 10.32.0.140:80 syn", "ADDRESS:PORT"),
            ("tcp fd00::1:80 > [fd00::2]:80 syn", "ADDRESS:PORT"),
            ("tcp 10.200.0.2:1 > [fd00::2]:80 syn", "two families"),
            ("tcp 10.200.0.2:1 10.32.0.140:80 syn", "expected `>`"),
            (
                "tcp 10.200.0.2:* > 10.32.0.140:80 syn",
                "only for what is expected",
            ),
            (
                "udp 10.200.0.2:1 > 10.32.0.140:80, ln 3",
                "unknown setting \"ln 3\"",
            ),
            (
                "udp 10.200.0.2:1 > 10.32.0.140:80, len 70000",
                "not a number in range",
            ),
            ("udp 10.200.0.2:1 > 10.32.0.140:80, seq 3", "does not fit"),
            (
                "udp 10.200.0.2:1 > 10.32.0.140:80, ext routing",
                "does not fit",
            ),
        ] {
            let error = Notation::parse(text)
                .and_then(|notation| notation.to_packet())
                .unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
