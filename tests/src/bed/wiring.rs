//! How nodes hang on the fabric, and pods on their node: the two wirings that CNI plugins use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::links::VethEnd;
use super::namespace::Namespace;
use super::plan::{
    Addresses, FABRIC_OUTSIDE_V4, FABRIC_OUTSIDE_V6, FABRIC_V4, NODE_END_MAC, NodePlan, OUTSIDE_V4,
    OUTSIDE_V6, ROUTED_GATEWAY_V4, ROUTED_GATEWAY_V6, twin,
};

/// The link by which a pod, and a node towards the fabric, sees the world.
pub const UPLINK: &str = "eth0";
/// The bridge of a node in [`Wiring::Bridged`].
pub const POD_BRIDGE: &str = "cni0";
const FABRIC_BRIDGE: &str = "fabric";

/// How pods hang on their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// A veth and a host route for each pod (Calico, Cilium, AWS).
    Routed,
    /// A bridge that holds the pods' gateway address, pods' veths as its ports (bridge, flannel).
    Bridged,
}

impl Wiring {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Routed, Self::Bridged];
}

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
    fn value(self) -> &'static str {
        match self {
            Self::Off => "0",
            Self::Strict => "1",
            Self::Loose => "2",
        }
    }
}

/// IPv6 addresses are usable at once, in this namespace's links that are made from now on.
fn usable_at_once(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctls(&[
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ])
}

fn forwarding(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctls(&[
        ("ipv4/conf/all/forwarding", "1"),
        ("ipv6/conf/all/forwarding", "1"),
    ])
}

/// The router and switch between nodes and the outside world.
pub fn build_fabric(fabric: &Namespace, outside: &Namespace) -> Result<()> {
    usable_at_once(fabric)?;
    usable_at_once(outside)?;
    forwarding(fabric)?;
    fabric.run(async |links| {
        links.add_bridge(FABRIC_BRIDGE).await?;
        links
            .add_address(FABRIC_BRIDGE, FABRIC_V4.into(), 24)
            .await?;
        links
            .add_address(FABRIC_BRIDGE, twin(FABRIC_V4).into(), 64)
            .await?;
        let (here, there) = (end("outside"), end(UPLINK));
        links.add_veth(&here, outside.as_raw_fd(), &there).await?;
        links.up("outside").await?;
        links
            .add_address("outside", FABRIC_OUTSIDE_V4.into(), 24)
            .await?;
        links
            .add_address("outside", FABRIC_OUTSIDE_V6.into(), 64)
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
            .await
    })
}

/// A node's link to the fabric, its routes to the other nodes' pods, and its bridge if it has
/// one. The fabric learns the way to the node's pods.
pub fn build_node(
    fabric: &Namespace,
    node: &Namespace,
    plan: &NodePlan,
    others: &[NodePlan],
    wiring: Wiring,
    reverse_path: ReversePath,
) -> Result<()> {
    usable_at_once(node)?;
    forwarding(node)?;
    node.set_sysctls(&[
        ("ipv4/conf/all/rp_filter", reverse_path.value()),
        ("ipv4/conf/default/rp_filter", reverse_path.value()),
    ])?;
    fabric.run(async |links| {
        let port = end(&plan.name);
        links
            .add_veth(&port, node.as_raw_fd(), &end(UPLINK))
            .await?;
        links.set_port(&port.name, FABRIC_BRIDGE).await?;
        links.up(&port.name).await
    })?;
    node.run(async |links| {
        links.up(UPLINK).await?;
        links.add_address(UPLINK, plan.v4.into(), 24).await?;
        links.add_address(UPLINK, plan.v6.into(), 64).await?;
        links
            .add_route(DEFAULT_V4, UPLINK, Some(FABRIC_V4.into()))
            .await?;
        links
            .add_route(DEFAULT_V6, UPLINK, Some(twin(FABRIC_V4).into()))
            .await?;
        for other in others.iter().filter(|other| other.name != plan.name) {
            for (range, router) in pod_routes(other) {
                links.add_route(range, UPLINK, Some(router)).await?;
            }
        }
        if wiring == Wiring::Bridged {
            links.add_bridge(POD_BRIDGE).await?;
            let (v4, v6) = (plan.gateway_v4(), plan.gateway_v6());
            links
                .add_address(POD_BRIDGE, v4.into(), plan.pods_v4.prefix())
                .await?;
            links
                .add_address(POD_BRIDGE, v6.into(), plan.pods_v6.prefix())
                .await?;
        }
        Ok(())
    })?;
    fabric.run(async |links| {
        for (range, router) in pod_routes(plan) {
            links.add_route(range, FABRIC_BRIDGE, Some(router)).await?;
        }
        Ok(())
    })
}

