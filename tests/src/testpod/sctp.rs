//! SCTP's handshake (RFC 9260 section 5.1) by raw sockets, so that it does not depend on the
//! kernel's own SCTP, which many kernels lack.
//!
//! ```text
//!   client ── INIT ─────────► server     The cookie is the client's tag and the server's name:
//!   client ◄─ INIT ACK ────── server     the server keeps nothing, and the client learns who
//!   client ── COOKIE ECHO ──► server     answered.
//!   client ◄─ COOKIE ACK ──── server
//!   client ── ABORT ────────► server
//! ```
//!
//! Where the kernel has SCTP, it aborts associations of which it knows nothing. Such an abort is
//! left unread here.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket,
};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::protocol::Failure;

/// A packet without an answer is sent again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// The first port of clients, and how many there are: none is used twice in a test's life.
const FIRST_PORT: u16 = 30_000;
/// The server's tag.
const SERVER_TAG: u32 = 0x7765_6972;
/// Longer than any packet of a handshake.
const PACKET_MAX: usize = 2048;

/// RFC 9260 section 3.2
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// RFC 9260 section 3.3.3.1: the parameter "State Cookie".
const COOKIE: u16 = 7;

/// A process's SCTP. Clones are the same; sockets are opened when they are first needed.
#[derive(Clone)]
pub struct Stack(Arc<Shared>);

struct Shared {
    name: Arc<str>,
    // Clients'. The library's type is for any socket of datagrams, but for opening it.
    v4: OnceLock<Arc<UdpSocket>>,
    v6: OnceLock<Arc<UdpSocket>>,
    waiting: Mutex<BTreeMap<(SocketAddr, u16), mpsc::UnboundedSender<Packet>>>,
    next: AtomicU16,
    /// Each address that serves has a socket, from which it answers.
    served: Mutex<BTreeMap<IpAddr, BTreeSet<u16>>>,
}

/// A packet with one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    from: u16,
    to: u16,
    tag: u32,
    chunk: u8,
    value: Vec<u8>,
}

impl Stack {
    /// Of a process that answers by this name.
    pub fn new(name: Arc<str>) -> Self {
        Self(Arc::new(Shared {
            name,
            v4: OnceLock::new(),
            v6: OnceLock::new(),
            waiting: Mutex::default(),
            next: AtomicU16::new(FIRST_PORT),
            served: Mutex::default(),
        }))
    }

    /// Answers whoever opens an association with this address.
    pub fn serve(&self, address: SocketAddr) -> Result<(), Failure> {
        let ip = address.ip();
        let mut served = lock(&self.0.served);
        if let Entry::Vacant(entry) = served.entry(ip) {
            let socket = open(address)?;
            entry.insert(BTreeSet::new());
            let server = self.clone();
            tokio::spawn(async move {
                read(&socket, |from, packet| {
                    server.answer(&socket, ip, from, packet);
                })
                .await;
            });
        }
        served.entry(ip).or_default().insert(address.port());
        Ok(())
    }

    /// Opens an association and aborts it; gives the server's name. Does not give up by itself.
    pub async fn ask(&self, to: SocketAddr) -> Result<String, Failure> {
        let port = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut answers) = mpsc::unbounded_channel();
        let _waiting = Waiting::new(&self.0, (to, port), sender);
        self.socket(to.is_ipv6())?;
        let tag = u32::from(port) << 16 | u32::from(to.port());
        let packet = |tag, chunk, value| Packet {
            from: port,
            to: to.port(),
            tag,
            chunk,
            value,
        };
        let init = packet(0, INIT, initiation(tag));
        let answer = self.exchange(to, &init, INIT_ACK, &mut answers).await?;
        let garbled = || Failure::Garbled(format!("INIT ACK {:?}", answer.value));
        let server_tag = number(&answer.value, 0).ok_or_else(garbled)?;
        let cookie = answer.value.get(20..).ok_or_else(garbled)?.to_vec();
        let name = cookie.get(4..).ok_or_else(garbled)?;
        // White space is what a name was filled up with.
        let name = String::from_utf8_lossy(name).trim_end().to_owned();
        let echo = packet(server_tag, COOKIE_ECHO, cookie);
        self.exchange(to, &echo, COOKIE_ACK, &mut answers).await?;
        self.send(to.ip(), &packet(server_tag, ABORT, Vec::new()))?;
        Ok(name)
    }

    /// Sends a packet, again and again, until its answer comes.
    async fn exchange(
        &self,
        to: SocketAddr,
        packet: &Packet,
        answer: u8,
        answers: &mut mpsc::UnboundedReceiver<Packet>,
    ) -> Result<Packet, Failure> {
        loop {
            self.send(to.ip(), packet)?;
            let wanted = async {
                loop {
                    match answers.recv().await {
                        Some(packet) if packet.chunk == answer => return Ok(packet),
                        Some(_) => {}
                        None => return Err(Failure::Closed),
                    }
                }
            };
            if let Ok(answer) = timeout(AGAIN, wanted).await {
                return answer;
            }
        }
    }

    fn send(&self, to: IpAddr, packet: &Packet) -> Result<(), Failure> {
        send(self.socket(to.is_ipv6())?, to, packet)
    }

    /// The clients' socket of a family, with a task that reads it.
    fn socket(&self, is_v6: bool) -> Result<&UdpSocket, Failure> {
        let (any, held): (IpAddr, _) = if is_v6 {
            (Ipv6Addr::UNSPECIFIED.into(), &self.0.v6)
        } else {
            (Ipv4Addr::UNSPECIFIED.into(), &self.0.v4)
        };
        if let Some(socket) = held.get() {
            return Ok(socket);
        }
        let socket = Arc::new(open(SocketAddr::new(any, 0))?);
        let (reader, read_from) = (self.clone(), Arc::clone(&socket));
        tokio::spawn(async move {
            read(&read_from, |from, packet| reader.pass_on(from, packet)).await;
        });
        // The runtime has one thread: nobody was quicker.
        Ok(held.get_or_init(|| socket))
    }

    /// A packet for who waits for it.
    fn pass_on(&self, from: IpAddr, packet: Packet) {
        let key = (SocketAddr::new(from, packet.from), packet.to);
        if let Some(asker) = lock(&self.0.waiting).get(&key) {
            // An asker that has given up does not want it any more.
            let _ = asker.send(packet);
        }
    }

    /// A server's part.
    fn answer(&self, socket: &UdpSocket, own: IpAddr, from: IpAddr, packet: Packet) {
        let is_served = |ports: &BTreeSet<u16>| ports.contains(&packet.to);
        let Some(tag) = number(&packet.value, 0) else {
            return;
        };
        if !lock(&self.0.served).get(&own).is_some_and(is_served) {
            return;
        }
        let (chunk, value) = match packet.chunk {
            INIT => {
                let mut value = initiation(SERVER_TAG);
                let mut cookie = tag.to_be_bytes().to_vec();
                cookie.extend(self.0.name.as_bytes());
                // Whole words, so that nothing has to be filled up (RFC 9260 section 3.2.1).
                cookie.resize(cookie.len().next_multiple_of(4), b' ');
                value.extend(COOKIE.to_be_bytes());
                value.extend(length(cookie.len() + 4));
                value.extend(cookie);
                (INIT_ACK, value)
            }
            COOKIE_ECHO => (COOKIE_ACK, Vec::new()),
            _ => return,
        };
        let answer = Packet {
            from: packet.to,
            to: packet.from,
            tag,
            chunk,
            value,
        };
        // Lost, it is asked for again.
        let _ = send(socket, from, &answer);
    }
}

