//! What lies between nodes and the outside world, and how nodes hang on it.
//!
//! ```text
//!   outside ── router ─┬─ worker-0     one namespace is switch and router at once: nodes see each
//!                      └─ worker-1     other directly, and the outside world through the router
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::links::{Links, Route, VethEnd};
use super::namespace::Namespace;
use super::plan::{
    CLIENT_PORTS, FABRIC_OUTSIDE_V4, FABRIC_OUTSIDE_V6, FABRIC_V4, NodePlan, OUTSIDE_V4,
    OUTSIDE_V6, twin,
};

/// The link by which a pod, and a node towards the fabric, sees the world.
pub const UPLINK: &str = "eth0";
/// The port of a node's bridge, after [`replug`].
pub const UPLINK_PORT: &str = "port0";
/// The switch that nodes hang on; the router's address on it.
const BRIDGE: &str = "fabric";
/// The router's link to the outside world.
const OUTSIDE: &str = "outside";

/// The way anywhere.
pub const DEFAULT_V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// The way anywhere.
pub const DEFAULT_V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

/// What a node does with a packet whose source it would reach by another link
/// (`net.ipv4.conf.*.rp_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// Takes it.
    Off,
    /// Drops it.
    Strict,
    /// Drops it if no link at all leads there.
    Loose,
}

impl ReversePath {
    const fn value(self) -> &'static str {
        match self {
            Self::Off => "0",
            Self::Strict => "1",
            Self::Loose => "2",
        }
    }
}

/// Where the router takes shorter packets than links do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Narrow {
    /// Nowhere.
    #[default]
    Nowhere,
    /// Whichever way they go: the longest.
    Everywhere(u32),
    /// Only on the way to pods, from other nodes too: the longest.
    ToPods(u32),
}

impl Narrow {
    /// The longest packet to pods.
    #[must_use]
    pub const fn to_pods(self) -> Option<u32> {
        match self {
            Self::Nowhere => None,
            Self::Everywhere(mtu) | Self::ToPods(mtu) => Some(mtu),
        }
    }

    /// The longest packet to hosts.
    #[must_use]
    pub const fn to_hosts(self) -> Option<u32> {
        match self {
            Self::Nowhere | Self::ToPods(_) => None,
            Self::Everywhere(mtu) => Some(mtu),
        }
    }
}

/// IPv6 addresses are usable at once, in this namespace's links that are made from now on.
pub(super) fn usable_at_once(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctls(&[
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ])
}

/// Nobody gets a port of [`CLIENT_PORTS`] without asking for it. Not for nodes: what sockets do not
/// get, masquerading takes.
pub(super) fn keep_client_ports(namespace: &Namespace) -> Result<()> {
    let ports = format!("{}-{}", CLIENT_PORTS.start(), CLIENT_PORTS.end());
    namespace.set_sysctls(&[("ipv4/ip_local_reserved_ports", &ports)])
}

fn forwarding(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctls(&[
        ("ipv4/conf/all/forwarding", "1"),
        ("ipv6/conf/all/forwarding", "1"),
    ])
}

/// The router and switch between nodes and the outside world.
pub fn build(fabric: &Namespace, outside: &Namespace) -> Result<()> {
    usable_at_once(fabric)?;
    usable_at_once(outside)?;
    keep_client_ports(outside)?;
    forwarding(fabric)?;
    // Where a node has the router take a packet to the next node, that is meant.
    fabric.set_sysctls(&[
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ])?;
    fabric.run(async |links| {
        links.add_bridge(BRIDGE).await?;
        links.add_address(BRIDGE, FABRIC_V4.into(), 24).await?;
        links
            .add_address(BRIDGE, twin(FABRIC_V4).into(), 64)
            .await?;
        let (here, there) = (VethEnd::new(OUTSIDE), VethEnd::new(UPLINK));
        links.add_veth(&here, outside.as_raw_fd(), &there).await?;
        links.up(OUTSIDE).await?;
        links
            .add_address(OUTSIDE, FABRIC_OUTSIDE_V4.into(), 24)
            .await?;
        links
            .add_address(OUTSIDE, FABRIC_OUTSIDE_V6.into(), 64)
            .await
    })?;
    outside.run(async |links| {
        links.up(UPLINK).await?;
        links.add_address(UPLINK, OUTSIDE_V4.into(), 24).await?;
        links.add_address(UPLINK, OUTSIDE_V6.into(), 64).await?;
        links
            .add_route(DEFAULT_V4, UPLINK, Some(FABRIC_OUTSIDE_V4.into()))
            .await?;
        links
            .add_route(DEFAULT_V6, UPLINK, Some(FABRIC_OUTSIDE_V6.into()))
            .await?;
        links.wait_usable(UPLINK).await
    })?;
    fabric.run(async |links| links.wait_usable(OUTSIDE).await)
}

