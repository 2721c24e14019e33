//! Which pairs would change their verdict under other policies.
//!
//! Exact for every port: the tables name finitely many, and between two that are named next to
//! each other all ports are alike. Pods that the tables treat alike, in both states, are a
//! group and are asked about once. Of the addresses beyond the cluster one of each block that
//! a policy names stands for all, and one for those that none names.

mod parties;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weir_ebpf::tables::{ANYONE, RuleKey};
use weir_ebpf::verdict::{DropReason, Verdict};

use super::record::isolated;
use super::tables::Judge;
use super::{End, Scene, Traffic, reasons};
use crate::compile::Ids;
use crate::model::{Direction, Protocol};
use parties::{Member, alike, may_differ, pair};
use ports::{Asked, Entries, questions, what};

/// Two states of a cluster, compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Those that policies treat alike, before and after.
    pub groups: Vec<Group>,
    /// What changes between which groups.
    pub changes: Vec<Change>,
}

/// Pods, or addresses beyond the cluster, that policies treat alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Pods, `NAMESPACE/NAME`; addresses and blocks; `elsewhere`.
    pub members: Vec<String>,
    /// Are these addresses beyond the cluster?
    pub outside: bool,
}

/// What changes between two groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Who opens connections: a place in [`Comparison::groups`].
    pub from: usize,
    /// To whom: likewise; of one group each to all others.
    pub to: usize,
    /// `80 TCP`, `1-79, 81-65535 TCP`, `every UDP port`, `everything`
    pub what: String,
    /// In one family only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub family: Option<u8>,
    /// Is it allowed now, having been refused? Else it is the other way round.
    pub allowed: bool,
    /// Why, in a sentence; of several ports for the first.
    pub why: String,
}

/// Which pairs change their verdict between two states.
#[must_use]
pub fn compare(before: &Scene, after: &Scene) -> Comparison {
    // The same content has the same number in both.
    let mut ids = Ids::default();
    let mut states = [before, after].map(|scene| {
        let judge = Judge::of_all(scene, &mut ids);
        State {
            scene,
            entries: Entries::of(judge.contents()),
            judge,
            known: BTreeMap::new(),
        }
    });
    let groups = alike(&states);
    let mut changes = BTreeSet::new();
    for (from, (of_senders, senders)) in groups.iter().enumerate() {
        for (to, (of_receivers, receivers)) in groups.iter().enumerate() {
            let Some((sender, receiver)) = pair(senders, receivers, from == to) else {
                continue;
            };
            let [v4, v6] = [0, 1].map(|family| {
                let (from, to) = (sender.addrs[family]?, receiver.addrs[family]?);
                if !may_differ(of_senders, of_receivers, family) {
                    return Some(Vec::new());
                }
                let asked = Pair {
                    sender,
                    receiver,
                    from,
                    to,
                };
                Some(differences(&mut states, &asked, family))
            });
            let found = match (v4, v6) {
                (None, None) => Vec::new(),
                (Some(one), None) | (None, Some(one)) => vec![(None, one)],
                (Some(v4), Some(v6)) if v4 == v6 => vec![(None, v4)],
                (Some(v4), Some(v6)) => vec![(Some(4), v4), (Some(6), v6)],
            };
            for (family, found) in found {
                changes.extend(found.into_iter().map(|it| Change {
                    from,
                    to,
                    what: it.what,
                    family,
                    allowed: it.allowed,
                    why: it.why,
                }));
            }
        }
    }
    let groups = groups.into_iter().map(|(_, members)| Group {
        outside: members.iter().all(|it| it.pod.is_none()),
        members: members.into_iter().map(|it| it.name).collect(),
    });
    Comparison {
        groups: groups.collect(),
        changes: changes.into_iter().collect(),
    }
}

/// A cluster, and what was asked of its tables so far.
struct State<'a> {
    scene: &'a Scene,
    judge: Judge,
    /// What its tables allow.
    entries: Entries,
    /// Does a subject set allow this traffic with an address of this class?
    known: BTreeMap<(u32, u32, Traffic), bool>,
}

/// Two, and their addresses of one family.
struct Pair<'a> {
    sender: &'a Member,
    receiver: &'a Member,
    from: IpAddr,
    to: IpAddr,
}

