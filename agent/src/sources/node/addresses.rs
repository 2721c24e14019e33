//! Which of the node's addresses serve for what: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::links::Purpose;

/// An address as the kernel lists it. One that may not be used (yet), because another machine has
/// it or may have it, is not listed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub interface: u32,
    /// The address.
    pub addr: IpAddr,
    /// Is it meant for others beyond this link?
    pub is_global: bool,
    /// IPv4: another of its network comes before it. IPv6: it is a temporary one.
    pub is_secondary: bool,
    /// It is valid, but nothing new should use it.
    pub is_deprecated: bool,
}

/// An address inside a pod's network namespace: one that packets of the pod may come from, from
/// the moment on that it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The index of its interface there.
    pub interface: u32,
    /// The address.
    pub addr: IpAddr,
}

/// The loopback's index in each network namespace.
const LOOPBACK: u32 = 1;

/// The addresses that belong to one of a pod's interfaces: those of the end inside the pod,
/// where it is known which that is, else all but the loopback's.
#[must_use]
pub fn pod_addresses(addresses: &[PodAddress], peer: Option<u32>) -> BTreeSet<IpAddr> {
    addresses
        .iter()
        .filter(|address| match peer {
            Some(peer) => address.interface == peer,
            None => address.interface != LOOPBACK,
        })
        .map(|address| address.addr)
        .collect()
}

/// The addresses by which others reach the node, the best first.
///
/// Those of interfaces that lead to the network come before those of bridges, dummies and the
/// like, which a node has too; pods' interfaces and the loopback have none of them.
#[must_use]
pub fn node_addresses(
    addresses: &[Address],
    purposes: &BTreeMap<u32, Purpose>,
    is_loopback: impl Fn(u32) -> bool,
) -> Vec<IpAddr> {
    let mut found: Vec<(bool, &Address)> = addresses
        .iter()
        .filter(|address| address.is_global && !is_loopback(address.interface))
        .filter_map(|address| match purposes.get(&address.interface) {
            Some(Purpose::Network { .. }) => Some((false, address)),
            Some(Purpose::BridgePort { .. } | Purpose::None | Purpose::Unreadable(_)) => {
                Some((true, address))
            }
            // An interface that came after the list of interfaces will be in the next.
            Some(Purpose::Pod(_)) | None => None,
        })
        .collect();
    found.sort_by_key(|(is_aside, address)| {
        (
            *is_aside,
            address.is_deprecated,
            address.interface,
            address.is_secondary,
        )
    });
    found.into_iter().map(|(_, address)| address.addr).collect()
}

/// The address that flows get which are masqueraded as they leave by an interface, as the
/// kernel's own MASQUERADE chooses among the interface's addresses: its first global one that is
/// neither deprecated nor secondary, else the first that there is.
#[must_use]
pub fn leaving_addresses(
    addresses: &[Address],
    interface: u32,
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let mut candidates: Vec<&Address> = addresses
        .iter()
        .filter(|address| address.is_global && address.interface == interface)
        .collect();
    candidates.sort_by_key(|address| (address.is_deprecated, address.is_secondary));
    let candidates: Vec<IpAddr> = candidates.iter().map(|address| address.addr).collect();
    (first_v4(&candidates), first_v6(&candidates))
}

/// The first IPv4 address of several.
pub(super) fn first_v4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|addr| match addr {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

/// The first IPv6 address of several.
pub(super) fn first_v6(addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    addresses.iter().find_map(|addr| match addr {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(*v6),
    })
}

/// Every address at which the node itself answers.
#[must_use]
pub fn local_addresses(addresses: &[Address]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(interface: u32, addr: &str) -> Address {
        let addr: IpAddr = addr.parse().unwrap();
        Address {
            interface,
            addr,
            is_global: !addr.to_string().starts_with("fe80") && !addr.is_loopback(),
            is_secondary: false,
            is_deprecated: false,
        }
    }

    fn texts(addresses: &[IpAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_nodes_addresses_are_global_and_not_on_the_loopback_or_a_pods_interface() {
        let network = Purpose::Network {
            has_link_header: true,
        };
        let purposes = BTreeMap::from([(1, Purpose::None), (2, network), (3, Purpose::Pod(1))]);
        let addresses = [
            address(1, "127.0.0.1"),
            address(1, "203.0.113.9"),
            address(3, "10.240.0.1"),
            address(2, "10.240.0.12"),
            address(2, "10.240.0.11"),
            address(2, "fe80::1"),
            address(2, "fd00:10:240::11"),
        ];
        let found = node_addresses(&addresses, &purposes, |interface| interface == 1);
        assert_eq!(
            texts(&found),
            ["10.240.0.12", "10.240.0.11", "fd00:10:240::11"]
        );
    }

    #[test]
    fn addresses_of_interfaces_to_the_network_come_first() {
        let network = Purpose::Network {
            has_link_header: true,
        };
        let purposes = BTreeMap::from([(2, Purpose::None), (3, network.clone()), (4, network)]);
        let deprecated = Address {
            is_deprecated: true,
            ..address(3, "fd00:10:240::13")
        };
        let temporary = Address {
            is_secondary: true,
            ..address(4, "fd00:10:240::99")
        };
        let addresses = [
            address(2, "10.200.0.1"),
            deprecated,
            address(3, "10.240.0.11"),
            temporary,
            address(4, "fd00:10:240::11"),
        ];
        let found = node_addresses(&addresses, &purposes, |_| false);
        assert_eq!(
            texts(&found),
            [
                "10.240.0.11",
                "fd00:10:240::11",
                "fd00:10:240::99",
                "fd00:10:240::13",
                "10.200.0.1"
            ]
        );
    }

    #[test]
    fn masqueraded_flows_leave_with_the_interfaces_first_address() {
        let temporary = Address {
            is_secondary: true,
            ..address(2, "fd00:10:240::99")
        };
        let deprecated = Address {
            is_deprecated: true,
            ..address(2, "fd00:10:240::13")
        };
        let addresses = [
            address(3, "10.241.0.11"),
            address(2, "10.240.0.12"),
            address(2, "10.240.0.11"),
            deprecated,
            temporary,
            address(2, "fe80::1"),
            address(2, "fd00:10:240::11"),
        ];
        let v6 = |text: &str| Some(text.parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            leaving_addresses(&addresses, 2),
            (Some(Ipv4Addr::new(10, 240, 0, 12)), v6("fd00:10:240::11"))
        );
        assert_eq!(
            leaving_addresses(&addresses[..5], 2).1,
            v6("fd00:10:240::99")
        );
        assert_eq!(
            leaving_addresses(&addresses[..4], 2).1,
            v6("fd00:10:240::13")
        );
        assert_eq!(
            leaving_addresses(&addresses, 3),
            (Some(Ipv4Addr::new(10, 241, 0, 11)), None)
        );
        assert_eq!(leaving_addresses(&addresses, 4), (None, None));
    }
}
