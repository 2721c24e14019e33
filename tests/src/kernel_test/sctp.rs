//! An association of SCTP: a client and a server that is asked by it.
//!
//! Its sockets are opened in their namespaces and used from here: the stack does the rest, and no
//! socket program has a say in SCTP. Ends are bound to one address each: an end that has several
//! and is not bound tells its peer all of them, in a payload that no translation changes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    listen, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::bed::namespace::Namespace;

/// A connection or an answer that takes longer has failed.
const SECONDS: i64 = 10;
/// Bytes each way: many packets, and below what a socket keeps for a reader who comes later.
const LENGTH: usize = 40_000;

/// A socket that waits for associations.
#[derive(Debug)]
pub struct Server(TcpListener);

impl Server {
    /// At an address of a namespace.
    pub fn start(namespace: &Namespace, at: SocketAddr) -> Result<Self> {
        let socket = open(namespace, at).with_context(|| format!("serve SCTP at {at}"))?;
        listen(&socket, Backlog::new(8)?).with_context(|| format!("listen at {at}"))?;
        // The standard library's types are for any stream socket, but for opening them.
        Ok(Self(socket.into()))
    }

    /// Has a client at an address of a namespace connect to a service of which this is the backend,
    /// and carries data each way. The server must see the client, and the client the service.
    pub fn ask(&self, namespace: &Namespace, client: IpAddr, to: SocketAddr) -> Result<()> {
        let socket = open(namespace, (client, 0).into())?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).context("connect")?;
        let mut asks = TcpStream::from(socket);
        let (mut answers, from) = self.0.accept().context("accept")?;
        ensure!(from.ip() == client, "{client} came as {from}");
        let peer = asks.peer_addr().context("ask for the peer")?;
        ensure!(peer == to, "the client sees {peer}");
        carry(&mut asks, &mut answers).context("to the server")?;
        carry(&mut answers, &mut asks).context("to the client")
    }
}

/// A socket in a namespace, bound, that does not wait for ever.
fn open(namespace: &Namespace, at: SocketAddr) -> Result<OwnedFd> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = namespace.enter(|| {
        let (kind, flags) = (SockType::Stream, SockFlag::SOCK_CLOEXEC);
        socket(family, kind, flags, SockProtocol::Sctp).context("open an SCTP socket")
    })?;
    let limit = TimeVal::seconds(SECONDS);
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit).context("limit waiting")?;
    setsockopt(&socket, sockopt::SendTimeout, &limit).context("limit waiting")?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))
        .with_context(|| format!("bind to {at}"))?;
    Ok(socket)
}

fn carry(from: &mut TcpStream, to: &mut TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(LENGTH).collect();
    from.write_all(&sent).context("send")?;
    let mut received = vec![0; LENGTH];
    to.read_exact(&mut received).context("receive")?;
    ensure!(received == sent, "what came is not what was sent");
    Ok(())
}
