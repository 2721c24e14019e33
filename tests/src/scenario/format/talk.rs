//! Conversations: what a `talk` step says and what is expected of it.
//!
//! ```yaml
//! - talk: {tcp: "10.200.0.9 > 10.32.0.140:80", times: 64}
//!   expect: {reaches: ["10.200.0.2:8080", "10.200.128.1:8080"]}
//! - talk: {udp: "10.200.0.9:40000 > 10.32.0.10:53"}
//!   expect: {served_by: ["10.200.0.3:5353"]}
//! - talk: {tcp: "[fd00:10:200::9] > [fd00:10:32::32]:80", via: packet}
//!   expect: refused
//! ```
//!
//! A client asks a server who it is and whom it sees. A client without a port asks each time by
//! a new socket; one with a port asks by the same socket whenever it is spoken of again.
//!
//! | field | means |
//! |---|---|
//! | `tcp`, `udp` | client and whom it asks, both as the client's socket writes them (`::ffff:…`) |
//! | `by: node` | the client is a process of a node, not of a pod; the outside world's host is known by its address |
//! | `via: packet` | TCP of a process that the node's programs at socket calls do not see |
//! | `socket: unconnected` | UDP sent by `sendto(2)`, not by a connected socket |
//! | `times: N` | as many questions, each answered before the next |
//! | `tries: N` | UDP: a question that is not answered is asked again, N times in all |
//! | `length: N` | UDP: bytes of question and answer |
//!
//! | expected | means |
//! |---|---|
//! | `served_by: […]` | each answer comes from one of these |
//! | `reaches: […]` | and each of these gave one |
//! | `client_seen_as: ADDRESS` or `node` | whom the server sees: its source was translated; else the client itself: its source was kept |
//! | `client_seen_as: either` | the client itself or a node, by which endpoint answers |
//! | `refused` | the client is told so (`ECONNREFUSED`) |
//! | `silence` | nobody answers: nothing comes back, or no way leads there |
//!
//! Of every answer it is expected besides that the client sees it come from whom it asked.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use weir_ebpf::addr::Protocol;

use super::super::packet;
use crate::bed::plan;

/// A client asks a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Talk {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client's address.
    pub client: IpAddr,
    /// The client's port, if its socket lives on.
    pub port: Option<u16>,
    /// Whom it asks.
    pub server: SocketAddr,
    /// Who the client is.
    pub by: By,
    /// Where a service's address is translated.
    pub way: Way,
    /// Is the socket connected? That of TCP always is.
    pub is_connected: bool,
    /// How often it asks.
    pub times: u16,
    /// How often it asks again while there is no answer.
    pub tries: u16,
    /// Bytes of question and answer; zero: as they come.
    pub length: u16,
}

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// A process in a pod.
    Pod,
    /// A process of a node itself.
    Node,
    /// The host in the outside world.
    Outside,
}

/// Where a service's address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// When the client calls its socket.
    Socket,
    /// When its packets leave the pod.
    Packet,
}

/// What a question leads to, in the client's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An answer, from whom the client asked.
    Answer {
        /// Who says to have given it.
        by: SocketAddr,
        /// The client's address as that server sees it.
        seen_as: IpAddr,
    },
    /// The client is told that there is nobody.
    Refused,
    /// Nothing.
    Silence,
}

/// What is expected of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Answers.
    Answers {
        /// From these.
        by: BTreeSet<SocketAddr>,
        /// From each of them at least once.
        is_each: bool,
        /// Which see the client by this address.
        seen_as: SeenAs,
    },
    /// As [`Reply::Refused`].
    Refused,
    /// As [`Reply::Silence`].
    Silence,
}

/// By which address a server sees a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenAs {
    /// The client's own.
    Client,
    /// One of the node's.
    Node,
    /// The client's own, or one of any node's.
    Either,
    /// This.
    Addr(IpAddr),
}

impl Talk {
    /// Who the client is, however often it asks: the same for the same living socket.
    #[must_use]
    pub fn socket(&self) -> Self {
        Self {
            times: 0,
            tries: 0,
            length: 0,
            ..*self
        }
    }

    /// The server's address, be it written as IPv4 or as mapped into IPv6.
    #[must_use]
    pub fn asked(&self) -> SocketAddr {
        canonical(self.server)
    }