impl State<'_> {
    /// The subject set of a pod in a direction; zero: not isolated, or no pod.
    fn subject(&self, member: &Member, direction: Direction) -> u32 {
        let contents = self.judge.contents();
        let interface = member
            .pod
            .as_ref()
            .and_then(|pod| self.judge.interface(pod));
        let pod = interface.and_then(|interface| contents.pods.get(&interface));
        let slot = contents.policy.slot();
        pod.map_or(0, |pod| match direction {
            Direction::Egress => pod.egress.get(slot),
            Direction::Ingress => pod.ingress.get(slot),
        })
    }

    fn class(&self, addr: IpAddr) -> u32 {
        let contents = self.judge.contents();
        let class = contents.class(addr.into());
        class.map_or(ANYONE, |class| class.0.get(contents.policy.slot()))
    }

    /// The entries that can decide at either end.
    fn deciding(&self, pair: &Pair<'_>) -> Vec<RuleKey> {
        let ends = [
            (pair.sender, Direction::Egress, pair.to),
            (pair.receiver, Direction::Ingress, pair.from),
        ];
        let ends = ends.into_iter().flat_map(|(member, direction, peer)| {
            let subject = self.subject(member, direction);
            self.entries.deciding(subject, self.class(peer))
        });
        ends.copied().collect()
    }

    /// Do both ends let it pass?
    fn allows(&mut self, pair: &Pair<'_>, traffic: Traffic) -> bool {
        self.end_allows(pair, Direction::Egress, traffic)
            && self.end_allows(pair, Direction::Ingress, traffic)
    }

    fn end_allows(&mut self, pair: &Pair<'_>, direction: Direction, traffic: Traffic) -> bool {
        let (member, peer) = match direction {
            Direction::Egress => (pair.sender, pair.to),
            Direction::Ingress => (pair.receiver, pair.from),
        };
        let subject = self.subject(member, direction);
        let interface = member
            .pod
            .as_ref()
            .and_then(|pod| self.judge.interface(pod));
        let (Some(interface), true) = (interface, subject != 0) else {
            return true;
        };
        let question = (subject, self.class(peer), traffic);
        if let Some(known) = self.known.get(&question) {
            return *known;
        }
        let judged = self
            .judge
            .judge(interface, direction, false, pair.from, pair.to, traffic);
        let is_refused = matches!(
            judged.verdict,
            Verdict::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy)
        );
        self.known.insert(question, !is_refused);
        !is_refused
    }
}

/// What is different, of two in one family.
#[derive(PartialEq, Eq)]
struct Difference {
    what: String,
    allowed: bool,
    why: String,
}

fn differences(states: &mut [State<'_>; 2], pair: &Pair<'_>, family: usize) -> Vec<Difference> {
    let decide = states.each_ref().map(|state| state.deciding(pair));
    let questions = questions(decide.iter().flatten());
    let mut found = Vec::new();
    for allowed in [true, false] {
        let changed: Vec<&Asked> = questions
            .iter()
            .filter(|asked| {
                let traffic = asked.traffic(family);
                let [before, after] = states.each_mut().map(|it| it.allows(pair, traffic));
                before != after && after == allowed
            })
            .collect();
        let Some(first) = changed.first() else {
            continue;
        };
        let why = |asked: &Asked| why(states[1].scene, pair, asked.traffic(family), allowed);
        if changed.len() == questions.len() {
            found.push(Difference {
                what: "everything".to_owned(),
                allowed,
                why: why(first),
            });
            continue;
        }
        for protocol in [
            Some(Protocol::Tcp),
            Some(Protocol::Udp),
            Some(Protocol::Sctp),
            None,
        ] {
            let of_protocol: Vec<&Asked> = changed
                .iter()
                .copied()
                .filter(|asked| asked.protocol == protocol)
                .collect();
            if let Some(first) = of_protocol.first() {
                found.push(Difference {
                    what: what(protocol, &of_protocol),
                    allowed,
                    why: why(first),
                });
            }
        }
    }
    found
}

/// Why it is so afterwards.
fn why(scene: &Scene, pair: &Pair<'_>, traffic: Traffic, allowed: bool) -> String {
    let mut sentences = Vec::new();
    for (member, direction, peer) in [
        (pair.sender, Direction::Egress, pair.to),
        (pair.receiver, Direction::Ingress, pair.from),
    ] {
        let Some(subject) = member.pod.as_ref().and_then(|pod| scene.pod(pod)) else {
            continue;
        };
        let end = End {
            subject,
            direction,
            peer,
            to: pair.to,
            traffic,
        };
        let reasons = reasons(scene, end);
        if reasons.isolated_by.is_empty() || reasons.allowing.is_empty() == allowed {
            continue;
        }
        sentences.push(if allowed {
            let rules: Vec<_> = reasons.allowing.iter().map(ToString::to_string).collect();
            format!("allowed by {}", rules.join(", "))
        } else {
            let policies: Vec<_> = reasons
                .isolated_by
                .iter()
                .map(ToString::to_string)
                .collect();
            format!(
                "{direction} {}",
                isolated(&policies, reasons.nearest.as_ref())
            )
        });
    }
    if sentences.is_empty() {
        "no policy isolates either end".to_owned()
    } else {
        sentences.join("; ")
    }
}
