//! What a scenario file says: the shape of its YAML, and what is impossible in it.
//!
//! The fields are documented here once; `tests/scenarios` is full of examples.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use weir_ebpf::addr::Protocol;
use weir_ebpf::verdict::{DropReason, Hook, RejectReason, Verdict};

use super::notation::{self, Notation};

/// One behaviour.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The behaviour as a sentence: the test's name.
    pub name: String,
    /// Why the kernel's `BPF_PROG_TEST_RUN` cannot show it, where that is so.
    #[serde(default)]
    pub memory_only: Option<String>,
    /// What the cluster says at the beginning.
    #[serde(default)]
    pub given: Vec<Given>,
    /// The node it happens on.
    #[serde(default)]
    pub node: Node,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Objects: those of a manifest file, or one written here.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Given {
    /// The path of a manifest file, relative to the scenario's.
    File(String),
    /// A Kubernetes object.
    Inline(serde_json::Map<String, serde_json::Value>),
}

/// The node that the packets meet.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses, where no Node object says them.
    pub addresses: Vec<std::net::IpAddr>,
    /// Source ports for translated sources, first and last.
    pub snat_ports: (u16, u16),
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "worker-0".to_owned(),
            addresses: vec![
                [10, 240, 0, 10].into(),
                [0xfd00, 0x10, 0x240, 0, 0, 0, 0, 0x10].into(),
            ],
            snat_ports: (20_000, 29_999),
        }
    }
}

/// Something that happens.
#[derive(Debug, Deserialize)]
#[serde(try_from = "StepText")]
pub enum Step {
    /// A packet reaches a hook.
    Send {
        /// Which.
        hook: Hook,
        /// What.
        packet: SentText,
        /// How often, each time from the next source port.
        repeat: u16,
        /// What becomes of it.
        expect: Expect,
        /// The name by which later steps speak of it.
        binding: Option<String>,
    },
    /// A process makes a socket call.
    Call {
        /// Which, by whom.
        call: Call,
        /// How often, each time with the next socket.
        repeat: u16,
        /// What becomes of it.
        expect: Expect,
        /// The name by which later steps speak of it.
        binding: Option<String>,
    },
    /// Objects appear or change.
    Apply(Vec<Given>),
    /// Objects disappear: `Service default/web`, `Node worker-0`.
    Delete(Vec<String>),
    /// Time passes.
    Advance(Duration),
}

/// A packet that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentText {
    /// As written.
    Packet(Notation),
    /// No IP: `arp`, `ethertype 0x88cc`.
    NotIp(u16),
    /// One made from an earlier one: `reply of NAME`, `output of NAME`, `again NAME`.
    From {
        /// How.
        relation: Relation,
        /// The earlier one.
        name: String,
        /// What is different: kind and settings.
        changes: String,
    },
}

/// How a packet follows from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// What its receiver answers: its output with source and destination exchanged.
    Reply,
    /// What it became: the next hook's input.
    Output,
    /// The same as was sent then.
    Again,
}

/// A socket call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub kind: CallKind,
    /// Is the caller a process of the node itself?
    pub is_node: bool,
    /// The socket's number (`SO_COOKIE`).
    pub socket: u64,
    /// The socket's protocol.
    pub protocol: Protocol,
    /// The peer that the call names, or that the kernel knows.
    pub peer: PeerText,
}

/// The socket calls that are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `connect(2)`
    Connect,
    /// `sendmsg(2)` and `sendto(2)` with an address
    Sendmsg,
    /// `recvmsg(2)`: the sender's address
    Recvmsg,
    /// `getpeername(2)`
    Getpeername,
}

/// A peer's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerText {
    /// As written.
    Addr(SocketAddr),
    /// What an earlier call became: `backend of NAME`.
    BackendOf(String),
}

/// What becomes of a packet or a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The verdict with its reason.
    pub verdict: Verdict,
    /// What comes out.
    pub result: Outcome,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is said.
    Unsaid,
    /// One of these packets.
    Packets(Vec<Notation>),
    /// What the client of an earlier packet is to see: its input with source and destination
    /// exchanged (`answer to NAME`).
    AnswerTo(String),
    /// The source and destination of an earlier packet's output (`like NAME`).
    Like(String),
    /// One of these peers.
    Peers(Vec<PeerText>),
    /// Of all repetitions together: exactly these destinations.
    Reaches(Vec<SocketAddr>),
}

