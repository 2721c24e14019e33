//! Who may talk to whom: what the policies in force say of a packet of a pod.
//!
//! The subject is the pod at the interface, whatever address it uses. What it sends is judged by
//! its egress rules after the service step, what it receives by its ingress rules before the
//! reverse: policies see backends, never services.
//!
//! Promises:
//! - Rules only add permissions. A pod that is isolated in a direction sends or receives nothing
//!   that no rule allows, but for what belongs to a conversation that was allowed.
//! - Such a conversation was opened by a packet that a rule, or the lack of isolation, allowed;
//!   an answer, an end or an error opens nothing, nor does a packet that was refused.
//! - It is judged again when policies have changed, in the direction in which it was opened.
//! - A pod that is isolated in neither direction costs no more than finding that out.

mod connection;
mod error;

use bytemuck::Zeroable as _;

use crate::{
    addr::{Addr, Port},
    datapath::Workspace,
    event::Direction,
    tables::{
        ANYONE, Connection, ConnectionKey, FlowRole, NOBODY, Nanos, Pod, PodAddr, PodState, Policy,
        PolicyFlags, RuleKey, Tables, Tuple, Vetting,
    },
    verdict::DropReason,
};

pub(crate) use connection::{is_allowed_until_news_of, judge, judge_opening, passes_as_is, write};
pub(crate) use error::judge_error;

/// Where a packet to a pod comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The node itself: it may always talk to its pods.
    Node,
    /// The very pod, back by the interface that it came by: an answer of ours, or what the pod
    /// sent to itself.
    Itself,
    /// Anybody else.
    Other,
}

/// A packet of a pod before the law.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    policy: Policy,
    pod: Pod,
    interface: u32,
    /// The way the packet goes.
    way: Direction,
    /// Does the node itself send it?
    is_from_node: bool,
    /// Does neither the node send it nor the very pod?
    is_somebodys: bool,
    /// Has its flow news?
    has_news: bool,
    /// Is it known whose interface it is?
    is_known: bool,
    /// Is the pod isolated, so that policies have a say?
    is_judged: bool,
    /// Was that asked of this packet, and is it not? What is vetted is not asked.
    is_free: bool,
    /// Has the packet a flow?
    has_flow: bool,
    /// Then its role.
    role: FlowRole,
    /// The conversation that the packet belongs to.
    pub(crate) key: ConnectionKey,
    /// What its entry says.
    standing: connection::Standing,
    /// When it was last noted to be heard of.
    seen: Nanos,
    /// In which direction it was opened, seen from the pod.
    opened: Direction,
    /// Is it known to have been opened before?
    is_sure: bool,
    now: Nanos,
    /// What is to be written of it.
    entry: Connection,
    /// Is it to be written?
    is_new: bool,
    /// What was found.
    pub(crate) finding: Finding,
}

/// By what a packet was judged: see the fields of [`Event`](crate::event::Event).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finding {
    pub(crate) direction: Direction,
    pub(crate) subject: u32,
    pub(crate) class: u32,
    pub(crate) rule: u32,
    /// Has it opened a conversation?
    pub(crate) has_opened: bool,
}

impl Finding {
    const NONE: Self = Self {
        direction: Direction::NONE,
        subject: 0,
        class: ANYONE,
        rule: 0,
        has_opened: false,
    };
}

impl Case {
    /// That of no packet.
    pub(crate) fn none() -> Self {
        Self {
            policy: Policy::zeroed(),
            pod: Pod::zeroed(),
            interface: 0,
            way: Direction::NONE,
            is_from_node: false,
            is_somebodys: false,
            has_news: false,
            is_known: false,
            is_judged: false,
            is_free: false,
            has_flow: false,
            role: FlowRole::FORWARD,
            key: ConnectionKey::zeroed(),
            standing: connection::Standing::ABSENT,
            seen: 0,
            opened: Direction::NONE,
            is_sure: false,
            now: 0,
            entry: Connection::zeroed(),
            is_new: false,
            finding: Finding::NONE,
        }
    }

    pub(crate) const fn policy(&self) -> Policy {
        self.policy
    }

