//! A packet of a known flow: may it go on, and what is noted of it?

use super::{Spare, Workspace};
use crate::{
    addr::Protocol,
    conntrack,
    packet::Transport,
    service::{self, Origin, Standing},
    tables::{Backend, Flow, FlowFlags, FlowRole, Place, Tables, Tuple, Vetting},
};

/// What a glance at a packet's flow has shown. Kept in the [`Workspace`], so that the verifier does
/// not follow what comes after once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Glance(u8);

impl Glance {
    /// Nobody has looked.
    pub(super) const NONE: Self = Self(0);
    /// There is no flow.
    pub(super) const ABSENT: Self = Self(1);
    /// There is one, it may go on as it does, and nothing is to be noted of it.
    pub(super) const CURRENT: Self = Self(2);
    /// It takes a closer look.
    const UNSURE: Self = Self(3);
}

/// Looks for the flow of a packet, and changes nothing. To look in this processor's cache is all that
/// most packets take.
#[inline(always)]
pub(super) fn glance<T: Tables>(tables: &T, work: &mut Workspace) {
    work.glance = Glance::UNSURE;
    let kind = work.headers.kind();
    if !conntrack::is_plain(kind) {
        return;
    }
    let now = tables.now();
    let tuple = &work.headers.tuple;
    work.place = Place::of(tuple);
    if !tables.find_flow(tuple, work.place, now, &mut work.flow) {
        work.glance = Glance::ABSENT;
    } else if conntrack::is_current(&work.flow, now) && serves_unchanged(tables, work) {
        work.glance = Glance::CURRENT;
    }
}

/// Looks whether a packet that was no plain one has no flow: then the next ones have none either, until
/// an entry is written.
#[inline(always)]
pub(super) fn look_again<T: Tables>(tables: &T, work: &mut Workspace) {
    let tuple = &work.headers.tuple;
    work.place = Place::of(tuple);
    work.glance = if tables.find_flow(tuple, work.place, tables.now(), &mut work.flow) {
        Glance::UNSURE
    } else {
        Glance::ABSENT
    };
}

/// [`glance`] where it is seldom: a function of its own, which leaves the stack to others.
#[inline(never)]
fn glance_at_length<T: Tables>(tables: &T, work: &mut Workspace) {
    glance(tables, work);
}

/// May this flow go on with its backend without a question?
#[inline(always)]
fn serves_unchanged<T: Tables>(tables: &T, work: &Workspace) -> bool {
    let flow = &work.flow;
    !asks_service(work)
        || tables
            .service(flow.service)
            .is_some_and(|service| service.revision == flow.revision)
}

/// Does a plain packet of this flow go on only with what is a backend of the service?
#[inline(always)]
pub(super) fn asks_service(work: &Workspace) -> bool {
    // Read again: what is kept over a call is written whole, or Linux before 6.3 refuses the
    // program, and half of a kind is written for TCP alone.
    let is_datagram = matches!(work.headers.kind(), Transport::Udp);
    work.flow.role == FlowRole::FORWARD
        && conntrack::may_plainly_choose_again(work.flow.state, is_datagram)
}

/// Finds the flow of a packet and notes that it was seen. `None`: there is none, or none that
/// still counts.
#[inline(always)]
pub(super) fn known<T: Tables>(tables: &T, work: &mut Workspace) -> Option<FlowRole> {
    if work.glance == Glance::NONE {
        glance_at_length(tables, work);
    }
    match work.glance {
        Glance::CURRENT => Some(work.flow.role),
        Glance::ABSENT => None,
        _ => renew(tables, work),
    }
}

/// [`known`] where a packet of a client of this origin enters: what is led to a service has the
/// service's address there. So one that looks like a masqueraded flow's between its two translations
/// came by itself, and its own flow, if it has one, is [beside](Tuple::is_beside) that one, whose
/// entry it keeps: else it would change its port in the middle.
///
/// But where the other began elsewhere it is the other's: a pod's packet has been translated at the
/// pod's interface when it comes to a bridge that holds the node's uplink, too.
#[inline(always)]
pub(super) fn known_on_entering<T: Tables>(
    tables: &T,
    work: &mut Workspace,
    origin: Origin,
) -> Option<FlowRole> {
    match known(tables, work) {
        Some(FlowRole::SNAT_FORWARD) if work.flow.flags.begin_as(FlowFlags::of(origin)) => {
            work.headers.tuple.is_beside = 1;
            renew(tables, work)
        }
        role => role,
    }
}

