//! The whole way of a connection through a node, and back.
//!
//! ```text
//!   client ─ from_pod / from_network ─ (the node's routing) ─ to_pod / to_network ─ backend
//!   client ─ to_pod / to_network ───── (the node's routing) ─ from_pod / from_network ─┘
//! ```
//!
//! A process of the node crosses no hook on its side: its calls are translated, or nothing is.
//! Whatever goes one way is answered, and the answer has to reach the client from the address
//! that it used.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use weir_ebpf::addr::Protocol;
use weir_ebpf::packet::TcpFlags;
use weir_ebpf::verdict::{DropReason, Hook, RejectReason, Verdict};
use weir_tests::reference::Client;
use weir_tests::scenario::format::CallKind;
use weir_tests::scenario::packet::{Body, Chunk, Packet, Tcp};
use weir_tests::scenario::runner::{Executor, SocketCall, send};

use super::plan;

/// Somebody wants to reach somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who.
    pub client: Client,
    /// By which of its sockets.
    pub from: SocketAddr,
    /// Whom.
    pub to: SocketAddr,
    /// TCP, UDP, SCTP.
    pub protocol: &'static str,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went on as it was.
    LeftAlone,
    /// It reached a backend.
    Reached {
        /// Where.
        at: SocketAddr,
        /// By whom, as the backend sees it.
        source: SocketAddr,
    },
    /// It was answered by the node.
    Refused(RejectReason),
    /// It disappeared.
    Dropped(DropReason),
}

impl Connection {
    /// The client's first packet.
    #[must_use]
    pub fn first_packet(&self) -> Packet {
        let body = match self.protocol {
            "TCP" => Body::Tcp(Tcp::new(TcpFlags::SYN)),
            "UDP" => Body::Udp { has_checksum: true },
            _ => Body::Sctp(Chunk::INIT),
        };
        Packet::new(self.from, self.to, body)
    }

    fn protocol(&self) -> Protocol {
        match self.protocol {
            "TCP" => Protocol::TCP,
            "UDP" => Protocol::UDP,
            _ => Protocol::SCTP,
        }
    }
}

/// Where something is, as seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pod,
    Node,
    Network,
}

fn place_of(addr: IpAddr) -> Place {
    if plan::is_local_pod(addr) {
        Place::Pod
    } else if plan::is_node(addr) {
        Place::Node
    } else {
        Place::Network
    }
}

fn place_of_client(client: Client) -> Place {
    match client {
        Client::Pod(_) => Place::Pod,
        Client::Node => Place::Node,
        Client::Outside(_) => Place::Network,
    }
}

/// Sends a connection's first packets, without a call that could be translated.
///
/// # Errors
/// A packet is changed in a way that is never right, an answer gets lost, or a later packet goes
/// elsewhere.
pub fn by_packets(executor: &mut impl Executor, connection: &Connection) -> Result<Outcome> {
    let sender = place_of_client(connection.client);
    let first = connection.first_packet();
    let crossed = cross(executor, sender, &first)?;
    let reached = match crossed.verdict {
        Verdict::Reject(reason) => return Ok(Outcome::Refused(reason)),
        Verdict::Drop(reason) => return Ok(Outcome::Dropped(reason)),
        Verdict::Pass | Verdict::PassFragment | Verdict::Translate => crossed.packet,
    };
    let answer = cross(executor, place_of(reached.dst.ip()), &reached.reply())?;
    ensure!(
        matches!(answer.verdict, Verdict::Pass | Verdict::Translate),
        "{first} became {reached}, whose answer was lost: {:?}",
        answer.verdict
    );
    ensure!(
        (answer.packet.src, answer.packet.dst) == (first.dst, first.src),
        "{first} became {reached}, whose answer reached the client as {}",
        answer.packet
    );
    let next = cross(executor, sender, &answer.packet.reply())?;
    ensure!(
        (next.packet.src, next.packet.dst) == (reached.src, reached.dst),
        "{first} became {reached}, and the packet after it {} ({:?})",
        next.packet,
        next.verdict
    );
    Ok(if (reached.src, reached.dst) == (first.src, first.dst) {
        Outcome::LeftAlone
    } else {
        Outcome::Reached {
            at: reached.dst,
            source: reached.src,
        }
    })
}

