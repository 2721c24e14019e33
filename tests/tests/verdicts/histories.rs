//! Clusters that change, and what happens in them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use weir_tests::reference::policy::Sender;
use weir_tests::reference::policy::world::{
    Direction, Labels, NetworkPolicy, Phase, PolicyName, Rule, World,
};

use super::place::HERE;
use super::segment::{Conversation, Segment};
use crate::policies::connections::connections;
use crate::policies::plan::{NAMESPACES, NODE_ADDRESSES, NODES, POD_ADDRESSES, addr};
use crate::policies::rules::policy;
use crate::policies::worlds::{labels, world};

/// A cluster, the conversations that are spoken of, and what happens.
#[derive(Clone, Debug)]
pub struct History {
    /// The cluster at the beginning.
    pub world: World,
    /// Do records of the network plugin say whose interfaces are?
    pub has_records: bool,
    /// Is what is open left alone when policies change?
    pub is_kept: bool,
    /// Conversations.
    pub conversations: Vec<Conversation>,
    /// What happens, in order.
    pub events: Vec<Happening>,
}

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A packet of a conversation.
    Packet {
        /// Of which.
        conversation: Index,
        /// Which.
        segment: Segment,
        /// From the client, or from the server?
        is_of_client: bool,
    },
    /// An ICMP error about a packet of a conversation.
    Error {
        /// Of which.
        conversation: Index,
        /// About which packet.
        segment: Segment,
        /// Of the client, or of the server?
        is_of_client: bool,
        /// Does the packet's receiver say so? Else somebody on the way.
        is_of_end: bool,
    },
    /// A conversation's beginning: its opening, the answer to that, and data.
    Begin(Index),
    /// A conversation begins while everything is allowed, and is spoken of by both sides when
    /// nothing is. Then policies are again what they were.
    Sever(Index),
    /// A pod sends a conversation's opening, which is another's.
    Forgery(Index, Index),
    /// Time passes, in seconds.
    Time(u64),
    /// The cluster changes.
    Change(Change),
}

/// What changes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy appears, or becomes another.
    Policy(NetworkPolicy),
    /// A policy disappears.
    NoPolicy(Index),
    /// Everything is allowed in a namespace, or nothing, by a policy more.
    All {
        namespace: &'static str,
        directions: Vec<Direction>,
        is_allowed: bool,
    },
    /// A pod gets other labels.
    Labels(Index, Labels),
    /// A namespace gets other labels.
    NamespaceLabels(Index, Labels),
    /// A pod goes, and another one comes with its addresses.
    Recreate(Index, Labels),
    /// A pod ends.
    Complete(Index),
}

/// Seconds. No few of these come near a lifetime, since the kernel's clock goes on by itself.
const DELAYS: [u64; 3] = [13, 39, 137];

/// Any history with so many events.
pub fn history(events: RangeInclusive<usize>) -> impl Strategy<Value = History> {
    (
        world(),
        any::<bool>(),
        prop::bool::weighted(0.15),
        conversations(),
        vec(happening(), events),
    )
        .prop_map(
            |(world, has_records, is_kept, conversations, events)| History {
                world,
                has_records,
                is_kept,
                conversations,
                events,
            },
        )
}

/// Few ports, so that they are used again, and by the other side.
fn conversations() -> impl Strategy<Value = Vec<Conversation>> {
    let client_port = select(vec![80_u16, 81, 40_000, 40_001]);
    let server_here = weighted(0.5, select(&POD_ADDRESSES[..POD_ADDRESSES.len() / 2]));
    let is_of_node = prop::bool::weighted(0.1);
    let choices = vec((server_here, is_of_node, client_port), 6..14);
    (connections(), choices).prop_map(|(connections, choices)| {
        let each = connections.into_iter().zip(choices);
        each.map(|(mut connection, choice)| {
            let (server_here, is_of_node, client_port) = choice;
            if let Some(server) = server_here {
                connection.to = addr(server[usize::from(connection.to.is_ipv6())]);
            }
            if is_of_node {
                connection.from = own_node(connection.to);
            }
            Conversation {
                connection,
                client_port,
            }
        })
        .collect()
    })
}

