//! Conversations of pods under policy: is a packet part of one that was allowed, or does it open
//! one?
//!
//! Invariants:
//! - An entry is written by a packet that passes. A packet that is refused changes nothing but to
//!   mark the entry as refused.
//! - The pod's address in an entry is its own, or source addresses are not checked.
//! - The entry of a conversation that is refused stays until it is forgotten for its silence, so
//!   that what goes on of it is not taken for a new one that was opened the other way round.
//!
//! Between the steps everything is in the [`Case`], where the verifier knows nothing of it: else it
//! would follow each step once for every way through those before.

use super::{Case, ask, is_own_addr, refusal};
use crate::{
    addr::Protocol,
    conntrack,
    datapath::Workspace,
    event::Direction,
    packet::{Opener, Packet, TcpFlags, Transport},
    tables::{Connection, ConnectionFlags, Flow, FlowState, Nanos, Policy, PolicyFlags, Tables},
    verdict::DropReason,
};

/// What the entry of a packet's conversation says of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing(u8);

impl Standing {
    /// There is none that counts: what is judged is a conversation that begins.
    pub(super) const ABSENT: Self = Self(0);
    /// It was allowed under the policies in force.
    const ALLOWED: Self = Self(1);
    /// It was refused under them.
    const REFUSED: Self = Self(2);
    /// It was judged under others.
    const STALE: Self = Self(3);
    /// It opens another conversation while this one lives, or only looks like a part of it: it is
    /// judged for itself, and the entry stays.
    const BESIDE: Self = Self(4);
}

/// What is known of a packet beside its headers.
#[derive(Clone, Copy)]
struct Looked {
    kind: Transport,
    way: Direction,
    policy: Policy,
    now: Nanos,
    is_from_node: bool,
    /// Has its flow news?
    has_news: bool,
    /// Is it a TCP segment that belongs to no flow?
    is_as_is: bool,
}

impl Looked {
    #[inline(always)]
    const fn new(kind: Transport, case: &Case, now: Nanos) -> Self {
        Self {
            kind,
            way: case.way,
            policy: case.policy,
            now,
            is_from_node: case.is_from_node,
            has_news: case.has_news,
            is_as_is: matches!(kind, Transport::Tcp(_)) && !case.has_flow,
        }
    }

    /// The flag of a connection whose packets that go this way have no flow.
    #[inline(always)]
    const fn as_is(&self) -> ConnectionFlags {
        match self.way {
            Direction::EGRESS => ConnectionFlags::SENT_AS_IS,
            _ => ConnectionFlags::RECEIVED_AS_IS,
        }
    }
}

/// Judges a packet whose conversation is in `work`. What is to be written of it is put there, too:
/// see [`write`].
///
/// # Errors
/// Why the packet is refused.
#[inline(never)]
pub(crate) fn judge<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Result<(), DropReason> {
    find(tables, work);
    if work.case.standing == Standing::ALLOWED {
        return Ok(());
    }
    if work.case.standing == Standing::ABSENT {
        identify(packet, work);
    }
    let is_allowed = may_pass(work) || ask(tables, &mut work.case).is_some();
    settle(tables, work, is_allowed)
}

/// Judges a packet that the pod sends to a service: it can only open something. Its conversation
/// is in `work`, but for the pod's port, which is none of the rules' business.
///
/// # Errors
/// Why the packet is refused.
#[inline(always)]
pub(crate) fn judge_opening<T: Tables>(tables: &T, work: &mut Workspace) -> Result<(), DropReason> {
    work.case.now = tables.now();
    work.case.standing = Standing::ABSENT;
    work.case.opened = Direction::EGRESS;
    work.case.is_sure = false;
    let is_allowed = ask(tables, &mut work.case).is_some();
    settle(tables, work, is_allowed)
}

/// Was the conversation found to be allowed, and is nothing to be noted of it before the flow that
/// it is has news?
#[inline(always)]
pub(crate) fn is_allowed_until_news_of(case: &Case, flow: &Flow) -> bool {
    case.standing == Standing::ALLOWED && case.seen >= flow.last_seen
}

/// Writes what [`judge`] found, for a packet that passes.
#[inline(always)]
pub(crate) fn write<T: Tables>(tables: &T, case: &mut Case) {
    if case.is_new {
        tables.put_connection(&case.key, &case.entry);
        case.finding.has_opened = true;
    }
}

/// In which direction the conversation was opened, seen from the pod.
#[inline(always)]
pub(super) const fn opened_in(entry: &Connection) -> Direction {
    if entry.flags.contains(ConnectionFlags::OPENED_BY_POD) {
        Direction::EGRESS
    } else {
        Direction::INGRESS
    }
}

