//! Who has which address, label and port: few of each, so that they collide.

use std::net::IpAddr;

/// Namespaces; not all of them are known in every world.
pub const NAMESPACES: [&str; 3] = ["shop", "bank", "zoo"];
/// Nodes.
pub const NODES: [&str; 2] = ["worker-0", "worker-1"];
/// The nodes' addresses, one of each family.
pub const NODE_ADDRESSES: [[&str; 2]; 2] = [
    ["10.240.0.11", "fd00:10:240::11"],
    ["10.240.0.12", "fd00:10:240::12"],
];
/// Addresses of pods, one of each family: the first three on the first node.
pub const POD_ADDRESSES: [[&str; 2]; 6] = [
    ["10.200.0.2", "fd00:10:200::2"],
    ["10.200.0.3", "fd00:10:200::3"],
    ["10.200.0.130", "fd00:10:200::82"],
    ["10.200.128.2", "fd00:10:200:80::2"],
    ["10.200.128.3", "fd00:10:200:80::3"],
    ["10.200.128.130", "fd00:10:200:80::82"],
];
/// Addresses of nobody in the cluster.
pub const OUTSIDE: [[&str; 2]; 3] = [
    ["203.0.113.7", "2001:db8::7"],
    ["203.0.113.200", "2001:db8::c8"],
    ["198.51.100.1", "2001:db8:1::1"],
];
/// Ranges with all sorts of overlaps: everything, half of everything, pods, nodes, one address.
pub const BLOCKS: [&str; 24] = [
    "0.0.0.0/0",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.200.0.0/16",
    "10.200.0.0/17",
    "10.200.0.0/24",
    "10.200.0.0/25",
    "10.200.0.2/31",
    "10.200.0.2/32",
    "10.200.128.0/17",
    "10.200.128.129/25",
    "10.240.0.0/24",
    "10.240.0.11/32",
    "203.0.113.0/24",
    "203.0.113.128/25",
    "203.0.113.7/32",
    "::/0",
    "fd00:10:200::/48",
    "fd00:10:200::/64",
    "fd00:10:200::2/127",
    "fd00:10:200:80::82/128",
    "fd00:10:240::/64",
    "2001:db8::/32",
    "2001:db8::/64",
];
/// Keys of labels.
pub const KEYS: [&str; 2] = ["app", "tier"];
/// Values of labels: the empty one is one.
pub const VALUES: [&str; 3] = ["x", "y", ""];
/// Numbers of ports.
pub const PORTS: [u16; 5] = [79, 80, 81, 8080, 65_535];
/// Names of ports.
pub const PORT_NAMES: [&str; 2] = ["web", "dns"];
/// Protocols without ports: ICMP, ICMPv6, GRE.
pub const OTHER_PROTOCOLS: [u8; 3] = [1, 58, 47];

/// An address of this file.
pub fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address of this file")
}
