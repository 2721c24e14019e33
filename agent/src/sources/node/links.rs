//! What each interface of the node is for: pure.
//!
//! Every interface is a pod's, leads to the network, or carries no program. The packet programs
//! of the network stand at every interface that the node's IP layer sends to or receives from,
//! and that is no pod's:
//!
//! | interface | programs |
//! |---|---|
//! | its peer stands in a pod's network namespace | a pod's |
//! | a device, a veth whose peer is no pod's, a bond or team, a VLAN and its parent, macvlan, ipvlan | the network's |
//! | a bridge | the network's, unless all its ports are pods': then packets are judged at these |
//! | an overlay or tunnel: VXLAN, Geneve, tun, WireGuard, IPIP, GRE, SIT … | the network's, of the kind for interfaces without Ethernet headers where it has none |
//! | a port of a bridge that pods hang on, too | the one for frames that leave: pods may send them there straight, past the IP layer |
//! | a port of another bridge, of a bond, team or other device | none: the IP layer sees that device only |
//! | a VRF | none: its ports have them |
//! | the loopback, dummy, ifb and the like | none: they carry nothing to or from the network |
//! | macvtap, ipvtap | none: what they carry is for whoever opened them, not for the node |
//! | a kind of link that the programs cannot read (InfiniBand, CAN …) | none, and the log says so |
//!
//! An interface that is down has its programs too, so that none is missing when it comes up, and
//! so has a bridge without ports, for the port that it may get. (When that is a pod's, they go:
//! until then no packet can pass there.)

use std::collections::{BTreeMap, BTreeSet};

/// An interface as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its driver's kind (`IFLA_INFO_KIND`), as in `ip link add type`; empty for hardware.
    pub kind: String,
    /// What its packets begin with.
    pub header: LinkHeader,
    /// Is it the loopback?
    pub is_loopback: bool,
    /// The index of the device that it is a port of.
    pub master: Option<u32>,
    /// Does anything decide when packets leave by it, in what order and how many: has it a queueing
    /// discipline (`IFLA_QDISC`)?
    pub has_queue: bool,
    /// The index of its peer, in the peer's network namespace (`IFLA_LINK`).
    pub peer: Option<u32>,
    /// The network namespace of its peer, where that is another one (`IFLA_LINK_NETNSID`).
    pub peer_namespace: Option<i32>,
}

/// What the packets of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkHeader {
    /// An Ethernet header.
    Ethernet,
    /// The IP header.
    None,
    /// Something that our programs cannot read; the kernel's number for it (`ARPHRD_…`).
    Other(u16),
}

/// Modems (`linux/if_arp.h`).
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_IP6GRE: u16 = 823;

impl LinkHeader {
    /// From the link type that the kernel lists, of `linux/if_arp.h`.
    #[must_use]
    pub fn from_link_type(number: u16) -> Self {
        match number {
            libc::ARPHRD_ETHER => Self::Ethernet,
            // tun, WireGuard, GTP, xfrm; modems; IPIP and VTI; IP6IP6; SIT; GRE over both; PPP,
            // whose own header is put on and taken off inside the device.
            libc::ARPHRD_NONE
            | ARPHRD_RAWIP
            | libc::ARPHRD_TUNNEL
            | libc::ARPHRD_TUNNEL6
            | libc::ARPHRD_SIT
            | libc::ARPHRD_IPGRE
            | ARPHRD_IP6GRE
            | libc::ARPHRD_PPP => Self::None,
            other => Self::Other(other),
        }
    }
}

/// The files of pods' network namespaces, by the numbers with which links name these. Most often
/// there is one, but anybody may bind another to look into a pod.
pub type Namespaces = BTreeMap<i32, BTreeSet<String>>;

/// What an interface is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It leads to the pod with the network namespace of this number.
    Pod(i32),
    /// It leads to the network.
    Network {
        /// Do its packets begin with an Ethernet header?
        has_link_header: bool,
    },
    /// It hangs on one bridge with pods.
    BridgePort {
        /// The bridge's index.
        bridge: u32,
    },
    /// It would lead to the network, but its packets begin with something that our programs
    /// cannot read: the kernel's number for it.
    Unreadable(u16),
    /// No packet of the node's IP layer is to be judged there.
    None,
}

/// Interfaces to which nothing is sent that anyone would receive, and from which nothing comes
/// that did not come from another one.
const CARRY_NOTHING: &[&str] = &["dummy", "ifb", "nlmon", "vsockmon", "can", "vcan", "vxcan"];

/// Interfaces whose packets are a virtual machine's, and do not meet the node's IP layer.
const CARRY_OTHERS: &[&str] = &["macvtap", "ipvtap"];

/// What each interface is for.
#[must_use]
pub fn purposes(links: &[Link], namespaces: &Namespaces) -> BTreeMap<u32, Purpose> {
    links
        .iter()
        .map(|link| (link.index, purpose(link, links, namespaces)))
        .collect()
}

