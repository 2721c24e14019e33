//! Random conversations of a pod whose policies come and go, judged by a model that knows only what
//! rules say and which packets passed:
//! - what opens a conversation that a rule allows passes, and so does its answer;
//! - nothing passes that neither a rule allows nor a conversation which lives, and which the rules
//!   of the day still allow in the direction in which it was opened;
//! - whoever looks for a connection's entry and does not find it treats it as one that begins.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{
    frame,
    policy::{EGRESS, FRIENDS, INGRESS, POD, V4, V6, echo, echo_reply},
    tuple,
    world::World,
};
use proptest::prelude::*;
use weir_ebpf::{
    addr::Protocol,
    conntrack::SECOND,
    packet::TcpFlags,
    tables::{ANYONE, Nanos, PolicyFlags, Tables},
};

/// Ports of the pod and of its peers; identifiers of echoes.
const PORTS: [u16; 2] = [80, 4_000];
const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The first packet of a conversation.
    Open,
    Answer,
    Data,
    Finish,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Sent,
    Received,
}

impl Way {
    const fn opposite(self) -> Self {
        match self {
            Self::Sent => Self::Received,
            Self::Received => Self::Sent,
        }
    }
}

/// Whom the pod talks to, and how. An echo has one number, and a side that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Conversation {
    is_v4: bool,
    is_friend: bool,
    /// `None`: an echo, asked this way.
    protocol: Result<usize, Way>,
    pod_port: usize,
    peer_port: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Packet(Conversation, Kind, Way),
    /// Which directions are isolated, and which rules there are: for friends and for everybody, by
    /// protocol and port of either direction; the last two bits of each for all protocols.
    Change {
        isolated: [bool; 2],
        rules: [[u8; 2]; 2],
    },
    /// The table of connections is full of others.
    Forget,
    Wait(Nanos),
}

fn any_way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Sent), Just(Way::Received)]
}

fn any_conversation() -> impl Strategy<Value = Conversation> {
    let protocol = prop_oneof![6 => (0..3_usize).prop_map(Ok), 1 => any_way().prop_map(Err)];
    (
        any::<bool>(),
        any::<bool>(),
        protocol,
        0..2_usize,
        0..2_usize,
    )
        .prop_map(
            |(is_v4, is_friend, protocol, pod_port, peer_port)| Conversation {
                is_v4,
                is_friend,
                protocol,
                pod_port,
                peer_port: if protocol.is_err() { 0 } else { peer_port },
            },
        )
}

fn any_step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        5 => Just(Kind::Open), 5 => Just(Kind::Answer), 4 => Just(Kind::Data),
        1 => Just(Kind::Finish), 1 => Just(Kind::Reset),
    ];
    let change = (any::<[bool; 2]>(), any::<[[u8; 2]; 2]>());
    prop_oneof![
        20 => (any_conversation(), kind, any_way()).prop_map(|(c, k, w)| Step::Packet(c, k, w)),
        2 => change.prop_map(|(isolated, rules)| Step::Change { isolated, rules }),
        1 => Just(Step::Forget),
        2 => prop_oneof![0..3 * SECOND, 0..40 * SECOND, 100 * SECOND..500 * SECOND]
            .prop_map(Step::Wait),
    ]
}

/// Which conversation was opened how, and when it was last heard of.
#[derive(Clone, Debug)]
struct Alive {
    opened: BTreeSet<Way>,
    heard: Nanos,
}

struct Model {
    world: World,
    isolated: [bool; 2],
    rules: [[u8; 2]; 2],
    alive: BTreeMap<Conversation, Alive>,
    /// Which way an answer is due, and since when.
    due: BTreeMap<Conversation, (Way, Nanos)>,
    keeps: bool,
}