    pub(crate) const fn interface(&self) -> u32 {
        self.interface
    }

    /// Is it nobody's interface, so that nothing passes?
    #[inline(always)]
    pub(crate) const fn is_refused(&self) -> bool {
        !self.is_known && self.policy.flags.contains(PolicyFlags::DENY_UNKNOWN)
    }

    /// The number of the pod's network namespace; negative where it is not known.
    pub(crate) const fn netns(&self) -> i32 {
        self.pod.netns
    }

    /// Do policies have a say?
    pub(crate) const fn is_judged(&self) -> bool {
        self.is_judged
    }

    /// Is it known of this packet that policies have no say?
    pub(crate) const fn is_free(&self) -> bool {
        self.is_free
    }

    /// The way the packet goes.
    pub(crate) const fn way(&self) -> Direction {
        self.way
    }

    /// Does the node itself send it?
    pub(crate) const fn is_from_node(&self) -> bool {
        self.is_from_node
    }

    /// Does it come from somebody else than the node and the very pod?
    #[inline(always)]
    pub(crate) const fn is_somebodys(&self) -> bool {
        self.is_somebodys
    }

    /// What is noted of a flow whose packet passes here.
    #[inline(always)]
    pub(crate) const fn vetting(&self) -> Vetting {
        Vetting::new(self.interface, self.policy.epoch)
    }

    /// Notes whether the packet's flow has news.
    #[inline(always)]
    pub(crate) fn note_news(&mut self, has_news: bool) {
        self.has_news = has_news;
    }

    /// Notes the role of the packet's flow.
    // In two fields, each of which is always written; see `packet::Kind`.
    #[inline(always)]
    pub(crate) fn set_flow(&mut self, role: Option<FlowRole>) {
        (self.has_flow, self.role) = match role {
            Some(role) => (true, role),
            None => (false, FlowRole::FORWARD),
        };
    }

    /// Has the packet a flow with this role?
    #[inline(always)]
    pub(crate) fn has_role(&self, role: FlowRole) -> bool {
        self.has_flow && self.role == role
    }

    /// Is it a packet that the pod sends?
    #[inline(always)]
    pub(crate) const fn is_sent(&self) -> bool {
        matches!(self.way, Direction::EGRESS)
    }

    /// Is the pod isolated in a direction?
    #[inline(always)]
    pub(crate) const fn is_isolated(&self, direction: Direction) -> bool {
        self.subject(direction) != 0
    }

    #[inline(always)]
    const fn subject(&self, direction: Direction) -> u32 {
        let slot = self.policy.slot();
        match direction {
            Direction::EGRESS => self.pod.egress.get(slot),
            _ => self.pod.ingress.get(slot),
        }
    }

    /// Takes the conversation from a packet's tuple, as policies see it.
    #[inline(always)]
    pub(crate) fn set_conversation(&mut self, tuple: &Tuple) {
        let (pod, peer, pod_port, peer_port) = match self.way {
            Direction::EGRESS => (tuple.src, tuple.dst, tuple.src_port, tuple.dst_port),
            _ => (tuple.dst, tuple.src, tuple.dst_port, tuple.src_port),
        };
        self.key.pod = pod;
        self.key.peer = peer;
        self.key.interface = self.interface;
        self.key.pod_port = pod_port;
        self.key.peer_port = peer_port;
        self.key.protocol = tuple.protocol;
        self.key.reserved = [0; 3];
    }

    /// The tuple of a packet of the conversation that goes the way of this one.
    #[inline(always)]
    pub(crate) const fn tuple(&self) -> Tuple {
        let key = &self.key;
        let sent = Tuple {
            src: key.pod,
            dst: key.peer,
            src_port: key.pod_port,
            dst_port: key.peer_port,
            protocol: key.protocol,
            is_beside: 0,
            reserved: [0; 2],
        };
        match self.way {
            Direction::EGRESS => sent,
            _ => sent.reversed(),
        }
    }
}

