//! The YAML of what is expected of a step.
//!
//! Of any packet that policies judge, `rules` are those by which it opens a conversation, and
//! `isolated_by` the policies that isolate the end which refuses it.
//!
//! Of a translated packet one of `packet` (also `answer to NAME`, `like NAME`, `error from ADDRESS
//! about NAME`), `one_of` and `reaches` is expected, of a call `peer` (also `backend of NAME`), `one_of` and `reaches`; of
//! conversations see [`talk`](super::talk).

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use weir_ebpf::verdict::{DropReason, RejectReason, Verdict};

use super::super::notation::Notation;
use super::talk::{AnswersText, Expected, Talk, WordText};
use super::text::parse_from_about;
use super::{Expect, Outcome, PeerText, ToldText};

/// Fields, or a word that says it all.
pub(super) enum ExpectText {
    Fields(Box<FieldsText>),
    Word(WordText),
}

impl<'de> Deserialize<'de> for ExpectText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ExpectText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("fields, `refused` or `silence`")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<ExpectText, E> {
                WordText::deserialize(word.into_deserializer()).map(ExpectText::Word)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ExpectText, A::Error> {
                FieldsText::deserialize(MapAccessDeserializer::new(map))
                    .map(|fields| ExpectText::Fields(Box::new(fields)))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VerdictText {
    Pass,
    PassFragment,
    Translate,
    Reject,
    Drop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FieldsText {
    verdict: Option<VerdictText>,
    reason: Option<String>,
    packet: Option<String>,
    peer: Option<String>,
    #[serde(default)]
    one_of: Vec<String>,
    #[serde(default)]
    reaches: Vec<SocketAddr>,
    #[serde(default)]
    served_by: Vec<SocketAddr>,
    client_seen_as: Option<String>,
    rules: Option<BTreeSet<String>>,
    isolated_by: Option<BTreeSet<String>>,
}

impl ExpectText {
    /// What is expected of a packet or call.
    pub(super) fn read(self) -> Result<Expect> {
        match self {
            Self::Fields(fields) => fields.read(),
            Self::Word(_) => {
                bail!("only a talk is refused or meets silence; a packet or call has a verdict")
            }
        }
    }

    /// What is expected of a talk.
    pub(super) fn read_for(self, talk: &Talk) -> Result<Expected> {
        match self {
            Self::Word(word) => word.read(talk),
            Self::Fields(fields) => fields.read_for(talk),
        }
    }
}

impl FieldsText {
    fn read_for(self, talk: &Talk) -> Result<Expected> {
        match self {
            Self {
                verdict: None,
                reason: None,
                packet: None,
                peer: None,
                one_of,
                reaches,
                served_by,
                client_seen_as,
                rules: None,
                isolated_by: None,
            } if one_of.is_empty() => AnswersText {
                served_by,
                reaches,
                client_seen_as,
            }
            .read(talk),
            _ => bail!(
                "of a talk served_by or reaches is expected, and client_seen_as; no verdict, \
                 packet or peer"
            ),
        }
    }

    fn read(self) -> Result<Expect> {
        ensure!(
            self.served_by.is_empty() && self.client_seen_as.is_none(),
            "`served_by` and `client_seen_as` belong to a talk"
        );
        let verdict = self.read_verdict()?;
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
            Verdict::Pass | Verdict::PassFragment | Verdict::Drop(_) => ensure!(
                result == Outcome::Unsaid,
                "a packet that passes is as it was, a dropped one is nowhere"
            ),
            Verdict::Reject(_) => {}
        }
        let is_refused = matches!(
            verdict,
            Verdict::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy)
        );
        ensure!(
            is_refused || self.isolated_by.is_none(),
            "only what policies refuse is `isolated_by` some"
        );
        let told = ToldText {
            rules: self.rules,
            isolated_by: self.isolated_by,
        };
        Ok(Expect {
            verdict,
            result,
            told,
        })
    }
}

impl FieldsText {
    fn read_verdict(&self) -> Result<Verdict> {
        let expected = self.verdict.context("a packet or call has a `verdict`")?;
        let is_wanted = |verdict: &Verdict| match (expected, verdict) {
            (VerdictText::Pass, Verdict::Pass)
            | (VerdictText::PassFragment, Verdict::PassFragment)
            | (VerdictText::Translate, Verdict::Translate)
            | (VerdictText::Reject, Verdict::Reject(_))
            | (VerdictText::Drop, Verdict::Drop(_)) => true,
            (
                VerdictText::Pass
                | VerdictText::PassFragment
                | VerdictText::Translate
                | VerdictText::Reject
                | VerdictText::Drop,
                _,
            ) => false,
        };
        let wanted: Vec<Verdict> = Verdict::ALL.into_iter().filter(is_wanted).collect();
        wanted
            .iter()
            .find(|verdict| reason_name(**verdict) == self.reason.as_deref())
            .copied()
            .with_context(|| {
                let names: Vec<_> = wanted.iter().filter_map(|v| reason_name(*v)).collect();
                match names.as_slice() {
                    [] => "only `reject` and `drop` have a reason".to_owned(),
                    names => format!("`reason` is one of {}", names.join(", ")),
                }
            })
    }
}

/// What a verdict's reason is called in a scenario.
const fn reason_name(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Pass | Verdict::PassFragment | Verdict::Translate => None,
        Verdict::Reject(RejectReason::NoBackend) => Some("no-backend"),
        Verdict::Drop(DropReason::Malformed) => Some("malformed"),
        Verdict::Drop(DropReason::NoSourcePort) => Some("no-source-port"),
        Verdict::Drop(DropReason::NotRewritten) => Some("not-rewritten"),
        Verdict::Drop(DropReason::Unanswerable) => Some("unanswerable"),
        Verdict::Reject(RejectReason::NoSuchPort) => Some("no-such-port"),
        Verdict::Drop(DropReason::NoLocalEndpoint) => Some("no-local-endpoint"),
        Verdict::Drop(DropReason::SourceRange) | Verdict::Reject(RejectReason::SourceRange) => {
            Some("source-range")
        }
        Verdict::Drop(DropReason::ServiceAddress) => Some("service-address"),
        Verdict::Drop(DropReason::NoNodeAddress) => Some("no-node-address"),
        Verdict::Drop(DropReason::NoFirstFragment) => Some("no-first-fragment"),
        Verdict::Drop(DropReason::EgressPolicy) => Some("egress-policy"),
        Verdict::Drop(DropReason::IngressPolicy) => Some("ingress-policy"),
        Verdict::Drop(DropReason::ForgedSource) => Some("forged-source"),
        Verdict::Drop(DropReason::UnknownPod) => Some("unknown-pod"),
    }
}

fn parse_expected_packet(text: &str) -> Result<Outcome> {
    if let Some(error) = text.strip_prefix("error ") {
        let (from, about, rest) = parse_from_about(error)?;
        ensure!(rest.is_empty(), "nothing follows the name {about:?}");
        return Ok(Outcome::Error(from, about.to_owned()));
    }
    Ok(match text.strip_prefix("answer to ") {
        Some(name) => Outcome::AnswerTo(name.trim().to_owned()),
        None => match text.strip_prefix("like ") {
            Some(name) => Outcome::Like(name.trim().to_owned()),
            None => Outcome::Packets(vec![Notation::parse(text)?]),
        },
    })
}
