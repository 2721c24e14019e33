//! The node itself: its interfaces, its addresses, its ports.
//!
//! Which interfaces are pods' and which lead to the network says [`links`]; which address serves
//! for what, [`addresses`] and [`node_ports`]; which source ports masqueraded flows get,
//! [`snat_ports`].
//!
//! An interface is a pod's when its peer stands in one of the network namespaces that the
//! container runtime keeps in a directory (`/run/netns`). After any sign of change (a netlink
//! event, lost ones included, a change of that directory or of the mounts in it) whatever it
//! makes doubtful is listed afresh, so that nothing can be missed; what arrives is always the
//! whole state. A sign after a quiet time is looked into at once, because a pod may wait for its
//! programs; a burst of them is looked into at a `Pace`.
//!
//! Choosing is pure and in those modules; asking the kernel is [`list`], being told of changes
//! `signs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch::Sender;
use tokio::time::{Instant, sleep_until, timeout_at};

pub mod addresses;
mod events;
mod files;
pub mod links;
mod list;
pub mod node_ports;
mod pace;
mod settling;
mod signs;
pub mod snat_ports;
mod stale;

use addresses::{Address, PodAddress};
use links::{Link, Namespaces, Purpose};
use list::{Listed, Lister};
use pace::Pace;
use settling::Settling;
use signs::Signs;
use stale::Stale;

use super::row::Row;
use crate::news;

/// After a list that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the node looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Interfaces that lead to pods, by index.
    pub pod_interfaces: BTreeMap<u32, Interface>,
    /// Interfaces that lead to the network, by index.
    pub network_interfaces: BTreeMap<u32, NetworkInterface>,
    /// Interfaces that would lead to the network, but that our programs cannot read.
    pub unreadable_interfaces: BTreeMap<u32, UnreadableInterface>,
    /// Addresses by which others reach the node, those of interfaces to the network first, and
    /// of an interface in the kernel's order. Pods' interfaces and the loopback are left out.
    pub addresses: Vec<IpAddr>,
    /// Every address at which the node itself answers, loopback ones too.
    pub local_addresses: BTreeSet<IpAddr>,
}

/// A pod's interface on the node's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The files of the pod's network namespace: most often there is one.
    pub namespaces: BTreeSet<String>,
    /// The number by which the node's network namespace knows the pod's (`IFLA_LINK_NETNSID`).
    pub netns: i32,
    /// The addresses of its other end, inside the pod, link-local ones too.
    pub addrs: BTreeSet<IpAddr>,
    /// Is it a veth that is no port of another device and has no queue, with its other end in
    /// another network namespace?
    pub is_direct: bool,
}

/// An interface that leads to the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Its name.
    pub name: String,
    /// Do its packets begin with an Ethernet header?
    pub has_link_header: bool,
    /// Is it a port, which means: of a VRF, and it has a routing table of its own?
    pub is_port: bool,
    /// Is it a port of a bridge that pods hang on, too? Then its addresses are the bridge's.
    pub is_bridged: bool,
    /// The IPv4 address of flows that are masqueraded as they leave by it, if it has one.
    pub addr_v4: Option<Ipv4Addr>,
    /// The IPv6 address of these, likewise.
    pub addr_v6: Option<Ipv6Addr>,
}

/// An interface whose packets our programs cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableInterface {
    /// Its name.
    pub name: String,
    /// The kernel's number for what its packets begin with (`linux/if_arp.h`).
    pub link_type: u16,
}

