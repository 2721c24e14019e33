//! The YAML of a scenario's steps: the shape of the text, and what is impossible in it.
//!
//! ```yaml
//! steps:
//!   - send: {hook: from_pod, packet: "udp 10.200.0.9:40000 > 10.32.0.10:53", repeat: 1}
//!     expect: {verdict: translate, packet: "udp 10.200.0.9:40000 > 10.200.0.3:5353"}
//!     as: query
//!   - send: {hook: to_pod, packet: "reply of query, len 10"}
//!     expect: {verdict: translate, packet: answer to query}
//!   - send: {from: shop/cart, packet: "tcp 10.200.0.2:40000 > 10.200.0.3:80 syn"}
//!     expect: {verdict: drop, reason: ingress-policy}
//!   - send: {hook: to_pod, pod: shop/cart, from_node: true, packet: again query}
//!     expect: {verdict: pass}
//!   - connect: {caller: pod, socket: 1, protocol: tcp, peer: "10.32.0.140:80"}
//!     expect: {verdict: reject, reason: no-backend}
//!   - talk: {tcp: "10.200.0.9 > 10.32.0.140:80", times: 64}
//!     expect: {reaches: ["10.200.0.2:8080", "10.200.128.1:8080"]}
//!   - apply: [../common/dns-none.yaml]
//!   - delete: [Service default/web]
//!   - plug: {pod: shop/new, addresses: ["10.200.0.7"], uid: "1", claimed: true}
//!   - unplug: shop/new
//!   - advance: 31s
//! ```
//!
//! A packet reaches a hook, of a pod's interface where `pod` names one; or it comes `from` a pod,
//! `node` or `outside` and takes its whole way: in, routed by its destination, and out. Pods of
//! the node have interfaces by themselves, `plug` makes others.
//!
//! A packet that is sent is written as in [`notation`], or made from an earlier one: `reply of
//! NAME`, `output of NAME`, `again NAME`, followed by what is different. What may be expected is
//! in [`expect`](super::expect), conversations are in [`talk`](super::talk).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use weir_agent::compile::UnknownPods;
use weir_ebpf::addr::Protocol;
use weir_ebpf::verdict::Hook;

