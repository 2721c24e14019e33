//! What stands behind a packet's network header.

use super::TcpFlags;
use crate::addr::{Addr, Protocol};

/// Offset of the checksum in a TCP header (RFC 9293 section 3.1).
pub(crate) const TCP_CHECKSUM: u32 = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub(crate) const UDP_CHECKSUM: u32 = 6;

/// What stands behind the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with these flags.
    Tcp(TcpFlags),
    /// UDP.
    Udp,
    /// SCTP whose first chunk has this type.
    Sctp(u8),
    /// A fragment that is not the first: it carries no ports.
    LaterFragment,
    /// An ICMP or `ICMPv6` error of this type: it quotes the packet that it is about.
    IcmpError(u8),
    /// An ICMP or `ICMPv6` echo request.
    Echo,
    /// The answer to one.
    EchoReply,
    /// `ICMPv6` that makes a link work: neighbour and router discovery, and who listens to which
    /// groups.
    Discovery,
    /// Any other protocol.
    Other,
}

impl Transport {
    /// Offset of the checksum in the transport header, for protocols whose checksum covers the
    /// addresses.
    #[inline(always)]
    #[must_use]
    pub const fn checksum_offset(self) -> Option<u32> {
        match self {
            Self::Tcp(_) => Some(TCP_CHECKSUM),
            Self::Udp => Some(UDP_CHECKSUM),
            Self::Sctp(_)
            | Self::LaterFragment
            | Self::IcmpError(_)
            | Self::Echo
            | Self::EchoReply
            | Self::Discovery
            | Self::Other => None,
        }
    }

    /// Are there ports?
    #[inline(always)]
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Udp | Self::Sctp(_))
    }
}

/// A [`Transport`] as [`Headers`](super::Headers) hold it: two bytes, both always written.
///
/// Of the enum the compiler leaves the second byte as it is for the variants that have none, and
/// may read it back all the same. Before Linux 6.3 the verifier refuses programs that read what
/// was never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    number: u8,
    /// TCP's flags, SCTP's type of chunk, an ICMP error's type; else of no meaning.
    detail: u8,
}

impl Kind {
    pub(super) const TCP: u8 = Protocol::TCP.0;
    pub(super) const UDP: u8 = Protocol::UDP.0;
    pub(super) const SCTP: u8 = Protocol::SCTP.0;
    pub(super) const LATER_FRAGMENT: u8 = 44;
    pub(super) const ICMP_ERROR: u8 = Protocol::ICMP.0;
    pub(super) const ECHO: u8 = 8;
    pub(super) const ECHO_REPLY: u8 = 129;
    pub(super) const DISCOVERY: u8 = 58;
    pub(super) const OTHER: u8 = 0;

    #[inline(always)]
    pub(super) const fn new(number: u8, detail: u8) -> Self {
        Self { number, detail }
    }

    /// What it stands for.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> Transport {
        match self.number {
            Self::TCP => Transport::Tcp(TcpFlags(self.detail)),
            Self::UDP => Transport::Udp,
            Self::SCTP => Transport::Sctp(self.detail),
            Self::LATER_FRAGMENT => Transport::LaterFragment,
            Self::ICMP_ERROR => Transport::IcmpError(self.detail),
            Self::ECHO => Transport::Echo,
            Self::ECHO_REPLY => Transport::EchoReply,
            Self::DISCOVERY => Transport::Discovery,
            _ => Transport::Other,
        }
    }
}

impl From<Transport> for Kind {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp(flags) => Self::new(Self::TCP, flags.0),
            Transport::Udp => Self::new(Self::UDP, 0),
            Transport::Sctp(chunk) => Self::new(Self::SCTP, chunk),
            Transport::LaterFragment => Self::new(Self::LATER_FRAGMENT, 0),
            Transport::IcmpError(kind) => Self::new(Self::ICMP_ERROR, kind),
            Transport::Echo => Self::new(Self::ECHO, 0),
            Transport::EchoReply => Self::new(Self::ECHO_REPLY, 0),
            Transport::Discovery => Self::new(Self::DISCOVERY, 0),
            Transport::Other => Self::new(Self::OTHER, 0),
        }
    }
}

/// Does an ICMP message of this type quote the packet it is about?
///
/// Not a redirect: it is no error, but speaks of the destination as the router knows it. Nor a
/// source quench, which nobody heeds any more (RFC 6633).
#[inline(always)]
pub(super) const fn is_icmp_error(kind: u8, is_v4: bool) -> bool {
    if is_v4 {
        // Destination unreachable (fragmentation needed, too), time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    } else {
        // The same, and packet too big.
        matches!(kind, 1..=4)
    }
}

/// Is this a question that wants an answer (RFC 792, RFC 4443 section 4.1)?
#[inline(always)]
pub(crate) const fn is_echo_request(kind: u8, is_v4: bool) -> bool {
    if is_v4 { kind == 8 } else { kind == 128 }
}

/// Is this the answer to one (RFC 792, RFC 4443 section 4.2)?
#[inline(always)]
pub(crate) const fn is_echo_reply(kind: u8, is_v4: bool) -> bool {
    if is_v4 { kind == 0 } else { kind == 129 }
}

/// Does an `ICMPv6` message of this type make the link work, and come from this very link?
///
/// Discovery says so by a hop limit that no router leaves as it is (RFC 4861 section 6.1 and 7.1),
/// reports of listeners by a source that no router passes on (RFC 2710 section 3, RFC 3810
/// section 5.1.14).
#[inline(always)]
pub(super) const fn is_discovery(kind: u8, hop_limit: u8, src: Addr) -> bool {
    match kind {
        133..=136 => hop_limit == 255,
        130..=132 | 143 => src.is_link_local() || src.is_unspecified(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_comes_back_as_it_was() {
        let with_detail = (0..=u8::MAX).flat_map(|detail| {
            [
                Transport::Tcp(TcpFlags(detail)),
                Transport::Sctp(detail),
                Transport::IcmpError(detail),
            ]
        });
        let without = [
            Transport::Udp,
            Transport::LaterFragment,
            Transport::Echo,
            Transport::EchoReply,
            Transport::Discovery,
            Transport::Other,
        ];
        for transport in with_detail.chain(without) {
            assert_eq!(Kind::from(transport).get(), transport);
        }
    }
}