/// A pod's link to its node; `link` is the name of the node's end.
pub fn connect_pod(
    wiring: Wiring,
    node: &Namespace,
    plan: &NodePlan,
    pod: &Namespace,
    addresses: Addresses,
    link: &str,
) -> Result<()> {
    usable_at_once(pod)?;
    match wiring {
        Wiring::Routed => connect_routed(node, pod, addresses, link),
        Wiring::Bridged => connect_bridged(node, plan, pod, addresses, link),
    }
}

fn connect_routed(
    node: &Namespace,
    pod: &Namespace,
    addresses: Addresses,
    link: &str,
) -> Result<()> {
    node.run(async |links| {
        let near = VethEnd {
            name: link.to_owned(),
            mac: Some(NODE_END_MAC),
        };
        links.add_veth(&near, pod.as_raw_fd(), &end(UPLINK)).await?;
        links.up(link).await?;
        links
            .add_route((addresses.v4.into(), 32), link, None)
            .await?;
        links
            .add_route((addresses.v6.into(), 128), link, None)
            .await
    })?;
    // The node answers for every address, as for the pods' gateway, which is nobody's.
    node.set_sysctls(&[(&format!("ipv4/conf/{link}/proxy_arp"), "1")])?;
    pod.run(async |links| {
        links.up(UPLINK).await?;
        links.add_address(UPLINK, addresses.v4.into(), 32).await?;
        links.add_address(UPLINK, addresses.v6.into(), 128).await?;
        let (v4, v6) = (ROUTED_GATEWAY_V4.into(), ROUTED_GATEWAY_V6.into());
        links.add_route((v4, 32), UPLINK, None).await?;
        links.add_route(DEFAULT_V4, UPLINK, Some(v4)).await?;
        links.add_route(DEFAULT_V6, UPLINK, Some(v6)).await?;
        links.add_neighbour(UPLINK, v4, NODE_END_MAC).await?;
        links.add_neighbour(UPLINK, v6, NODE_END_MAC).await
    })
}

fn connect_bridged(
    node: &Namespace,
    plan: &NodePlan,
    pod: &Namespace,
    addresses: Addresses,
    link: &str,
) -> Result<()> {
    node.run(async |links| {
        links
            .add_veth(&end(link), pod.as_raw_fd(), &end(UPLINK))
            .await?;
        links.set_port(link, POD_BRIDGE).await?;
        links.up(link).await
    })?;
    pod.run(async |links| {
        links.up(UPLINK).await?;
        let (v4, v6) = (plan.gateway_v4().into(), plan.gateway_v6().into());
        links
            .add_address(UPLINK, addresses.v4.into(), plan.pods_v4.prefix())
            .await?;
        links
            .add_address(UPLINK, addresses.v6.into(), plan.pods_v6.prefix())
            .await?;
        links.add_route(DEFAULT_V4, UPLINK, Some(v4)).await?;
        links.add_route(DEFAULT_V6, UPLINK, Some(v6)).await
    })
}

const DEFAULT_V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const DEFAULT_V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

fn end(name: &str) -> VethEnd {
    VethEnd {
        name: name.to_owned(),
        mac: None,
    }
}

/// The ways to a node's pods: (range, router).
fn pod_routes(node: &NodePlan) -> [((IpAddr, u8), IpAddr); 2] {
    let (v4, v6) = (node.pods_v4, node.pods_v6);
    [
        ((v4.network().into(), v4.prefix()), node.v4.into()),
        ((v6.network().into(), v6.prefix()), node.v6.into()),
    ]
}