/// A socket for the packets to an address.
fn open(address: SocketAddr) -> Result<UdpSocket, Failure> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw: OwnedFd =
        socket(family, SockType::Raw, flags, SockProtocol::Sctp).map_err(std::io::Error::from)?;
    // A raw socket's addresses have no ports.
    let address = SockaddrStorage::from(SocketAddr::new(address.ip(), 0));
    bind(raw.as_raw_fd(), &address).map_err(std::io::Error::from)?;
    Ok(UdpSocket::from_std(raw.into())?)
}

fn send(socket: &UdpSocket, to: IpAddr, packet: &Packet) -> Result<(), Failure> {
    match socket.try_send_to(&packet.to_bytes(), SocketAddr::new(to, 0)) {
        // What the stack has no room for is lost, as on a wire, and sent again.
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes in packets until the runtime ends.
async fn read(socket: &UdpSocket, take_in: impl Fn(IpAddr, Packet)) {
    let mut buffer = [0; PACKET_MAX];
    loop {
        // An error is that of an earlier packet, whose receiver has gone.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        // A raw socket of IPv4 gives the network header, too; one of IPv6 does not.
        let header = if from.is_ipv6() {
            0
        } else {
            usize::from(buffer[0] & 0xf) * 4
        };
        let packet = buffer[..length].get(header..);
        if let Some(packet) = packet.and_then(Packet::read) {
            take_in(from.ip(), packet);
        }
    }
}

/// An asker's place in the list of those who wait, while it asks.
struct Waiting<'a> {
    shared: &'a Shared,
    key: (SocketAddr, u16),
}

impl<'a> Waiting<'a> {
    fn new(
        shared: &'a Shared,
        key: (SocketAddr, u16),
        sender: mpsc::UnboundedSender<Packet>,
    ) -> Self {
        lock(&shared.waiting).insert(key, sender);
        Self { shared, key }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.shared.waiting).remove(&self.key);
    }
}

impl Packet {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.chunk, 0]);
        bytes.extend(length(self.value.len() + 4));
        bytes.extend(&self.value);
        // RFC 9260 appendix A: the checksum's lowest byte comes first.
        let checksum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&checksum);
        bytes
    }

    /// `None`: too short.
    fn read(bytes: &[u8]) -> Option<Self> {
        let end = 12 + usize::from(u16::from_be_bytes([*bytes.get(14)?, *bytes.get(15)?]));
        Some(Self {
            from: u16::from_be_bytes([bytes[0], bytes[1]]),
            to: u16::from_be_bytes([bytes[2], bytes[3]]),
            tag: number(bytes, 4)?,
            chunk: bytes[12],
            value: bytes.get(16..end)?.to_vec(),
        })
    }
}

/// What `INIT` and `INIT ACK` begin with (RFC 9260 section 3.3.2): tag, window, streams, number.
fn initiation(tag: u32) -> Vec<u8> {
    let mut value = tag.to_be_bytes().to_vec();
    value.extend(65_536_u32.to_be_bytes());
    value.extend([0, 1, 0, 1]);
    value.extend(1_u32.to_be_bytes());
    value
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    let word = bytes.get(offset..offset + 4)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn length(length: usize) -> [u8; 2] {
    u16::try_from(length)
        .expect("packets of a handshake are short")
        .to_be_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_was_written() {
        let packet = Packet {
            from: 30_000,
            to: 80,
            tag: 7,
            chunk: INIT,
            value: initiation(0x0102_0304),
        };
        assert_eq!(Packet::read(&packet.to_bytes()), Some(packet.clone()));
        assert_eq!(Packet::read(&packet.to_bytes()[..20]), None);
    }
}
