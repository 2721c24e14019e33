//! A host that shares a link with a node, and a VLAN of that link.
//!
//! ```text
//!   node ─┬─ lan0 ────────┬─ host      the link itself, and beside it what bears the VLAN's tag:
//!         └─ lan0.100 ────┘            both ends have addresses in both networks
//! ```
//!
//! The host reaches everything else by the node, through the VLAN. Its end of the link is a bridge, a
//! device that cannot write checksums of SCTP: the host's stack does, while pods' and nodes' leave
//! them to a veth.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};

use super::fabric::{DEFAULT_V4, DEFAULT_V6, usable_at_once};
use super::links::{Links, VethEnd};
use super::namespace::Namespace;
use super::node::Node;
use super::plan::{Addresses, Family};
use super::process::Place;
use crate::testpod::client::TestPod;

/// The node's end.
pub const LINK: &str = "lan0";
/// The VLAN's device on that.
pub const VLAN_LINK: &str = "lan0.100";

const VLAN: u16 = 100;
/// The port of the host's bridge. The bridge and its VLAN have the names that the node's devices have.
const PORT: &str = "port0";

/// Which of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Frames without a tag.
    Untagged,
    /// Those of the VLAN.
    Tagged,
}

impl Network {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Untagged, Self::Tagged];

    const fn link(self) -> &'static str {
        match self {
            Self::Untagged => LINK,
            Self::Tagged => VLAN_LINK,
        }
    }

    fn member(self, number: u8, family: Family) -> IpAddr {
        let third = match self {
            Self::Untagged => 1,
            Self::Tagged => 2,
        };
        Addresses::twins(Ipv4Addr::new(10, 241, third, number)).of(family)
    }

    /// The node's address.
    #[must_use]
    pub fn node(self, family: Family) -> IpAddr {
        self.member(11, family)
    }

    /// The host's.
    #[must_use]
    pub fn host(self, family: Family) -> IpAddr {
        self.member(10, family)
    }
}

/// The host. Dropping it ends its process; the links stay until the bed's end.
#[derive(Debug)]
pub struct Neighbour {
    process: TestPod,
    namespace: Namespace,
}

impl Neighbour {
    /// Connects a new host to a node.
    pub fn start(node: &Node) -> Result<Self> {
        let file = node.run_dir().join("neighbour.netns");
        let namespace = Namespace::create(node.keeper(), file)?;
        usable_at_once(&namespace)?;
        namespace.run(async |links| {
            links.add_bridge(LINK).await?;
            address(&links, Network::host).await?;
            for (family, anywhere) in [(Family::V4, DEFAULT_V4), (Family::V6, DEFAULT_V6)] {
                let router = Network::Tagged.node(family);
                links.add_route(anywhere, VLAN_LINK, Some(router)).await?;
            }
            Ok(())
        })?;
        node.namespace()
            .run(async |links| {
                let (near, far) = (VethEnd::new(LINK), VethEnd::new(PORT));
                links.add_veth(&near, namespace.as_raw_fd(), &far).await?;
                links.up(LINK).await?;
                address(&links, Network::node).await
            })
            .with_context(|| format!("connect a neighbour to {}", node.name()))?;
        namespace.run(async |links| {
            links.set_port(PORT, LINK).await?;
            links.up(PORT).await?;
            links.wait_usable(PORT).await?;
            links.wait_usable(LINK).await
        })?;
        node.namespace()
            .run(async |links| links.wait_usable(LINK).await)?;
        let group = node.group().parent();
        let place = Place {
            group: group
                .context("a node's group has a parent")?
                .join("neighbour"),
            ..node.place(&namespace, "system")
        };
        Ok(Self {
            process: TestPod::start(&place, "neighbour")?,
            namespace,
        })
    }

    /// A process there.
    #[must_use]
    pub fn process(&self) -> &TestPod {
        &self.process
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// Makes the VLAN's device, and gives it and its parent an address of each family.
async fn address(links: &Links, own: fn(Network, Family) -> IpAddr) -> Result<()> {
    links.add_vlan(VLAN_LINK, LINK, VLAN).await?;
    for network in Network::ALL {
        for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
            let addr = own(network, family);
            links.add_address(network.link(), addr, prefix).await?;
        }
    }
    Ok(())
}
