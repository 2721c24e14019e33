//! The course of a scenario, the same for every executor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use weir_agent::maps::Plan;
use weir_ebpf::addr::Protocol;
use weir_ebpf::datapath::At;
use weir_ebpf::event::Event;
use weir_ebpf::verdict::{Hook, Verdict};

use super::describe::describe;
use super::format::{
    Call, CallKind, Expect, Outcome, Path as Way, PeerText, Relation, Scenario, SentText, Step,
    ToldText,
};
use super::journey::Routing;
use super::memory::UPLINK;
use super::notation;
use super::packet::{Body, Packet};
use super::places::Places;
use super::talk::Talks;
use super::told::Told;
use super::world::{self, World};
use super::{frame, judge};

/// Where the datapath runs: in memory, or in the kernel.
pub trait Executor {
    /// Makes the agent's writes.
    ///
    /// # Errors
    /// A write was refused.
    fn apply(&mut self, plan: &Plan) -> Result<()>;
    /// A packet reaches a hook.
    ///
    /// # Errors
    /// The hook cannot be run.
    fn send(&mut self, at: At, frame: &[u8]) -> Result<Sent>;
    /// What the datapath has told since this was asked last.
    ///
    /// # Errors
    /// It cannot be read.
    fn take_events(&mut self) -> Result<Vec<Event>>;
    /// A process makes a socket call.
    ///
    /// # Errors
    /// The call cannot be made here.
    fn call(&mut self, call: &SocketCall) -> Result<Called>;
    /// Time passes.
    ///
    /// # Errors
    /// It cannot be made to.
    fn advance(&mut self, by: Duration) -> Result<()>;
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The verdict.
    pub verdict: Verdict,
    /// The frame afterwards; of no interest when it was dropped.
    pub frame: Vec<u8>,
}

/// A socket call with its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketCall {
    /// Which.
    pub kind: CallKind,
    /// Is the caller a process of the node itself?
    pub is_node: bool,
    /// `SO_COOKIE`
    pub socket: u64,
    /// The socket's protocol.
    pub protocol: Protocol,
    /// The peer.
    pub peer: SocketAddr,
}

impl fmt::Display for SocketCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caller = if self.is_node { "node" } else { "pod" };
        write!(
            f,
            "{:?} of {} {} on socket {} of the {caller}",
            self.kind, self.protocol, self.peer, self.socket
        )
    }
}

/// What became of a socket call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called {
    /// The verdict.
    pub verdict: Verdict,
    /// The peer afterwards.
    pub peer: SocketAddr,
}

/// Runs a scenario whose files are relative to a directory.
///
/// # Errors
/// Something is not as expected: says which step, the packet, what was expected, what happened,
/// and what the tables held.
pub fn run(scenario: &Scenario, directory: &Path, executor: &mut impl Executor) -> Result<()> {
    let objects = world::read_objects(&scenario.given, directory)?;
    let (world, plan) = World::new(&scenario.node, objects);
    executor.apply(&plan)?;
    let mut course = Course {
        scenario,
        directory,
        executor,
        world,
        places: Places::of(scenario, directory)?,
        talks: Talks::default(),
        packets: BTreeMap::new(),
        peers: BTreeMap::new(),
    };
    for (index, step) in scenario.steps.iter().enumerate() {
        if let Err(error) = course.take(step) {
            bail!(
                "step {}: {error:#}\n{}",
                index + 1,
                describe(course.world.contents())
            );
        }
    }
    Ok(())
}

struct Course<'a, E> {
    scenario: &'a Scenario,
    directory: &'a Path,
    executor: &'a mut E,
    world: World,
    /// Who talks to whom.
    places: Places,
    /// Clients' sockets that live on.
    talks: Talks,
    /// Earlier packets by their names: what went in and what came out.
    packets: BTreeMap<String, (Packet, Packet)>,
    /// Peers that earlier calls became.
    peers: BTreeMap<String, SocketAddr>,
}

