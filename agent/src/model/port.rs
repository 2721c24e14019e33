//! Ports and protocols as the API writes them.

use std::fmt;
use std::num::NonZeroU16;

/// A protocol that services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// From the API's name of it; nothing means TCP.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, String> {
        match text {
            None | Some("" | "TCP") => Ok(Self::Tcp),
            Some("UDP") => Ok(Self::Udp),
            Some("SCTP") => Ok(Self::Sctp),
            Some(other) => Err(format!("{other:?} is not TCP, UDP or SCTP")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port number from the API's wider integer.
pub(super) fn parse_number(number: i32) -> Result<NonZeroU16, String> {
    u16::try_from(number)
        .ok()
        .and_then(NonZeroU16::new)
        .ok_or_else(|| format!("{number} is not a port (1-65535)"))
}
