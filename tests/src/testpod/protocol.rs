//! What is said between a test and the process in a pod.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A message and the number that its answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Chosen by whoever asks.
    pub id: u64,
    /// The message.
    pub body: T,
}

/// The number of an open socket, a running probe or transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub u64);

/// The protocols that the process speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// By which protocol a question of many goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Carrier {
    /// A TCP connection, opened and closed.
    Tcp,
    /// A UDP datagram, and the answer to it.
    Udp,
    /// An SCTP association, opened and aborted.
    Sctp,
}

impl Carrier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As the API says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// One question of [`Request::Inquire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inquiry {
    /// Whom.
    pub to: SocketAddr,
    /// By which protocol.
    pub by: Carrier,
    /// Give up after.
    pub timeout: u64,
}

/// What a test asks for. Times are in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Say that you are there. Answers [`Response::Done`].
    Hello,
    /// Serve at an address until the process ends or [`Request::Close`]. Answers
    /// [`Response::Opened`].
    Serve {
        /// TCP or UDP.
        transport: Transport,
        /// Where.
        address: SocketAddr,
    },
    /// Serve SCTP at an address until the process ends. Answers [`Response::Done`].
    ServeSctp {
        /// Where.
        address: SocketAddr,
    },
    /// Ask many at once who they are, each by a socket of its own. Answers
    /// [`Response::Inquired`].
    Inquire {
        /// The questions.
        questions: Vec<Inquiry>,
    },
    /// Serve DNS over UDP and TCP at an address. Answers [`Response::Opened`].
    ServeDns {
        /// Where.
        address: SocketAddr,
        /// The records of `cluster.local`: name without the zone → addresses.
        records: BTreeMap<String, Vec<IpAddr>>,
    },
    /// Open a TCP connection. Answers [`Response::Opened`].
    Connect {
        /// To whom.
        to: SocketAddr,
        /// Local address to bind first.
        bind: Option<SocketAddr>,
        /// Give up after.
        timeout: u64,
    },
    /// Open a UDP socket. Answers [`Response::Opened`].
    OpenUdp {
        /// Local address; also chooses the family.
        bind: SocketAddr,
        /// Connect the socket to this peer.
        connect: Option<SocketAddr>,
        /// Send IPv4 datagrams without a checksum (RFC 768: zero).
        no_checksum: bool,
    },
    /// Ask the server at the other end who it is. Answers [`Response::Answered`].
    Ask {
        /// The connection or UDP socket.
        socket: Handle,
        /// The peer, for a UDP socket that is not connected.
        to: Option<SocketAddr>,
        /// Length of question and answer; TCP ignores it.
        length: usize,
        /// Give up after.
        timeout: u64,
    },
    /// What the socket says of its ends. Answers [`Response::Opened`].
    Names {
        /// Which.
        socket: Handle,
    },
    /// Close a socket, server, probe or transfer. Answers [`Response::Done`].
    Close {
        /// Which.
        handle: Handle,
    },
    /// Fetch a page by HTTP. Answers [`Response::Page`].
    HttpGet {
        /// From whom.
        to: SocketAddr,
        /// Path.
        path: String,
        /// Give up after.
        timeout: u64,
    },
    /// Resolve a name's addresses. Answers [`Response::Resolved`].
    Resolve {
        /// The DNS server.
        server: SocketAddr,
        /// Full name.
        name: String,
        /// By which protocol.
        transport: Transport,
        /// Ask for IPv6 addresses.
        ipv6: bool,
        /// Give up after.
        timeout: u64,
    },
    /// Open a connection and send at a steady pace until [`Request::FinishTransfer`]. Answers
    /// [`Response::Opened`].
    StartTransfer {
        /// To whom.
        to: SocketAddr,
        /// Give up opening after.
        timeout: u64,
    },
    /// Bytes sent so far. Answers [`Response::Progress`].
    TransferProgress {
        /// Which.
        transfer: Handle,
    },
    /// End the stream and compare both ends. Answers [`Response::Transferred`].
    FinishTransfer {
        /// Which.
        transfer: Handle,
        /// Give up after.
        timeout: u64,
    },
    /// Send this many bytes to a server, then receive as many from it, as fast as it goes.
    /// Answers [`Response::Transferred`].
    Bulk {
        /// To whom.
        to: SocketAddr,
        /// How many.
        bytes: u64,
        /// Give up after.
        timeout: u64,
    },
    /// Ask once over UDP from each of these local ports. Answers [`Response::Swept`].
    Sweep {
        /// Whom.
        to: SocketAddr,
        /// The first local port.
        first: u16,
        /// The last.
        last: u16,
        /// Give up a question after; it is asked three times.
        timeout: u64,
    },
    /// Ask by a new socket again and again. Answers [`Response::Opened`].
    StartProbe {
        /// Whom.
        to: SocketAddr,
        /// By which protocol.
        transport: Transport,
        /// From one question to the next.
        interval: u64,
        /// A question fails after.
        timeout: u64,
    },
    /// Send a numbered datagram at each tick from one socket. Answers [`Response::Opened`].
    StartPulse {
        /// To whom.
        to: SocketAddr,
        /// From one to the next, in microseconds.
        interval: u64,
    },
    /// What a pulse has seen so far. Answers [`Response::Pulsed`].
    ReadPulse {
        /// Which.
        pulse: Handle,
    },
    /// End a pulse and wait for its last answers. Answers [`Response::Pulsed`].
    FinishPulse {
        /// Which.
        pulse: Handle,
    },
    /// For how many datagrams had sockets of this network namespace no room? Answers
    /// [`Response::Progress`].
    FullBuffers,
    /// What a probe has seen so far. Answers [`Response::Probed`].
    ReadProbe {
        /// Which.
        probe: Handle,
    },
}