impl<E: Executor> Course<'_, E> {
    fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Send {
                way,
                packet,
                repeat,
                expect,
                binding,
            } => self.send(way, packet, *repeat, expect, binding.as_deref()),
            Step::Call {
                call,
                repeat,
                expect,
                binding,
            } => self.call(call, *repeat, expect, binding.as_deref()),
            Step::Talk { talk, expected } => {
                let replies = {
                    let interfaces = self.world.interfaces()?;
                    let (executor, places) = (&mut *self.executor, &self.places);
                    self.talks.play(executor, places, interfaces, talk)?
                };
                let node = self.scenario.node.addresses.iter().copied().collect();
                talk.judge(expected, &node, &replies)
            }
            Step::Apply(given) => {
                let objects = world::read_objects(given, self.directory)?;
                let plan = self.world.apply(objects);
                self.executor.apply(&plan)
            }
            Step::Delete(references) => {
                let references = references.iter().map(|text| world::parse_reference(text));
                let plan = self.world.delete(references.collect::<Result<_>>()?);
                self.executor.apply(&plan)
            }
            Step::Plug(plug) => {
                let plan = self.world.plug(plug)?;
                self.executor.apply(&plan)
            }
            Step::Unplug(pod) => {
                let plan = self.world.unplug(pod)?;
                self.executor.apply(&plan)
            }
            Step::Advance(by) => self.executor.advance(*by),
        }
    }

    fn send(
        &mut self,
        way: &Way,
        text: &SentText,
        repeat: u16,
        expect: &Expect,
        binding: Option<&str>,
    ) -> Result<()> {
        let input = match text {
            SentText::NotIp(ether_type) => {
                let frame = frame::build_other(*ether_type);
                let at = self
                    .routing()?
                    .at(way)?
                    .context("it goes through no hook")?;
                let sent = self.executor.send(at, &frame)?;
                let text = format!("EtherType {ether_type:#06x}");
                ensure_verdict(&text, way, sent.verdict, expect)?;
                return frame::compare(&sent.frame, &frame);
            }
            SentText::Packet(notation) => notation.to_packet()?,
            SentText::From {
                relation,
                name,
                changes,
            } => self.derive(*relation, name, changes)?,
            SentText::Error {
                kind,
                from,
                about,
                changes,
            } => {
                let (_, quoted) = self.packet(about)?;
                let mut packet = Packet::new(
                    SocketAddr::new(*from, 0),
                    SocketAddr::new(quoted.src.ip(), 0),
                    Body::Error(*kind, Box::new(quoted.clone())),
                );
                let (_, settings) = notation::kind_and_settings(changes)?;
                settings.apply_to(&mut packet)?;
                packet
            }
        };
        let mut reached = BTreeSet::new();
        for round in 0..repeat {
            let mut input = input.clone();
            input.src.set_port(input.src.port() + round);
            let output = self.send_one(way, &input, expect)?;
            reached.insert(output.dst);
            if let Some(name) = binding {
                self.packets.insert(name.to_owned(), (input, output));
            }
        }
        ensure_reached(expect, &reached)
    }

    fn routing(&self) -> Result<Routing<'_>> {
        Ok(Routing {
            interfaces: self.world.interfaces()?,
            node: &self.scenario.node.addresses,
        })
    }

    fn send_one(&mut self, way: &Way, input: &Packet, expect: &Expect) -> Result<Packet> {
        let routing = Routing {
            interfaces: self.world.interfaces()?,
            node: &self.scenario.node.addresses,
        };
        self.executor.take_events()?;
        let (verdict, output) = match way {
            Way::From(origin) => routing.carry(self.executor, origin, input)?,
            Way::Hook { .. } => {
                let at = routing.at(way)?.context("it goes through no hook")?;
                send_at(self.executor, at, input)?
            }
        };
        ensure_verdict(input, way, verdict, expect)?;
        let events = self.executor.take_events()?;
        let told = Told::read(&events, verdict, self.world.policies())?;
        ensure_told(&expect.told, &told).with_context(|| format!("{input} {way}"))?;
        let expected = match &expect.result {
            Outcome::Packets(packets) => {
                let any_port = self.scenario.node.snat_ports;
                packets
                    .iter()
                    .any(|text| judge::matches(text, &output, any_port))
            }
            Outcome::AnswerTo(name) => {
                let (earlier, _) = self.packet(name)?;
                (output.src, output.dst) == (earlier.dst, earlier.src)
            }
            Outcome::Like(name) => {
                let (_, earlier) = self.packet(name)?;
                (output.src, output.dst) == (earlier.src, earlier.dst)
            }
            Outcome::Error(from, name) => {
                let (earlier, _) = self.packet(name)?;
                matches!(&output.body, Body::Error(_, quote) if **quote == *earlier)
                    && (output.src.ip(), output.dst.ip()) == (*from, earlier.src.ip())
            }
            Outcome::Unsaid | Outcome::Reaches(_) => true,
            Outcome::Peers(_) => bail!("a packet has no `peer`"),
        };
        ensure!(
            expected,
            "{input} {way} became {output}, expected {}",
            expect.result
        );
        Ok(output)
    }

    /// A packet made from an earlier one.
    fn derive(&self, relation: Relation, name: &str, changes: &str) -> Result<Packet> {
        let (input, output) = self.packet(name)?;
        let mut packet = match relation {
            Relation::Reply => output.reply(),
            Relation::Output => output.clone(),
            Relation::Again => input.clone(),
        };
        let (kind, settings) = notation::kind_and_settings(changes)?;
        if let Some(kind) = kind {
            match &mut packet.body {
                Body::Tcp(tcp) => tcp.flags = notation::parse_flags(kind)?,
                Body::Sctp(chunk) => *chunk = notation::parse_chunk(kind)?,
                Body::Udp { .. }
                | Body::Echo(_)
                | Body::Message(_)
                | Body::PortUnreachable(_)
                | Body::Error(..)
                | Body::Other(_) => {
                    bail!("{packet} has no kinds such as {kind:?}")
                }
            }
        }
        settings.apply_to(&mut packet)?;
        Ok(packet)
    }

    fn packet(&self, name: &str) -> Result<(&Packet, &Packet)> {
        self.packets
            .get(name)
            .map(|(input, output)| (input, output))
            .with_context(|| format!("no earlier packet is called {name:?}"))
    }

    fn call(
        &mut self,
        call: &Call,
        repeat: u16,
        expect: &Expect,
        binding: Option<&str>,
    ) -> Result<()> {
        let peer = self.peer(&call.peer)?;
        let mut reached = BTreeSet::new();
        for round in 0..repeat {
            let call = SocketCall {
                kind: call.kind,
                is_node: call.is_node,
                socket: call.socket + u64::from(round),
                protocol: call.protocol,
                peer,
            };
            let called = self.executor.call(&call)?;
            ensure!(
                called.verdict == expect.verdict,
                "{call}: expected {:?}, was {called:?}",
                expect.verdict
            );
            ensure!(
                called.verdict == Verdict::Translate || called.peer == peer,
                "{call}: changed though it was not translated: {called:?}"
            );
            let expected = match &expect.result {
                Outcome::Peers(peers) => {
                    let peers = peers.iter().map(|peer| self.peer(peer));
                    peers.collect::<Result<Vec<_>>>()?.contains(&called.peer)
                }
                Outcome::Unsaid | Outcome::Reaches(_) => true,
                Outcome::Packets(_)
                | Outcome::AnswerTo(_)
                | Outcome::Like(_)
                | Outcome::Error(..) => {
                    bail!("a call has no `packet`")
                }
            };
            ensure!(
                expected,
                "{call}: became {}, expected {}",
                called.peer,
                expect.result
            );
            reached.insert(called.peer);
            if let Some(name) = binding {
                self.peers.insert(name.to_owned(), called.peer);
            }
        }
        ensure_reached(expect, &reached)
    }

    fn peer(&self, text: &PeerText) -> Result<SocketAddr> {
        match text {
            PeerText::Addr(addr) => Ok(*addr),
            PeerText::BackendOf(name) => self
                .peers
                .get(name)
                .copied()
                .with_context(|| format!("no earlier call is called {name:?}")),
        }
    }
}

