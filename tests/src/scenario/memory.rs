//! The executor in memory: the datapath's library over ordered maps, no privileges.
//!
//! Packets take one of two ways through the node. On the long one each hook sees its packets for
//! itself; on the short one what is handed over to a pod is, when the test brings it to that pod's
//! interface, delivered there by what hands it over. What comes of it must be the same. A packet
//! that takes a shortcut is done with where it was sent; the test sees it as if it went on from
//! there.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weir_agent::maps::memory::MemoryTables;
use weir_agent::maps::{Contents, Plan};
use weir_ebpf::addr::Port;
use weir_ebpf::buffer::Buffer;
use weir_ebpf::conntrack::SECOND;
use weir_ebpf::datapath::hand_over::{self, Entry, Onward, Told};
use weir_ebpf::datapath::{
    self, At, Decision as Decided, Workspace,
    shortcut::{self, Entrance},
};
use weir_ebpf::event::Event;
use weir_ebpf::packet::{self, Headers, Packet as _, PacketMut as _};
use weir_ebpf::socket::{self, Caller, Decision, Peer};
use weir_ebpf::tables::{Nanos, Tables as _};
use weir_ebpf::verdict::{Hook, Verdict};

use super::format::CallKind;
use super::runner::{Called, Executor, Sent, SocketCall};

/// Tables and a clock that stands still until it is advanced.
#[derive(Debug)]
pub struct Memory {
    tables: MemoryTables,
    way: Way,
    handed_over: Option<HandedOver>,
    deliveries: usize,
    shortcuts: usize,
}

/// What was handed over last.
#[derive(Debug)]
struct HandedOver {
    /// The interface that it goes to.
    receiver: u32,
    /// As what it left.
    left: Vec<u8>,
    what: What,
}

/// What is left to be done with it.
#[derive(Debug)]
enum What {
    /// Everything at its receiver's interface.
    Deliver { from: Entrance, told: Told },
    /// Nothing: it has taken a shortcut, as this.
    Done(Verdict, Box<Buffer>),
}

/// Which way packets take from one hook to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the node's IP layer.
    Long,
    /// Past it, where a packet is handed over.
    Short,
}

impl Memory {
    /// Empty tables; random choices follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let tables = MemoryTables::new(Contents::default(), seed);
        // A machine that was started a while ago.
        tables.set_now(1_000 * SECOND);
        Self {
            tables,
            way: Way::Long,
            handed_over: None,
            deliveries: 0,
            shortcuts: 0,
        }
    }

    /// Packets take this way.
    #[must_use]
    pub fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    /// How many packets were delivered by what hands them over.
    #[must_use]
    pub const fn deliveries(&self) -> usize {
        self.deliveries
    }

    /// How many packets took a shortcut.
    #[must_use]
    pub const fn shortcuts(&self) -> usize {
        self.shortcuts
    }

    /// The tables.
    #[must_use]
    pub const fn tables(&self) -> &MemoryTables {
        &self.tables
    }
}

impl Memory {
    /// A packet meets the program at a hook.
    fn cross(&mut self, packet: &mut Buffer, at: At) -> Result<Verdict> {
        let before = packet.clone();
        let (verdict, work) = datapath::run(packet, &self.tables, at);
        let decision = match verdict {
            Verdict::Pass => Decided::PASS,
            Verdict::Translate => Decided::TRANSLATE,
            Verdict::PassFragment | Verdict::Reject(_) | Verdict::Drop(_) => return Ok(verdict),
        };
        if at.hook == Hook::FromPod && work.receiver != 0 {
            anyhow::ensure!(self.way == Way::Short, "nothing was to be handed over");
            self.shortcuts += 1;
            give_hop_back(packet, &work.headers)?;
            let there = shortcut::decision_there(&work, decision).verdict();
            let done = Box::new(packet.clone());
            if decision == Decided::PASS {
                *packet = before;
            }
            self.handed_over = Some(HandedOver {
                receiver: work.receiver,
                left: packet.bytes().to_vec(),
                what: What::Done(there, done),
            });
        } else if self.way == Way::Short
            && let Some(entry) = Entry::of(at.hook)
            && !hand_over::is_last_hop(packet, &work.headers)
        {
            let onward = hand_over::onward(&self.tables, &work, decision, entry, at.interface);
            if let Onward::ToPod(receiver) = onward {
                self.handed_over = Some(HandedOver {
                    receiver,
                    left: packet.bytes().to_vec(),
                    what: What::Deliver {
                        from: Entrance {
                            interface: at.interface,
                            place: work.place,
                        },
                        told: Told::of(&work, entry),
                    },
                });
            }
        }
        Ok(verdict)
    }

