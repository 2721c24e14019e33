//! Conversations of pods under policy: is a packet part of one that was allowed, or does it open
//! one?
//!
//! Invariants:
//! - An entry is written by a packet that passes. A packet that is refused changes nothing but to
//!   mark the entry as refused.
//! - The entry of a conversation that is refused stays until it is forgotten for its silence, so
//!   that what goes on of it is not taken for a new one that was opened the other way round.

use super::{Case, ask, refusal};
use crate::{
    addr::Protocol,
    conntrack,
    datapath::Workspace,
    event::Direction,
    packet::{Opener, Packet, Transport},
    tables::{Connection, ConnectionFlags, FlowState, Nanos, Policy, PolicyFlags, Tables},
    verdict::DropReason,
};

/// What the entry of a packet's conversation says of the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// There is none that counts: what is judged is a conversation that begins.
    Absent,
    /// It was allowed under the policies in force.
    Allowed,
    /// It was refused under them.
    Refused,
    /// It was judged under others.
    Stale,
    /// It opens another conversation while this one lives, or only looks like a part of it: it is
    /// judged for itself, and the entry stays.
    Beside,
}

/// What is known of a packet beside its headers.
#[derive(Clone, Copy)]
struct Looked {
    kind: Transport,
    way: Direction,
    policy: Policy,
    now: Nanos,
    is_from_node: bool,
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
    let is_from_node = work.case.is_from_node;
    let looked = Looked {
        kind: work.headers.kind(),
        way: work.case.way,
        policy: work.case.policy,
        now: tables.now(),
        is_from_node,
    };
    let case = &mut work.case;
    let mut opened = Direction::NONE;
    let standing = tables
        .update_connection(&case.key, |entry| {
            opened = opened_in(entry);
            look(entry, case.key.protocol, &looked)
        })
        .unwrap_or(Standing::Absent);
    match standing {
        Standing::Allowed => Ok(()),
        Standing::Refused => {
            // For who is told why; the answer is known.
            ask(tables, case, opened);
            Err(refusal(opened))
        }
        Standing::Stale => judge_again(tables, case, opened, &looked),
        Standing::Beside if is_from_node => Ok(()),
        Standing::Beside => match ask(tables, case, looked.way) {
            Some(_) => Ok(()),
            None => Err(refusal(looked.way)),
        },
        Standing::Absent => judge_new(packet, tables, work, &looked),
    }
}

