//! Links, addresses and routes of one network namespace, by netlink: no host tool is run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use netlink_packet_route::route::RouteScope;
use netlink_packet_route::tc::TcAttribute;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

/// One end of a veth.
#[derive(Clone, Debug)]
pub struct VethEnd {
    /// At most 15 bytes.
    pub name: String,
    /// The kernel chooses one where there is none.
    pub mac: Option<[u8; 6]>,
}

/// Netlink in the namespace of the thread that connected.
#[derive(Clone, Debug)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Opens a socket in the calling thread's namespace; needs a tokio runtime.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// A link's number by its name.
    pub async fn index(&self, name: &str) -> Result<u32> {
        let message = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute()
            .try_next()
            .await
            .with_context(|| format!("look up link {name}"))?
            .with_context(|| format!("there is no link {name}"))?;
        Ok(message.header.index)
    }

    /// Brings a link up.
    pub async fn up(&self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("bring up {name}"))
    }

    /// Makes a veth: one end here, the other in the namespace `there`. Both are down.
    pub async fn add_veth(&self, here: &VethEnd, there: RawFd, peer: &VethEnd) -> Result<()> {
        let mut far = LinkUnspec::new_with_name(&peer.name).setns_by_fd(there);
        if let Some(mac) = peer.mac {
            far = far.address(mac.to_vec());
        }
        let mut near = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(here.name.clone())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far.build())));
        if let Some(mac) = here.mac {
            near = near.address(mac.to_vec());
        }
        self.handle
            .link()
            .add(near.build())
            .execute()
            .await
            .with_context(|| format!("make veth {} to {}", here.name, peer.name))
    }

    /// Makes a bridge and brings it up.
    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        self.handle
            .link()
            .add(LinkBridge::new(name).up().build())
            .execute()
            .await
            .with_context(|| format!("make bridge {name}"))
    }

    /// Makes a link a port of a bridge.
    pub async fn set_port(&self, port: &str, bridge: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(port)
            .controller(self.index(bridge).await?)
            .build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("make {port} a port of {bridge}"))
    }

    /// Deletes a link.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        self.handle
            .link()
            .del(index)
            .execute()
            .await
            .with_context(|| format!("delete link {name}"))
    }

    /// Gives a link an address that is usable at once.
    pub async fn add_address(&self, link: &str, addr: IpAddr, prefix: u8) -> Result<()> {
        let index = self.index(link).await?;
        let mut request = self.handle.address().add(index, addr, prefix);
        if addr.is_ipv6() {
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .with_context(|| format!("give {link} the address {addr}/{prefix}"))
    }

    /// Adds a route through a link, by a router or to what is on the link itself.
    pub async fn add_route(
        &self,
        destination: (IpAddr, u8),
        link: &str,
        router: Option<IpAddr>,
    ) -> Result<()> {
        let index = self.index(link).await?;
        let (addr, prefix) = destination;
        let message = match addr {
            IpAddr::V4(addr) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(addr, prefix)
                    .output_interface(index);
                match router {
                    Some(IpAddr::V4(router)) => route.gateway(router).onlink().build(),
                    Some(IpAddr::V6(router)) => route.via(router).build(),
                    None => route.scope(RouteScope::Link).build(),
                }
            }
            IpAddr::V6(addr) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(addr, prefix)
                    .output_interface(index);
                match router {
                    Some(IpAddr::V6(router)) => route.gateway(router).build(),
                    Some(IpAddr::V4(router)) => {
                        anyhow::bail!("{router} cannot be the router of {addr}/{prefix}")
                    }
                    None => route.build(),
                }
            }
        };
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("route {addr}/{prefix} through {link}"))
    }

    /// Tells a link the hardware address of a neighbour, for good.
    pub async fn add_neighbour(&self, link: &str, addr: IpAddr, mac: [u8; 6]) -> Result<()> {
        let index = self.index(link).await?;
        self.handle
            .neighbours()
            .add(index, addr)
            .link_layer_address(&mac)
            .execute()
            .await
            .with_context(|| format!("make {addr} a neighbour on {link}"))
    }

    /// Does a link carry a clsact queueing discipline?
    pub async fn has_clsact(&self, link: &str) -> Result<bool> {
        let index = i32::try_from(self.index(link).await?).context("an index fits")?;
        let disciplines: Vec<_> = self
            .handle
            .qdisc()
            .get()
            .index(index)
            .execute()
            .try_collect()
            .await
            .with_context(|| format!("list the queueing disciplines of {link}"))?;
        Ok(disciplines.iter().any(|message| {
            let is_clsact =
                |attribute: &TcAttribute| *attribute == TcAttribute::Kind("clsact".to_owned());
            message.header.index == index && message.attributes.iter().any(is_clsact)
        }))
    }
}
