//! Which flows someone asks for, as it is written on the command line.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnetwork::IpNetwork;
use weir_ebpf::{addr::Protocol, tables::FlowState};

/// A service: `NAMESPACE/NAME`, or `NAME` in the namespace `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReference {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// Was the namespace written?
    pub is_qualified: bool,
}

/// Addresses: one, or those of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses(IpNetwork);

/// Addresses, and perhaps one port of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    addresses: Addresses,
    port: Option<u16>,
}

/// What a flow must have to be shown. The default is met by every flow.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The client.
    pub from: Option<Addresses>,
    /// The service's address and port, or the backend's.
    pub to: Option<Destination>,
    /// The service.
    pub service: Option<ServiceReference>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// One of these states; none: all.
    pub states: Vec<FlowState>,
    /// Expired ones too?
    pub expired: bool,
}

impl Addresses {
    /// Is this one of them?
    #[must_use]
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.contains(address.to_canonical())
    }
}

impl Destination {
    /// Is this one of them?
    #[must_use]
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contain(address.ip()) && self.port.is_none_or(|port| port == address.port())
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = match text.parse::<IpNetwork>() {
            Ok(network) => network,
            Err(_) => return Err(format!("{text:?} is neither an address nor ADDRESS/LENGTH")),
        };
        // Tables hold an IPv4 address as an IPv4 address, however it is written.
        let mapped = match network {
            IpNetwork::V6(v6) if v6.prefix() >= 96 => v6.ip().to_ipv4_mapped(),
            IpNetwork::V4(_) | IpNetwork::V6(_) => None,
        };
        match mapped {
            Some(v4) => IpNetwork::new(v4.into(), network.prefix() - 96)
                .map(Self)
                .map_err(|error| error.to_string()),
            None => Ok(Self(network)),
        }
    }
}

/// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.1:80`, `10.0.0.0/8:80`, and likewise `fd00::1`, `fd00::/64`,
/// `[fd00::1]:80`, `[fd00::/64]:80`, `fd00::/64:80`.
impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (addresses, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, behind) = rest
                    .split_once(']')
                    .ok_or_else(|| format!("{text:?} has no ]"))?;
                // `[fd00::]/64:80`
                let (length, port) = match behind.rsplit_once(':') {
                    Some((length, port)) => (length, Some(port)),
                    None => (behind, None),
                };
                if !(length.is_empty() || length.starts_with('/')) {
                    return Err(format!("{text:?}: behind ] stands /LENGTH or :PORT"));
                }
                (format!("{inside}{length}"), port)
            }
            // Alone, an IPv6 address is full of colons, and none of them begins a port.
            None if text.parse::<Addresses>().is_ok() => (text.to_owned(), None),
            None => match text.rsplit_once(':') {
                Some((addresses, port)) => (addresses.to_owned(), Some(port)),
                None => (text.to_owned(), None),
            },
        };
        let port = match port {
            None => None,
            Some(port) => match port.parse() {
                Ok(port) => Some(port),
                Err(_) => return Err(format!("{port:?} is not a port")),
            },
        };
        Ok(Self {
            addresses: addresses.parse()?,
            port,
        })
    }
}

impl FromStr for ServiceReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(format!("{text:?} is not NAMESPACE/NAME"));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            is_qualified: text.contains('/'),
        })
    }
}

impl fmt::Display for ServiceReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::testing::socket;

    #[test]
    fn a_destination_is_an_address_a_prefix_and_perhaps_a_port() {
        for (text, inside, outside) in [
            ("10.0.0.1", "10.0.0.1:1", "10.0.0.2:1"),
            ("10.0.0.0/8", "10.9.9.9:1", "11.0.0.1:1"),
            ("10.0.0.7/8", "10.9.9.9:1", "11.0.0.1:1"),
            ("10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:81"),
            ("10.0.0.0/8:80", "10.1.0.1:80", "10.1.0.1:81"),
            ("fd00::1", "[fd00::1]:1", "[fd00::2]:1"),
            ("fd00::/64", "[fd00::9]:1", "[fd01::9]:1"),
            ("[fd00::1]:80", "[fd00::1]:80", "[fd00::1]:81"),
            ("[fd00::1]", "[fd00::1]:80", "[fd00::2]:80"),
            ("[fd00::/64]:80", "[fd00::9]:80", "[fd00::9]:81"),
            ("[fd00::]/64:80", "[fd00::9]:80", "[fd01::9]:80"),
            ("[fd00::]/64", "[fd00::9]:80", "[fd01::9]:80"),
            ("fd00::/64:80", "[fd00::9]:80", "[fd00::9]:81"),
            ("::ffff:10.0.0.0/104", "10.9.9.9:1", "11.0.0.1:1"),
            ("0.0.0.0/0", "10.9.9.9:1", "[fd00::9]:1"),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert!(destination.contains(socket(inside)), "{text}: {inside}");
            assert!(!destination.contains(socket(outside)), "{text}: {outside}");
        }
    }

    #[test]
    fn what_is_no_destination_says_why() {
        for (text, why) in [
            ("", "neither an address"),
            ("web", "neither an address"),
            ("10.0.0.1:http", "\"http\" is not a port"),
            ("10.0.0.1:65536", "is not a port"),
            ("10.0.0.1/33", "neither an address"),
            ("[fd00::1:80", "has no ]"),
            ("[fd00::1]80", "stands /LENGTH or :PORT"),
        ] {
            let error = text.parse::<Destination>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_service_without_a_namespace_is_in_default() {
        let parse = |text: &str| text.parse::<ServiceReference>().map(|it| it.to_string());
        assert_eq!(parse("web").as_deref(), Ok("default/web"));
        assert_eq!(parse("shop/web").as_deref(), Ok("shop/web"));
        for text in ["", "/web", "shop/", "a/b/c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
