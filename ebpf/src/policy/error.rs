//! ICMP errors about conversations of pods under policy.

use super::{ask, connection, refusal};
use crate::{
    addr::Port,
    conntrack,
    datapath::Workspace,
    event::Direction,
    tables::{ConnectionFlags, Tables},
    verdict::DropReason,
};

/// Judges an error whose conversation is in `work`, where the packet that it quotes could be read.
///
/// It passes where its conversation does, which it neither moves on nor keeps alive. Else it is
/// judged as a packet of its own.
///
/// # Errors
/// Why the packet is refused.
#[inline(never)]
pub(crate) fn judge_error<T: Tables>(tables: &T, work: &mut Workspace) -> Result<(), DropReason> {
    let Workspace {
        headers,
        quote,
        case,
        ..
    } = work;
    if case.is_from_node {
        return Ok(());
    }
    let way = case.way;
    if quote.is_read {
        let (protocol, policy, now) = (case.key.protocol, case.policy, tables.now());
        let mut is_stale = false;
        let mut opened = Direction::NONE;
        let is_allowed = tables.update_connection(&case.key, |entry| {
            if conntrack::is_silent(protocol, entry.state, entry.last_seen, now) {
                return None;
            }
            let is_from_node = entry.flags.contains(ConnectionFlags::FROM_NODE);
            is_stale = !is_from_node && connection::is_stale(entry, policy);
            opened = connection::opened_in(entry);
            Some(!entry.flags.contains(ConnectionFlags::DENIED))
        });
        if let Some(Some(is_allowed)) = is_allowed {
            let is_allowed = if is_stale {
                ask(tables, case, opened).is_some()
            } else {
                is_allowed
            };
            return if is_allowed {
                Ok(())
            } else {
                Err(refusal(opened))
            };
        }
    }
    case.set_conversation(&headers.tuple);
    case.key.pod_port = Port(0);
    case.key.peer_port = Port(0);
    match ask(tables, case, way) {
        Some(_) => Ok(()),
        None => Err(refusal(way)),
    }
}
