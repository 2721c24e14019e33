//! Links, addresses and routes of one network namespace, by netlink: no host tool is run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage, State};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteIpTunnel, RouteMessage, RouteMetric, RouteScope,
};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::tc::TcAttribute;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, LinkVxlan,
    RouteMessageBuilder,
};
use tokio::time::sleep;

/// Longest wait for a link to come up, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);
/// The bit of an MTU in what a route has locked (`RTAX_MTU`, `linux/rtnetlink.h`).
const LOCKED_MTU: u32 = 1 << 2;
/// Where VXLAN is received (RFC 7348).
const OVERLAY_PORT: u16 = 4789;
/// Where VXLAN-GPE is received.
const TUNNEL_PORT: u16 = 4790;

/// One end of a veth.
#[derive(Clone, Debug)]
pub struct VethEnd {
    /// At most 15 bytes.
    pub name: String,
    /// The kernel chooses one where there is none.
    pub mac: Option<[u8; 6]>,
}

impl VethEnd {
    /// With a hardware address that the kernel chooses.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            mac: None,
        }
    }
}

/// Where a route leads, and how.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Address and prefix length.
    pub destination: (IpAddr, u8),
    /// The next router; none where the destination is on the link itself.
    pub router: Option<IpAddr>,
    /// By which of its addresses the node speaks to what is there; the kernel's choice where it is
    /// not said.
    pub source: Option<IpAddr>,
    /// Longest packet; as the link has it where it is not said.
    pub mtu: Option<u32>,
    /// Must the kernel not find out another one (`mtu lock`)?
    pub locks_mtu: bool,
    /// The far end of the tunnel, on a link that does not know one ([`Links::add_tunnel`]).
    pub tunnel: Option<Ipv4Addr>,
}

impl Route {
    /// By a router, or to what is on the link itself.
    #[must_use]
    pub const fn new(destination: (IpAddr, u8), router: Option<IpAddr>) -> Self {
        Self {
            destination,
            router,
            source: None,
            mtu: None,
            locks_mtu: false,
            tunnel: None,
        }
    }

    fn attributes(&self) -> Vec<RouteAttribute> {
        let mut attributes = Vec::new();
        let metrics = |mtu| match self.locks_mtu {
            true => vec![RouteMetric::Lock(LOCKED_MTU), RouteMetric::Mtu(mtu)],
            false => vec![RouteMetric::Mtu(mtu)],
        };
        attributes.extend(self.mtu.map(metrics).map(RouteAttribute::Metrics));
        let source = self.source.map(RouteAddress::from);
        attributes.extend(source.map(RouteAttribute::PrefSource));
        attributes
    }

