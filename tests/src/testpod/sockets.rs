//! The client's sockets: opened, asked with, named, closed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SetSockOpt, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
    sockopt,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::protocol::{Answer, Failure};
use super::room::dropped_for_want_of_room;
use super::serve::{DATAGRAM_MAX, Said};

mod option {
    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// IPv4 datagrams leave without a checksum.
        NoCheck,
        SetOnly,
        libc::SOL_SOCKET,
        libc::SO_NO_CHECK,
        bool
    );
}

/// An open client socket.
#[derive(Clone, Debug)]
pub enum Socket {
    /// A connection; one question at a time.
    Tcp(Arc<Mutex<BufReader<TcpStream>>>),
    /// A UDP socket, connected or not.
    Udp(Arc<UdpSocket>),
}

/// The number of the next UDP question: an answer to an earlier one is not mistaken for it.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// After this one looks whether a datagram may have been lost on this machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens a connection.
pub async fn connect(to: SocketAddr, bind: Option<SocketAddr>) -> Result<TcpStream, Failure> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(bind) = bind {
        socket.set_reuseaddr(true)?;
        socket.bind(bind)?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a UDP socket.
pub async fn open_udp(
    bind: SocketAddr,
    connect: Option<SocketAddr>,
    no_checksum: bool,
) -> Result<UdpSocket, Failure> {
    let socket = bind_udp(bind)?;
    if no_checksum {
        option::NoCheck
            .set(&socket, &true)
            .map_err(io::Error::from)?;
    }
    if let Some(peer) = connect {
        socket.connect(peer).await?;
    }
    Ok(socket)
}

/// A socket with this name. Where a port is named others may have it, too: a client that talks to
/// several from one port.
fn bind_udp(name: SocketAddr) -> Result<UdpSocket, Failure> {
    let family = match name {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None).map_err(io::Error::from)?;
    if name.port() != 0 {
        setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(io::Error::from)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(name)).map_err(io::Error::from)?;
    Ok(UdpSocket::from_std(socket.into())?)
}

impl Socket {
    /// `getsockname` and `getpeername`, the latter `None` where there is no peer.
    pub async fn names(&self) -> Result<(SocketAddr, Option<SocketAddr>), Failure> {
        match self {
            Self::Tcp(stream) => {
                let stream = stream.lock().await;
                let stream = stream.get_ref();
                Ok((stream.local_addr()?, Some(stream.peer_addr()?)))
            }
            Self::Udp(socket) => Ok((socket.local_addr()?, socket.peer_addr().ok())),
        }
    }

    /// Asks the peer who it is.
    pub async fn ask(&self, to: Option<SocketAddr>, length: usize) -> Result<Answer, Failure> {
        match self {
            Self::Tcp(stream) => ask_tcp(&mut *stream.lock().await).await,
            Self::Udp(socket) => ask_udp(socket, to, length).await,
        }
    }
}

/// Asks by a connection.
pub async fn ask_tcp(stream: &mut BufReader<TcpStream>) -> Result<Answer, Failure> {
    let from = stream.get_ref().peer_addr()?;
    stream.write_all(b"ASK\n").await?;
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(Failure::Closed);
    }
    let said: Said = serde_json::from_str(&line).map_err(|_| Failure::Garbled(line))?;
    Ok(Answer {
        server: said.server,
        at: said.at,
        client: said.client,
        from,
    })
}

/// Asks by a datagram, and waits for the answer to it.
///
/// One that gets lost is not sent again, for that is what tests are about; but where the machine
/// had no room for packets meanwhile, it is.
pub async fn ask_udp(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    length: usize,
) -> Result<Answer, Failure> {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut question = number.to_be_bytes().to_vec();
    while question.len() < length {
        question.push(question.len() as u8);
    }
    loop {
        let dropped = dropped_for_want_of_room()?;
        match to {
            Some(peer) => socket.send_to(&question, peer).await?,
            None => socket.send(&question).await?,
        };
        let mut answer = pin!(hear(socket, number, &question));
        loop {
            if let Ok(answer) = timeout(PATIENCE, &mut answer).await {
                return answer;
            }
            if dropped_for_want_of_room()? != dropped {
                break;
            }
        }
    }
}

/// Waits for the answer to a question.
async fn hear(socket: &UdpSocket, number: u64, question: &[u8]) -> Result<Answer, Failure> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let (received, from) = socket.recv_from(&mut buffer).await?;
        let text = &buffer[..received];
        let said: Said = serde_json::from_slice(text)
            .map_err(|_| Failure::Garbled(String::from_utf8_lossy(text).into_owned()))?;
        if said.number != number {
            continue;
        }
        if said.checksum != crc32fast::hash(question) || received < question.len() {
            return Err(Failure::Garbled(format!(
                "of a question of {} bytes, {received} came back, checksum {:x}",
                question.len(),
                said.checksum
            )));
        }
        return Ok(Answer {
            server: said.server,
            at: said.at,
            client: said.client,
            from,
        });
    }
}
