//! Routes to the network whose packets may not be as long as the interface has them.
//!
//! The IP layer heeds a route's own MTU in what it forwards. A program that asks the kernel where a
//! packet goes (`bpf_fib_lookup`) is told of it only where it is locked (`ip route ... mtu lock`):
//! what it hands over would be too long for the way, and nobody would tell the sender. Seen with
//! Linux 6.18, and in its source with those since 4.18.

use std::{io, net::IpAddr};

use anyhow::{Context as _, Result};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::attach::netlink::Netlink;

/// The bit of an MTU in what a route has locked (`RTAX_MTU`, `linux/rtnetlink.h`).
const LOCKED_MTU: u32 = 1 << 2;

/// The destinations of routes by these interfaces with an MTU below the interface's own.
///
/// # Errors
/// The kernel does not tell the routes.
pub fn narrower_than_link(interfaces: &[u32]) -> Result<Vec<String>> {
    let mut netlink = Netlink::open(NETLINK_ROUTE).context("open a netlink socket")?;
    // So that it tells those of one interface, and not all.
    netlink
        .check_strictly()
        .context("set up a netlink socket")?;
    let mut found = Vec::new();
    for interface in interfaces {
        let mut narrow = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let answers = routes(&mut netlink, family, *interface).context("list the routes")?;
            narrow.extend(answers.iter().filter_map(own_mtu));
        }
        if !narrow.is_empty() {
            let link = mtu(&mut netlink, *interface).context("ask for a link's MTU")?;
            let narrower = narrow.into_iter().filter(|(mtu, _)| *mtu < link);
            found.extend(narrower.map(|(_, destination)| destination));
        }
    }
    Ok(found)
}

fn routes(
    netlink: &mut Netlink,
    family: AddressFamily,
    interface: u32,
) -> io::Result<Vec<RouteMessage>> {
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    question.attributes = vec![RouteAttribute::Oif(interface)];
    let answers: Vec<RouteNetlinkMessage> =
        netlink.list(&RouteNetlinkMessage::GetRoute(question))?;
    let routes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    });
    Ok(routes.collect())
}

/// The bytes of the longest packet by an interface; none is too long where the kernel does not say.
fn mtu(netlink: &mut Netlink, interface: u32) -> io::Result<u32> {
    let mut question = LinkMessage::default();
    question.header.index = interface;
    let answers: Vec<RouteNetlinkMessage> = netlink.get(RouteNetlinkMessage::GetLink(question))?;
    let mut attributes = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(&link.attributes),
        _ => None,
    });
    let mtu = attributes.find_map(|all| {
        all.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
    });
    Ok(mtu.unwrap_or(u32::MAX))
}

/// The MTU that a route has of its own, unless it is locked, and its destination.
fn own_mtu(route: &RouteMessage) -> Option<(u32, String)> {
    let metrics = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        })?;
    let is_locked = metrics
        .iter()
        .any(|metric| matches!(metric, RouteMetric::Lock(bits) if bits & LOCKED_MTU != 0));
    let mtu = metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if !is_locked => Some(*mtu),
        _ => None,
    })?;
    Some((mtu, destination(route)))
}

/// As `ip route` writes it.
fn destination(route: &RouteMessage) -> String {
    let addr: Option<IpAddr> = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some((*addr).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some((*addr).into()),
            _ => None,
        });
    match addr {
        Some(addr) => format!("{addr}/{}", route.header.destination_prefix_length),
        None => "default".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(metrics: Vec<RouteMetric>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = 24;
        route.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet([203, 0, 113, 0].into())),
            RouteAttribute::Oif(2),
            RouteAttribute::Metrics(metrics),
        ];
        route
    }

    #[test]
    fn a_route_with_an_mtu_is_told_by_its_destination() {
        let narrow = route(vec![RouteMetric::Window(9), RouteMetric::Mtu(1_400)]);
        assert_eq!(own_mtu(&narrow), Some((1_400, "203.0.113.0/24".to_owned())));
        // Something else is locked.
        let narrow = route(vec![RouteMetric::Lock(1 << 3), RouteMetric::Mtu(1_400)]);
        assert_eq!(own_mtu(&narrow), Some((1_400, "203.0.113.0/24".to_owned())));
        let mut default = RouteMessage::default();
        default.attributes = vec![RouteAttribute::Metrics(vec![RouteMetric::Mtu(1_400)])];
        assert_eq!(own_mtu(&default), Some((1_400, "default".to_owned())));
    }

    #[test]
    fn other_metrics_and_a_locked_mtu_are_none() {
        assert_eq!(own_mtu(&route(vec![RouteMetric::Advmss(1_360)])), None);
        let locked = vec![RouteMetric::Lock(LOCKED_MTU), RouteMetric::Mtu(1_400)];
        assert_eq!(own_mtu(&route(locked)), None);
        assert_eq!(own_mtu(&RouteMessage::default()), None);
    }
}