    /// A packet is handed over to a pod, and gets the hop back that this took, as tests compare
    /// what arrives with what was sent.
    fn deliver(
        &mut self,
        packet: &mut Buffer,
        receiver: u32,
        (from, told): (Entrance, Told),
    ) -> Result<Verdict> {
        let mut work = Workspace::new();
        let parsed = packet::parse_into(packet, &mut work.headers);
        anyhow::ensure!(parsed.is_ok(), "what was handed over cannot be read");
        let decision = hand_over::deliver(packet, &self.tables, receiver, &mut work);
        datapath::report(&self.tables, Hook::ToPod, &mut work, decision);
        self.deliveries += 1;
        if !decision.is_dropped() {
            if let Some(epoch) = told.free_epoch() {
                shortcut::remember(packet, &self.tables, &mut work, from, receiver, epoch);
            }
            give_hop_back(packet, &work.headers)?;
        }
        Ok(decision.verdict())
    }
}

fn give_hop_back(packet: &mut Buffer, headers: &Headers) -> Result<()> {
    let offset = headers.network + if headers.is_v4 { 8 } else { 7 };
    let [fewer, next]: [u8; 2] = packet.load(offset).context("no hop limit")?;
    packet.store(offset, &(fewer + 1)).context("no hop limit")?;
    if headers.is_v4 {
        let [fewer, more] = [fewer, fewer + 1].map(|hops| u16::from_ne_bytes([hops, next]));
        let change = u32::from(!fewer) + u32::from(more);
        packet
            .adjust_header_checksum(headers.network + 10, change)
            .context("no header checksum")?;
    }
    Ok(())
}

/// The index of the interface by which packets leave the node: that which `BPF_PROG_TEST_RUN` has.
pub const UPLINK: u32 = 1;

impl Executor for Memory {
    fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.tables.apply(plan);
        Ok(())
    }

    fn send(&mut self, at: At, frame: &[u8]) -> Result<Sent> {
        let buffer: Buffer = Buffer::new(frame).context("the frame is too long")?;
        let mut buffer = buffer.with_known_checksum();
        anyhow::ensure!(at.hook != Hook::Socket, "no packet is seen at a socket");
        let verdict = match self.handed_over.take() {
            Some(handed_over) if at.hook == Hook::ToPod && handed_over.left == frame => {
                let receiver = handed_over.receiver;
                anyhow::ensure!(
                    receiver == at.interface,
                    "handed over to {receiver}, and led to {}",
                    at.interface
                );
                match handed_over.what {
                    What::Deliver { from, told } => {
                        self.deliver(&mut buffer, receiver, (from, told))?
                    }
                    What::Done(verdict, done) => {
                        buffer = *done;
                        verdict
                    }
                }
            }
            _ => self.cross(&mut buffer, at)?,
        };
        Ok(Sent {
            verdict,
            frame: buffer.bytes().to_vec(),
        })
    }

    fn call(&mut self, call: &SocketCall) -> Result<Called> {
        let caller = Caller {
            cookie: call.socket,
            is_node: call.is_node,
        };
        let peer = Peer {
            addr: call.peer.ip().into(),
            port: Port::new(call.peer.port()),
        };
        let tables = &self.tables;
        let decision = match call.kind {
            CallKind::Connect => socket::connect(tables, caller, call.protocol, peer),
            CallKind::Sendmsg => socket::sendmsg(tables, caller, peer),
            CallKind::Recvmsg | CallKind::Getpeername => {
                match socket::peer_name(tables, caller, call.protocol, peer) {
                    Some(service) => Decision::Translate(service),
                    None => Decision::Pass,
                }
            }
        };
        let (verdict, peer) = match decision {
            Decision::Pass => (Verdict::Pass, call.peer),
            Decision::Translate(to) => (
                Verdict::Translate,
                SocketAddr::new(to.addr.into(), to.port.number()),
            ),
            Decision::Refuse(reason) => (Verdict::Reject(reason), call.peer),
        };
        Ok(Called { verdict, peer })
    }

    fn take_events(&mut self) -> Result<Vec<Event>> {
        Ok(self.tables.take_events())
    }

    fn advance(&mut self, by: Duration) -> Result<()> {
        let by = Nanos::try_from(by.as_nanos()).context("too long")?;
        self.tables.set_now(self.tables.now() + by);
        Ok(())
    }
}
