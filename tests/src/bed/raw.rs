//! Packets as somebody with evil in mind makes them: sent as they are from inside a network
//! namespace, and seen when they arrive in one.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom,
    sendto, setsockopt, socket, sockopt,
};

use super::namespace::Namespace;

/// Longer than any packet on a bed's links, fragments put together included.
const PACKET_MAX: usize = 65_536;
/// Room for what arrives while nobody looks.
const ROOM: usize = 8 << 20;

/// Sends IP packets with the headers that they have, the source address too. The stack of the
/// namespace only finds the way.
#[derive(Debug)]
pub struct Injector {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Injector {
    /// In a network namespace.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let open = |family| -> Result<OwnedFd> {
            // `IPPROTO_RAW`: the header is the sender's, for either family.
            socket(
                family,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
            .context("open a raw socket")
        };
        namespace.enter(|| {
            Ok(Self {
                v4: open(AddressFamily::Inet)?,
                v6: open(AddressFamily::Inet6)?,
            })
        })
    }

    /// Sends a packet, network header first, the way that leads to its destination.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let (_, to) = ends(packet).context("a packet to send has a network header")?;
        let socket = if to.is_ipv6() { &self.v6 } else { &self.v4 };
        let to_there = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(socket.as_raw_fd(), packet, &to_there, MsgFlags::empty())
            .with_context(|| format!("send {} bytes to {to}", packet.len()))?;
        Ok(())
    }
}

/// Sees every IP packet that arrives in a network namespace by a link, in order, before the stack
/// there does anything with it.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
    seen: RefCell<Vec<Vec<u8>>>,
}

impl Sniffer {
    /// In a network namespace.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.enter(|| {
            socket(
                AddressFamily::Packet,
                // Without link-layer headers.
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .context("open a packet socket")
        })?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("make room for packets")?;
        Ok(Self {
            socket,
            seen: RefCell::default(),
        })
    }

    /// Waits until a packet has arrived that is meant; gives all that arrived before it since the
    /// last time, without it.
    pub fn until(
        &self,
        what: &str,
        limit: Duration,
        is_meant: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        loop {
            self.take_in()?;
            let mut seen = self.seen.borrow_mut();
            if let Some(place) = seen.iter().position(|packet| is_meant(packet)) {
                let mut before: Vec<Vec<u8>> = seen.drain(..=place).collect();
                before.pop();
                return Ok(before);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                bail!(
                    "waited {limit:?} for {what}, in vain; {} other packets arrived",
                    seen.len()
                );
            };
            drop(seen);
            let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut watched, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("wait for a packet"),
            }
        }
    }

    /// Everything that arrived since the last time.
    pub fn all(&self) -> Result<Vec<Vec<u8>>> {
        self.take_in()?;
        Ok(self.seen.take())
    }

    fn take_in(&self) -> Result<()> {
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    // What the namespace itself sends is seen, too, and is none of our business.
                    let is_own = from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
                    let packet = &buffer[..length];
                    if !is_own && ends(packet).is_some() {
                        self.seen.borrow_mut().push(packet.to_owned());
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("receive a packet"),
            }
        }
    }
}

/// Source and destination in a packet's network header; `None` where it is not IP.
#[must_use]
pub fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let addr = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(bytes.into())
            };
            Some((addr(12)?, addr(16)?))
        }
        6 => {
            let addr = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(bytes.into())
            };
            Some((addr(8)?, addr(24)?))
        }
        _ => None,
    }
}
