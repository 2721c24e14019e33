//! Which pairs would change their verdict under other policies.
//!
//! Exact for every port: policies and pods name finitely many, and between two that are named
//! next to each other all ports are alike. Pods that the tables treat alike, in both states, are a
//! group and are asked about once. Of the addresses beyond the cluster one of each block that
//! a policy names stands for all, and one for those that none names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weir_ebpf::addr::Protocol as Number;
use weir_ebpf::tables::ANYONE;
use weir_ebpf::verdict::{DropReason, Verdict};

use super::record::isolated;
use super::tables::Judge;
use super::{End, Scene, Traffic, reasons};
use crate::compile::Ids;
use crate::model::{Direction, Peer, Peers, Pod, PodRef, PolicyPorts, PortMatch, Protocol};

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
    /// `80 TCP`, `1-79 and 81-65535 TCP`, `everything`
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
    let mut states = [before, after].map(|scene| State {
        scene,
        judge: Judge::of_all(scene, &mut ids),
        known: BTreeMap::new(),
    });
    let groups = alike(&states);
    let questions = questions(&states);
    let mut changes = BTreeSet::new();
    for (from, senders) in groups.iter().enumerate() {
        for (to, receivers) in groups.iter().enumerate() {
            let Some((sender, receiver)) = pair(senders, receivers, from == to) else {
                continue;
            };
            let [v4, v6] = [0, 1].map(|family| {
                let (from, to) = (sender.addrs[family]?, receiver.addrs[family]?);
                let asked = Pair {
                    sender,
                    receiver,
                    from,
                    to,
                };
                Some(differences(&mut states, &asked, family, &questions))
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
    let groups = groups.into_iter().map(|members| Group {
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
    /// Does a subject set allow this traffic with an address of this class?
    known: BTreeMap<(u32, u32, Traffic), bool>,
}

/// Somebody, with an address of each family.
struct Member {
    name: String,
    pod: Option<PodRef>,
    addrs: [Option<IpAddr>; 2],
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

/// All that the tables say of somebody, in both states.
type Key = [([u32; 2], [Option<u32>; 2]); 2];

/// Everybody, in groups that the tables of both states treat alike.
fn alike(states: &[State<'_>; 2]) -> Vec<Vec<Member>> {
    let mut groups: BTreeMap<(bool, Key), Vec<Member>> = BTreeMap::new();
    for member in pods(states).into_iter().chain(addresses(states)) {
        let key = [0, 1].map(|state| {
            let state = &states[state];
            let subjects =
                [Direction::Egress, Direction::Ingress].map(|it| state.subject(&member, it));
            (
                subjects,
                member.addrs.map(|addr| addr.map(|addr| state.class(addr))),
            )
        });
        let group = groups.entry((member.pod.is_none(), key)).or_default();
        group.push(member);
    }
    groups.into_values().collect()
}

/// The pods that are there in both states.
fn pods([before, after]: &[State<'_>; 2]) -> Vec<Member> {
    let is_in = |state: &State<'_>, pod: &Pod| state.judge.interface(&pod.id).is_some();
    after
        .scene
        .cluster()
        .pods()
        .filter(|pod| is_in(before, pod) && is_in(after, pod))
        .map(|pod| Member {
            name: pod.id.to_string(),
            pod: Some(pod.id.clone()),
            addrs: [true, false].map(|v4| {
                let mut addrs = pod.own_addrs().iter().copied();
                addrs.find(|addr| addr.is_ipv4() == v4)
            }),
        })
        .collect()
}

/// Where nobody's blocks are (RFC 5737, RFC 3849), as a rule.
const ELSEWHERE: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

/// One address beyond the cluster for each block and each exception from one, and one of each
/// family for all others.
fn addresses(states: &[State<'_>; 2]) -> Vec<Member> {
    let mut blocks = BTreeSet::new();
    for state in states {
        for policy in state.scene.cluster().network_policies() {
            let rules = [Direction::Ingress, Direction::Egress].map(|it| policy.rules(it));
            for rule in rules.into_iter().flatten() {
                let Peers::AnyOf(peers) = &rule.peers else {
                    continue;
                };
                for peer in peers {
                    if let Peer::IpBlock(block) = peer {
                        blocks.insert(block.cidr);
                        blocks.extend(&block.except);
                    }
                }
            }
        }
    }
    let of = |name: String, addr: IpAddr| Member {
        name,
        pod: None,
        addrs: match addr {
            IpAddr::V4(_) => [Some(addr), None],
            IpAddr::V6(_) => [None, Some(addr)],
        },
    };
    let is_a_pods = |addr| states.iter().any(|state| state.scene.owner(addr).is_some());
    let mut found: Vec<_> = blocks
        .into_iter()
        .filter(|block| !is_a_pods(block.network()))
        .map(|block| of(block.to_string(), block.network()))
        .collect();
    found.push(Member {
        name: "elsewhere".to_owned(),
        pod: None,
        addrs: ELSEWHERE.map(|addr| addr.parse().ok()),
    });
    found
}

/// Two of two groups, or of one.
fn pair<'a>(
    senders: &'a [Member],
    receivers: &'a [Member],
    is_one: bool,
) -> Option<(&'a Member, &'a Member)> {
    let (sender, receiver) = (senders.first()?, receivers.get(usize::from(is_one))?);
    // Nobody judges what has nothing to do with a pod.
    (sender.pod.is_some() || receiver.pod.is_some()).then_some((sender, receiver))
}

/// Ports of a protocol that nobody tells apart; of a protocol without ports all there is.
struct Asked {
    protocol: Option<Protocol>,
    first: u16,
    last: u16,
}

impl Asked {
    const fn traffic(&self, family: usize) -> Traffic {
        match self.protocol {
            Some(protocol) => Traffic::Ports {
                protocol,
                port: self.first,
            },
            None => Traffic::Other {
                protocol: [Number::ICMP.0, Number::ICMPV6.0][family],
            },
        }
    }
}

/// What there is to ask: all ports of all protocols, and the protocols without ports.
fn questions(states: &[State<'_>; 2]) -> Vec<Asked> {
    // Where ports begin that differ from the one before them.
    let mut borders = BTreeSet::from([1_u32]);
    let mut note = |first: u16, last: u16| {
        borders.insert(u32::from(first));
        borders.insert(u32::from(last) + 1);
    };
    for state in states {
        for pod in state.scene.cluster().pods() {
            for port in &pod.ports {
                note(port.port.get(), port.port.get());
            }
        }
        for policy in state.scene.cluster().network_policies() {
            let rules = [Direction::Ingress, Direction::Egress].map(|it| policy.rules(it));
            for rule in rules.into_iter().flatten() {
                let PolicyPorts::AnyOf(ports) = &rule.ports else {
                    continue;
                };
                for entry in ports {
                    if let PortMatch::Range { first, last } = &entry.port {
                        note(first.get(), last.get());
                    }
                }
            }
        }
    }
    let starts: Vec<u16> = borders
        .iter()
        .filter_map(|it| u16::try_from(*it).ok())
        .collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let ranges: Vec<_> = starts.iter().copied().zip(ends).collect();
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let ported = protocols.into_iter().flat_map(|protocol| {
        let ranges = ranges.iter();
        ranges.map(move |&(first, last)| Asked {
            protocol: Some(protocol),
            first,
            last,
        })
    });
    let other = Asked {
        protocol: None,
        first: 0,
        last: 0,
    };
    ported.chain([other]).collect()
}

/// What is different, of two in one family.
#[derive(PartialEq, Eq)]
struct Difference {
    what: String,
    allowed: bool,
    why: String,
}

fn differences(
    states: &mut [State<'_>; 2],
    pair: &Pair<'_>,
    family: usize,
    questions: &[Asked],
) -> Vec<Difference> {
    let of = |state: &State<'_>| {
        (
            state.subject(pair.sender, Direction::Egress),
            state.class(pair.to),
            state.subject(pair.receiver, Direction::Ingress),
            state.class(pair.from),
        )
    };
    // The same numbers stand for the same content.
    if of(&states[0]) == of(&states[1]) {
        return Vec::new();
    }
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

/// `80 TCP`, `1-79, 81-65535 UDP`, `every SCTP port`, `ICMP and other protocols without ports`
fn what(protocol: Option<Protocol>, asked: &[&Asked]) -> String {
    let Some(protocol) = protocol else {
        return "ICMP and other protocols without ports".to_owned();
    };
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for asked in asked {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(asked.first) => *last = asked.last,
            _ => ranges.push((asked.first, asked.last)),
        }
    }
    if ranges == [(1, u16::MAX)] {
        return format!("every {protocol} port");
    }
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    format!("{} {protocol}", ranges.join(", "))
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