/// What the process answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// A socket or server and its ends.
    Opened(Ends),
    /// A server's answer.
    Answered(Answer),
    /// A web page.
    Page(Page),
    /// A name's addresses.
    Resolved(Vec<IpAddr>),
    /// Bytes so far.
    Progress(u64),
    /// A transfer has ended.
    Transferred(Transferred),
    /// A probe's account.
    Probed(Probed),
    /// A sweep's account.
    Swept(Swept),
    /// A pulse's account.
    Pulsed(Pulsed),
    /// For each question the name of the server that answered.
    Inquired(Vec<Result<String, Failure>>),
    /// Nothing to say.
    Done,
    /// It did not work.
    Failed(Failure),
}

/// An open socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// To use it by.
    pub handle: Handle,
    /// `getsockname`
    pub local: SocketAddr,
    /// `getpeername`, if it is connected.
    pub peer: Option<SocketAddr>,
}

/// A server's answer to "who are you, and whom do you see?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The server's name.
    pub server: String,
    /// Where the server was asked, as it saw that.
    pub at: SocketAddr,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
    /// Where the answer came from, as the client saw it.
    pub from: SocketAddr,
}

/// A server's answer to HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Status code.
    pub status: u16,
    /// Header `Server`; empty where there is none.
    pub server: String,
    /// Body.
    pub body: String,
}

/// The account of a transfer: what one end sent and what the other received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// The server's name.
    pub server: String,
    /// As counted by the sender.
    pub sent: Amount,
    /// As counted by the receiver.
    pub received: Amount,
}

impl Transferred {
    /// Did every byte arrive, in order?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sent == self.received && self.sent.bytes > 0
    }
}

/// How much, and a checksum of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Bytes.
    pub bytes: u64,
    /// CRC-32.
    pub checksum: u32,
}

/// What a probe has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Answers by the server's name.
    pub answers: BTreeMap<String, u64>,
    /// Failures in order; after [`Probed::KEPT`] only counted.
    pub failures: Vec<Failure>,
    /// All failures.
    pub failed: u64,
}

impl Probed {
    /// Failures of which a probe keeps the reason.
    pub const KEPT: usize = 20;

    /// Answers from everyone.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Answers from a server.
    #[must_use]
    pub fn from(&self, server: &str) -> u64 {
        self.answers.get(server).copied().unwrap_or(0)
    }
}

/// What a pulse has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulsed {
    /// Datagrams sent.
    pub sent: u64,
    /// Answers by the server's name, each counted once.
    pub answers: BTreeMap<String, u64>,
    /// Failures in order; after [`Probed::KEPT`] only counted.
    pub failures: Vec<Failure>,
    /// All failures: what could not be sent, and what was received and not asked for.
    pub failed: u64,
}

impl Pulsed {
    /// Answers from everyone.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// Notes a failure.
    pub fn fail(&mut self, failure: Failure) {
        self.failed += 1;
        if self.failures.len() < Probed::KEPT {
            self.failures.push(failure);
        }
    }
}

/// What a sweep has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// As whom the server saw each local port that was answered.
    pub seen: BTreeMap<u16, SocketAddr>,
    /// Why the others were not; after [`Swept::KEPT`] only counted.
    pub failures: Vec<(u16, Failure)>,
    /// All that were not answered.
    pub failed: u64,
}

impl Swept {
    /// Failures of which a sweep keeps the reason.
    pub const KEPT: usize = 20;
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// The kernel's error by its name, such as `ECONNREFUSED`.
    Errno(String),
    /// No answer in time.
    TimedOut,
    /// The peer closed the connection before it answered.
    Closed,
    /// The answer is not what was asked for.
    Garbled(String),
    /// The process in the pod does not live any more.
    Gone(String),
}

impl Failure {
    /// The peer, or the node on its behalf, refused.
    #[must_use]
    pub fn refused() -> Self {
        Self::Errno("ECONNREFUSED".to_owned())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(name) => f.write_str(name),
            Self::TimedOut => f.write_str("timed out"),
            Self::Closed => f.write_str("closed by the peer"),
            Self::Garbled(what) => write!(f, "garbled answer: {what}"),
            Self::Gone(why) => write!(f, "the pod's process is gone: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return Self::Closed;
        }
        match error.raw_os_error() {
            Some(number) => Self::Errno(format!("{:?}", nix::errno::Errno::from_raw(number))),
            None => Self::Garbled(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_error_is_told_by_its_name() {
        let error = std::io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(Failure::from(error), Failure::refused());
    }

    #[test]
    fn a_request_survives_its_line() {
        let request = Request::Connect {
            to: "[::ffff:10.32.0.140]:80".parse().unwrap(),
            bind: None,
            timeout: 5,
        };
        let line = serde_json::to_string(&Numbered {
            id: 7,
            body: request,
        })
        .unwrap();
        assert!(!line.contains('\n'));
        let back: Numbered<Request> = serde_json::from_str(&line).unwrap();
        let Request::Connect { to, .. } = back.body else {
            panic!("{:?} is another request", back.body);
        };
        assert_eq!(
            (back.id, to.to_string()),
            (7, "[::ffff:10.32.0.140]:80".to_owned())
        );
    }
}