/// Was the conversation judged under other policies than those in force, so that it must be
/// judged again?
#[inline(always)]
pub(super) const fn is_stale(entry: &Connection, policy: Policy) -> bool {
    let is_kept = policy.flags.contains(PolicyFlags::KEEP_ESTABLISHED)
        && !entry.flags.contains(ConnectionFlags::DENIED);
    entry.revision != policy.revision && !is_kept
}

/// Finds what the conversation's entry says of the packet.
#[inline(never)]
fn find<T: Tables>(tables: &T, work: &mut Workspace) {
    let now = tables.now();
    let Workspace { headers, case, .. } = work;
    case.now = now;
    let looked = Looked::new(headers.kind(), case, now);
    case.standing = Standing::ABSENT;
    // It would be taken for a part of the echoes under the number zero.
    if is_lone_message(looked.kind, case.key.protocol) {
        return;
    }
    let Case {
        key,
        standing,
        opened,
        seen,
        ..
    } = case;
    tables.update_connection(key, |entry| {
        *opened = opened_in(entry);
        *standing = look(entry, key.protocol, &looked);
        *seen = entry.last_seen;
    });
    if case.standing == Standing::BESIDE {
        case.opened = case.way;
    }
}

/// What an entry says of a packet; notes there that a packet which passes was seen.
#[inline(always)]
fn look(entry: &mut Connection, protocol: Protocol, packet: &Looked) -> Standing {
    if conntrack::is_silent(protocol, entry.state, entry.last_seen, packet.now) {
        return Standing::ABSENT;
    }
    let is_original = opened_in(entry).0 == packet.way.0;
    let is_denied = entry.flags.contains(ConnectionFlags::DENIED);
    let is_opening = conntrack::is_opening(packet.kind);
    match packet.kind {
        // Two who ask each other under the number zero have one key.
        Transport::Echo if !is_original => return Standing::ABSENT,
        Transport::EchoReply if is_original => return Standing::ABSENT,
        _ => {}
    }
    if is_opening && entry.state.0 >= FlowState::CLOSING.0 {
        return Standing::ABSENT;
    }
    // The first packet of a connection is never an answer. It takes the place of one that is
    // refused, or that may be from now on.
    if is_opening && !is_original {
        return if is_denied || is_stale(entry, packet.policy) {
            Standing::ABSENT
        } else {
            Standing::BESIDE
        };
    }
    let is_the_nodes = entry.flags.contains(ConnectionFlags::FROM_NODE);
    if packet.is_from_node {
        if is_original {
            // Whatever was said of it: it is the node's.
            entry.flags = entry
                .flags
                .without(ConnectionFlags::DENIED)
                .with(ConnectionFlags::FROM_NODE);
        } else if is_denied {
            return Standing::BESIDE;
        }
    } else if is_the_nodes {
        if is_original {
            // Somebody else, from the node's address.
            return Standing::BESIDE;
        }
    } else {
        // What opens a connection anew is no part of what was allowed once.
        let is_anew = is_opening && entry.revision != packet.policy.revision;
        if is_anew || is_stale(entry, packet.policy) {
            return Standing::STALE;
        }
        if is_denied {
            return Standing::REFUSED;
        }
    }
    // Together with the flow, so that the two ask to be heard of at the same time.
    if packet.has_news {
        entry.last_seen = packet.now;
    }
    note(entry, packet.kind, is_original, packet.now);
    let is_as_is = packet.is_as_is && entry.state == FlowState::ESTABLISHED && !is_opening;
    if is_as_is != entry.flags.contains(packet.as_is()) {
        entry.flags = entry.flags.without(packet.as_is());
        if is_as_is {
            entry.flags = entry.flags.with(packet.as_is());
        }
    }
    Standing::ALLOWED
}

/// Does a packet with ports belong to an established connection that is allowed and no service's
/// business? One lookup, and nothing else is to be done about it.
#[inline(never)]
pub(crate) fn passes_as_is<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    let kind = work.headers.kind();
    if !matches!(kind, Transport::Tcp(_)) || conntrack::is_opening(kind) || work.headers.is_fragment
    {
        return false;
    }
    let case = &mut work.case;
    case.set_conversation(&work.headers.tuple);
    let looked = Looked::new(kind, case, tables.now());
    let protocol = case.key.protocol;
    tables
        .update_connection(&case.key, |entry| {
            entry.flags.contains(looked.as_is())
                && look(entry, protocol, &looked) == Standing::ALLOWED
        })
        .unwrap_or(false)
}

/// Notes in an entry that a packet passes.
#[inline(always)]
fn note(entry: &mut Connection, kind: Transport, is_original: bool, now: Nanos) {
    let state = conntrack::advance(entry.state, kind, is_original);
    if state != entry.state || now.saturating_sub(entry.last_seen) >= conntrack::REFRESH {
        entry.state = state;
        entry.last_seen = now;
    }
}

