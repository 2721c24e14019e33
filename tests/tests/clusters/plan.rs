//! Who has which address in random clusters: the bed's plan, few of each, so that they collide.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_tests::bed::plan::twin;
use weir_tests::reference::Client;

/// The node that is asked, and another.
pub const NODES: [&str; 2] = ["worker-0", "worker-1"];
/// Zones.
pub const ZONES: [&str; 2] = ["zone-a", "zone-b"];
/// Names of services.
pub const NAMES: [&str; 3] = ["web", "dns", "api"];
/// Protocols.
pub const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// Ports at the addresses of services: one no service has, and one that is a node port too.
pub const PORTS: [u16; 4] = [80, 81, NODE_PORTS[0], 82];
/// Node ports.
pub const NODE_PORTS: [u16; 2] = [30_080, 30_081];
/// Ports of endpoints.
pub const TARGETS: [u16; 2] = [8080, 8081];

/// Something that has an address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A pod of this node.
    Pod(u8),
    /// A pod of the other node.
    OtherPod(u8),
    /// This node.
    Node,
    /// A second address of this node.
    SecondNode,
    /// The other node.
    OtherNode,
    /// A host outside the cluster, or an address that is routed to the node from there.
    Outside(u8),
    /// Nobody: an address for services.
    Service(u8),
}

impl Host {
    /// Its address.
    pub fn addr(self, is_v6: bool) -> IpAddr {
        let v4 = match self {
            Self::Pod(host) => Ipv4Addr::new(10, 200, 0, host),
            Self::OtherPod(host) => Ipv4Addr::new(10, 200, 128, host),
            Self::Node => Ipv4Addr::new(10, 240, 0, 11),
            Self::SecondNode => Ipv4Addr::new(10, 240, 0, 21),
            Self::OtherNode => Ipv4Addr::new(10, 240, 0, 12),
            Self::Service(host) => Ipv4Addr::new(10, 32, 0, host),
            Self::Outside(host) if is_v6 => {
                let [.., digits] = twin(Ipv4Addr::new(0, 0, 0, host)).segments();
                return Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, digits).into();
            }
            Self::Outside(host) => Ipv4Addr::new(203, 0, 113, host),
        };
        if is_v6 { twin(v4).into() } else { v4.into() }
    }
}

/// Cluster IPs.
pub const SERVICES: [Host; 3] = [Host::Service(10), Host::Service(11), Host::Service(12)];
/// What services have as external and load balancer's addresses: one that is the node's own, and
/// one that may be another service's cluster IP.
pub const EXTERNALS: [Host; 4] = [
    Host::Outside(80),
    Host::Outside(81),
    Host::Node,
    Host::Service(12),
];
/// Whom slices name, with the node on which each is.
pub const ENDPOINTS: [(Host, Option<&str>); 7] = [
    (Host::Pod(2), Some(NODES[0])),
    (Host::Pod(3), Some(NODES[0])),
    (Host::OtherPod(2), Some(NODES[1])),
    (Host::OtherPod(3), Some(NODES[1])),
    (Host::Node, Some(NODES[0])),
    (Host::OtherNode, Some(NODES[1])),
    (Host::Outside(20), None),
];
/// Where packets are sent: wherever a service may be, and where none is.
pub const DESTINATIONS: [Host; 9] = [
    Host::Service(10),
    Host::Service(11),
    Host::Service(12),
    // Never a service's.
    Host::Service(13),
    Host::Outside(80),
    Host::Outside(81),
    Host::Node,
    Host::SecondNode,
    Host::OtherNode,
];

/// Who sends, in a family.
pub fn clients(is_v6: bool) -> [Client; 6] {
    let addr = |host: Host| host.addr(is_v6);
    [
        Client::Pod(addr(Host::Pod(9))),
        // May be a backend.
        Client::Pod(addr(Host::Pod(2))),
        Client::Node,
        Client::Outside(addr(Host::Outside(7))),
        Client::Outside(addr(Host::Outside(8))),
        Client::Outside(addr(Host::OtherPod(9))),
    ]
}

/// Does the node itself have this address?
pub fn is_node(addr: IpAddr) -> bool {
    [Host::Node, Host::SecondNode]
        .iter()
        .any(|host| host.addr(addr.is_ipv6()) == addr)
}

/// Is whoever has this address on this node?
pub fn is_here(addr: IpAddr) -> bool {
    is_node(addr) || is_local_pod(addr)
}

/// Has a pod of this node this address?
pub fn is_local_pod(addr: IpAddr) -> bool {
    [2, 3, 9]
        .iter()
        .any(|host| Host::Pod(*host).addr(addr.is_ipv6()) == addr)
}
