//! How pods hang on their node: the wirings that CNI plugins use.

use std::fmt;

use anyhow::Result;

use super::fabric::{self, DEFAULT_V4, DEFAULT_V6, UPLINK, keep_client_ports, usable_at_once};
use super::links::VethEnd;
use super::namespace::Namespace;
use super::plan::{
    Addresses, MAX_NODES, NODE_END_MAC, NodePlan, ROUTED_GATEWAY_V4, ROUTED_GATEWAY_V6,
};

/// The bridge of a node in [`Wiring::Bridged`].
pub const POD_BRIDGE: &str = "cni0";

/// How pods hang on their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// A veth and a host route for each pod (Calico, Cilium, AWS).
    Routed,
    /// A bridge that holds the pods' gateway address, pods' veths as its ports (bridge, flannel).
    Bridged,
    /// The bridge that the node's own link is a port of, and pods' veths as well (bridge over a host's
    /// bridge): frames between nodes' pods and the node's router need no IP layer.
    Shared,
    /// The same, and pods send to other nodes' pods by those nodes, past their own node's IP layer: as they
    /// do once a router has redirected them (RFC 792).
    Straight,
}

impl Wiring {
    /// Those that every test of both kinds of link is run with.
    pub const ALL: [Self; 2] = [Self::Routed, Self::Bridged];

    /// The bridge that pods hang on, if they do.
    #[must_use]
    pub const fn bridge(self) -> Option<&'static str> {
        match self {
            Self::Routed => None,
            Self::Bridged => Some(POD_BRIDGE),
            Self::Shared | Self::Straight => Some(UPLINK),
        }
    }
}

impl fmt::Display for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "routed",
            Self::Bridged => "bridged",
            Self::Shared => "shared",
            Self::Straight => "straight",
        })
    }
}

/// The node's bridge, if it has one. Its link to the fabric is there.
pub fn build_bridge(
    wiring: Wiring,
    fabric: &Namespace,
    node: &Namespace,
    plan: &NodePlan,
) -> Result<()> {
    let Some(bridge) = wiring.bridge() else {
        return Ok(());
    };
    if bridge == UPLINK {
        fabric::replug(fabric, node, plan)?;
    } else {
        node.run(async |links| links.add_bridge(bridge).await)?;
    }
    node.run(async |links| {
        let (v4, v6) = (plan.gateway_v4(), plan.gateway_v6());
        links
            .add_address(bridge, v4.into(), plan.pods_v4.prefix())
            .await?;
        links
            .add_address(bridge, v6.into(), plan.pods_v6.prefix())
            .await
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
    keep_client_ports(pod)?;
    match wiring.bridge() {
        None => connect_routed(node, pod, addresses, link)?,
        Some(bridge) => connect_bridged(node, bridge, plan, pod, addresses, link)?,
    }
    if wiring == Wiring::Straight {
        lead_straight(plan, pod)?;
    }
    Ok(())
}

/// Leads what a pod of this node sends to other nodes' pods to those nodes.
fn lead_straight(plan: &NodePlan, pod: &Namespace) -> Result<()> {
    let others = (0..MAX_NODES).map(NodePlan::new);
    for other in others.filter(|other| other.name != plan.name) {
        pod.run(async |links| {
            for ((addr, prefix), by) in other
                .pod_ranges()
                .into_iter()
                .zip([other.v4.into(), other.v6.into()])
            {
                links.add_route((addr, prefix), UPLINK, Some(by)).await?;
            }
            Ok(())
        })?;
    }
    Ok(())
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
        links
            .add_veth(&near, pod.as_raw_fd(), &VethEnd::new(UPLINK))
            .await?;
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
        links.wait_usable(UPLINK).await?;
        links.add_address(UPLINK, addresses.v4.into(), 32).await?;
        links.add_address(UPLINK, addresses.v6.into(), 128).await?;
        let (v4, v6) = (ROUTED_GATEWAY_V4.into(), ROUTED_GATEWAY_V6.into());
        links.add_route((v4, 32), UPLINK, None).await?;
        links.add_route(DEFAULT_V4, UPLINK, Some(v4)).await?;
        links.add_route(DEFAULT_V6, UPLINK, Some(v6)).await?;
        links.add_neighbour(UPLINK, v4, NODE_END_MAC).await?;
        links.add_neighbour(UPLINK, v6, NODE_END_MAC).await
    })?;
    node.run(async |links| links.wait_usable(link).await)
}

fn connect_bridged(
    node: &Namespace,
    bridge: &str,
    plan: &NodePlan,
    pod: &Namespace,
    addresses: Addresses,
    link: &str,
) -> Result<()> {
    node.run(async |links| {
        links
            .add_veth(&VethEnd::new(link), pod.as_raw_fd(), &VethEnd::new(UPLINK))
            .await?;
        links.set_port(link, bridge).await?;
        links.up(link).await
    })?;
    pod.run(async |links| {
        links.up(UPLINK).await?;
        links.wait_usable(UPLINK).await?;
        let (v4, v6) = (plan.gateway_v4().into(), plan.gateway_v6().into());
        links
            .add_address(UPLINK, addresses.v4.into(), plan.pods_v4.prefix())
            .await?;
        links
            .add_address(UPLINK, addresses.v6.into(), plan.pods_v6.prefix())
            .await?;
        links.add_route(DEFAULT_V4, UPLINK, Some(v4)).await?;
        links.add_route(DEFAULT_V6, UPLINK, Some(v6)).await
    })?;
    node.run(async |links| {
        links.wait_usable(link).await?;
        links.wait_usable(bridge).await
    })
}