fn purpose(link: &Link, links: &[Link], namespaces: &Namespaces) -> Purpose {
    if let Some(number) = pod_namespace(link, namespaces) {
        return Purpose::Pod(number);
    }
    if let Some(bridge) = bridge_with_pods(link, links, namespaces) {
        return Purpose::BridgePort { bridge };
    }
    // The ports of a VRF keep their own IP configuration: it is but a routing table.
    let is_port = link
        .master
        .is_some_and(|master| !is_of_kind(master, "vrf", links));
    if link.is_loopback
        || is_port
        || link.kind == "vrf"
        || carries_nothing(link)
        || CARRY_OTHERS.contains(&link.kind.as_str())
        || is_pods_bridge(link, links, namespaces)
    {
        return Purpose::None;
    }
    match link.header {
        LinkHeader::Ethernet => Purpose::Network {
            has_link_header: true,
        },
        LinkHeader::None => Purpose::Network {
            has_link_header: false,
        },
        LinkHeader::Other(number) => Purpose::Unreadable(number),
    }
}

fn pod_namespace(link: &Link, namespaces: &Namespaces) -> Option<i32> {
    link.peer_namespace
        .filter(|number| namespaces.contains_key(number))
}

fn is_of_kind(index: u32, kind: &str, links: &[Link]) -> bool {
    links
        .iter()
        .any(|link| link.index == index && link.kind == kind)
}

fn carries_nothing(link: &Link) -> bool {
    CARRY_NOTHING.contains(&link.kind.as_str())
}

/// The bridge that a link carries frames of, and of whose ports another one is a pod's.
fn bridge_with_pods(link: &Link, links: &[Link], namespaces: &Namespaces) -> Option<u32> {
    let bridge = link.master?;
    let has_pod = || {
        links
            .iter()
            .any(|port| port.master == Some(bridge) && pod_namespace(port, namespaces).is_some())
    };
    let carries_frames = link.header == LinkHeader::Ethernet && !carries_nothing(link);
    (carries_frames && is_of_kind(bridge, "bridge", links) && has_pod()).then_some(bridge)
}

