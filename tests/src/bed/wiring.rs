//! How pods hang on their node: the two wirings that CNI plugins use.

use anyhow::Result;

use super::fabric::{DEFAULT_V4, DEFAULT_V6, UPLINK, keep_client_ports, usable_at_once};
use super::links::VethEnd;
use super::namespace::Namespace;
use super::plan::{Addresses, NODE_END_MAC, NodePlan, ROUTED_GATEWAY_V4, ROUTED_GATEWAY_V6};

/// The bridge of a node in [`Wiring::Bridged`].
pub const POD_BRIDGE: &str = "cni0";

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

/// The node's bridge, if it has one.
pub fn build_bridge(wiring: Wiring, node: &Namespace, plan: &NodePlan) -> Result<()> {
    match wiring {
        Wiring::Routed => Ok(()),
        Wiring::Bridged => node.run(async |links| {
            links.add_bridge(POD_BRIDGE).await?;
            let (v4, v6) = (plan.gateway_v4(), plan.gateway_v6());
            links
                .add_address(POD_BRIDGE, v4.into(), plan.pods_v4.prefix())
                .await?;
            links
                .add_address(POD_BRIDGE, v6.into(), plan.pods_v6.prefix())
                .await
        }),
    }
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
    plan: &NodePlan,
    pod: &Namespace,
    addresses: Addresses,
    link: &str,
) -> Result<()> {
    node.run(async |links| {
        links
            .add_veth(&VethEnd::new(link), pod.as_raw_fd(), &VethEnd::new(UPLINK))
            .await?;
        links.set_port(link, POD_BRIDGE).await?;
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
        links.wait_usable(POD_BRIDGE).await
    })
}