    fn tunnel(&self) -> Vec<RouteIpTunnel> {
        let far_end = |addr| vec![RouteIpTunnel::Id(1), RouteIpTunnel::Destination(addr)];
        self.tunnel.map(far_end).unwrap_or_default()
    }
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
        Ok(self.get(name).await?.header.index)
    }

    /// A link's hardware address.
    pub async fn mac(&self, name: &str) -> Result<[u8; 6]> {
        let attributes = self.get(name).await?.attributes;
        let address = attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(address) => address.try_into().ok(),
                _ => None,
            });
        address.with_context(|| format!("{name} has no Ethernet address"))
    }

    async fn get(&self, name: &str) -> Result<LinkMessage> {
        self.handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute()
            .try_next()
            .await
            .with_context(|| format!("look up link {name}"))?
            .with_context(|| format!("there is no link {name}"))
    }

    async fn make(&self, link: LinkMessage) -> Result<(), rtnetlink::Error> {
        self.handle.link().add(link).execute().await
    }

    async fn change(&self, link: LinkMessage) -> Result<(), rtnetlink::Error> {
        self.handle.link().change(link).execute().await
    }

    /// Brings a link up.
    pub async fn up(&self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.change(message)
            .await
            .with_context(|| format!("bring up {name}"))
    }

    /// Waits until the kernel sends by a veth or a bridge. It begins to a moment after somebody is at
    /// the other end, and drops what comes before.
    pub async fn wait_usable(&self, name: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let attributes = self.get(name).await?.attributes;
            if attributes.contains(&LinkAttribute::OperState(State::Up)) {
                return Ok(());
            }
            ensure!(start.elapsed() < LIMIT, "{name} does not come up");
            sleep(PAUSE).await;
        }
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
        self.make(near.build())
            .await
            .with_context(|| format!("make veth {} to {}", here.name, peer.name))
    }

    /// Makes a bridge and brings it up.
    pub async fn add_bridge(&self, name: &str) -> Result<()> {
        self.make(LinkBridge::new(name).up().build())
            .await
            .with_context(|| format!("make bridge {name}"))
    }

    /// Makes a link a port of a bridge.
    pub async fn set_port(&self, port: &str, bridge: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(port)
            .controller(self.index(bridge).await?)
            .build();
        self.change(message)
            .await
            .with_context(|| format!("make {port} a port of {bridge}"))
    }

    /// Makes the link of a VLAN that comes over another link, and brings it up.
    pub async fn add_vlan(&self, name: &str, parent: &str, vlan: u16) -> Result<()> {
        let message = LinkVlan::new(name, self.index(parent).await?, vlan)
            .up()
            .build();
        self.make(message)
            .await
            .with_context(|| format!("make {name}, VLAN {vlan} of {parent}"))
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

    /// Makes a link that carries Ethernet frames to another node (VXLAN), and brings it up.
    pub async fn add_overlay(&self, name: &str, mtu: u32, far_end: Ipv4Addr) -> Result<()> {
        let message = LinkVxlan::new(name, 1)
            .remote(far_end)
            .port(OVERLAY_PORT)
            .mtu(mtu)
            .up()
            .build();
        self.make(message)
            .await
            .with_context(|| format!("make the overlay link {name}"))
    }

    /// Makes a link without link-layer header to wherever a route says (VXLAN-GPE; to programs
    /// it looks as a tun or WireGuard device does), and brings it up.
    pub async fn add_tunnel(&self, name: &str, mtu: u32) -> Result<()> {
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .gpe()
            .collect_metadata(true)
            // There are no hardware addresses to learn.
            .learning(false)
            .port(TUNNEL_PORT)
            .mtu(mtu)
            .up()
            .build();
        self.make(message)
            .await
            .with_context(|| format!("make the tunnel link {name}"))
    }

    /// Adds a route through a link, by a router or to what is on the link itself.
    pub async fn add_route(
        &self,
        destination: (IpAddr, u8),
        link: &str,
        router: Option<IpAddr>,
    ) -> Result<()> {
        self.add(link, Route::new(destination, router)).await
    }

    /// Adds a route through a link.
    pub async fn add(&self, link: &str, route: Route) -> Result<()> {
        let message = self.message(link, route).await?;
        let (addr, prefix) = route.destination;
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("route {addr}/{prefix} through {link}"))
    }

    /// Takes a route through a link away.
    pub async fn remove_route(&self, link: &str, route: Route) -> Result<()> {
        let message = self.message(link, route).await?;
        let (addr, prefix) = route.destination;
        self.handle
            .route()
            .del(message)
            .execute()
            .await
            .with_context(|| format!("remove the route {addr}/{prefix} through {link}"))
    }

    async fn message(&self, link: &str, route: Route) -> Result<RouteMessage> {
        let index = self.index(link).await?;
        let (addr, prefix) = route.destination;
        let mut message = match addr {
            IpAddr::V4(addr) => {
                let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(addr, prefix)
                    .output_interface(index)
                    .encap_ip(route.tunnel());
                match route.router {
                    Some(IpAddr::V4(router)) => builder.gateway(router).onlink().build(),
                    Some(IpAddr::V6(router)) => builder.via(router).build(),
                    None => builder.scope(RouteScope::Link).build(),
                }
            }
            IpAddr::V6(addr) => {
                let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(addr, prefix)
                    .output_interface(index)
                    .encap_ip(route.tunnel());
                match route.router {
                    Some(IpAddr::V6(router)) => builder.gateway(router).onlink().build(),
                    Some(IpAddr::V4(router)) => {
                        anyhow::bail!("{router} cannot be the router of {addr}/{prefix}")
                    }
                    None => builder.build(),
                }
            }
        };
        message.attributes.extend(route.attributes());
        Ok(message)
    }

    /// Adds a rule for routes.
    pub async fn add_rule(&self, rule: RuleMessage) -> Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.clone();
        request
            .execute()
            .await
            .with_context(|| format!("add the rule {rule:?}"))
    }

    /// Removes a rule for routes.
    pub async fn remove_rule(&self, rule: RuleMessage) -> Result<()> {
        let what = format!("remove the rule {rule:?}");
        self.handle.rule().del(rule).execute().await.context(what)
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