/// Sends a packet and judges what comes out, whatever it is.
///
/// # Errors
/// The executor's, or what [`judge::became`] finds wrong.
pub fn send(
    executor: &mut impl Executor,
    hook: Hook,
    packet: &Packet,
) -> Result<(Verdict, Packet)> {
    send_at(executor, At::new(hook, UPLINK), packet)
}

/// As [`send`], at the hook of a certain interface.
///
/// # Errors
/// Likewise.
pub fn send_at(executor: &mut impl Executor, at: At, packet: &Packet) -> Result<(Verdict, Packet)> {
    let frame = frame::build(packet)?;
    let sent = executor.send(at, &frame)?;
    let output = judge::became(packet, &frame, &sent)?;
    Ok((sent.verdict, output))
}

fn ensure_verdict(
    input: &impl fmt::Display,
    way: &Way,
    verdict: Verdict,
    expect: &Expect,
) -> Result<()> {
    ensure!(
        verdict == expect.verdict,
        "{input} {way}: expected {:?}, was {verdict:?}",
        expect.verdict
    );
    Ok(())
}

fn ensure_told(expected: &ToldText, told: &Told) -> Result<()> {
    let rules: BTreeSet<String> = told.rules.iter().map(ToString::to_string).collect();
    if let Some(expected) = &expected.rules {
        ensure!(rules == *expected, "allowed by {rules:?}, not {expected:?}");
    }
    let policies = told.isolated_by.iter().flatten();
    let policies: BTreeSet<String> = policies.map(ToString::to_string).collect();
    if let Some(expected) = &expected.isolated_by {
        ensure!(
            policies == *expected,
            "isolated by {policies:?}, not {expected:?}"
        );
    }
    Ok(())
}

fn ensure_reached(expect: &Expect, reached: &BTreeSet<SocketAddr>) -> Result<()> {
    if let Outcome::Reaches(all) = &expect.result {
        let all: BTreeSet<SocketAddr> = all.iter().copied().collect();
        ensure!(
            *reached == all,
            "expected to reach {all:?}, reached {reached:?}"
        );
    }
    Ok(())
}
