//! What is told of a packet at a pod's interface: that it was refused, or opened something.

use super::{Decision, Workspace};
use crate::{
    addr::{Addr, Port},
    event::Direction,
    policy::Finding,
    tables::{FlowRole, PolicyFlags, Tables},
    verdict::{DropReason, Hook},
};

/// Tells what has become of a packet, if that is asked for.
#[inline(always)]
pub fn report<T: Tables>(tables: &T, hook: Hook, work: &mut Workspace, decision: Decision) {
    if !matches!(hook, Hook::FromPod | Hook::ToPod) {
        return;
    }
    // Nothing was found out about what could not be read.
    if decision == Decision::drop(DropReason::Malformed) {
        return;
    }
    let wanted = if decision.is_dropped() || decision.is_rejected() {
        PolicyFlags::EVENTS_DENIED
    } else if work.case.finding.has_opened {
        PolicyFlags::EVENTS_OPENED
    } else {
        return;
    };
    if work.case.policy().flags.contains(wanted) {
        #[allow(clippy::cast_possible_truncation, reason = "there are a few")]
        let hook = hook.number() as u8;
        work.event.hook = hook;
        work.event.verdict = decision.number();
        tell(tables, work, decision.is_rejected());
    }
}

#[inline(never)]
fn tell<T: Tables>(tables: &T, work: &mut Workspace, is_rejected: bool) {
    let Workspace {
        headers,
        flow,
        case,
        event,
        ..
    } = work;
    let Finding {
        direction,
        subject,
        class,
        rule,
        has_opened: _,
    } = case.finding;
    event.time = tables.now();
    event.tuple = if direction == Direction::NONE {
        headers.tuple
    } else {
        case.tuple()
    };
    let asked = &headers.tuple;
    let is_redirected = asked.dst != event.tuple.dst || asked.dst_port != event.tuple.dst_port;
    (event.service_addr, event.service_port) = if case.is_sent() && (is_rejected || is_redirected) {
        (asked.dst, asked.dst_port)
    } else if !case.is_sent() && case.has_role(FlowRole::REPLY) {
        (flow.to.src, flow.to.src_port)
    } else {
        (Addr::UNSPECIFIED, Port(0))
    };
    event.interface = case.interface();
    event.direction = direction;
    event.reserved = [0; 3];
    event.subject = subject;
    event.class = class;
    event.rule = rule;
    event.revision = case.policy().revision;
    event.reserved_tail = 0;
    tables.tell(event);
}