/// Makes a connection's first call, and sends packets to the peer that it is given. `None`: the
/// call was left alone.
///
/// # Errors
/// As [`by_packets`]; or the socket does not give the address that the client used as its peer.
pub fn at_socket(
    executor: &mut impl Executor,
    connection: &Connection,
    socket: u64,
) -> Result<Option<Outcome>> {
    let call = SocketCall {
        kind: CallKind::Connect,
        is_node: connection.client == Client::Node,
        socket,
        protocol: connection.protocol(),
        peer: connection.to,
    };
    let called = executor.call(&call)?;
    match called.verdict {
        Verdict::Pass | Verdict::PassFragment => {
            ensure!(called.peer == call.peer, "{call} passed with another peer");
            return Ok(None);
        }
        Verdict::Reject(reason) => return Ok(Some(Outcome::Refused(reason))),
        Verdict::Drop(reason) => return Ok(Some(Outcome::Dropped(reason))),
        Verdict::Translate => {}
    }
    let name = executor.call(&SocketCall {
        kind: CallKind::Getpeername,
        peer: called.peer,
        ..call
    })?;
    ensure!(
        name.peer == connection.to,
        "{call} was translated to {}, and the peer's name is {}",
        called.peer,
        name.peer
    );
    let onward = Connection {
        to: called.peer,
        ..*connection
    };
    // Within a pod, or within the node, no hook is crossed.
    let stays = called.peer.ip() == connection.from.ip();
    if !stays {
        let outcome = by_packets(executor, &onward).context("after the call was translated")?;
        ensure!(
            outcome == Outcome::LeftAlone,
            "{call} was translated to {}, whose packets came to {outcome:?}",
            called.peer
        );
    }
    Ok(Some(Outcome::Reached {
        at: called.peer,
        source: connection.from,
    }))
}

struct Crossed {
    verdict: Verdict,
    packet: Packet,
}

/// A packet's way through the node: in, routed by its destination, and out.
fn cross(executor: &mut impl Executor, sender: Place, packet: &Packet) -> Result<Crossed> {
    let entry = match sender {
        Place::Pod => Some(Hook::FromPod),
        Place::Network => Some(Hook::FromNetwork),
        Place::Node => None,
    };
    let mut crossed = Crossed {
        verdict: Verdict::Pass,
        packet: packet.clone(),
    };
    if let Some(hook) = entry {
        pass(executor, hook, &mut crossed)?;
    }
    let exit = match place_of(crossed.packet.dst.ip()) {
        Place::Pod => Some(Hook::ToPod),
        Place::Network => Some(Hook::ToNetwork),
        Place::Node => None,
    };
    if let Some(hook) = exit {
        pass(executor, hook, &mut crossed)?;
    }
    if crossed.verdict == Verdict::Translate && crossed.packet.src.ip() == crossed.packet.dst.ip() {
        bail!(
            "{packet} became {}, from somebody to itself",
            crossed.packet
        );
    }
    Ok(crossed)
}

/// One hook, unless the packet ended before.
fn pass(executor: &mut impl Executor, hook: Hook, crossed: &mut Crossed) -> Result<()> {
    match crossed.verdict {
        Verdict::Reject(_) | Verdict::Drop(_) => Ok(()),
        before @ (Verdict::Pass | Verdict::PassFragment | Verdict::Translate) => {
            let (verdict, packet) = send(executor, hook, &crossed.packet)
                .with_context(|| format!("{} at {}", crossed.packet, hook.name()))?;
            crossed.packet = packet;
            crossed.verdict = match (before, verdict) {
                (Verdict::Translate, Verdict::Pass) => Verdict::Translate,
                (_, after) => after,
            };
            Ok(())
        }
    }
}