use super::super::interfaces::Plug;
use super::super::notation::{self, Notation};
use super::super::packet::ErrorKind;
use super::super::world::parse_pod;
use super::expect::ExpectText;
use super::talk::TalkText;
use super::{Call, CallKind, Given, Origin, Path, PeerText, Relation, SentText, Step};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepText {
    send: Option<SendText>,
    connect: Option<CallText>,
    sendmsg: Option<CallText>,
    recvmsg: Option<CallText>,
    getpeername: Option<CallText>,
    talk: Option<TalkText>,
    apply: Option<Vec<Given>>,
    delete: Option<Vec<String>>,
    plug: Option<PlugText>,
    unplug: Option<String>,
    advance: Option<String>,
    expect: Option<ExpectText>,
    #[serde(rename = "as")]
    binding: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendText {
    hook: Option<HookText>,
    pod: Option<String>,
    #[serde(default)]
    from_node: bool,
    from: Option<String>,
    packet: String,
    #[serde(default = "once")]
    repeat: u16,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HookText {
    FromPod,
    ToPod,
    FromNetwork,
    ToNetwork,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlugText {
    pod: String,
    #[serde(default)]
    addresses: BTreeSet<IpAddr>,
    #[serde(default)]
    uid: String,
    claimed: bool,
}

/// How [`UnknownPods`] is written.
#[derive(Deserialize)]
#[serde(remote = "UnknownPods", rename_all = "snake_case")]
pub(super) enum UnknownPodsText {
    Auto,
    Deny,
    Allow,
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
        talk,
        apply,
        delete,
        plug,
        unplug,
        advance,
        mut expect,
        binding,
    } = text;
    let mut steps = Vec::new();
    let has_expect = expect.is_some();
    let mut expected = || {
        expect
            .take()
            .context("a packet, call or talk needs `expect`")
    };
    if let Some(send) = send {
        steps.push(Step::Send {
            way: send.path()?,
            packet: SentText::parse(&send.packet)?,
            repeat: send.repeat,
            expect: expected()?.read()?,
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
            expect: expected()?.read()?,
            binding: binding.clone(),
        });
    }
    let is_bound = !steps.is_empty();
    if let Some(talk) = talk {
        let talk = talk.read()?;
        let expected = expected()?.read_for(&talk)?;
        steps.push(Step::Talk { talk, expected });
    }
    let has_effect = !steps.is_empty();
    steps.extend(apply.map(Step::Apply));
    steps.extend(delete.map(Step::Delete));
    if let Some(plug) = plug {
        steps.push(Step::Plug(plug.read()?));
    }
    if let Some(pod) = unplug {
        steps.push(Step::Unplug(parse_pod(&pod)?));
    }
    if let Some(advance) = advance {
        steps.push(Step::Advance(parse_duration(&advance)?));
    }
    ensure!(
        (has_effect || !has_expect) && (is_bound || binding.is_none()),
        "`expect` and `as` belong to a packet or call, `expect` also to a talk"
    );
    match (steps.pop(), steps.is_empty()) {
        (Some(step), true) => Ok(step),
        _ => bail!(
            "a step is exactly one of send, connect, sendmsg, recvmsg, getpeername, talk, apply, \
             delete, plug, unplug, advance"
        ),
    }
}

impl SendText {
    fn path(&self) -> Result<Path> {
        match (self.hook, &self.from) {
            (Some(hook), None) => {
                let hook = hook.into();
                let pod = self.pod.as_deref().map(parse_pod).transpose()?;
                ensure!(
                    pod.is_none() || matches!(hook, Hook::FromPod | Hook::ToPod),
                    "`pod` belongs to the hooks from_pod and to_pod"
                );
                ensure!(
                    !self.from_node || hook == Hook::ToPod,
                    "`from_node` belongs to the hook to_pod"
                );
                Ok(Path::Hook {
                    hook,
                    pod,
                    is_from_node: self.from_node,
                })
            }
            (None, Some(from)) => {
                ensure!(
                    self.pod.is_none() && !self.from_node,
                    "`pod` and `from_node` belong to a hook"
                );
                Ok(Path::From(match from.as_str() {
                    "node" => Origin::Node,
                    "outside" => Origin::Outside,
                    pod => Origin::Pod(parse_pod(pod)?),
                }))
            }
            (Some(_), Some(_)) | (None, None) => {
                bail!("a packet is sent to a `hook` or comes `from` somewhere")
            }
        }
    }
}

impl PlugText {
    fn read(self) -> Result<Plug> {
        Ok(Plug {
            pod: parse_pod(&self.pod)?,
            uid: self.uid,
            addresses: self.addresses,
            is_claimed: self.claimed,
        })
    }
}

impl From<HookText> for Hook {
    fn from(text: HookText) -> Self {
        match text {
            HookText::FromPod => Self::FromPod,
            HookText::ToPod => Self::ToPod,
            HookText::FromNetwork => Self::FromNetwork,
            HookText::ToNetwork => Self::ToNetwork,
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
            "error" => return Self::parse_error(rest),
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

    fn parse_error(text: &str) -> Result<Self> {
        let (kind, rest) = notation::word(text);
        let (kind, rest) = match kind {
            "port-unreachable" => (ErrorKind::PortUnreachable, rest),
            "time-exceeded" => (ErrorKind::TimeExceeded, rest),
            "too-big" => {
                let (mtu, rest) = notation::word(rest);
                (ErrorKind::TooBig(notation::parse_number(mtu)?), rest)
            }
            _ => bail!("expected port-unreachable, time-exceeded or too-big, not {kind:?}"),
        };
        let (from, about, changes) = parse_from_about(rest)?;
        notation::kind_and_settings(changes)?;
        Ok(Self::Error {
            kind,
            from,
            about: about.to_owned(),
            changes: changes.to_owned(),
        })
    }
}

/// Reads `from ADDRESS about NAME` and gives back what follows it, too.
pub(super) fn parse_from_about(text: &str) -> Result<(IpAddr, &str, &str)> {
    let (word_from, rest) = notation::word(text);
    let (from, rest) = notation::word(rest);
    let (word_about, rest) = notation::word(rest);
    let (about, rest) = notation::word(rest);
    ensure!(
        (word_from, word_about) == ("from", "about") && !about.is_empty(),
        "expected `from ADDRESS about NAME`, not {text:?}"
    );
    let from = from
        .parse()
        .with_context(|| format!("{from:?} is no address"))?;
    Ok((from, about, rest))
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
    pub(super) fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("backend of ") {
            return Ok(Self::BackendOf(name.trim().to_owned()));
        }
        text.parse()
            .map(Self::Addr)
            .with_context(|| format!("{text:?} is not `ADDRESS:PORT` nor `backend of NAME`"))
    }
}

fn parse_duration(text: &str) -> Result<Duration> {
    let seconds = text
        .strip_suffix('s')
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{text:?} is not a number of seconds such as `31s`"))?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