impl NodeState {
    /// What follows from the kernel's lists. `within`: the addresses in pods' network
    /// namespaces, by number.
    #[must_use]
    pub fn new(
        links: &[Link],
        listed: &[Address],
        namespaces: &Namespaces,
        within: &BTreeMap<i32, Vec<PodAddress>>,
    ) -> Self {
        let purposes = links::purposes(links, namespaces);
        let is_loopback = |index| {
            links
                .iter()
                .any(|link| link.index == index && link.is_loopback)
        };
        let mut state = Self {
            addresses: addresses::node_addresses(listed, &purposes, is_loopback),
            local_addresses: addresses::local_addresses(listed),
            ..Self::default()
        };
        for link in links {
            let name = link.name.clone();
            match &purposes[&link.index] {
                Purpose::Pod(netns) => {
                    let addresses = within.get(netns).map_or(&[][..], Vec::as_slice);
                    let interface = Interface {
                        name,
                        namespaces: namespaces.get(netns).cloned().unwrap_or_default(),
                        netns: *netns,
                        addrs: addresses::pod_addresses(addresses, link.peer),
                        is_direct: link.kind == "veth"
                            && link.master.is_none()
                            && !link.has_queue
                            && link.peer_namespace.is_some(),
                    };
                    state.pod_interfaces.insert(link.index, interface);
                }
                Purpose::Network { has_link_header } => {
                    let interface = NetworkInterface {
                        has_link_header: *has_link_header,
                        is_port: link.master.is_some(),
                        ..network_interface(name, link.index, listed)
                    };
                    state.network_interfaces.insert(link.index, interface);
                }
                Purpose::BridgePort { bridge } => {
                    let interface = NetworkInterface {
                        is_bridged: true,
                        ..network_interface(name, *bridge, listed)
                    };
                    state.network_interfaces.insert(link.index, interface);
                }
                Purpose::Unreadable(link_type) => {
                    let link_type = *link_type;
                    let interface = UnreadableInterface { name, link_type };
                    state.unreadable_interfaces.insert(link.index, interface);
                }
                Purpose::None => {}
            }
        }
        state
    }

    /// How many interfaces lead anywhere.
    fn interfaces(&self) -> usize {
        self.pod_interfaces.len() + self.network_interfaces.len() + self.unreadable_interfaces.len()
    }

    /// The first IPv4 address: the node's own, where the API's Node object names none.
    #[must_use]
    pub fn addr_v4(&self) -> Option<Ipv4Addr> {
        addresses::first_v4(&self.addresses)
    }

    /// The first IPv6 address, likewise.
    #[must_use]
    pub fn addr_v6(&self) -> Option<Ipv6Addr> {
        addresses::first_v6(&self.addresses)
    }
}

/// One with an Ethernet header, and with the addresses of the interface with this index.
fn network_interface(name: String, addressed: u32, listed: &[Address]) -> NetworkInterface {
    let (addr_v4, addr_v6) = addresses::leaving_addresses(listed, addressed);
    NetworkInterface {
        name,
        has_link_header: true,
        is_port: false,
        is_bridged: false,
        addr_v4,
        addr_v6,
    }
}

/// Tells what the node looks like, at once and after each change, for as long as anyone listens.
///
/// The first state replaces `None`; `row` is told how the kernel's lists are. The calling thread's network namespace is the node's.
///
/// # Errors
///
/// The node cannot be listed or watched at the start.
pub async fn watch(netns_dir: PathBuf, states: Sender<Option<NodeState>>, row: Row) -> Result<()> {
    // Before the first list, so that no change falls between the two.
    let mut signs = Signs::watch(&netns_dir)?;
    let mut lister = Lister::open(netns_dir)?;
    let mut stale = Stale::everything();
    let mut settling = Settling::default();
    let mut pace = Pace::default();
    let first = state(lister.refresh(&stale).await?, &mut settling);
    row.read(first.interfaces());
    states.send_replace(Some(first));
    stale = Stale::default();
    loop {
        tokio::select! {
            sign = signs.next(&mut stale) => sign?,
            () = reached(settling.due(Instant::now())) => {}
            () = std::future::ready(()), if stale != Stale::default() => {}
            () = states.closed() => return Ok(()),
        }
        // Signs are taken in the meantime, or too many of them would get lost.
        let not_before = pace.next();
        while let Ok(sign) = timeout_at(not_before, signs.next(&mut stale)).await {
            sign?;
        }
        let start = Instant::now();
        match lister.refresh(&stale).await {
            Ok(listed) => {
                stale = Stale::default();
                let state = state(listed, &mut settling);
                row.read(state.interfaces());
                let state = Some(state);
                news::tell(&states, state);
                pace.done(start, Instant::now());
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot list the node's interfaces"
                );
                row.failed(format!("{error:#}"));
                // What is doubtful stays so: there is no need for another sign.
                pace.failed(Instant::now() + RETRY);
            }
        }
    }
}