/// Finds out who opened a conversation that is not known: is there one already?
#[inline(never)]
fn identify<P: Packet>(packet: &P, work: &mut Workspace) {
    let kind = work.headers.kind();
    let case = &mut work.case;
    case.opened = case.way;
    case.is_sure = false;
    if conntrack::is_opening(kind) {
        return;
    }
    if case.has_flow {
        case.is_sure = true;
        if !case.role.is_original() {
            case.opened = opposite(case.way);
        }
    } else if matches!(kind, Transport::Tcp(_)) && case.pod.netns >= 0 {
        match packet.opener(case.pod.netns, &case.key) {
            Opener::Unknown => {}
            Opener::Pod => (case.is_sure, case.opened) = (true, Direction::EGRESS),
            Opener::Peer => (case.is_sure, case.opened) = (true, Direction::INGRESS),
        }
    }
}

/// Does the packet pass whatever the rules say?
#[inline(always)]
fn may_pass(work: &mut Workspace) -> bool {
    let case = &mut work.case;
    case.finding.direction = case.opened;
    if case.is_from_node {
        // The node may always talk to its pods; what pods open to the node is judged like all
        // else.
        return case.opened == case.way;
    }
    false
}

/// Draws the consequences of what the rules say.
#[inline(never)]
fn settle<T: Tables>(tables: &T, work: &mut Workspace, is_allowed: bool) -> Result<(), DropReason> {
    let kind = work.headers.kind();
    let case = &mut work.case;
    let is_keeping = case.policy.flags.contains(PolicyFlags::KEEP_ESTABLISHED);
    let is_original = case.opened == case.way;
    let is_passing = match case.standing {
        Standing::STALE => {
            let Case {
                key,
                policy,
                finding,
                now,
                ..
            } = case;
            tables.update_connection(key, |entry| {
                if is_allowed {
                    entry.flags = entry.flags.without(ConnectionFlags::DENIED);
                    entry.revision = policy.revision;
                    entry.rule = finding.rule;
                    note(entry, kind, is_original, *now);
                } else if !is_keeping {
                    entry.flags = entry.flags.with(ConnectionFlags::DENIED);
                    entry.revision = policy.revision;
                }
            });
            is_allowed
        }
        Standing::REFUSED => false,
        Standing::ABSENT => {
            // A flow to a service that the pod opened was allowed once, and so was what its
            // sockets know; a flow that others opened was judged by nobody here.
            let is_kept =
                is_keeping && case.is_sure && (!case.has_flow || case.opened == Direction::EGRESS);
            let is_passing = is_allowed || is_kept;
            // What a bridge floods is not the pod's, and lends it no source.
            if is_passing && (case.is_sent() || is_own_addr(tables, case, case.key.pod)) {
                prepare(case, kind, is_original);
            }
            is_passing
        }
        // Beside.
        _ => is_allowed,
    };
    if is_passing || case.is_from_node {
        Ok(())
    } else {
        Err(refusal(case.opened))
    }
}

/// Puts together the entry of a new conversation, if this is to have one.
#[inline(always)]
fn prepare(case: &mut Case, kind: Transport, is_original: bool) {
    let is_tracked = conntrack::may_continue(kind) || (case.is_sure && !is_reset(kind));
    // Messages about a link or a route have no conversation.
    if !is_tracked || is_lone_message(kind, case.key.protocol) {
        return;
    }
    let state = if case.is_sure {
        FlowState::ESTABLISHED
    } else {
        FlowState::OPENING
    };
    case.entry.last_seen = case.now;
    case.entry.revision = case.policy.revision;
    case.entry.rule = case.finding.rule;
    case.entry.state = conntrack::advance(state, kind, is_original);
    case.entry.flags = if case.opened == Direction::EGRESS {
        ConnectionFlags::OPENED_BY_POD
    } else if case.is_from_node {
        ConnectionFlags::FROM_NODE
    } else {
        ConnectionFlags::NONE
    };
    case.entry.reserved = [0; 6];
    case.is_new = true;
}

#[inline(always)]
const fn opposite(way: Direction) -> Direction {
    match way {
        Direction::EGRESS => Direction::INGRESS,
        _ => Direction::EGRESS,
    }
}

/// Is nothing left of the conversation after this packet?
#[inline(always)]
const fn is_reset(kind: Transport) -> bool {
    match kind {
        Transport::Tcp(flags) => flags.contains(TcpFlags::RST),
        _ => false,
    }
}

/// Is it an ICMP message that is neither echo nor error?
#[inline(always)]
const fn is_lone_message(kind: Transport, protocol: Protocol) -> bool {
    matches!(kind, Transport::Other) && matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}