impl Model {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Packet(conversation, kind, way) => self.packet(*conversation, *kind, *way),
            Step::Change { isolated, rules } => self.change(*isolated, *rules),
            Step::Forget => {
                self.world.connections.borrow_mut().clear();
                self.alive.clear();
                self.due.clear();
            }
            Step::Wait(time) => self.world.wait(*time),
        }
    }

    fn change(&mut self, isolated: [bool; 2], rules: [[u8; 2]; 2]) {
        (self.isolated, self.rules) = (isolated, rules);
        self.due.clear();
        self.world.revise(|world| {
            let subject = |index: usize, subject| if isolated[index] { subject } else { 0 };
            world.set_pod(POD, subject(0, EGRESS), subject(1, INGRESS));
            for (subject, rules) in [EGRESS, INGRESS].into_iter().zip(rules) {
                for (class, bits) in [FRIENDS, ANYONE].into_iter().zip(rules) {
                    for bit in 0..6 {
                        if bits & (1 << bit) != 0 {
                            let (protocol, port) = (PROTOCOLS[bit / 2], PORTS[bit % 2]);
                            world.allow(subject, class, protocol, port, 1);
                        }
                    }
                    if bits >> 6 == 0b11 {
                        world.allow_everything(subject, class, 2);
                    }
                }
            }
        });
    }

    /// Do the rules of the day allow a conversation that is opened this way?
    fn allows(&self, conversation: &Conversation, way: Way) -> bool {
        let (index, port) = match way {
            Way::Sent => (0, conversation.peer_port),
            Way::Received => (1, conversation.pod_port),
        };
        let allows = |bits: u8| {
            let by_port = conversation
                .protocol
                .is_ok_and(|protocol| bits & (1 << (2 * protocol + port)) != 0);
            by_port || bits >> 6 == 0b11
        };
        let [friends, everybody] = self.rules[index];
        !self.isolated[index] || allows(everybody) || (conversation.is_friend && allows(friends))
    }

    fn packet(&mut self, conversation: Conversation, kind: Kind, way: Way) {
        let Some(frame) = build(&conversation, kind, way) else {
            return;
        };
        let outcome = match way {
            Way::Sent => self.world.send(POD, &frame),
            Way::Received => self.world.receive(POD, &frame),
        };
        let (passes, now) = (outcome.is_ok(), self.world.now());
        let what = format!("{conversation:?} {kind:?} {way:?} passes: {passes}");
        let is_allowed = self.allows(&conversation, way);
        // UDP has no first packet: what a peer sends may belong to what was refused.
        let is_first = kind == Kind::Open && conversation.protocol != Ok(1);
        assert!(passes || !(is_first && is_allowed), "{what}");
        if let Some((due, since)) = self.due.get(&conversation)
            && *due == way
            && kind == Kind::Answer
            && now - since <= 28 * SECOND
        {
            assert!(passes, "{what}, though an answer is due");
        }
        if !passes {
            return;
        }
        let allows_again = |opened: &Way| self.allows(&conversation, *opened);
        let lives = self.alive.get(&conversation).is_some_and(|alive| {
            now - alive.heard <= lifetime(&conversation)
                && (self.keeps || alive.opened.iter().any(allows_again))
        });
        // What opens a connection is no part of another. An echo opens none: its number goes on.
        let is_part = lives && !(is_first && conversation.protocol.is_ok());
        assert!(
            is_allowed || is_part,
            "{what}, and neither a rule nor a conversation allows it"
        );
        if !self.isolated[0] && !self.isolated[1] {
            return;
        }
        self.note(conversation, kind, way, is_allowed, is_part);
    }

    fn note(
        &mut self,
        conversation: Conversation,
        kind: Kind,
        way: Way,
        is_allowed: bool,
        is_part: bool,
    ) {
        let now = self.world.now();
        let opens = match conversation.protocol {
            Ok(0) => matches!(kind, Kind::Open | Kind::Data),
            Ok(2) => matches!(kind, Kind::Open | Kind::Data),
            Ok(_) => true,
            Err(asked) => kind == Kind::Open && asked == way,
        };
        if is_allowed && opens {
            let alive = self.alive.entry(conversation).or_insert(Alive {
                opened: BTreeSet::new(),
                heard: now,
            });
            alive.opened.insert(way);
        }
        if let Some(alive) = self.alive.get_mut(&conversation)
            && (is_part || (is_allowed && opens))
        {
            alive.heard = now;
        }
        match kind {
            Kind::Open => {
                self.due.insert(conversation, (way.opposite(), now));
            }
            Kind::Finish | Kind::Reset => {
                self.due.remove(&conversation);
            }
            Kind::Answer | Kind::Data => {}
        }
    }
}

/// The longest that silence leaves of a conversation, and a second for what is noted late.
fn lifetime(conversation: &Conversation) -> Nanos {
    let seconds = match conversation.protocol {
        Ok(0) => 432_000,
        Ok(2) => 210,
        _ => 120,
    };
    (seconds + 1) * SECOND
}

/// A packet of a conversation; `None`: there is none of this kind.
fn build(conversation: &Conversation, kind: Kind, way: Way) -> Option<Vec<u8>> {
    let family = if conversation.is_v4 { V4 } else { V6 };
    let peer = if conversation.is_friend {
        family.friend
    } else {
        family.stranger
    };
    let pod = (family.pod, PORTS[conversation.pod_port]);
    let peer = (peer, PORTS[conversation.peer_port]);
    let (from, to) = match way {
        Way::Sent => (pod, peer),
        Way::Received => (peer, pod),
    };
    let protocol = match conversation.protocol {
        Err(asked) => {
            let identifier = PORTS[conversation.pod_port];
            return match kind {
                Kind::Open if asked == way => Some(echo(family, from.0, to.0, identifier)),
                Kind::Answer if asked != way => Some(echo_reply(family, from.0, to.0, identifier)),
                _ => None,
            };
        }
        Ok(protocol) => PROTOCOLS[protocol],
    };
    let tuple = tuple(protocol, from, to);
    if protocol == Protocol::SCTP {
        let chunk = match kind {
            Kind::Open => 1,
            Kind::Answer => 2,
            Kind::Data => 0,
            Kind::Finish => 7,
            Kind::Reset => 6,
        };
        return Some(frame::sctp(&tuple, &[chunk, 0, 0, 4]));
    }
    let flags = match kind {
        Kind::Open => frame::SYN,
        Kind::Answer => frame::SYN_ACK,
        Kind::Data => frame::ACK,
        Kind::Finish => frame::FIN_ACK,
        Kind::Reset => TcpFlags::RST,
    };
    Some(frame::of(&tuple, flags, b"something"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn rules_and_conversations_decide_and_nothing_else(
        keeps: bool, steps in prop::collection::vec(any_step(), 1..150),
    ) {
        let world = World::with_isolated_pod();
        if keeps {
            world.set_policy_flags(PolicyFlags::KEEP_ESTABLISHED);
        }
        let mut model = Model {
            world,
            isolated: [true; 2],
            rules: [[0; 2]; 2],
            alive: BTreeMap::new(),
            due: BTreeMap::new(),
            keeps,
        };
        for step in &steps {
            model.step(step);
        }
    }
}
