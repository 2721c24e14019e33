//! Which address belongs to whom, once for tests and demonstration.
//!
//! Pods `10.200.0.0/16`, services `10.32.0.0/24`, nodes `10.240.0.0/24`, the outside world
//! `203.0.113.0/24`. The IPv6 twin of a pod's or node's address shows the same digits:
//! `10.200.128.1` is `fd00:10:200:128::1`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnetwork::{Ipv4Network, Ipv6Network};

/// The router between nodes and the outside world, at the nodes' side.
pub const FABRIC_V4: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
/// The router at the outside world's side.
pub const FABRIC_OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The host in the outside world.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The router at the outside world's side.
pub const FABRIC_OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The host in the outside world.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// What routed pods have as their router: nobody's address, answered by the node's end.
pub const ROUTED_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The node's end of every routed pod's veth.
pub const NODE_END_MAC: [u8; 6] = [0xee; 6];
/// The link-local address that belongs to [`NODE_END_MAC`] (RFC 4291 appendix A).
pub const ROUTED_GATEWAY_V6: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// The ports that a client may ask for. The kernel gives them to nobody else: a connection that was
/// closed lately would keep one from whoever asks for it.
pub const CLIENT_PORTS: RangeInclusive<u16> = 40_000..=43_999;
/// The kernel's default for `net.ipv4.ip_local_port_range`.
pub const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// Nodes of which the plan knows.
pub const MAX_NODES: usize = 2;

/// A node's name, addresses and pod ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// As in the Node object and in `nodeName` of endpoints.
    pub name: String,
    /// Its address on the fabric.
    pub v4: Ipv4Addr,
    /// Likewise.
    pub v6: Ipv6Addr,
    /// Addresses of its pods.
    pub pods_v4: Ipv4Network,
    /// Likewise.
    pub pods_v6: Ipv6Network,
}

impl NodePlan {
    /// The node `worker-<index>`.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`MAX_NODES`].
    #[must_use]
    pub fn new(index: usize) -> Self {
        let (number, third) = match index {
            0 => (11, 0),
            1 => (12, 128),
            _ => panic!("the address plan has {MAX_NODES} nodes, not node {index}"),
        };
        let v4 = Ipv4Addr::new(10, 240, 0, number);
        let pods = Ipv4Addr::new(10, 200, third, 0);
        Self {
            name: format!("worker-{index}"),
            v4,
            v6: twin(v4),
            pods_v4: Ipv4Network::new(pods, 17).expect("17 is a prefix length"),
            pods_v6: Ipv6Network::new(twin(pods), 64).expect("64 is a prefix length"),
        }
    }

    /// The node's own address among its pods, where it has one (bridged wiring): the range's last
    /// but one, so that its first is a pod's.
    #[must_use]
    pub fn gateway_v4(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pods_v4.broadcast()) - 1)
    }

    /// The IPv6 likewise.
    #[must_use]
    pub fn gateway_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.pods_v6.network()) | 0xffff_ffff_ffff_fffe)
    }

    /// The ranges of its pods.
    #[must_use]
    pub fn pod_ranges(&self) -> [(IpAddr, u8); 2] {
        let (v4, v6) = (self.pods_v4, self.pods_v6);
        [
            (v4.network().into(), v4.prefix()),
            (v6.network().into(), v6.prefix()),
        ]
    }

    /// The address a pod of this node has by its number.
    #[must_use]
    pub fn pod(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pods_v4.network()) + u32::from(number))
    }
}

/// The address of a host beside the nodes, by its number.
#[must_use]
pub const fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 240, 0, number)
}

/// The IPv6 address that reads like an IPv4 address of the plan.
#[must_use]
pub fn twin(addr: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = addr.octets().map(same_digits);
    Ipv6Addr::new(0xfd00, a, b, c, 0, 0, 0, d)
}

/// The IPv4 address of which this is the [`twin`].
#[must_use]
pub fn untwin(addr: Ipv6Addr) -> Option<Ipv4Addr> {
    let [_, a, b, c, _, _, _, d] = addr.segments();
    // As decimal digits; what is no twin shows when it is made again.
    let octet = |group: u16| format!("{group:x}").parse().ok();
    let v4 = Ipv4Addr::new(octet(a)?, octet(b)?, octet(c)?, octet(d)?);
    (twin(v4) == addr).then_some(v4)
}

/// Either family's addresses of a pod, node or host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// An address and its twin.
    #[must_use]
    pub fn twins(v4: Ipv4Addr) -> Self {
        Self { v4, v6: twin(v4) }
    }

    /// The address of a family.
    #[must_use]
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// The number that is written in hexadecimal as `octet` is in decimal.
fn same_digits(octet: u8) -> u16 {
    let octet = u16::from(octet);
    ((octet / 100) << 8) | ((octet / 10 % 10) << 4) | (octet % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_shows_the_same_digits() {
        assert_eq!(
            twin(Ipv4Addr::new(10, 200, 128, 1)).to_string(),
            "fd00:10:200:128::1"
        );
        assert_eq!(
            twin(Ipv4Addr::new(10, 240, 0, 11)).to_string(),
            "fd00:10:240::11"
        );
    }

    #[test]
    fn a_twin_leads_back_and_nothing_else_does() {
        for v4 in [[10, 200, 128, 1], [10, 240, 0, 255], [10, 0, 9, 99]] {
            let v4 = Ipv4Addr::from(v4);
            assert_eq!(untwin(twin(v4)), Some(v4));
        }
        for other in ["fd00:10:200:a::1", "fd00:10:256::1", "2001:10:200::1"] {
            assert_eq!(untwin(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_nodes_pods_are_in_its_ranges_and_its_gateway_is_none_of_them() {
        for index in 0..MAX_NODES {
            let node = NodePlan::new(index);
            let pod = node.pod(1);
            assert!(node.pods_v4.contains(pod));
            assert!(node.pods_v6.contains(twin(pod)));
            assert!(node.pods_v4.contains(node.gateway_v4()));
            assert!(node.pods_v6.contains(node.gateway_v6()));
            assert_ne!(pod, node.gateway_v4());
        }
    }

    #[test]
    fn the_routed_gateway_has_the_link_local_address_of_the_nodes_end() {
        let [a, b, c, d, e, f] = NODE_END_MAC;
        let expected = Ipv6Addr::new(
            0xfe80,
            0,
            0,
            0,
            u16::from_be_bytes([a ^ 2, b]),
            u16::from_be_bytes([c, 0xff]),
            u16::from_be_bytes([0xfe, d]),
            u16::from_be_bytes([e, f]),
        );
        assert_eq!(ROUTED_GATEWAY_V6, expected);
    }
}
