//! The node itself: its addresses, and which of its interfaces lead to pods.
//!
//! An interface is a pod's when its peer stands in one of the network namespaces that the
//! container runtime keeps in a directory (`/run/netns`). What the node looks like is listed
//! afresh after any sign of change (a netlink event, lost ones included, a change of that
//! directory or of the mounts in it), so that nothing can be missed; what arrives is always the
//! whole state.
//!
//! Choosing is pure and here; asking the kernel is [`list`], being told of changes `signs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, sleep, timeout_at};

mod list;
mod signs;

use list::Lister;
use signs::Signs;

/// Changes come in bursts (an interface, its address, its state): a burst is over when nothing
/// has happened for this long …
const QUIET: Duration = Duration::from_millis(10);
/// … or it has lasted this long.
const BURST: Duration = Duration::from_millis(50);
/// After a list that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the node looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Interfaces that lead to pods, by index.
    pub pod_interfaces: BTreeMap<u32, Interface>,
    /// Addresses by which others reach the node, by interface, in the kernel's order: an
    /// interface's primary address first. Pods' interfaces and the loopback are left out.
    pub addresses: Vec<IpAddr>,
}

impl NodeState {
    /// The first IPv4 address: the node's own, where the API's Node object names none.
    #[must_use]
    pub fn addr_v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|addr| match addr {
            IpAddr::V4(addr) => Some(*addr),
            IpAddr::V6(_) => None,
        })
    }

    /// The first IPv6 address, likewise.
    #[must_use]
    pub fn addr_v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|addr| match addr {
            IpAddr::V6(addr) => Some(*addr),
            IpAddr::V4(_) => None,
        })
    }
}

/// A pod's interface on the node's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The file of the pod's network namespace.
    pub namespace: String,
}

/// An interface as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Is it the loopback?
    pub is_loopback: bool,
    /// The network namespace of its peer, where that is another one (`IFLA_LINK_NETNSID`).
    pub peer_namespace: Option<i32>,
}

/// An address as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub interface: u32,
    /// The address.
    pub addr: IpAddr,
    /// Is it meant for others beyond this link?
    pub is_global: bool,
}

/// Tells what the node looks like, at once and after each change, for as long as anyone listens.
///
/// The first state replaces `None`. The calling thread's network namespace is the node's.
///
/// # Errors
///
/// The node cannot be listed or watched at the start.
pub async fn watch(netns_dir: PathBuf, states: Sender<Option<NodeState>>) -> Result<()> {
    // Before the first list, so that no change falls between the two.
    let mut signs = Signs::watch(&netns_dir)?;
    let mut lister = Lister::open()?;
    let mut state = Some(lister.list(&netns_dir).await?);
    loop {
        if let Some(state) = state.take() {
            states.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&state);
                *known = Some(state);
                changed
            });
        }
        tokio::select! {
            sign = signs.next() => sign?,
            () = states.closed() => return Ok(()),
        }
        burst_end(&mut signs).await?;
        match lister.list(&netns_dir).await {
            Ok(listed) => state = Some(listed),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot list the node's interfaces"
                );
                sleep(RETRY).await;
                signs.again();
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
    Lister::open()?.list(netns_dir).await
}

async fn burst_end(signs: &mut Signs) -> Result<()> {
    let end = Instant::now() + BURST;
    while let Ok(sign) = timeout_at(end.min(Instant::now() + QUIET), signs.next()).await {
        sign?;
    }
    Ok(())
}

/// The interfaces whose peer stands in a pod's network namespace.
#[must_use]
pub fn pod_interfaces(
    links: &[Link],
    namespaces: &BTreeMap<i32, String>,
) -> BTreeMap<u32, Interface> {
    links
        .iter()
        .filter_map(|link| {
            let namespace = namespaces.get(&link.peer_namespace?)?;
            let interface = Interface {
                name: link.name.clone(),
                namespace: namespace.clone(),
            };
            Some((link.index, interface))
        })
        .collect()
}

/// The addresses by which others reach the node.
#[must_use]
pub fn node_addresses(
    addresses: &[Address],
    links: &[Link],
    pod_interfaces: &BTreeMap<u32, Interface>,
) -> Vec<IpAddr> {
    let loopbacks: BTreeSet<u32> = links
        .iter()
        .filter(|link| link.is_loopback)
        .map(|link| link.index)
        .collect();
    let mut found: Vec<&Address> = addresses
        .iter()
        .filter(|address| {
            address.is_global
                && !loopbacks.contains(&address.interface)
                && !pod_interfaces.contains_key(&address.interface)
        })
        .collect();
    found.sort_by_key(|address| address.interface);
    found.into_iter().map(|address| address.addr).collect()
}

