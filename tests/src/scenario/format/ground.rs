//! The kinds of network that a scenario of conversations can be shown on.

use std::fmt;

use serde::Deserialize;

use crate::bed::{Between, Firewall, Narrow, ReversePath, Topology, Wiring};

/// A kind of network. In each of them nodes and pods have the same addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// Every pod has a link of its own to its node.
    Routed,
    /// Pods hang on a bridge.
    Bridged,
    /// Pods hang on the bridge that the node's own link hangs on.
    Shared,
    /// The same, and pods send to other nodes' pods straight by that bridge.
    Straight,
    /// Pods hang on a bridge, nodes reach each other's pods by VXLAN, and the plugin that made it
    /// masquerades what pods send elsewhere, as flannel does.
    Overlay,
    /// Nodes reach each other's pods by a device without link-layer header, as WireGuard is.
    Tunnel,
    /// The router takes packets of at most 1400 bytes, between the outside world and nodes and
    /// between nodes' pods.
    Narrow,
    /// The router takes packets of at most 1400 bytes to pods, of which only nodes that lead
    /// clients to other nodes' pods are told.
    NarrowBehind,
    /// Nodes drop what their connection tracking finds invalid.
    Firewall,
}

/// Where scenarios are shown that say nothing.
pub(super) fn usual() -> Vec<Ground> {
    vec![Ground::Routed, Ground::Bridged]
}

impl Ground {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Routed,
        Self::Bridged,
        Self::Shared,
        Self::Straight,
        Self::Overlay,
        Self::Tunnel,
        Self::Narrow,
        Self::NarrowBehind,
        Self::Firewall,
    ];

    /// The bed of this kind.
    #[must_use]
    pub fn topology(self, nodes: usize) -> Topology {
        let wiring = match self {
            Self::Routed | Self::Tunnel | Self::Narrow | Self::NarrowBehind | Self::Firewall => {
                Wiring::Routed
            }
            Self::Bridged | Self::Overlay => Wiring::Bridged,
            Self::Shared => Wiring::Shared,
            Self::Straight => Wiring::Straight,
        };
        let plain = Topology {
            nodes,
            ..Topology::two_nodes(wiring)
        };
        match self {
            Self::Routed | Self::Bridged | Self::Shared | Self::Straight => plain,
            Self::Overlay => Topology {
                between: Between::Overlay,
                firewall: Firewall::Masquerades,
                ..plain
            },
            Self::Tunnel => Topology {
                between: Between::Tunnel,
                // Pods' packets to the other node itself come by the tunnel, its answers do not.
                reverse_path: ReversePath::Loose,
                ..plain
            },
            Self::Narrow => Topology {
                between: Between::Router,
                narrow: Narrow::Everywhere(1_400),
                ..plain
            },
            Self::NarrowBehind => Topology {
                between: Between::Router,
                narrow: Narrow::ToPods(1_400),
                ..plain
            },
            Self::Firewall => Topology {
                firewall: Firewall::DropsInvalid,
                ..plain
            },
        }
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Routed => "routed",
            Self::Bridged => "bridged",
            Self::Shared => "shared",
            Self::Straight => "straight",
            Self::Overlay => "overlay",
            Self::Tunnel => "tunnel",
            Self::Narrow => "narrow",
            Self::NarrowBehind => "narrow_behind",
            Self::Firewall => "firewall",
        })
    }
}