    /// Are the replies what was expected?
    ///
    /// # Errors
    /// Says which is not, or who is missing.
    pub fn judge(
        &self,
        expected: &Expected,
        node: &BTreeSet<IpAddr>,
        replies: &[Reply],
    ) -> Result<()> {
        let mut answered = BTreeSet::new();
        for (index, reply) in replies.iter().enumerate() {
            let is_expected = match (expected, reply) {
                (Expected::Refused, Reply::Refused) | (Expected::Silence, Reply::Silence) => true,
                (
                    Expected::Answers { by, seen_as, .. },
                    Reply::Answer {
                        by: actual,
                        seen_as: seen,
                    },
                ) => {
                    answered.insert(*actual);
                    by.contains(actual)
                        && match seen_as {
                            SeenAs::Client => *seen == self.client.to_canonical(),
                            SeenAs::Node => node.contains(seen),
                            SeenAs::Either => {
                                *seen == self.client.to_canonical() || node.contains(seen)
                            }
                            SeenAs::Addr(addr) => seen == addr,
                        }
                }
                (Expected::Answers { .. } | Expected::Refused | Expected::Silence, _) => false,
            };
            ensure!(
                is_expected,
                "question {} of {self}: {reply}, expected {expected}",
                index + 1
            );
        }
        if let Expected::Answers {
            by, is_each: true, ..
        } = expected
        {
            ensure!(
                answered == *by,
                "{self}: {answered:?} answered, expected that each of {by:?} does"
            );
        }
        Ok(())
    }
}

/// As in the file.
impl fmt::Display for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.client)?;
        if let Some(port) = self.port {
            write!(f, " port {port}")?;
        }
        let by = match self.by {
            By::Pod => "pod",
            By::Node => "node",
            By::Outside => "outside world",
        };
        write!(f, " > {}, by the {by}, via {:?}", self.server, self.way)
    }
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}, {} times", self.times)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { by, seen_as } => write!(f, "answered by {by}, which saw {seen_as}"),
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("silence"),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers { by, seen_as, .. } => {
                let by: Vec<String> = by.iter().map(ToString::to_string).collect();
                write!(f, "an answer by {}, which saw ", by.join(" or "))?;
                match seen_as {
                    SeenAs::Client => f.write_str("the client itself"),
                    SeenAs::Node => f.write_str("the node"),
                    SeenAs::Either => f.write_str("the client itself or a node"),
                    SeenAs::Addr(addr) => write!(f, "{addr}"),
                }
            }
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("silence"),
        }
    }
}