/// What the node looks like now.
///
/// # Errors
///
/// The kernel cannot be asked.
pub async fn list(netns_dir: &Path) -> Result<NodeState> {
    let mut lister = Lister::open(netns_dir.to_path_buf())?;
    let listed = lister.refresh(&Stale::everything()).await?;
    Ok(state(listed, &mut Settling::default()))
}

fn state(listed: &Listed, settling: &mut Settling) -> NodeState {
    let left_out = settling.update(&listed.links, Instant::now());
    let links = listed.links.iter();
    let links: Vec<Link> = links
        .filter(|link| !left_out.contains(&link.index))
        .cloned()
        .collect();
    NodeState::new(
        &links,
        &listed.addresses,
        &listed.namespaces(),
        &listed.within,
    )
}

async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use links::LinkHeader;

    #[test]
    fn a_state_says_what_each_interface_is_and_which_addresses_serve() {
        let link = |index, name: &str, kind: &str, header| Link {
            index,
            name: name.to_owned(),
            kind: kind.to_owned(),
            header,
            is_loopback: name == "lo",
            master: None,
            has_queue: false,
            peer: (kind == "veth").then_some(2),
            peer_namespace: (kind == "veth").then_some(1),
        };
        let links = [
            link(1, "lo", "", LinkHeader::Other(772)),
            link(2, "eth0", "", LinkHeader::Ethernet),
            link(3, "wg0", "wireguard", LinkHeader::None),
            link(4, "ib0", "", LinkHeader::Other(32)),
            link(5, "veth-a", "veth", LinkHeader::Ethernet),
        ];
        let listed = [
            (1, "127.0.0.1", false),
            (2, "10.240.0.11", true),
            (5, "10.200.0.1", true),
        ]
        .map(|(interface, addr, is_global)| Address {
            interface,
            addr: addr.parse().unwrap(),
            is_global,
            is_secondary: false,
            is_deprecated: false,
        });
        let namespaces = BTreeMap::from([(1, BTreeSet::from(["cni-a".to_owned()]))]);

        let within = |interface, addr: &str| PodAddress {
            interface,
            addr: addr.parse().unwrap(),
        };
        let inside = vec![
            within(1, "127.0.0.1"),
            within(2, "10.200.0.7"),
            within(2, "fe80::7"),
            within(3, "172.16.0.1"),
        ];
        let inside = BTreeMap::from([(1, inside)]);

        let state = NodeState::new(&links, &listed, &namespaces, &inside);
        let v4 = Ipv4Addr::new(10, 240, 0, 11);
        let network = |name: &str, has_link_header, addr_v4| NetworkInterface {
            name: name.to_owned(),
            has_link_header,
            is_port: false,
            is_bridged: false,
            addr_v4,
            addr_v6: None,
        };
        let expected = NodeState {
            pod_interfaces: BTreeMap::from([(
                5,
                Interface {
                    name: "veth-a".to_owned(),
                    namespaces: BTreeSet::from(["cni-a".to_owned()]),
                    netns: 1,
                    addrs: ["10.200.0.7", "fe80::7"]
                        .map(|addr| addr.parse().unwrap())
                        .into(),
                    is_direct: true,
                },
            )]),
            network_interfaces: BTreeMap::from([
                (2, network("eth0", true, Some(v4))),
                (3, network("wg0", false, None)),
            ]),
            unreadable_interfaces: BTreeMap::from([(
                4,
                UnreadableInterface {
                    name: "ib0".to_owned(),
                    link_type: 32,
                },
            )]),
            addresses: vec![v4.into()],
            local_addresses: listed.iter().map(|address| address.addr).collect(),
        };
        assert_eq!(state, expected);
        assert_eq!((state.addr_v4(), state.addr_v6()), (Some(v4), None));
    }
}
