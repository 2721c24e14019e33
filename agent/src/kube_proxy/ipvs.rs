//! What kube-proxy's IPVS mode leaves: an interface with every service's address, and virtual
//! servers.
//!
//! The interface goes, since its addresses would be taken for the node's own; but only by them do
//! packets of connections that go through a virtual server reach it, so that it goes when the last
//! of these has ended. Virtual servers are not told from those of others, and one without its
//! interface is asked by nobody but for the node's own addresses; they are named, with the command
//! that removes them.

use std::{fs, io};

use anyhow::{Context as _, Result};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{errno::Errno, net::if_::if_nametoindex};

use crate::attach::netlink::Netlink;

/// The interface.
pub const INTERFACE: &str = "kube-ipvs0";
const SERVERS: &str = "/proc/net/ip_vs";
const CONNECTIONS: &str = "/proc/net/ip_vs_conn";

/// Is the interface there?
///
/// # Errors
/// The kernel does not tell.
pub fn has_interface() -> Result<bool> {
    match if_nametoindex(INTERFACE) {
        Ok(_) => Ok(true),
        Err(Errno::ENODEV | Errno::ENXIO) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("look for the interface {INTERFACE}")),
    }
}

/// Removes the interface, if it is there.
///
/// # Errors
/// The kernel's.
pub fn remove_interface() -> Result<()> {
    let index = match if_nametoindex(INTERFACE) {
        Err(Errno::ENODEV | Errno::ENXIO) => return Ok(()),
        result => result.with_context(|| format!("look for the interface {INTERFACE}"))?,
    };
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut netlink = Netlink::open(NETLINK_ROUTE).context("open a netlink socket")?;
    match netlink.change(RouteNetlinkMessage::DelLink(link), 0) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
            Err(error).with_context(|| format!("remove the interface {INTERFACE}"))
        }
        _ => Ok(()),
    }
}

/// How many virtual servers there are, whoever made them.
///
/// # Errors
/// The kernel's account of them cannot be read.
pub fn servers() -> Result<usize> {
    Ok(count(&read(SERVERS)?))
}

/// How many connections through them are open. Datagrams are none: they go another way with the
/// next one.
///
/// # Errors
/// The kernel's account of them cannot be read.
pub fn connections() -> Result<usize> {
    Ok(count_open(&read(CONNECTIONS)?))
}

/// Empty where the kernel has no IPVS.
fn read(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result.with_context(|| format!("read {path}")),
    }
}

/// Each begins a line; those of its backends begin with an arrow.
fn count(text: &str) -> usize {
    text.lines()
        .filter(|line| {
            ["TCP", "UDP", "SCTP", "FWM"]
                .iter()
                .any(|kind| line.split_whitespace().next() == Some(kind))
        })
        .count()
}

/// Each is a line: the protocol, three addresses with their ports, the state.
fn count_open(text: &str) -> usize {
    text.lines()
        .filter(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (words.first(), words.get(7)) {
                (Some(&"TCP"), Some(state)) => {
                    !["NONE", "TIME_WAIT", "CLOSE", "LAST_ACK"].contains(state)
                }
                (Some(&"SCTP"), Some(state)) => !["NONE", "CLOSED"].contains(state),
                _ => false,
            }
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_connections_are_counted_and_datagrams_are_not() {
        let text = "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n\
                    TCP 0AC80002 9C40 0A200001 01BB 0AF00001 192B ESTABLISHED     899\n\
                    TCP 0AC80002 9C41 0A200001 01BB 0AF00001 192B TIME_WAIT        31\n\
                    UDP 0AC80002 9C42 0A20000A 0035 0AC80003 0035 UDP             299\n\
                    SCTP 0AC80002 9C43 0A20000B 0050 0AC80003 0050 ESTABLISHED    899\n";
        assert_eq!(count_open(text), 2);
        assert_eq!(count_open(""), 0);
    }

    #[test]
    fn virtual_servers_are_counted_without_their_backends() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\n\
                    Prot LocalAddress:Port Scheduler Flags\n  \
                    -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
                    TCP  0A200001:01BB rr  \n  \
                    -> 0AF00001:192B      Masq    1      4          0         \n\
                    UDP  0A20000A:0035 rr  \n";
        assert_eq!(count(text), 2);
        assert_eq!(count(""), 0);
    }
}