/// Judges a packet that the pod sends to a service: it can only open something. Its conversation
/// is in `work`, but for the pod's port, which is none of the rules' business.
///
/// # Errors
/// Why the packet is refused.
#[inline(never)]
pub(crate) fn judge_opening<T: Tables>(tables: &T, work: &mut Workspace) -> Result<(), DropReason> {
    let kind = work.headers.kind();
    let case = &mut work.case;
    match ask(tables, case, Direction::EGRESS) {
        Some(rule) => {
            let state = conntrack::advance(FlowState::OPENING, kind, true);
            prepare(
                case,
                tables.now(),
                rule,
                state,
                ConnectionFlags::OPENED_BY_POD,
            );
            Ok(())
        }
        None => Err(refusal(Direction::EGRESS)),
    }
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

/// What an entry says of a packet; notes there that a packet which passes was seen.
#[inline(always)]
fn look(entry: &mut Connection, protocol: Protocol, packet: &Looked) -> Standing {
    if conntrack::is_silent(protocol, entry.state, entry.last_seen, packet.now) {
        return Standing::Absent;
    }
    let is_original = opened_in(entry).0 == packet.way.0;
    let is_denied = entry.flags.contains(ConnectionFlags::DENIED);
    let is_opening = conntrack::is_opening(packet.kind);
    match packet.kind {
        // Two who ask each other under the number zero have one key.
        Transport::Echo if !is_original => return Standing::Absent,
        Transport::EchoReply if is_original => return Standing::Absent,
        _ => {}
    }
    if is_opening && entry.state.0 >= FlowState::CLOSING.0 {
        return Standing::Absent;
    }
    // The first packet of a connection is never an answer.
    if is_opening && !is_original {
        return if is_denied {
            Standing::Absent
        } else {
            Standing::Beside
        };
    }
    if packet.is_from_node {
        if is_original {
            // Whatever was said of it: it is the node's.
            entry.flags = ConnectionFlags::FROM_NODE;
        } else if is_denied {
            return Standing::Beside;
        }
        note(entry, packet, is_original);
        return Standing::Allowed;
    }
    if entry.flags.contains(ConnectionFlags::FROM_NODE) {
        // Somebody else, from the node's address.
        if is_original {
            return Standing::Beside;
        }
        note(entry, packet, is_original);
        return Standing::Allowed;
    }
    // What opens a connection anew is no part of what was allowed once.
    let is_anew = is_opening && entry.revision != packet.policy.revision;
    if is_anew || is_stale(entry, packet.policy) {
        return Standing::Stale;
    }
    if is_denied {
        return Standing::Refused;
    }
    note(entry, packet, is_original);
    Standing::Allowed
}

/// Notes in an entry that a packet passes.
#[inline(always)]
fn note(entry: &mut Connection, packet: &Looked, is_original: bool) {
    let state = conntrack::advance(entry.state, packet.kind, is_original);
    if state != entry.state || packet.now.saturating_sub(entry.last_seen) >= conntrack::REFRESH {
        entry.state = state;
        entry.last_seen = packet.now;
    }
}

/// Judges a known conversation by the policies in force.
#[inline(never)]
fn judge_again<T: Tables>(
    tables: &T,
    case: &mut Case,
    opened: Direction,
    packet: &Looked,
) -> Result<(), DropReason> {
    let revision = packet.policy.revision;
    let Some(rule) = ask(tables, case, opened) else {
        let is_kept = packet.policy.flags.contains(PolicyFlags::KEEP_ESTABLISHED);
        tables.update_connection(&case.key, |entry| {
            if !is_kept {
                entry.flags = entry.flags.with(ConnectionFlags::DENIED);
                entry.revision = revision;
            }
        });
        return Err(refusal(opened));
    };
    let is_original = opened.0 == packet.way.0;
    tables.update_connection(&case.key, |entry| {
        entry.flags = entry.flags.without(ConnectionFlags::DENIED);
        entry.revision = revision;
        entry.rule = rule;
        note(entry, packet, is_original);
    });
    Ok(())
}

/// Judges a packet of a conversation that is not known.
#[inline(never)]
fn judge_new<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    looked: &Looked,
) -> Result<(), DropReason> {
    let kind = looked.kind;
    let case = &mut work.case;
    let mut opened = looked.way;
    // Is it known that there is a conversation already, and who opened it?
    let mut is_sure = false;
    if !conntrack::is_opening(kind) {
        if case.has_flow {
            is_sure = true;
            if !case.role.is_original() {
                opened = opposite(looked.way);
            }
        } else if matches!(kind, Transport::Tcp(_)) && case.pod.netns >= 0 {
            match packet.opener(case.pod.netns, &case.key) {
                Opener::Unknown => {}
                Opener::Pod => (is_sure, opened) = (true, Direction::EGRESS),
                Opener::Peer => (is_sure, opened) = (true, Direction::INGRESS),
            }
        }
    }
    let is_from_node = looked.is_from_node && opened.0 == looked.way.0;
    let mut flags = match opened {
        Direction::EGRESS => ConnectionFlags::OPENED_BY_POD,
        _ => ConnectionFlags::NONE,
    };
    let rule = if is_from_node {
        flags = ConnectionFlags::FROM_NODE;
        Some(0)
    } else {
        ask(tables, case, opened)
    };
    // A flow to a service that the pod opened was allowed once, and so was what its sockets know;
    // a flow that others opened was judged by nobody here.
    let is_kept = is_sure
        && (!case.has_flow || opened.0 == Direction::EGRESS.0)
        && looked.policy.flags.contains(PolicyFlags::KEEP_ESTABLISHED);
    let Some(rule) = rule.or(is_kept.then_some(0)) else {
        return if looked.is_from_node {
            Ok(())
        } else {
            Err(refusal(opened))
        };
    };
    let is_tracked = conntrack::may_continue(kind) || (is_sure && !is_reset(kind));
    // Messages about a link or a route have no conversation.
    if !is_tracked || is_lone_message(kind, case.key.protocol) {
        return Ok(());
    }
    let state = if is_sure {
        FlowState::ESTABLISHED
    } else {
        FlowState::OPENING
    };
    let state = conntrack::advance(state, kind, opened.0 == looked.way.0);
    prepare(case, looked.now, rule, state, flags);
    Ok(())
}

/// Puts together the entry of a new conversation.
#[inline(always)]
fn prepare(case: &mut Case, now: Nanos, rule: u32, state: FlowState, flags: ConnectionFlags) {
    case.entry.last_seen = now;
    case.entry.revision = case.policy.revision;
    case.entry.rule = rule;
    case.entry.state = state;
    case.entry.flags = flags;
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
        Transport::Tcp(flags) => flags.contains(crate::packet::TcpFlags::RST),
        _ => false,
    }
}

/// Is it an ICMP message that is neither echo nor error?
#[inline(always)]
const fn is_lone_message(kind: Transport, protocol: Protocol) -> bool {
    matches!(kind, Transport::Other) && matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}
