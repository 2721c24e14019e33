//! Conversations played as the socket calls and packets they consist of, for executors that have
//! no sockets.
//!
//! ```text
//!   client ─ entry ─ the node ─ exit ─ server        entry: from_pod or from_network
//!   client ─ exit ── the node ─ entry ─┘             exit: to_pod or to_network
//! ```
//!
//! A pod's packets enter at its own interface and leave by it; those of the world beyond the node,
//! other nodes' pods too, at the node's interface to it. What is on the node itself, client or
//! server, crosses no hook on its side. A packet between processes of one pod crosses none.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use weir_ebpf::addr::Protocol;
use weir_ebpf::datapath::At;
use weir_ebpf::packet::TcpFlags;
use weir_ebpf::verdict::{Hook, Verdict};

use super::format::CallKind;
use super::format::talk::{By, Reply, Talk, Way, canonical};
use super::interfaces::Interfaces;
use super::memory::UPLINK;
use super::packet::{Body, Packet, Tcp};
use super::places::{Place, Places, Side};
use super::runner::{Executor, SocketCall, send_at};

/// The first port of clients of which none is said.
const FIRST_PORT: u16 = 50_000;
/// The first number of sockets: far from those of a scenario's own calls.
const FIRST_SOCKET: u64 = 1 << 32;
/// Bytes of a question, and of an answer.
const QUESTION: u16 = 8;
const ANSWER: u16 = 100;

/// The sockets that live on, and what the next ones are called.
#[derive(Debug, Default)]
pub struct Talks {
    sockets: BTreeMap<Talk, Socket>,
    opened: u16,
}

/// A client's socket.
#[derive(Clone, Copy, Debug)]
struct Socket {
    number: u64,
    client: SocketAddr,
    /// To whom its packets go, once it is connected.
    peer: Option<SocketAddr>,
}

impl Talks {
    /// Plays a conversation; gives what came of each question.
    ///
    /// # Errors
    /// An executor's, or the client sees something that no client must see.
    pub fn play(
        &mut self,
        executor: &mut impl Executor,
        places: &Places,
        interfaces: &Interfaces,
        talk: &Talk,
    ) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        for _ in 0..talk.times {
            let living = self.sockets.remove(&talk.socket());
            let mut line = Line {
                executor: &mut *executor,
                places,
                interfaces,
                talk,
                socket: living.unwrap_or_else(|| self.open(talk)),
            };
            let mut reply = line.ask()?;
            for _ in 1..talk.tries {
                if matches!(reply, Reply::Answer { .. }) {
                    break;
                }
                reply = line.ask()?;
            }
            replies.push(reply);
            let socket = line.socket;
            if talk.port.is_some() {
                self.sockets.insert(talk.socket(), socket);
            } else {
                line.close()?;
            }
        }
        Ok(replies)
    }

    fn open(&mut self, talk: &Talk) -> Socket {
        let index = self.opened;
        self.opened += 1;
        let port = talk.port.unwrap_or(FIRST_PORT + index);
        Socket {
            number: FIRST_SOCKET + u64::from(index),
            client: SocketAddr::new(talk.client.to_canonical(), port),
            peer: None,
        }
    }
}

/// What became of a packet on its way.
enum Carried {
    /// It arrived, like this.
    Arrived(Packet),
    /// Its sender was told that there is nobody.
    Refused,
    /// It is gone.
    Lost,
}

/// A client and its socket, while it asks.
struct Line<'a, E> {
    executor: &'a mut E,
    places: &'a Places,
    interfaces: &'a Interfaces,
    talk: &'a Talk,
    socket: Socket,
}

