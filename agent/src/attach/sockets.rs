//! Sockets whose backend has gone.
//!
//! A *connected* UDP socket of the node's own processes gets its backend when it connects, and no
//! program sees its datagrams after that. When the backend goes, the socket is destroyed
//! (`SOCK_DESTROY`, Linux 4.9): the application reads ECONNABORTED, or writes and gets
//! EDESTADDRREQ, and opens a new one. Sockets that Weir did not connect are left alone, whatever
//! they talk to.

use std::io;

use anyhow::{Context as _, Result};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{Backend, FlowRole, ServingKey, SocketKey};

use super::netlink::Netlink;
use crate::maps::Contents;
use crate::maps::flows::Judge;
use crate::maps::kernel::KernelTables;

/// Destroys the connected UDP sockets of the calling thread's network namespace that the
/// programs connected to a backend that does not serve that service port any more, or through an
/// address that does not lead there any more. Gives back how many.
///
/// # Errors
///
/// The kernel refuses to list or destroy sockets.
pub fn destroy_stale_udp_sockets(contents: &Contents, tables: &KernelTables) -> Result<usize> {
    let mut netlink = Netlink::open(NETLINK_SOCK_DIAG).context("open a netlink socket")?;
    let judge = Judge::new(contents);
    let mut destroyed = 0;
    for family in [AF_INET, AF_INET6] {
        for socket in connected(&mut netlink, family)? {
            let key = key(&socket);
            let Some(peer) = tables.socket(&key)? else {
                continue;
            };
            let serving = ServingKey {
                service: peer.service,
                backend: Backend::new(key.addr, key.port),
            };
            if !contents.serving.contains(&serving) || judge.is_stale_connection(&peer) {
                destroyed += usize::from(destroy(&mut netlink, family, &socket)?);
            }
        }
    }
    Ok(destroyed)
}

/// Can the kernel close sockets (`SOCK_DESTROY`) and list them?
///
/// # Errors
/// What it lacks, or whoever asks.
pub fn probe_socket_destruction() -> Result<()> {
    let mut netlink = Netlink::open(NETLINK_SOCK_DIAG).context("open a netlink socket")?;
    connected(&mut netlink, AF_INET)?;
    // Nobody has a socket without addresses and ports.
    destroy(&mut netlink, AF_INET, &SocketId::new_v4()).map(drop)
}

/// Where the programs have noted what a socket is connected to, if they connected it.
fn key(socket: &SocketId) -> SocketKey {
    SocketKey {
        cookie: cookie(socket.cookie),
        addr: Addr::from(socket.destination_address),
        port: Port::new(socket.destination_port),
        protocol: Protocol::UDP,
        role: FlowRole::REPLY,
        reserved: 0,
    }
}

/// `SO_COOKIE` from `idiag_cookie`: two words in host byte order, the lower first.
fn cookie(words: [u8; 8]) -> u64 {
    let [low, high]: [u32; 2] = bytemuck::cast(words);
    u64::from(high) << 32 | u64::from(low)
}

fn connected(netlink: &mut Netlink, family: u8) -> Result<Vec<SocketId>> {
    let socket_id = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let answers: Vec<SockDiagMessage> = netlink
        .list(&request(family, socket_id))
        .context("list UDP sockets (the kernel's module udp_diag)")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            SockDiagMessage::InetResponse(response) => Some(response.header.socket_id),
            SockDiagMessage::InetRequest(_)
            | SockDiagMessage::UnixRequest(_)
            | SockDiagMessage::UnixResponse(_) => None,
        })
        .collect())
}

/// `false`: it was gone already.
fn destroy(netlink: &mut Netlink, family: u8, socket: &SocketId) -> Result<bool> {
    let question = SockDiagDestroy::new(request(family, socket.clone()));
    match netlink.change(question, 0) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| {
            format!(
                "destroy the UDP socket connected to {} port {} (the kernel's \
                 CONFIG_INET_DIAG_DESTROY)",
                socket.destination_address, socket.destination_port
            )
        }),
    }
}

fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        // Of UDP: connected.
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(destination: &str, port: u16) -> SocketId {
        SocketId {
            destination_address: destination.parse().unwrap(),
            destination_port: port,
            cookie: 0x0102_0304_u64.to_ne_bytes(),
            ..SocketId::new_v6()
        }
    }

    #[test]
    fn an_ipv4_mapped_peer_is_the_ipv4_peer() {
        for text in ["10.200.0.2", "::ffff:10.200.0.2"] {
            assert_eq!(key(&socket(text, 53)).addr.to_string(), "10.200.0.2");
        }
    }

    #[test]
    fn the_lower_word_of_a_cookie_comes_first() {
        assert_eq!(
            cookie(bytemuck::cast([0x1111_1111_u32, 0x2222_2222])),
            0x2222_2222_1111_1111
        );
    }
}
