//! ICMP errors about conversations of pods under policy.

use super::{Case, ask, connection, refusal};
use crate::{
    conntrack,
    datapath::Workspace,
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
    if quote.is_read {
        let (policy, now) = (case.policy, tables.now());
        let (mut is_known, mut is_stale, mut is_denied) = (false, false, false);
        let Case { key, opened, .. } = case;
        tables.update_connection(key, |entry| {
            is_known = !conntrack::is_silent(key.protocol, entry.state, entry.last_seen, now);
            let is_from_node = entry.flags.contains(ConnectionFlags::FROM_NODE);
            is_stale = !is_from_node && connection::is_stale(entry, policy);
            is_denied = entry.flags.contains(ConnectionFlags::DENIED);
            *opened = connection::opened_in(entry);
        });
        if is_known && !is_stale && !is_denied {
            return Ok(());
        }
        // Of one to be judged again, the rules decide; nothing is written of it here. Of one that
        // was refused they say why.
        case.is_sure = is_known;
    } else {
        case.is_sure = false;
    }
    if !case.is_sure {
        case.set_conversation(&headers.tuple);
        case.opened = case.way;
    }
    match ask(tables, case) {
        Some(_) => Ok(()),
        None => Err(refusal(case.opened)),
    }
}