/// An address as IPv4 where it is one mapped into IPv6.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TalkText {
    tcp: Option<String>,
    udp: Option<String>,
    #[serde(default)]
    by: ByText,
    via: Option<ViaText>,
    socket: Option<SocketText>,
    #[serde(default = "once")]
    times: u16,
    #[serde(default = "once")]
    tries: u16,
    #[serde(default)]
    length: u16,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ByText {
    #[default]
    Pod,
    Node,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ViaText {
    Socket,
    Packet,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SocketText {
    Connected,
    Unconnected,
}

/// The words that can be all that is expected.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WordText {
    Refused,
    Silence,
}

/// The fields of `expect` that belong to a conversation.
#[derive(Default)]
pub(super) struct AnswersText {
    pub(super) served_by: Vec<SocketAddr>,
    pub(super) reaches: Vec<SocketAddr>,
    pub(super) client_seen_as: Option<String>,
}

const fn once() -> u16 {
    1
}

impl TalkText {
    pub(super) fn read(self) -> Result<Talk> {
        let (protocol, text) = match (&self.tcp, &self.udp) {
            (Some(text), None) => (Protocol::TCP, text),
            (None, Some(text)) => (Protocol::UDP, text),
            _ => bail!("a talk is exactly one of tcp, udp"),
        };
        let (client, port, server) =
            parse_places(text).with_context(|| format!("in the talk {text:?}"))?;
        let by = match (self.by, is_outside(client)) {
            (ByText::Pod, false) => By::Pod,
            (ByText::Pod, true) => By::Outside,
            (ByText::Node, false) => By::Node,
            (ByText::Node, true) => bail!("{client} is the outside world's host, not a node"),
        };
        ensure!(
            self.times > 0 && self.tries > 0,
            "nobody talks `times: 0` or `tries: 0`"
        );
        Ok(Talk {
            protocol,
            client,
            port,
            server,
            by,
            way: self.way(by)?,
            is_connected: self.socket != Some(SocketText::Unconnected),
            times: self.times,
            tries: self.tries,
            length: self.length,
        })
    }

    fn way(&self, by: By) -> Result<Way> {
        let is_tcp = self.tcp.is_some();
        if is_tcp {
            ensure!(self.socket.is_none(), "a TCP socket is always connected");
            ensure!(
                self.tries == 1 && self.length == 0,
                "`tries` and `length` are UDP's: TCP tries itself, and has no datagrams"
            );
        }
        match (by, self.via) {
            (By::Outside, None) => Ok(Way::Packet),
            (By::Outside, Some(_)) => bail!("the outside world has packets only"),
            (By::Node, Some(ViaText::Packet)) => {
                bail!("the node's own packets are not translated, only its calls are")
            }
            (By::Pod | By::Node, Some(_)) if !is_tcp => {
                bail!("UDP has one way only: the node's by its calls, a pod's by its packets")
            }
            (By::Pod, Some(ViaText::Packet)) => Ok(Way::Packet),
            (By::Pod, None) if !is_tcp => Ok(Way::Packet),
            (By::Pod | By::Node, None | Some(ViaText::Socket)) => Ok(Way::Socket),
        }
    }
}

/// Is this the outside world's host?
#[must_use]
pub fn is_outside(addr: IpAddr) -> bool {
    [IpAddr::V4(plan::OUTSIDE_V4), plan::OUTSIDE_V6.into()].contains(&addr.to_canonical())
}

/// Reads `CLIENT > SERVER:PORT`.
fn parse_places(text: &str) -> Result<(IpAddr, Option<u16>, SocketAddr)> {
    let (client, server) = text
        .split_once('>')
        .context("expected `CLIENT > SERVER:PORT`")?;
    let (client, server) = (client.trim(), server.trim());
    let (client, port) = match client.parse::<SocketAddr>() {
        Ok(with_port) => (with_port.ip(), Some(with_port.port())),
        Err(_) => {
            let client = client
                .parse()
                .with_context(|| format!("{client:?} is neither an address nor one with a port"))?;
            (client, None)
        }
    };
    if let Some(port) = port {
        ensure!(
            !plan::EPHEMERAL_PORTS.contains(&port) || plan::CLIENT_PORTS.contains(&port),
            "a client's port is one of {:?}, or none that the kernel gives by itself",
            plan::CLIENT_PORTS
        );
    }
    let server: SocketAddr = server
        .parse()
        .with_context(|| format!("{server:?} is no address with a port"))?;
    ensure!(
        packet::same_family(client, server.ip()),
        "client and server are of two families; write an IPv4 client as mapped, too"
    );
    Ok((client, port, server))
}

impl AnswersText {
    pub(super) fn read(self, talk: &Talk) -> Result<Expected> {
        let seen_as = match self.client_seen_as.as_deref() {
            // Which of the node's addresses it is depends on the way its packets take.
            None if talk.by == By::Node => SeenAs::Node,
            None => SeenAs::Client,
            Some("node") => SeenAs::Node,
            Some("either") => SeenAs::Either,
            Some(addr) => SeenAs::Addr(addr.parse().with_context(|| {
                format!("`client_seen_as` is an address, `node` or `either`, not {addr:?}")
            })?),
        };
        let is_each = !self.reaches.is_empty();
        let by: BTreeSet<SocketAddr> = self.served_by.into_iter().chain(self.reaches).collect();
        ensure!(
            !by.is_empty(),
            "a talk expects `refused`, `silence`, or who answers: `served_by` or `reaches`"
        );
        ensure!(
            !is_each || by.len() <= usize::from(talk.times),
            "{} servers cannot be reached with {} questions",
            by.len(),
            talk.times
        );
        Ok(Expected::Answers {
            by,
            is_each,
            seen_as,
        })
    }
}

impl WordText {
    pub(super) fn read(self, talk: &Talk) -> Result<Expected> {
        match self {
            Self::Refused => {
                ensure!(
                    talk.is_connected || talk.way == Way::Socket,
                    "a socket that is not connected is not told of an ICMP error"
                );
                Ok(Expected::Refused)
            }
            Self::Silence => Ok(Expected::Silence),
        }
    }
}