impl<E: Executor> Line<'_, E> {
    fn ask(&mut self) -> Result<Reply> {
        match self.talk.protocol {
            Protocol::TCP => self.ask_tcp(),
            _ => self.ask_udp(),
        }
    }

    fn ask_tcp(&mut self) -> Result<Reply> {
        let peer = match self.socket.peer {
            Some(peer) => peer,
            None => {
                let Some(peer) = self.connect()? else {
                    return Ok(Reply::Refused);
                };
                let opened = self.exchange(peer, &tcp(TcpFlags::SYN), 0, None)?;
                let Reply::Answer { .. } = opened else {
                    return Ok(opened);
                };
                self.deliver(peer, &tcp(TcpFlags::ACK))?;
                self.socket.peer = Some(peer);
                peer
            }
        };
        let push = tcp(TcpFlags(TcpFlags::ACK.0 | PSH));
        self.exchange(peer, &push, QUESTION, Some(&push))
    }

    fn ask_udp(&mut self) -> Result<Reply> {
        let peer = match (self.talk.is_connected, self.socket.peer) {
            (true, Some(peer)) => peer,
            (true, None) => {
                let Some(peer) = self.connect()? else {
                    return Ok(Reply::Refused);
                };
                self.socket.peer = Some(peer);
                peer
            }
            (false, _) => match self.call(CallKind::Sendmsg, self.talk.server)? {
                Some(peer) => peer,
                None => return Ok(Reply::Refused),
            },
        };
        let body = Body::Udp { has_checksum: true };
        let length = self.talk.length.max(QUESTION);
        let reply = self.exchange(peer, &body, length, None)?;
        if matches!(reply, Reply::Answer { .. }) {
            self.ensure_named(CallKind::Recvmsg, peer)?;
        }
        Ok(reply)
    }

    /// `connect(2)`: to whom packets go from now on; `None` if that is refused.
    fn connect(&mut self) -> Result<Option<SocketAddr>> {
        let peer = self.call(CallKind::Connect, self.talk.server)?;
        if let Some(peer) = peer {
            self.ensure_named(CallKind::Getpeername, peer)?;
        }
        Ok(peer)
    }

    /// A call that chooses the peer; `None` if it is refused.
    fn call(&mut self, kind: CallKind, peer: SocketAddr) -> Result<Option<SocketAddr>> {
        if self.talk.way == Way::Packet {
            return Ok(Some(canonical(peer)));
        }
        let called = self.executor.call(&self.socket_call(kind, peer))?;
        match called.verdict {
            Verdict::Pass | Verdict::PassFragment | Verdict::Translate => {
                Ok(Some(canonical(called.peer)))
            }
            Verdict::Reject(_) => Ok(None),
            Verdict::Drop(reason) => bail!("{kind:?} to {peer} was dropped: {reason:?}"),
        }
    }

    /// The client is told the name by which it asked.
    fn ensure_named(&mut self, kind: CallKind, peer: SocketAddr) -> Result<()> {
        if self.talk.way == Way::Packet {
            return Ok(());
        }
        let call = self.socket_call(kind, peer);
        let called = self.executor.call(&call)?;
        ensure!(
            canonical(called.peer) == self.talk.asked(),
            "{call}: the client sees {}, but it asked {}",
            called.peer,
            self.talk.server
        );
        Ok(())
    }

    fn socket_call(&self, kind: CallKind, peer: SocketAddr) -> SocketCall {
        SocketCall {
            kind,
            is_node: self.talk.by == By::Node,
            socket: self.socket.number,
            protocol: self.talk.protocol,
            peer,
        }
    }

    /// A packet to the peer and one back; where `answer` is not said, as the protocol has it.
    fn exchange(
        &mut self,
        peer: SocketAddr,
        question: &Body,
        length: u16,
        answer: Option<&Body>,
    ) -> Result<Reply> {
        let question = Packet {
            payload: length,
            ..Packet::new(self.socket.client, peer, question.clone())
        };
        let arrived = match self.carry_there(question.clone())? {
            Carried::Arrived(packet) => packet,
            // Only a connected socket is told of an ICMP error.
            Carried::Refused if self.talk.is_connected => return Ok(Reply::Refused),
            Carried::Refused | Carried::Lost => return Ok(Reply::Silence),
        };
        let server = arrived.dst;
        if !self.places.servers.contains(&(self.talk.protocol, server)) {
            return match Place::of(server.ip()) {
                // The kernel's own answer.
                Place::Node(_) if self.talk.is_connected => Ok(Reply::Refused),
                Place::Pod(_) if self.places.pods.contains(&server.ip()) => {
                    bail!("{question} arrived as {arrived}, where the scenario has no server")
                }
                Place::Node(_) | Place::Pod(_) | Place::Elsewhere => Ok(Reply::Silence),
            };
        }
        let mut reply = arrived.reply();
        if let Some(body) = answer {
            reply.body = body.clone();
        }
        if length > 0 {
            reply.payload = length.max(ANSWER);
        }
        let seen = self.carry_back(reply.clone())?;
        ensure!(
            (seen.src, seen.dst) == (peer, self.socket.client),
            "the answer to {question}, {reply}, reached the client as {seen}"
        );
        Ok(Reply::Answer {
            by: server,
            seen_as: arrived.src.ip(),
        })
    }

    /// A packet that is not answered.
    fn deliver(&mut self, peer: SocketAddr, body: &Body) -> Result<()> {
        let packet = Packet::new(self.socket.client, peer, body.clone());
        match self.carry_there(packet.clone())? {
            Carried::Arrived(_) => Ok(()),
            Carried::Refused | Carried::Lost => bail!("{packet} did not arrive"),
        }
    }

    /// The end of a socket that does not live on.
    fn close(&mut self) -> Result<()> {
        match (self.talk.protocol, self.socket.peer) {
            (Protocol::TCP, Some(peer)) => {
                let fin = tcp(TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0));
                self.exchange(peer, &fin, 0, Some(&fin))?;
                self.deliver(peer, &tcp(TcpFlags::ACK))
            }
            _ => Ok(()),
        }
    }

    fn carry_there(&mut self, mut packet: Packet) -> Result<Carried> {
        if packet.dst.ip() == packet.src.ip() {
            return Ok(Carried::Arrived(packet));
        }
        let from = self.places.side(packet.src.ip());
        if from == Side::Beyond && !self.places.comes_here(packet.dst.ip()) {
            return Ok(Carried::Lost);
        }
        if let Some(hook) = entry(from) {
            let at = self.at(hook, &packet);
            let (verdict, output) = send_at(self.executor, at, &packet)?;
            match verdict {
                Verdict::Pass | Verdict::PassFragment | Verdict::Translate => packet = output,
                Verdict::Reject(_) => return Ok(Carried::Refused),
                Verdict::Drop(_) => return Ok(Carried::Lost),
            }
        }
        if let Some(hook) = exit(self.places.side(packet.dst.ip())) {
            let at = self.at(hook, &packet);
            let (verdict, output) = send_at(self.executor, at, &packet)?;
            match verdict {
                Verdict::Pass | Verdict::PassFragment | Verdict::Translate => packet = output,
                Verdict::Reject(_) => bail!("{packet} was refused at {}", hook.name()),
                Verdict::Drop(_) => return Ok(Carried::Lost),
            }
        }
        Ok(Carried::Arrived(packet))
    }

    fn carry_back(&mut self, mut packet: Packet) -> Result<Packet> {
        if packet.dst.ip() == packet.src.ip() {
            return Ok(packet);
        }
        if let Some(hook) = entry(self.places.side(packet.src.ip())) {
            packet = self.cross(hook, &packet)?;
        }
        if let Some(hook) = exit(self.places.side(packet.dst.ip())) {
            packet = self.cross(hook, &packet)?;
        }
        Ok(packet)
    }

    /// Where a hook sees a packet: at the pod's own interface, if the pod is known.
    fn at(&self, hook: Hook, packet: &Packet) -> At {
        let pod = match hook {
            Hook::FromPod => Some(packet.src.ip()),
            Hook::ToPod => Some(packet.dst.ip()),
            Hook::FromNetwork | Hook::ToNetwork | Hook::Socket => None,
        };
        let interface = pod.and_then(|addr| self.interfaces.at(addr));
        At {
            is_from_node: hook == Hook::ToPod && self.places.side(packet.src.ip()) == Side::Node,
            ..At::new(hook, interface.unwrap_or(UPLINK))
        }
    }

    /// A packet that nothing may stop.
    fn cross(&mut self, hook: Hook, packet: &Packet) -> Result<Packet> {
        let (verdict, output) = send_at(self.executor, self.at(hook, packet), packet)
            .with_context(|| format!("{packet} at {}", hook.name()))?;
        match verdict {
            Verdict::Pass | Verdict::PassFragment | Verdict::Translate => Ok(output),
            Verdict::Reject(_) | Verdict::Drop(_) => {
                bail!("{packet} at {}: {verdict:?}", hook.name())
            }
        }
    }
}

/// Where packets of a side enter the node.
const fn entry(side: Side) -> Option<Hook> {
    match side {
        Side::Pod => Some(Hook::FromPod),
        Side::Node => None,
        Side::Beyond => Some(Hook::FromNetwork),
    }
}

/// Where packets to a side leave the node.
const fn exit(side: Side) -> Option<Hook> {
    match side {
        Side::Pod => Some(Hook::ToPod),
        Side::Node => None,
        Side::Beyond => Some(Hook::ToNetwork),
    }
}

/// RFC 9293 section 3.1
const PSH: u8 = 0x08;

fn tcp(flags: TcpFlags) -> Body {
    Body::Tcp(Tcp::new(flags))
}
