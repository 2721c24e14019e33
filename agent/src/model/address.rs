//! Addresses as the API writes them.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of this address.
    #[must_use]
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// From the API's name of it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "IPv4" => Ok(Self::V4),
            "IPv6" => Ok(Self::V6),
            other => Err(format!("{other:?} is neither IPv4 nor IPv6")),
        }
    }

    /// The API's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// `4` or `6`
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An address that a service or an endpoint may have.
///
/// Refuses what the API server refuses for endpoints, since a manifest has met no API server: the
/// unspecified address, loopback, link-local and multicast. Translating to those would let the
/// author of a service reach what only the node itself should. An IPv4-mapped address is refused
/// because the tables hold IPv4 addresses in just that form.
pub(super) fn parse_unicast(text: &str) -> Result<IpAddr, String> {
    let addr = parse_any(text)?;
    let (unspecified, loopback, link_local, multicast) = match addr {
        IpAddr::V4(v4) => (
            v4.is_unspecified(),
            v4.is_loopback(),
            v4.is_link_local(),
            v4.is_multicast() || v4.is_broadcast(),
        ),
        IpAddr::V6(v6) => (
            v6.is_unspecified(),
            v6.is_loopback(),
            v6.is_unicast_link_local(),
            v6.is_multicast(),
        ),
    };
    for (refused, what) in [
        (unspecified, "the unspecified address"),
        (loopback, "a loopback address"),
        (link_local, "a link-local address"),
        (multicast, "a multicast or broadcast address"),
    ] {
        if refused {
            return Err(format!("{addr} is {what}"));
        }
    }
    Ok(addr)
}

/// Any address, in a form that says by itself to which family it belongs.
pub(super) fn parse_any(text: &str) -> Result<IpAddr, String> {
    match text.parse() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err(format!(
            "{text} is an IPv4-mapped address; write it as IPv4"
        )),
        Ok(addr) => Ok(addr),
        Err(_) => Err(format!("{text:?} is not an IP address")),
    }
}

/// A prefix as `ADDRESS/LENGTH`; what the address says beyond the length does not count.
///
/// # Errors
/// Says what it is not.
pub fn parse_network(text: &str) -> Result<IpNetwork, String> {
    let wrong = || format!("{text:?} is not ADDRESS/LENGTH");
    let (addr, length) = text.split_once('/').ok_or_else(wrong)?;
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let addr = parse_any(addr)?;
    let length = length.parse().map_err(|_| wrong())?;
    let network = IpNetwork::new(addr, length).map_err(|_| wrong())?;
    IpNetwork::new(network.network(), length).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_refused_by_name() {
        for (text, what) in [
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("ff02::1", "multicast"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
            ("010.0.0.1", "not an IP address"),
            ("", "not an IP address"),
        ] {
            let error = parse_unicast(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
        assert!(parse_unicast("10.32.0.140").is_ok());
        assert!(parse_unicast("fd00:10:32::8c").is_ok());
    }

    #[test]
    fn a_prefix_has_a_length_and_no_host() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:10:32::8c/112", "fd00:10:32::/112"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), expected);
        }
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "a/8",
            "fd00::/129",
            "::ffff:10.0.0.0/104",
            "",
        ] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }
}