/// A node's link to the fabric and its way to the outside world.
pub fn build_node(
    fabric: &Namespace,
    node: &Namespace,
    plan: &NodePlan,
    reverse_path: ReversePath,
) -> Result<()> {
    usable_at_once(node)?;
    forwarding(node)?;
    node.set_sysctls(&[
        ("ipv4/conf/all/rp_filter", reverse_path.value()),
        ("ipv4/conf/default/rp_filter", reverse_path.value()),
    ])?;
    fabric.run(async |links| {
        let port = VethEnd::new(&plan.name);
        links
            .add_veth(&port, node.as_raw_fd(), &VethEnd::new(UPLINK))
            .await?;
        links.set_port(&port.name, BRIDGE).await?;
        links.up(&port.name).await
    })?;
    node.run(async |links| {
        links.up(UPLINK).await?;
        address(&links, plan).await?;
        links.wait_usable(UPLINK).await
    })?;
    wait_port(fabric, &plan.name)
}

/// A port of the switch, and the switch, are in use.
fn wait_port(fabric: &Namespace, port: &str) -> Result<()> {
    fabric.run(async |links| {
        links.wait_usable(port).await?;
        links.wait_usable(BRIDGE).await
    })
}

/// A host beside the nodes: its link to the fabric and its address there.
pub fn build_host(fabric: &Namespace, host: &Namespace, name: &str, addr: Ipv4Addr) -> Result<()> {
    usable_at_once(host)?;
    fabric.run(async |links| {
        let port = VethEnd::new(name);
        links
            .add_veth(&port, host.as_raw_fd(), &VethEnd::new(UPLINK))
            .await?;
        links.set_port(name, BRIDGE).await?;
        links.up(name).await
    })?;
    host.run(async |links| {
        links.up(UPLINK).await?;
        links.add_address(UPLINK, addr.into(), 24).await?;
        links.add_address(UPLINK, twin(addr).into(), 64).await?;
        links.wait_usable(UPLINK).await
    })?;
    wait_port(fabric, name)
}

/// Takes a node's link away and gives it another one, as the port of a bridge that has the link's
/// name and addresses from now on. Nobody's neighbour table is out of date: the hardware address
/// stays.
pub fn replug(fabric: &Namespace, node: &Namespace, plan: &NodePlan) -> Result<()> {
    let mac = node.run(async |links| {
        let mac = links.mac(UPLINK).await?;
        links.delete(UPLINK).await?;
        Ok(mac)
    })?;
    fabric.run(async |links| {
        let here = VethEnd::new(&plan.name);
        let there = VethEnd {
            mac: Some(mac),
            ..VethEnd::new(UPLINK_PORT)
        };
        links.add_veth(&here, node.as_raw_fd(), &there).await?;
        links.set_port(&here.name, BRIDGE).await?;
        links.up(&here.name).await
    })?;
    node.run(async |links| {
        links.add_bridge(UPLINK).await?;
        links.set_port(UPLINK_PORT, UPLINK).await?;
        links.up(UPLINK_PORT).await?;
        address(&links, plan).await?;
        links.wait_usable(UPLINK_PORT).await?;
        links.wait_usable(UPLINK).await
    })?;
    wait_port(fabric, &plan.name)
}

async fn address(node: &Links, plan: &NodePlan) -> Result<()> {
    node.add_address(UPLINK, plan.v4.into(), 24).await?;
    node.add_address(UPLINK, plan.v6.into(), 64).await?;
    let (v4, v6) = (FABRIC_V4.into(), twin(FABRIC_V4).into());
    node.add_route(DEFAULT_V4, UPLINK, Some(v4)).await?;
    node.add_route(DEFAULT_V6, UPLINK, Some(v6)).await
}

/// Has the router send what is for a range of addresses to a node.
pub fn route(
    fabric: &Namespace,
    destination: (IpAddr, u8),
    node: &NodePlan,
    mtu: Option<u32>,
) -> Result<()> {
    let router = match destination.0 {
        IpAddr::V4(_) => node.v4.into(),
        IpAddr::V6(_) => node.v6.into(),
    };
    let route = Route {
        mtu,
        ..Route::new(destination, Some(router))
    };
    fabric.run(async |links| links.add(BRIDGE, route).await)
}

/// Has the router take no longer packets than this to any host. Links and hosts know nothing of
/// it: they are told by the router's ICMP errors only.
pub fn narrow(fabric: &Namespace, nodes: &[NodePlan], mtu: u32) -> Result<()> {
    let hosts = |addresses: [IpAddr; 2]| {
        addresses.map(|addr| Route {
            mtu: Some(mtu),
            ..Route::new((addr, if addr.is_ipv4() { 32 } else { 128 }), None)
        })
    };
    fabric.run(async |links| {
        for route in hosts([OUTSIDE_V4.into(), OUTSIDE_V6.into()]) {
            links.add(OUTSIDE, route).await?;
        }
        for node in nodes {
            for route in hosts([node.v4.into(), node.v6.into()]) {
                links.add(BRIDGE, route).await?;
            }
        }
        Ok(())
    })
}