/// [`known`], where more has to be done than to look.
#[inline(never)]
fn renew<T: Tables>(tables: &T, work: &mut Workspace) -> Option<FlowRole> {
    let now = tables.now();
    let kind = work.headers.kind();
    let flow = &mut work.flow;
    let is_news = tables.update_flow(&work.headers.tuple, |entry| {
        if conntrack::is_expired(entry, now) || conntrack::begins_anew(entry.state, kind) {
            return None;
        }
        let state = conntrack::advance(entry.state, kind, entry.role.is_original());
        let is_news =
            state != entry.state || now.saturating_sub(entry.last_seen) >= conntrack::REFRESH;
        // Between news the entry is left alone: the time noted in it is the time told to the
        // other direction, so that the two age together however one-sided the traffic.
        if is_news {
            entry.state = state;
            entry.last_seen = now;
            entry.set_vetted(Vetting::NONE);
        }
        *flow = *entry;
        Some(is_news)
    })??;
    work.case.note_news(is_news);
    if work.flow.role == FlowRole::FORWARD && !still_serves(tables, work) {
        return None;
    }
    // What waits for its source to be translated has no other direction yet.
    if is_news && !work.flow.to.src.is_unspecified() {
        let is_ours =
            tell_other_direction(&work.headers.tuple, &work.flow, &mut work.spare, tables);
        // A flow whose replies another flow would get opens anew, and so does one whose source
        // nobody would translate.
        if work.flow.role == FlowRole::FORWARD && (!is_ours || is_without_inner(&work.flow, tables))
        {
            return None;
        }
    }
    Some(work.flow.role)
}

/// Is this a flow whose source is to be translated, and whose second pair of entries has been
/// forgotten?
#[inline(always)]
fn is_without_inner<T: Tables>(flow: &Flow, tables: &T) -> bool {
    flow.flags.contains(FlowFlags::SNAT) && !tables.has_flow(&flow.to)
}

/// May this flow go on with its backend? A flow that may not is forgotten.
#[inline(always)]
fn still_serves<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    let flow = &work.flow;
    if !conntrack::may_choose_again(flow.state, work.headers.kind()) {
        return true;
    }
    let backend = Backend::new(flow.to.dst, flow.to.dst_port);
    match service::standing(tables, flow.service, flow.revision, backend) {
        Standing::Unchanged => true,
        Standing::StillServing(revision) => {
            tables.update_flow(&work.headers.tuple, |flow| flow.revision = revision);
            true
        }
        Standing::Gone => {
            forget(&work.headers.tuple, &work.flow, &mut work.spare, tables);
            false
        }
    }
}

/// Removes a flow whose backend has gone.
///
/// The entry of its replies stays for UDP and ages: the old backend may still answer what it was
/// asked. It goes for a handshake, which the old backend must not complete with the client while
/// another begins it.
#[inline(never)]
fn forget<T: Tables>(tuple: &Tuple, flow: &Flow, spare: &mut Spare, tables: &T) {
    tables.remove_flow(tuple);
    if flow.to.protocol == Protocol::UDP {
        return;
    }
    spare.key = flow.to.reversed();
    spare.entry.to = tuple.reversed();
    let back = &spare.entry.to;
    // It may be another flow's by now.
    if tables.flow_entry(&spare.key, |present| present.to == *back) == Some(true) {
        tables.remove_flow(&spare.key);
    }
}

/// Tells the entry of the other direction that the flow lives and how it stands, and writes it
/// again if it has been forgotten. `false`: another flow has taken the tuple over.
#[inline(never)]
fn tell_other_direction<T: Tables>(
    tuple: &Tuple,
    flow: &Flow,
    spare: &mut Spare,
    tables: &T,
) -> bool {
    spare.oppose(tuple, flow);
    let entry = &spare.entry;
    let told = tables.update_flow(&spare.key, |present| {
        // Another flow is not to be spoken for.
        let is_ours = present.to == entry.to;
        if is_ours {
            present.last_seen = entry.last_seen;
            // It is to be vetted once in that time, too.
            present.set_vetted(Vetting::NONE);
            // Another processor may have moved it further in the meantime.
            if entry.state.0 > present.state.0 {
                present.state = entry.state;
            }
        }
        is_ours
    });
    match told {
        Some(is_ours) => is_ours,
        // Where another processor was quicker, the next news will tell.
        None => {
            tables.add_flow(&spare.key, &spare.entry);
            true
        }
    }
}

impl Spare {
    /// Puts together the entry of the other direction of a flow with this tuple.
    #[inline(always)]
    pub(super) fn oppose(&mut self, tuple: &Tuple, flow: &Flow) {
        self.key = flow.to.reversed();
        self.entry = *flow;
        self.entry.to = tuple.reversed();
        self.entry.role = flow.role.opposite();
        self.entry.set_vetted(Vetting::NONE);
    }
}