/// The node from which all is seen, which sends to an address.
fn own_node(to: IpAddr) -> Sender {
    Sender::Node {
        name: NODES[HERE].to_owned(),
        addr: addr(NODE_ADDRESSES[HERE][usize::from(to.is_ipv6())]),
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    let segment = prop_oneof![
        3 => Just(Segment::Opening),
        2 => Just(Segment::Answer),
        4 => Just(Segment::Data),
        1 => Just(Segment::End),
        1 => Just(Segment::Reset),
    ];
    let error = (
        any::<Index>(),
        segment.clone(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(conversation, segment, is_of_client, is_of_end)| Happening::Error {
                conversation,
                segment,
                is_of_client,
                is_of_end,
            },
        );
    let packet = (any::<Index>(), segment, prop::bool::weighted(0.6)).prop_map(
        |(conversation, segment, is_of_client)| Happening::Packet {
            conversation,
            segment,
            is_of_client,
        },
    );
    prop_oneof![
        12 => packet,
        2 => error,
        6 => any::<Index>().prop_map(Happening::Begin),
        1 => any::<Index>().prop_map(Happening::Sever),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(pod, of)| Happening::Forgery(pod, of)),
        1 => select(&DELAYS).prop_map(Happening::Time),
        3 => change().prop_map(Happening::Change),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => policy().prop_map(Change::Policy),
        2 => any::<Index>().prop_map(Change::NoPolicy),
        3 => (select(&NAMESPACES), subsequence(Direction::ALL.to_vec(), 1..=2), any::<bool>())
            .prop_map(|(namespace, directions, is_allowed)| Change::All {
                namespace,
                directions,
                is_allowed,
            }),
        2 => (any::<Index>(), labels()).prop_map(|(pod, labels)| Change::Labels(pod, labels)),
        1 => (any::<Index>(), labels())
            .prop_map(|(namespace, labels)| Change::NamespaceLabels(namespace, labels)),
        2 => (any::<Index>(), labels()).prop_map(|(pod, labels)| Change::Recreate(pod, labels)),
        1 => any::<Index>().prop_map(Change::Complete),
    ]
}

impl Change {
    /// The cluster afterwards; `number` is one that no change has had.
    pub fn apply_to(&self, world: &mut World, number: usize) {
        match self {
            Self::Policy(policy) => put(world, policy.clone()),
            Self::NoPolicy(which) if !world.policies.is_empty() => {
                world.policies.remove(which.index(world.policies.len()));
            }
            Self::All {
                namespace,
                directions,
                is_allowed,
            } => put(world, about_all(namespace, directions, *is_allowed)),
            Self::Labels(which, labels) if !world.pods.is_empty() => {
                let which = which.index(world.pods.len());
                world.pods[which].labels = labels.clone();
            }
            Self::NamespaceLabels(which, labels) if !world.namespaces.is_empty() => {
                let which = which.index(world.namespaces.len());
                world.namespaces[which].labels = labels.clone();
            }
            Self::Recreate(which, labels) if !world.pods.is_empty() => {
                let mut pod = world.pods.remove(which.index(world.pods.len()));
                pod.name = format!("again-{number}");
                pod.labels = labels.clone();
                pod.phase = Phase::Running;
                world.pods.push(pod);
            }
            Self::Complete(which) if !world.pods.is_empty() => {
                let which = which.index(world.pods.len());
                world.pods[which].phase = Phase::Succeeded;
            }
            Self::NoPolicy(_)
            | Self::Labels(..)
            | Self::NamespaceLabels(..)
            | Self::Recreate(..)
            | Self::Complete(_) => {}
        }
    }
}

/// The cluster if a policy in each namespace were all there is, and allowed everything or nothing.
pub fn only_about_all(world: &World, is_allowed: bool) -> World {
    World {
        policies: NAMESPACES
            .map(|namespace| about_all(namespace, &Direction::ALL, is_allowed))
            .to_vec(),
        ..world.clone()
    }
}

fn put(world: &mut World, policy: NetworkPolicy) {
    world.policies.retain(|other| other.name != policy.name);
    world.policies.push(policy);
}

fn about_all(namespace: &str, directions: &[Direction], is_allowed: bool) -> NetworkPolicy {
    let rules = || is_allowed.then(|| vec![Rule::default()]);
    NetworkPolicy {
        name: PolicyName {
            namespace: namespace.to_owned(),
            name: "all".to_owned(),
        },
        pod_selector: None,
        policy_types: Some(
            directions
                .iter()
                .map(|it| it.policy_type().to_owned())
                .collect(),
        ),
        ingress: rules(),
        egress: rules(),
    }
}