/// Below the usual range of node ports (30000-32767), above the ports that need privileges.
const SNAT_CANDIDATES: RangeInclusive<u16> = 1024..=29_999;

/// Source ports for masqueraded flows, which no socket of the node is given by the kernel.
///
/// # Errors
///
/// The kernel's own range cannot be read, or leaves none.
pub fn snat_ports() -> Result<RangeInclusive<u16>> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = fs::read_to_string(FILE).with_context(|| format!("read {FILE}"))?;
    let local = parse_port_range(&text).with_context(|| format!("{FILE} holds {text:?}"))?;
    let Some(ports) = ports_outside(&local) else {
        bail!(
            "net.ipv4.ip_local_port_range ({}-{}) leaves no port of 1024-29999 for masquerading; \
             make it smaller, for example `sysctl net.ipv4.ip_local_port_range=\"32768 60999\"`",
            local.start(),
            local.end()
        );
    };
    Ok(ports)
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) => Some(first..=last),
        _ => None,
    }
}

/// The larger of the two parts that a range leaves of the candidates.
#[must_use]
pub fn ports_outside(local: &RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let (first, last) = (*SNAT_CANDIDATES.start(), *SNAT_CANDIDATES.end());
    let below = first..=last.min(local.start().saturating_sub(1));
    let above = first.max(local.end().saturating_add(1))..=last;
    [below, above]
        .into_iter()
        .filter(|part| !part.is_empty())
        .max_by_key(ExactSizeIterator::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, peer_namespace: Option<i32>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            is_loopback: name == "lo",
            peer_namespace,
        }
    }

    #[test]
    fn an_interface_is_a_pods_when_its_peer_stands_in_a_pods_namespace() {
        let links = [
            link(1, "lo", None),
            link(2, "eth0", Some(0)),
            link(3, "veth-a", Some(1)),
            link(4, "veth-b", Some(2)),
            link(5, "veth-local", None),
        ];
        let namespaces = BTreeMap::from([(1, "cni-a".to_owned()), (7, "cni-z".to_owned())]);
        let found = pod_interfaces(&links, &namespaces);
        assert_eq!(
            found,
            BTreeMap::from([(
                3,
                Interface {
                    name: "veth-a".to_owned(),
                    namespace: "cni-a".to_owned()
                }
            )])
        );
    }

    #[test]
    fn the_nodes_addresses_are_global_and_not_on_the_loopback_or_a_pods_interface() {
        let links = [
            link(1, "lo", None),
            link(2, "eth0", None),
            link(3, "veth-a", Some(1)),
        ];
        let pods = pod_interfaces(&links, &BTreeMap::from([(1, "cni-a".to_owned())]));
        let addresses = [
            (1, "127.0.0.1", false),
            (1, "203.0.113.9", true),
            (3, "10.240.0.1", true),
            (2, "10.240.0.12", true),
            (2, "10.240.0.11", true),
            (2, "fe80::1", false),
            (2, "fd00:10:240::11", true),
        ]
        .map(|(interface, addr, is_global)| Address {
            interface,
            addr: addr.parse().unwrap(),
            is_global,
        });
        let state = NodeState {
            addresses: node_addresses(&addresses, &links, &pods),
            pod_interfaces: pods,
        };
        let found: Vec<String> = state.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.240.0.12", "10.240.0.11", "fd00:10:240::11"]);
        assert_eq!(state.addr_v4().unwrap().to_string(), "10.240.0.12");
        assert_eq!(state.addr_v6().unwrap().to_string(), "fd00:10:240::11");
    }

    #[test]
    fn masqueraded_flows_keep_out_of_the_kernels_own_range() {
        for (local, expected) in [
            (32_768..=60_999, Some(1024..=29_999)),
            (10_000..=65_535, Some(1024..=9_999)),
            (1_024..=20_000, Some(20_001..=29_999)),
            (5_000..=20_000, Some(20_001..=29_999)),
            (1_024..=65_535, None),
            (1..=65_535, None),
        ] {
            assert_eq!(ports_outside(&local), expected, "{local:?}");
        }
    }

    #[test]
    fn the_kernels_range_is_two_numbers() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse_port_range("32768\n"), None);
        assert_eq!(parse_port_range("a b"), None);
    }
}
