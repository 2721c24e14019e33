//! How nodes reach each other's pods: the ways that CNI plugins use.

use std::net::IpAddr;

use anyhow::Result;

use super::fabric::UPLINK;
use super::links::{Links, Route};
use super::namespace::Namespace;
use super::plan::{FABRIC_V4, NodePlan, twin};

/// The link of a node in [`Between::Overlay`].
pub const OVERLAY: &str = "vxlan0";
/// The link of a node in [`Between::Tunnel`].
pub const TUNNEL: &str = "tunnel0";
/// An Ethernet frame less the headers around a packet (IPv4, UDP, VXLAN, Ethernet).
const INNER_MTU: u32 = 1500 - 50;

/// How nodes reach each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// By routes to the other node (Calico, host-gw).
    Direct,
    /// By routes to the fabric's router, which knows the nodes' pods (BGP, clouds).
    Router,
    /// In Ethernet frames over VXLAN (flannel, Cilium).
    Overlay,
    /// Over a link without link-layer header (WireGuard, IP in IP).
    Tunnel,
}

impl Between {
    /// The node's own addresses among pods, by which it speaks to other nodes' pods.
    #[must_use]
    pub fn addresses(self, node: &NodePlan) -> Option<[IpAddr; 2]> {
        match self {
            Self::Direct | Self::Router => None,
            // As flannel has it: the pods' range itself.
            Self::Overlay | Self::Tunnel => {
                Some([node.pods_v4.network().into(), node.pods_v6.network().into()])
            }
        }
    }

    /// A node's ways to the pods of other nodes.
    pub fn build(self, namespace: &Namespace, node: &NodePlan, nodes: &[NodePlan]) -> Result<()> {
        let others = || nodes.iter().filter(|other| other.name != node.name);
        namespace.run(async |links| {
            for other in others() {
                self.add_links(&links, node, other).await?;
            }
            for other in others() {
                for route in self.routes(node, other) {
                    links.add(self.link(), route).await?;
                }
            }
            Ok(())
        })
    }

    const fn link(self) -> &'static str {
        match self {
            Self::Direct | Self::Router => UPLINK,
            Self::Overlay => OVERLAY,
            Self::Tunnel => TUNNEL,
        }
    }

    /// The plan has two nodes: a link for the one other.
    async fn add_links(self, links: &Links, node: &NodePlan, other: &NodePlan) -> Result<()> {
        match self {
            Self::Direct | Self::Router => {}
            Self::Overlay => links.add_overlay(OVERLAY, INNER_MTU, other.v4).await?,
            Self::Tunnel => links.add_tunnel(TUNNEL, INNER_MTU).await?,
        }
        for addr in self.addresses(node).into_iter().flatten() {
            let prefix = if addr.is_ipv4() { 32 } else { 128 };
            links.add_address(self.link(), addr, prefix).await?;
        }
        Ok(())
    }

    fn routes(self, node: &NodePlan, other: &NodePlan) -> [Route; 2] {
        let ranges = other.pod_ranges();
        match self {
            Self::Direct => {
                let [v4, v6] = by_routers(ranges, [other.v4.into(), other.v6.into()]);
                // Where the link has an address among pods, too, it would be taken for being more
                // alike.
                let from = |source, route| Route {
                    source: Some(source),
                    ..route
                };
                [from(node.v4.into(), v4), from(node.v6.into(), v6)]
            }
            Self::Router => by_routers(ranges, [FABRIC_V4.into(), twin(FABRIC_V4).into()]),
            Self::Overlay => by_routers(ranges, ranges.map(|(range, _)| range)),
            Self::Tunnel => ranges.map(|range| Route {
                tunnel: Some(other.v4),
                ..Route::new(range, None)
            }),
        }
    }
}

fn by_routers(ranges: [(IpAddr, u8); 2], routers: [IpAddr; 2]) -> [Route; 2] {
    let [v4, v6] = ranges;
    let [router_v4, router_v6] = routers;
    [
        Route::new(v4, Some(router_v4)),
        Route::new(v6, Some(router_v6)),
    ]
}