/// Begins with a packet that goes this way at an interface. Before anything else is read of what it
/// is asked: a [`Vetting`] relies on that.
#[inline(always)]
pub(crate) fn begin<T: Tables>(
    tables: &T,
    case: &mut Case,
    interface: u32,
    way: Direction,
    sender: Sender,
) {
    case.policy = tables.policy();
    case.interface = interface;
    case.way = way;
    case.is_from_node = matches!(sender, Sender::Node);
    case.is_somebodys = matches!(sender, Sender::Other);
    case.has_news = false;
    case.is_free = false;
    case.standing = connection::Standing::ABSENT;
    case.set_flow(None);
    case.is_new = false;
    case.finding = Finding::NONE;
}

/// As [`Pod::netns`](crate::tables::Pod) of an interface that is in no table.
const NOT_KNOWN: i32 = -1;

/// Finds out whose interface it is, and whether policies have a say in the packet.
#[inline(always)]
pub(crate) fn enter<T: Tables>(tables: &T, case: &mut Case, sender: Sender) {
    case.is_known = match tables.pod(case.interface) {
        Some(pod) => {
            case.pod = pod;
            pod.state != PodState::UNKNOWN
        }
        None => {
            case.pod.netns = NOT_KNOWN;
            false
        }
    };
    case.is_judged = case.is_known
        && !matches!(sender, Sender::Itself)
        && (case.is_isolated(Direction::EGRESS) || case.is_isolated(Direction::INGRESS));
    case.is_free = !case.is_judged;
}

/// Does a pod send from an address that is not its own?
#[inline(always)]
pub(crate) fn is_forged<T: Tables>(tables: &T, work: &Workspace) -> bool {
    let case = &work.case;
    case.is_known && !case.pod.is_at(work.headers.tuple.src) && is_forged_elsewhere(tables, work)
}

/// [`is_forged`], of an address that is not noted in the pod's entry.
#[inline(never)]
fn is_forged_elsewhere<T: Tables>(tables: &T, work: &Workspace) -> bool {
    let (case, src) = (&work.case, work.headers.tuple.src);
    !is_own_addr(tables, case, src) && !src.is_unspecified() && src != Addr::UNSPECIFIED_V4
}

/// May the pod at the interface talk from this address? One that counts on the link alone says
/// nothing beyond it. (From none at all it asks for one: RFC 2131 section 4.1, RFC 4862 section
/// 5.4.)
#[inline(always)]
fn is_own_addr<T: Tables>(tables: &T, case: &Case, addr: Addr) -> bool {
    case.policy.flags.contains(PolicyFlags::NO_SOURCE_CHECK)
        || is_pod_addr(tables, case, addr)
        || addr.is_link_local()
}

/// Is it the pod's own address?
#[inline(always)]
pub(crate) fn is_pod_addr<T: Tables>(tables: &T, case: &Case, addr: Addr) -> bool {
    case.pod.is_at(addr)
        || tables.is_pod_addr(&PodAddr {
            interface: case.interface,
            addr,
        })
}

/// Do policies allow the conversation, in the direction in which it was opened? The rule that does;
/// zero: none is needed.
#[inline(never)]
fn ask<T: Tables>(tables: &T, case: &mut Case) -> Option<u32> {
    let direction = case.opened;
    let subject = case.subject(direction);
    case.finding.direction = direction;
    case.finding.subject = subject;
    case.finding.rule = 0;
    if subject == 0 {
        return Some(0);
    }
    let class = tables.class(&case.key.peer, case.policy.slot());
    case.finding.class = class;
    if subject == NOBODY {
        return None;
    }
    let port: Port = match direction {
        Direction::EGRESS => case.key.peer_port,
        _ => case.key.pod_port,
    };
    let mut question = RuleKey::new(subject, class, case.key.protocol, port);
    let mut rule = tables.rule(&question);
    if rule.is_none() && class != ANYONE {
        question.class = ANYONE;
        rule = tables.rule(&question);
    }
    case.finding.rule = rule?;
    rule
}

/// Why a conversation that was opened in this direction is refused.
#[inline(always)]
const fn refusal(direction: Direction) -> DropReason {
    match direction {
        Direction::EGRESS => DropReason::EgressPolicy,
        _ => DropReason::IngressPolicy,
    }
}