/// As in the file.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |texts: Vec<String>| texts.join(" or ");
        match self {
            Self::Unsaid => f.write_str("nothing in particular"),
            Self::Packets(packets) => {
                let texts = packets.iter().map(|packet| packet.text.clone());
                f.write_str(&list(texts.collect()))
            }
            Self::AnswerTo(name) => write!(f, "the answer to {name}"),
            Self::Like(name) => write!(f, "the same as {name}"),
            Self::Peers(peers) => {
                let texts = peers.iter().map(|peer| match peer {
                    PeerText::Addr(addr) => addr.to_string(),
                    PeerText::BackendOf(name) => format!("the backend of {name}"),
                });
                f.write_str(&list(texts.collect()))
            }
            Self::Reaches(all) => write!(f, "{all:?}"),
        }
    }
}

// The text, before it is found possible.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepText {
    send: Option<SendText>,
    connect: Option<CallText>,
    sendmsg: Option<CallText>,
    recvmsg: Option<CallText>,
    getpeername: Option<CallText>,
    apply: Option<Vec<Given>>,
    delete: Option<Vec<String>>,
    advance: Option<String>,
    expect: Option<ExpectText>,
    #[serde(rename = "as")]
    binding: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendText {
    hook: HookText,
    packet: String,
    #[serde(default = "once")]
    repeat: u16,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HookText {
    FromPod,
    ToPod,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallText {
    caller: CallerText,
    socket: u64,
    protocol: ProtocolText,
    peer: String,
    #[serde(default = "once")]
    repeat: u16,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CallerText {
    Pod,
    Node,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProtocolText {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectText {
    verdict: VerdictText,
    reason: Option<ReasonText>,
    packet: Option<String>,
    peer: Option<String>,
    #[serde(default)]
    one_of: Vec<String>,
    #[serde(default)]
    reaches: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VerdictText {
    Pass,
    Translate,
    Reject,
    Drop,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ReasonText {
    NoBackend,
    Malformed,
    NoSourcePort,
    NotRewritten,
    Unanswerable,
}

const fn once() -> u16 {
    1
}

impl Scenario {
    /// Can `BPF_PROG_TEST_RUN` show it? It runs no program at a socket call.
    #[must_use]
    pub fn is_for_program(&self) -> bool {
        let has_calls = self
            .steps
            .iter()
            .any(|step| matches!(step, Step::Call { .. }));
        self.memory_only.is_none() && !has_calls
    }
}

impl TryFrom<StepText> for Step {
    type Error = String;

    fn try_from(text: StepText) -> Result<Self, String> {
        read_step(text).map_err(|error| format!("{error:#}"))
    }
}

fn read_step(text: StepText) -> Result<Step> {
    let StepText {
        send,
        connect,
        sendmsg,
        recvmsg,
        getpeername,
        apply,
        delete,
        advance,
        expect,
        binding,
    } = text;
    let mut steps = Vec::new();
    let has_expect = expect.is_some();
    let mut expect = expect.map(ExpectText::read).transpose()?;
    let mut expected = || expect.take().context("a packet or call needs `expect`");
    if let Some(send) = send {
        steps.push(Step::Send {
            hook: send.hook.into(),
            packet: SentText::parse(&send.packet)?,
            repeat: send.repeat,
            expect: expected()?,
            binding: binding.clone(),
        });
    }
    for (kind, call) in [
        (CallKind::Connect, connect),
        (CallKind::Sendmsg, sendmsg),
        (CallKind::Recvmsg, recvmsg),
        (CallKind::Getpeername, getpeername),
    ] {
        let Some(call) = call else { continue };
        steps.push(Step::Call {
            repeat: call.repeat,
            call: call.read(kind)?,
            expect: expected()?,
            binding: binding.clone(),
        });
    }
    let has_effect = !steps.is_empty();
    steps.extend(apply.map(Step::Apply));
    steps.extend(delete.map(Step::Delete));
    if let Some(advance) = advance {
        steps.push(Step::Advance(parse_duration(&advance)?));
    }
    ensure!(
        has_effect || (!has_expect && binding.is_none()),
        "`expect` and `as` belong to a packet or call"
    );
    match (steps.pop(), steps.is_empty()) {
        (Some(step), true) => Ok(step),
        _ => bail!(
            "a step is exactly one of send, connect, sendmsg, recvmsg, getpeername, apply, \
             delete, advance"
        ),
    }
}

impl From<HookText> for Hook {
    fn from(text: HookText) -> Self {
        match text {
            HookText::FromPod => Self::FromPod,
            HookText::ToPod => Self::ToPod,
        }
    }
}

impl SentText {
    fn parse(text: &str) -> Result<Self> {
        let (first, rest) = notation::word(text);
        let relation = match first {
            "arp" => return Ok(Self::NotIp(0x0806)),
            "ethertype" => return Ok(Self::NotIp(notation::parse_number(rest)?)),
            "reply" => Relation::Reply,
            "output" => Relation::Output,
            "again" => Relation::Again,
            _ => return Ok(Self::Packet(Notation::parse(text)?)),
        };
        let (name, changes) = match relation {
            Relation::Reply | Relation::Output => {
                let (of, rest) = notation::word(rest);
                ensure!(of == "of", "expected `{first} of NAME`");
                notation::word(rest)
            }
            Relation::Again => notation::word(rest),
        };
        ensure!(!name.is_empty(), "expected the name of a packet");
        notation::kind_and_settings(changes)?;
        Ok(Self::From {
            relation,
            name: name.to_owned(),
            changes: changes.to_owned(),
        })
    }
}

impl CallText {
    fn read(self, kind: CallKind) -> Result<Call> {
        Ok(Call {
            kind,
            is_node: match self.caller {
                CallerText::Pod => false,
                CallerText::Node => true,
            },
            socket: self.socket,
            protocol: match self.protocol {
                ProtocolText::Tcp => Protocol::TCP,
                ProtocolText::Udp => Protocol::UDP,
                ProtocolText::Sctp => Protocol::SCTP,
            },
            peer: PeerText::parse(&self.peer)?,
        })
    }
}

impl PeerText {
    fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("backend of ") {
            return Ok(Self::BackendOf(name.trim().to_owned()));
        }
        text.parse()
            .map(Self::Addr)
            .with_context(|| format!("{text:?} is not `ADDRESS:PORT` nor `backend of NAME`"))
    }
}

impl ExpectText {
    fn read(self) -> Result<Expect> {
        let verdict = match (self.verdict, self.reason) {
            (VerdictText::Pass, None) => Verdict::Pass,
            (VerdictText::Translate, None) => Verdict::Translate,
            (VerdictText::Reject, Some(ReasonText::NoBackend)) => {
                Verdict::Reject(RejectReason::NoBackend)
            }
            (VerdictText::Drop, Some(ReasonText::Malformed)) => {
                Verdict::Drop(DropReason::Malformed)
            }
            (VerdictText::Drop, Some(ReasonText::NoSourcePort)) => {
                Verdict::Drop(DropReason::NoSourcePort)
            }
            (VerdictText::Drop, Some(ReasonText::NotRewritten)) => {
                Verdict::Drop(DropReason::NotRewritten)
            }
            (VerdictText::Drop, Some(ReasonText::Unanswerable)) => {
                Verdict::Drop(DropReason::Unanswerable)
            }
            (VerdictText::Reject, _) => bail!("`reject` has the reason no-backend"),
            (VerdictText::Drop, _) => {
                bail!("`drop` has a reason: malformed, no-source-port, not-rewritten, unanswerable")
            }
            (VerdictText::Pass | VerdictText::Translate, Some(_)) => {
                bail!("only `reject` and `drop` have a reason")
            }
        };
        let mut results = Vec::new();
        if let Some(packet) = self.packet {
            results.push(parse_expected_packet(&packet)?);
        }
        if let Some(peer) = self.peer {
            results.push(Outcome::Peers(vec![PeerText::parse(&peer)?]));
        }
        if let Some(first) = self.one_of.first() {
            results.push(if first.contains('>') {
                let packets = self.one_of.iter().map(|text| Notation::parse(text));
                Outcome::Packets(packets.collect::<Result<_>>()?)
            } else {
                let peers = self.one_of.iter().map(|text| PeerText::parse(text));
                Outcome::Peers(peers.collect::<Result<_>>()?)
            });
        }
        if !self.reaches.is_empty() {
            results.push(Outcome::Reaches(self.reaches));
        }
        ensure!(
            results.len() <= 1,
            "expected at most one of packet, peer, one_of, reaches"
        );
        let result = results.pop().unwrap_or(Outcome::Unsaid);
        match verdict {
            Verdict::Translate => ensure!(
                result != Outcome::Unsaid,
                "`translate` needs one of packet, peer, one_of, reaches"
            ),
            Verdict::Pass | Verdict::Drop(_) => ensure!(
                result == Outcome::Unsaid,
                "a packet that passes is as it was, a dropped one is nowhere"
            ),
            Verdict::Reject(_) => {}
        }
        Ok(Expect { verdict, result })
    }
}

fn parse_expected_packet(text: &str) -> Result<Outcome> {
    Ok(match text.strip_prefix("answer to ") {
        Some(name) => Outcome::AnswerTo(name.trim().to_owned()),
        None => match text.strip_prefix("like ") {
            Some(name) => Outcome::Like(name.trim().to_owned()),
            None => Outcome::Packets(vec![Notation::parse(text)?]),
        },
    })
}

fn parse_duration(text: &str) -> Result<Duration> {
    let seconds = text
        .strip_suffix('s')
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{text:?} is not a number of seconds such as `31s`"))?;
    Ok(Duration::from_secs(seconds))
}
