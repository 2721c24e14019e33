//! What stands behind a packet's network header.

use super::TcpFlags;
use crate::addr::Protocol;

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
            Self::Tcp(_) => Some(16),
            Self::Udp => Some(6),
            Self::Sctp(_) | Self::LaterFragment | Self::IcmpError(_) | Self::Echo | Self::Other => {
                None
            }
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
pub(super) const fn is_echo_request(kind: u8, is_v4: bool) -> bool {
    if is_v4 { kind == 8 } else { kind == 128 }
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
            Transport::Other,
        ];
        for transport in with_detail.chain(without) {
            assert_eq!(Kind::from(transport).get(), transport);
        }
    }
}
