//! Who is compared with whom: pods and addresses, in groups that the tables treat alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::State;
use crate::model::{Direction, Peer, Peers, Pod, PodRef};

/// Somebody, with an address of each family.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) pod: Option<PodRef>,
    pub(super) addrs: [Option<IpAddr>; 2],
}

/// All that the tables say of somebody, in both states: the subject sets as a sender and as a
/// receiver, and the class of the address of each family.
pub(super) type Key = [([u32; 2], [Option<u32>; 2]); 2];

/// Is there anything in one state that is not the same in the other? The same numbers stand for the
/// same content.
pub(super) fn may_differ(senders: &Key, receivers: &Key, family: usize) -> bool {
    let [before, after] = [0, 1].map(|state| {
        let ([egress, _], sender_classes) = senders[state];
        let ([_, ingress], receiver_classes) = receivers[state];
        // Of a pod that is not isolated nobody asks with whom it speaks.
        let of = |subject, class: Option<u32>| (subject, class.filter(|_| subject != 0));
        (
            of(egress, receiver_classes[family]),
            of(ingress, sender_classes[family]),
        )
    });
    before != after
}

/// Everybody, in groups that the tables of both states treat alike.
pub(super) fn alike(states: &[State<'_>; 2]) -> Vec<(Key, Vec<Member>)> {
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
    let groups = groups.into_iter();
    groups.map(|((_, key), members)| (key, members)).collect()
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
pub(super) fn pair<'a>(
    senders: &'a [Member],
    receivers: &'a [Member],
    is_one: bool,
) -> Option<(&'a Member, &'a Member)> {
    let (sender, receiver) = (senders.first()?, receivers.get(usize::from(is_one))?);
    // Nobody judges what has nothing to do with a pod.
    (sender.pod.is_some() || receiver.pod.is_some()).then_some((sender, receiver))
}
