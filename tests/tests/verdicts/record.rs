//! What is remembered of a pod's conversations, written from the text and not from the datapath.
//!
//! "Replies of allowed flows pass, and nothing else rides on them." A conversation is known by the
//! pod's interface, both addresses, the protocol and both ports. It lives while packets of it pass,
//! and for a while after the last one: as long as Linux's connection tracking remembers it. It is
//! judged by the policies in force, in the direction in which it was opened, whichever way the
//! packet goes; what is refused keeps nothing alive. Only a pod that is isolated in a direction
//! has its conversations remembered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_tests::reference::policy::Judgement;
use weir_tests::reference::policy::world::Direction;

use super::segment::Segment;

/// What a conversation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The interface of the pod.
    pub interface: u32,
    /// The pod's address.
    pub pod: IpAddr,
    /// The other side's.
    pub peer: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// The pod's port; of an echo that it asks the identifier.
    pub pod_port: u16,
    /// The other side's likewise.
    pub peer_port: u16,
}

/// A packet as it is seen at the interface.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Out of the pod, or into it.
    pub way: Direction,
    /// What it says, if its protocol says such things.
    pub segment: Segment,
    /// Is it the answer to an echo?
    pub is_echo_reply: bool,
    /// Is it the question?
    pub is_echo_request: bool,
    /// Does the node itself send it?
    pub is_from_node: bool,
    /// Which state of the policies is in force.
    pub revision: u32,
    /// Seconds.
    pub now: u64,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It belongs to a conversation that is allowed.
    Part,
    /// It opens one, for this reason.
    Opens(Judgement),
    /// It is allowed for itself.
    Alone,
    /// It is refused: in this direction no rule allows it, for itself or as a part of what it
    /// belongs to.
    Refused {
        direction: Direction,
        why: Judgement,
        was_open: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Record {
    opened: Direction,
    is_of_node: bool,
    last: u64,
    stage: Stage,
    /// The state of the policies by which it was judged last.
    revision: u32,
    /// A packet of it was refused since one was let through.
    is_refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Unanswered,
    Answered,
    Ending,
    Over,
}

const TCP: u8 = 6;
const SCTP: u8 = 132;

/// Everything that is remembered.
#[derive(Debug)]
pub struct Records {
    records: BTreeMap<Key, Record>,
    is_kept: bool,
}

impl Records {
    /// Nothing yet. Is what was let through once not judged again?
    pub const fn new(is_kept: bool) -> Self {
        Self {
            records: BTreeMap::new(),
            is_kept,
        }
    }

    /// What becomes of a packet at the interface of an isolated pod. `ask` says what the policies
    /// in force say of the conversation, opened in a direction.
    pub fn judge(
        &mut self,
        key: Key,
        seen: &Seen,
        ask: impl Fn(Direction) -> Judgement,
    ) -> Outcome {
        let has_segments = matches!(key.protocol, TCP | SCTP);
        let is_opening = has_segments && seen.segment == Segment::Opening;
        let record = self.records.get(&key).copied().filter(|record| {
            let is_alive = seen.now - record.last <= lifetime(key.protocol, record.stage);
            let is_original = record.opened == seen.way;
            let is_other_echo =
                (seen.is_echo_request && !is_original) || (seen.is_echo_reply && is_original);
            let is_anew = is_opening && record.stage >= Stage::Ending;
            // What is refused, or would have to be judged again, gives way.
            let is_kept = self.is_kept && !record.is_refused;
            let is_doubtful = record.is_refused || (record.revision != seen.revision && !is_kept);
            let turns_round = is_opening && !is_original && is_doubtful;
            is_alive && !is_other_echo && !is_anew && !turns_round
        });
        let Some(record) = record else {
            return self.begin(key, seen, ask);
        };
        let is_original = record.opened == seen.way;
        // A first segment is never an answer.
        if is_opening && !is_original {
            return alone(seen, &ask);
        }
        if seen.is_from_node {
            if !is_original && record.is_refused {
                return Outcome::Alone;
            }
            let record = Record {
                is_of_node: record.is_of_node || is_original,
                is_refused: false,
                ..record
            };
            self.pass(key, record, seen);
            return Outcome::Part;
        }
        if record.is_of_node {
            // Others have the node's address, but they are not the node.
            if is_original {
                return alone(seen, &ask);
            }
            self.pass(key, record, seen);
            return Outcome::Part;
        }
        let why = ask(record.opened);
        let is_kept = self.is_kept && !is_opening;
        if why.is_allowed() || is_kept {
            let record = Record {
                is_refused: false,
                revision: if is_kept {
                    record.revision
                } else {
                    seen.revision
                },
                ..record
            };
            self.pass(key, record, seen);
            return Outcome::Part;
        }
        if !self.is_kept {
            let refused = Record {
                is_refused: true,
                revision: seen.revision,
                ..record
            };
            self.records.insert(key, refused);
        }
        Outcome::Refused {
            direction: record.opened,
            why,
            was_open: true,
        }
    }

    /// What becomes of an ICMP error at the interface of an isolated pod, about a packet of a
    /// conversation that the pod has sent or received. It passes with its conversation, and
    /// changes nothing; `alone` says what the policies in force say of it by itself.
    pub fn judge_error(
        &self,
        key: &Key,
        seen: &Seen,
        ask: impl Fn(Direction) -> Judgement,
        alone: impl Fn() -> Judgement,
    ) -> Outcome {
        if seen.is_from_node {
            return Outcome::Alone;
        }
        let record = self.records.get(key);
        let record =
            record.filter(|record| seen.now - record.last <= lifetime(key.protocol, record.stage));
        let (why, direction) = match record {
            Some(record) if record.is_of_node || self.is_kept => return Outcome::Alone,
            Some(record) => (ask(record.opened), record.opened),
            None => (alone(), seen.way),
        };
        if why.is_allowed() {
            return Outcome::Alone;
        }
        Outcome::Refused {
            direction,
            why,
            was_open: record.is_some(),
        }
    }

    fn begin(&mut self, key: Key, seen: &Seen, ask: impl Fn(Direction) -> Judgement) -> Outcome {
        let why = if seen.is_from_node {
            Judgement::OwnNode
        } else {
            ask(seen.way)
        };
        if !why.is_allowed() {
            return Outcome::Refused {
                direction: seen.way,
                why,
                was_open: false,
            };
        }
        if !may_open(key, seen) {
            return Outcome::Alone;
        }
        let record = Record {
            opened: seen.way,
            is_of_node: seen.is_from_node,
            last: seen.now,
            stage: Stage::Unanswered,
            revision: seen.revision,
            is_refused: false,
        };
        self.records.insert(key, record);
        Outcome::Opens(why)
    }

    fn pass(&mut self, key: Key, record: Record, seen: &Seen) {
        let says = match (key.protocol, seen.segment) {
            (TCP | SCTP, Segment::Reset) => Stage::Over,
            (TCP | SCTP, Segment::End) => Stage::Ending,
            _ if record.opened != seen.way => Stage::Answered,
            _ => Stage::Unanswered,
        };
        let record = Record {
            stage: record.stage.max(says),
            last: seen.now,
            ..record
        };
        self.records.insert(key, record);
    }
}

fn alone(seen: &Seen, ask: &impl Fn(Direction) -> Judgement) -> Outcome {
    if seen.is_from_node {
        return Outcome::Alone;
    }
    let why = ask(seen.way);
    if why.is_allowed() {
        Outcome::Alone
    } else {
        Outcome::Refused {
            direction: seen.way,
            why,
            was_open: false,
        }
    }
}

/// What answers, ends or only looks like a part of something opens nothing.
fn may_open(key: Key, seen: &Seen) -> bool {
    match key.protocol {
        TCP | SCTP => match seen.segment {
            Segment::Opening | Segment::Data => true,
            Segment::Answer | Segment::End | Segment::Reset => false,
        },
        // Of ICMP only an echo is a conversation.
        1 | 58 => seen.is_echo_request,
        _ => true,
    }
}

/// Seconds: the defaults of Linux's connection tracking.
const fn lifetime(protocol: u8, stage: Stage) -> u64 {
    match (protocol, stage) {
        (TCP, Stage::Answered) => 432_000,
        (TCP, Stage::Over) | (SCTP, Stage::Ending | Stage::Over) => 10,
        (SCTP, Stage::Answered) => 210,
        (SCTP, Stage::Unanswered) => 30,
        (TCP, _) => 120,
        (_, Stage::Unanswered) => 30,
        _ => 120,
    }
}