/// A bridge of whose ports at least one is a pod's, and none anything else that carries packets.
/// (A dummy is a common way to keep a bridge up, or its address the same.)
fn is_pods_bridge(link: &Link, links: &[Link], namespaces: &Namespaces) -> bool {
    if link.kind != "bridge" {
        return false;
    }
    let mut ports = links
        .iter()
        .filter(|port| port.master == Some(link.index) && !carries_nothing(port))
        .peekable();
    ports.peek().is_some() && ports.all(|port| pod_namespace(port, namespaces).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            header: LinkHeader::Ethernet,
            is_loopback: false,
            master: None,
            has_queue: false,
            peer: None,
            peer_namespace: None,
        }
    }

    /// The number of the only pod's namespace.
    const POD: i32 = 1;

    fn to_pod(index: u32) -> Link {
        Link {
            peer_namespace: Some(POD),
            ..link(index, &format!("veth{index}"), "veth")
        }
    }

    fn port(port: Link, master: u32) -> Link {
        Link {
            master: Some(master),
            ..port
        }
    }

    fn found(links: &[Link]) -> Vec<Purpose> {
        let namespace = |number, name: &str| (number, BTreeSet::from([name.to_owned()]));
        let namespaces = BTreeMap::from([namespace(POD, "cni-a"), namespace(7, "cni-z")]);
        let found = purposes(links, &namespaces);
        links
            .iter()
            .map(|link| found[&link.index].clone())
            .collect()
    }

    const NETWORK: Purpose = Purpose::Network {
        has_link_header: true,
    };
    const NETWORK_L3: Purpose = Purpose::Network {
        has_link_header: false,
    };

    const fn pod() -> Purpose {
        Purpose::Pod(POD)
    }

    #[test]
    fn an_interface_is_a_pods_when_its_peer_stands_in_a_pods_namespace() {
        let elsewhere = Link {
            peer_namespace: Some(0),
            ..link(2, "eth0", "veth")
        };
        let links = [elsewhere, to_pod(3), link(5, "veth-local", "veth")];
        assert_eq!(found(&links), [NETWORK, pod(), NETWORK]);
    }

    #[test]
    fn what_carries_nothing_has_no_program() {
        let loopback = Link {
            is_loopback: true,
            header: LinkHeader::from_link_type(libc::ARPHRD_LOOPBACK),
            ..link(1, "lo", "")
        };
        let can = Link {
            header: LinkHeader::from_link_type(libc::ARPHRD_CAN),
            ..link(4, "vcan0", "vcan")
        };
        let links = [
            loopback,
            link(2, "nodelocaldns", "dummy"),
            link(3, "ifb0", "ifb"),
            link(5, "macvtap0", "macvtap"),
            can,
        ];
        assert!(found(&links).iter().all(|found| *found == Purpose::None));
    }

    #[test]
    fn each_kind_of_device_leads_to_the_network() {
        for kind in [
            "",
            "veth",
            "vlan",
            "vxlan",
            "geneve",
            "macvlan",
            "ipvlan",
            "bond",
            "team",
            "gretap",
            "bridge",
            "macsec",
            "openvswitch",
            "tun",
            "netkit",
        ] {
            assert_eq!(found(&[link(2, "a", kind)]), [NETWORK], "{kind}");
        }
    }

    #[test]
    fn devices_without_an_ethernet_header_are_told_by_their_link_type() {
        for (number, expected) in [
            (libc::ARPHRD_ETHER, NETWORK),
            (libc::ARPHRD_NONE, NETWORK_L3),
            (libc::ARPHRD_TUNNEL, NETWORK_L3),
            (libc::ARPHRD_TUNNEL6, NETWORK_L3),
            (libc::ARPHRD_SIT, NETWORK_L3),
            (libc::ARPHRD_IPGRE, NETWORK_L3),
            (ARPHRD_IP6GRE, NETWORK_L3),
            (ARPHRD_RAWIP, NETWORK_L3),
            (libc::ARPHRD_PPP, NETWORK_L3),
            (libc::ARPHRD_INFINIBAND, Purpose::Unreadable(32)),
            (libc::ARPHRD_VOID, Purpose::Unreadable(0xffff)),
        ] {
            let device = Link {
                header: LinkHeader::from_link_type(number),
                ..link(2, "a", "")
            };
            assert_eq!(found(&[device]), [expected], "{number}");
        }
    }

    #[test]
    fn the_bond_has_programs_and_its_ports_have_none() {
        for kind in ["bond", "team", "hsr", "openvswitch"] {
            let links = [
                link(2, "a", kind),
                port(link(3, "eth0", ""), 2),
                port(link(4, "eth1", ""), 2),
            ];
            let expected = [NETWORK, Purpose::None, Purpose::None];
            assert_eq!(found(&links), expected, "{kind}");
        }
    }

    #[test]
    fn the_ports_of_a_vrf_have_programs_and_it_has_none() {
        let links = [
            link(2, "blue", "vrf"),
            port(link(3, "eth0", ""), 2),
            port(link(4, "br0", "bridge"), 2),
            port(to_pod(5), 2),
        ];
        assert_eq!(found(&links), [Purpose::None, NETWORK, NETWORK, pod()]);
    }

    #[test]
    fn a_vlan_and_its_parent_both_have_programs() {
        let links = [link(2, "eth0", ""), link(3, "eth0.100", "vlan")];
        assert_eq!(found(&links), [NETWORK, NETWORK]);
    }

    #[test]
    fn a_bridge_of_pods_only_has_no_program() {
        let links = [
            link(2, "cni0", "bridge"),
            port(to_pod(3), 2),
            port(to_pod(4), 2),
        ];
        assert_eq!(found(&links), [Purpose::None, pod(), pod()]);

        let links = [
            link(2, "cni0", "bridge"),
            port(to_pod(3), 2),
            port(link(4, "keep-up", "dummy"), 2),
        ];
        assert_eq!(found(&links), [Purpose::None, pod(), Purpose::None]);
    }

    #[test]
    fn a_bridge_with_anything_else_has_programs_and_that_one_for_frames() {
        for other in ["", "veth", "vxlan", "bond", "vlan", "tun"] {
            let links = [
                link(2, "br0", "bridge"),
                port(to_pod(3), 2),
                port(link(4, "other", other), 2),
            ];
            let purposes = found(&links);
            let beside = Purpose::BridgePort { bridge: 2 };
            assert_eq!(purposes, [NETWORK, pod(), beside], "{other}");
        }
    }

    #[test]
    fn the_ports_of_a_bridge_without_pods_have_no_programs() {
        let links = [
            link(2, "br0", "bridge"),
            port(link(3, "eth0", ""), 2),
            port(link(4, "tap0", "tun"), 2),
            link(5, "cni0", "bridge"),
            port(to_pod(6), 5),
        ];
        assert_eq!(
            found(&links),
            [NETWORK, Purpose::None, Purpose::None, Purpose::None, pod()]
        );
    }

    #[test]
    fn a_bridge_without_ports_waits_for_one_with_its_programs() {
        assert_eq!(found(&[link(2, "br0", "bridge")]), [NETWORK]);
        let links = [
            link(2, "br0", "bridge"),
            port(link(3, "keep-up", "dummy"), 2),
        ];
        assert_eq!(found(&links), [NETWORK, Purpose::None]);
    }

    #[test]
    fn a_port_of_something_that_is_not_listed_is_a_port() {
        assert_eq!(found(&[port(link(3, "eth0", ""), 99)]), [Purpose::None]);
    }
}
