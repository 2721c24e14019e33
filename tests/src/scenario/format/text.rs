//! The YAML of a scenario's steps: the shape of the text, and what is impossible in it.
//!
//! ```yaml
//! steps:
//!   - send: {hook: from_pod, packet: "udp 10.200.0.9:40000 > 10.32.0.10:53", repeat: 1}
//!     expect: {verdict: translate, packet: "udp 10.200.0.9:40000 > 10.200.0.3:5353"}
//!     as: query
//!   - send: {hook: to_pod, packet: "reply of query, len 10"}
//!     expect: {verdict: translate, packet: answer to query}
//!   - connect: {caller: pod, socket: 1, protocol: tcp, peer: "10.32.0.140:80"}
//!     expect: {verdict: reject, reason: no-backend}
//!   - apply: [../common/dns-none.yaml]
//!   - delete: [Service default/web]
//!   - advance: 31s
//! ```
//!
//! A packet that is sent is written as in [`notation`], or made from an earlier one: `reply of
//! NAME`, `output of NAME`, `again NAME`, followed by what is different. Of a translated packet one
//! of `packet` (also `answer to NAME`, `like NAME`), `one_of` and `reaches` is expected, of a call
//! `peer` (also `backend of NAME`), `one_of` and `reaches`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use weir_ebpf::addr::Protocol;
use weir_ebpf::verdict::{DropReason, Hook, RejectReason, Verdict};

use super::super::notation::{self, Notation};
use super::{Call, CallKind, Expect, Given, Outcome, PeerText, Relation, SentText, Step};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepText {
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
    NoSuchPort,
    NoLocalEndpoint,
}

const fn once() -> u16 {
    1
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
            (VerdictText::Reject, Some(ReasonText::NoSuchPort)) => {
                Verdict::Reject(RejectReason::NoSuchPort)
            }
            (VerdictText::Drop, Some(ReasonText::NoLocalEndpoint)) => {
                Verdict::Drop(DropReason::NoLocalEndpoint)
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
            (VerdictText::Reject, _) => bail!("`reject` has a reason: no-backend, no-such-port"),
            (VerdictText::Drop, _) => {
                bail!(
                    "`drop` has a reason: malformed, no-source-port, not-rewritten, unanswerable, \
                     no-local-endpoint"
                )
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

#[cfg(test)]
mod tests {
    use super::super::Scenario;

    fn complaint(step: &str) -> String {
        let text = format!("name: a step\nsteps:\n  - {step}\n");
        match serde_saphyr::from_str::<Scenario>(&text) {
            Ok(scenario) => panic!("{step} was read as {scenario:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_impossible_is_named_with_its_line() {
        let packet = "\"udp 10.200.0.9:1 > 10.32.0.10:53\"";
        for (step, expected) in [
            ("{}".to_owned(), "a step is exactly one of send"),
            ("{advance: 1s, delete: [Node a]}".to_owned(), "exactly one"),
            (
                "{advance: 1s, expect: {verdict: pass}}".to_owned(),
                "belong to a packet",
            ),
            (
                "{advance: soon}".to_owned(),
                "\"soon\" is not a number of seconds",
            ),
            (
                "{send: {hook: to_pod, packet: arp}}".to_owned(),
                "needs `expect`",
            ),
            (
                "{send: {hook: uplink, packet: arp}, expect: {verdict: pass}}".to_owned(),
                "uplink",
            ),
            (
                "{send: {hook: to_pod, packet: arp, speed: 1}, expect: {verdict: pass}}".to_owned(),
                "speed",
            ),
            (
                format!("{{send: {{hook: to_pod, packet: {packet}}}, expect: {{verdict: drop}}}}"),
                "`drop` has a reason",
            ),
            (
                format!(
                    "{{send: {{hook: to_pod, packet: {packet}}}, expect: {{verdict: translate}}}}"
                ),
                "`translate` needs one of",
            ),
            (
                "{send: {hook: to_pod, packet: reply to a}, expect: {verdict: pass}}".to_owned(),
                "expected `reply of NAME`",
            ),
        ] {
            let error = complaint(&step);
            assert!(error.contains(expected), "{step}: {error}");
            assert!(error.contains("line 3"), "{step}: {error}");
        }
    }
}
