//! What happens to a packet, one function for each hook: the order of the steps.
//!
//! Invariants:
//! - Destination translation happens where a packet enters the node from its client, the reverse
//!   where the reply leaves the node towards that client; source translation where it leaves the
//!   node towards its backend, the reverse where the answer enters. Everything between sees the
//!   client's and the pod's addresses in both directions.
//! - The reply of a translated flow is translated back, whatever has since happened to the
//!   service.
//! - A flow remembers its backend's address, never its slot.
//! - A packet leaves with exactly one verdict, counted once; every drop has a reason.
//! - Traffic that is none of our business passes untouched.
//! - What a pod's interface asks of a packet is asked of the first of those of a flow that are all
//!   alike, again once a second, and again as soon as it might be answered otherwise: see
//!   [`Vetting`](crate::tables::Vetting).
//! - What follows a flow, an ICMP error about one of its packets or the rest of a datagram in
//!   fragments, is translated as the flow is, and changes nothing in it.
//!
//! A decision is a value; [`carry_out`] performs it on the packet.

mod decision;
pub mod exact_match;
mod flow;
pub mod hand_over;
mod masquerade;
mod open;
mod pod;
mod report;
pub mod routes;
pub mod shortcut;

use crate::{
    addr::Addr,
    event::Event,
    fragments, icmp, nat,
    packet::{Headers, NotParsed, Packet, PacketMut, Transport},
    policy, reject,
    service::{self, Choice, Origin},
    tables::{Flow, FlowFlags, FlowRole, Place, PolicyFlags, ShortcutKey, Tables, Tuple},
    verdict::{DropReason, RejectReason},
};
#[cfg(not(target_arch = "bpf"))]
use crate::{
    datapath::exact_match::Sight,
    packet,
    tables::ExactMatch,
    verdict::{Hook, Verdict},
};

pub use crate::policy::Sender;
pub use decision::Decision;
pub use pod::{
    from_pod, from_pod_at_length, from_pod_at_once, to_pod, to_pod_at_length, to_pod_at_once,
};
pub use report::report;

use flow::Glance;

/// What a program works with while it handles one packet.
///
/// The caller's: a program has 512 bytes of stack, and keeps this elsewhere. Nothing in it lasts
/// from one packet to the next.
#[derive(Clone, Copy, Debug)]
pub struct Workspace {
    /// What the packet says of itself.
    pub headers: Headers,
    /// The packet's flow, where a decision speaks of one.
    pub flow: Flow,
    /// The other pair of entries of a flow whose source is translated.
    inner: Flow,
    spare: Spare,
    choice: Choice,
    glance: Glance,
    /// The tuple's, where a glance was cast.
    pub place: Place,
    /// What the service step says.
    step: Step,
    /// The interface that the packet goes to by a [shortcut]; zero: it takes none.
    pub receiver: u32,
    shortcut: ShortcutKey,
    pub(crate) quote: icmp::Quote,
    pub(crate) case: policy::Case,
    event: Event,
}

impl Workspace {
    /// May what a pod sends be handed over to other pods?
    #[inline(always)]
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.case.policy().flags.contains(PolicyFlags::HAND_OVER)
    }
}

/// Where an entry is put together.
#[derive(Clone, Copy, Debug)]
struct Spare {
    key: Tuple,
    entry: Flow,
}

impl Workspace {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            headers: Headers::none(),
            flow: bytemuck::Zeroable::zeroed(),
            inner: bytemuck::Zeroable::zeroed(),
            spare: Spare {
                key: bytemuck::Zeroable::zeroed(),
                entry: bytemuck::Zeroable::zeroed(),
            },
            choice: Choice {
                service: 0,
                revision: 0,
                backend: bytemuck::Zeroable::zeroed(),
                is_masqueraded: false,
            },
            glance: Glance::NONE,
            place: Place::NONE,
            step: Step::PASS,
            receiver: 0,
            shortcut: bytemuck::Zeroable::zeroed(),
            quote: icmp::Quote::none(),
            case: policy::Case::none(),
            event: bytemuck::Zeroable::zeroed(),
        }
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// What the service step says of a packet that is not refused. Kept in the [`Workspace`], so that
/// the verifier does not follow what comes after once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step(u8);

impl Step {
    /// It is none of services' business.
    const PASS: Self = Self(0);
    /// It is to be translated.
    const TRANSLATE: Self = Self(1);
    /// It is to have a flow.
    const BEGIN: Self = Self(2);
}

/// The decision about a packet whose headers could not be read.
#[inline(always)]
#[must_use]
pub const fn not_parsed(why: NotParsed) -> Decision {
    match why {
        NotParsed::NotIp => Decision::PASS,
        NotParsed::Malformed => Decision::drop(DropReason::Malformed),
    }
}

/// A packet that comes from beyond the node: DNAT to a backend, and the reverse of a masqueraded
/// flow's SNAT. `work` as in [`from_pod`].
#[inline(always)]
pub fn from_network<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Decision {
    match from_network_at_once(tables, work) {
        Some(decision) => decision,
        None => from_network_at_length(packet, tables, work),
    }
}

/// [`from_network`] of nearly all packets: those of known flows. `None`: it takes more, and nothing
/// has happened.
#[inline(always)]
pub fn from_network_at_once<T: Tables>(tables: &T, work: &mut Workspace) -> Option<Decision> {
    let is_known = look_for_flow(tables, work) && work.flow.role.is_entering();
    is_known.then_some(Decision::TRANSLATE)
}

/// The rest of [`from_network`].
#[inline(always)]
pub fn from_network_at_length<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
) -> Decision {
    if !work.headers.kind().has_ports() {
        return match follow(packet, tables, work, true, false) {
            Decision::PASS | Decision::PASS_FRAGMENT => refuse_without_port(tables, &work.headers),
            decision => decision,
        };
    }
    let decision = match flow::known_on_entering(tables, work, Origin::Outside) {
        Some(role) if role.is_entering() => Decision::TRANSLATE,
        Some(_) => Decision::PASS,
        None => match open::choose(tables, work, Origin::Outside) {
            Decision::TRANSLATE => open::begin(tables, work, Origin::Outside, false),
            decision => decision,
        },
    };
    remember_fragment(tables, work, decision, true);
    decision
}

/// A packet that leaves the node by the interface with this index: the reverse of DNAT for
/// clients there, and SNAT of what is masqueraded. `work` as in [`from_pod`].
#[inline(always)]
pub fn to_network<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    work: &mut Workspace,
) -> Decision {
    match to_network_at_once(tables, work) {
        Some(decision) => decision,
        None => to_network_at_length(packet, tables, interface, work),
    }
}

/// [`to_network`], as [`from_network_at_once`].
#[inline(always)]
pub fn to_network_at_once<T: Tables>(tables: &T, work: &mut Workspace) -> Option<Decision> {
    let is_known = look_for_flow(tables, work) && answers_outside(&work.flow);
    is_known.then_some(Decision::TRANSLATE)
}

/// The rest of [`to_network`].
#[inline(always)]
pub fn to_network_at_length<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    work: &mut Workspace,
) -> Decision {
    leave(packet, tables, interface, work, keep_service_addrs)
}

/// Does a bridge take the frame to this port straight from a pod? It came by the interface with this
/// index, and never to the bridge itself: what the IP layer sends has been by [`to_network`], and may look
/// like another flow's now.
#[inline(always)]
pub fn is_sent_straight<T: Tables>(tables: &T, came_by: u32) -> bool {
    tables.pod(came_by).is_some()
}

/// The rest of what [`to_network_at_once`] says of a frame that a bridge takes from a
/// [pod](is_sent_straight) to the network, or to whoever else hangs on it, past the node's IP layer: by a
/// route of the pod's own or by a router's redirect (RFC 792). What belongs to a flow is translated as in
/// [`to_network`], and all else is none of our business.
#[inline(always)]
pub fn to_network_by_bridge_at_length<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    work: &mut Workspace,
) -> Decision {
    leave(packet, tables, interface, work, |_, headers| pass(headers))
}

/// What leaves the node; `of_no_flow`: what belongs to no flow.
#[inline(always)]
fn leave<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    interface: u32,
    work: &mut Workspace,
    of_no_flow: impl Fn(&T, &Headers) -> Decision,
) -> Decision {
    if !work.headers.kind().has_ports() {
        return match follow(packet, tables, work, false, true) {
            Decision::PASS | Decision::PASS_FRAGMENT => of_no_flow(tables, &work.headers),
            decision => decision,
        };
    }
    let decision = match flow::known(tables, work) {
        Some(FlowRole::SNAT_FORWARD) => masquerade::translate(tables, work, interface),
        Some(_) if answers_outside(&work.flow) => Decision::TRANSLATE,
        Some(_) => Decision::PASS,
        None => of_no_flow(tables, &work.headers),
    };
    remember_fragment(tables, work, decision, false);
    decision
}

/// Is this the flow of answers to a client beyond the node? Those to a pod are translated at the
/// pod's interface: on a bridge that holds the node's uplink, too, they come by here before.
#[inline(always)]
fn answers_outside(flow: &Flow) -> bool {
    flow.role == FlowRole::REPLY && flow.flags.contains(FlowFlags::OUTSIDE)
}

/// Has the packet a flow that goes on as it does, so that nothing is to be noted?
#[inline(always)]
fn look_for_flow<T: Tables>(tables: &T, work: &mut Workspace) -> bool {
    work.glance = Glance::NONE;
    if !work.headers.kind().has_ports() || work.headers.is_fragment {
        return false;
    }
    flow::glance(tables, work);
    work.glance == Glance::CURRENT
}

/// What becomes of a packet to a pod of this node, whose flow has this role.
#[inline(always)]
fn towards_pod(role: Option<FlowRole>, work: &Workspace) -> Decision {
    match role {
        // What is to be masqueraded, and reaches a pod of this node: its answer comes back here
        // all the same.
        Some(FlowRole::SNAT_FORWARD) if work.flow.to.src.is_unspecified() => Decision::PASS,
        Some(role) if !role.is_entering() => Decision::TRANSLATE,
        Some(_) | None => Decision::PASS,
    }
}

/// A packet that has no flow of its own, but may follow one.
#[inline(always)]
fn follow<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    is_entering: bool,
    is_leaving_node: bool,
) -> Decision {
    match work.headers.kind() {
        Transport::LaterFragment => {
            // Those that keep their addresses are noted for policy's sake.
            if fragments::follow(&work.headers, tables, is_entering, &mut work.flow.to)
                && (work.flow.to.src != work.headers.tuple.src
                    || work.flow.to.dst != work.headers.tuple.dst)
            {
                Decision::TRANSLATE
            } else {
                Decision::PASS_FRAGMENT
            }
        }
        Transport::IcmpError(_) => {
            work.quote.is_leaving_node = is_leaving_node;
            icmp::read(packet, work);
            if icmp::find_flow(tables, work, is_entering) {
                Decision::TRANSLATE_ERROR
            } else {
                Decision::PASS
            }
        }
        Transport::Tcp(_)
        | Transport::Udp
        | Transport::Sctp(_)
        | Transport::Echo
        | Transport::EchoReply
        | Transport::Discovery
        | Transport::Other => Decision::PASS,
    }
}

/// A packet without ports: nobody answers it at a cluster IP.
#[inline(never)]
fn refuse_without_port<T: Tables>(tables: &T, headers: &Headers) -> Decision {
    if !covers(tables, headers.tuple.dst) || !service::is_cluster_ip(tables, headers.tuple.dst) {
        return pass(headers);
    }
    match headers.kind() {
        Transport::LaterFragment => Decision::drop(DropReason::NoFirstFragment),
        _ => Decision::reject(RejectReason::NoSuchPort),
    }
}

/// A packet that is about to leave the node, and belongs to no flow: where it is addressed to a
/// service, nobody beyond knows the address.
#[inline(never)]
fn keep_service_addrs<T: Tables>(tables: &T, headers: &Headers) -> Decision {
    let addr = headers.tuple.dst;
    if covers(tables, addr)
        && (service::is_cluster_ip(tables, addr) || tables.is_service_addr(&addr))
    {
        return Decision::drop(DropReason::ServiceAddress);
    }
    pass(headers)
}

/// What is none of our business.
#[inline(always)]
fn pass(headers: &Headers) -> Decision {
    match headers.kind() {
        Transport::LaterFragment => Decision::PASS_FRAGMENT,
        _ => Decision::PASS,
    }
}

/// May this be a service's address?
#[inline(always)]
fn covers<T: Tables>(tables: &T, addr: Addr) -> bool {
    tables.node(|node| node.covers(addr))
}

/// Notes of a first fragment what becomes of it, for those that follow.
#[inline(always)]
fn remember_fragment<T: Tables>(
    tables: &T,
    work: &Workspace,
    decision: Decision,
    is_entering: bool,
) {
    if work.headers.is_fragment {
        let to = (decision == Decision::TRANSLATE).then_some(&work.flow.to);
        fragments::remember(&work.headers, tables, is_entering, to);
    }
}

/// Performs a decision. What comes of it differs from the decision where the packet could not be
/// changed or answered.
#[inline(always)]
pub fn carry_out<P: PacketMut>(
    packet: &mut P,
    work: &mut Workspace,
    decision: Decision,
) -> Decision {
    match carry_out_plainly(packet, work, decision) {
        Some(decision) => decision,
        None => carry_out_otherwise(packet, work, decision),
    }
}

/// [`carry_out`] of what is decided about nearly all packets. `None`: it is something else, and
/// nothing was done.
#[inline(always)]
pub fn carry_out_plainly<P: PacketMut>(
    packet: &mut P,
    work: &Workspace,
    decision: Decision,
) -> Option<Decision> {
    match decision {
        Decision::TRANSLATE if nat::is_plain(&work.headers) => {
            let is_done = nat::translate_plain(packet, &work.headers, &work.flow.to);
            Some(decision.if_done(is_done, DropReason::NotRewritten))
        }
        Decision::TRANSLATE | Decision::TRANSLATE_ERROR => None,
        _ if decision.is_rejected() => None,
        _ => Some(decision),
    }
}

/// [`carry_out`] of the rest.
#[inline(always)]
pub fn carry_out_otherwise<P: PacketMut>(
    packet: &mut P,
    work: &mut Workspace,
    decision: Decision,
) -> Decision {
    match decision {
        Decision::TRANSLATE => {
            let is_done = nat::translate_any(packet, &work.headers, &work.flow.to);
            decision.if_done(is_done, DropReason::NotRewritten)
        }
        Decision::TRANSLATE_ERROR => {
            let is_done = icmp::translate(packet, work);
            decision.if_done(is_done, DropReason::NotRewritten)
        }
        _ if decision.is_rejected() => {
            let is_done = reject::answer(packet, &work.headers);
            decision.if_done(is_done, DropReason::Unanswerable)
        }
        _ => decision,
    }
}

/// Where a packet is seen.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The hook.
    pub hook: Hook,
    /// The index of the interface that the hook belongs to.
    pub interface: u32,
    /// Does it come from the node itself, not from an interface (`ingress_ifindex` is zero)?
    pub is_from_node: bool,
    /// Did it come by this very interface?
    pub is_from_itself: bool,
}

#[cfg(not(target_arch = "bpf"))]
impl At {
    /// The interface by which a packet came that came by some other one.
    pub const ANOTHER: u32 = ExactMatch::FROM_POD - 1;

    /// A packet that came by some interface.
    #[must_use]
    pub const fn new(hook: Hook, interface: u32) -> Self {
        Self {
            hook,
            interface,
            is_from_node: false,
            is_from_itself: false,
        }
    }

    const fn sender(self) -> Sender {
        if self.is_from_node {
            Sender::Node
        } else if self.is_from_itself {
            Sender::Itself
        } else {
            Sender::Other
        }
    }

    /// See [`ExactMatch::came_by`].
    const fn came_by(self) -> u32 {
        match self.sender() {
            Sender::Node => 0,
            Sender::Itself => self.interface,
            Sender::Other => Self::ANOTHER,
        }
    }
}

/// All that happens to a packet at a hook, what is told of it included. What a program does, for
/// those that are none.
///
/// # Panics
///
/// At [`Hook::Socket`], which no packet meets.
#[cfg(not(target_arch = "bpf"))]
pub fn run<P: PacketMut, T: Tables>(packet: &mut P, tables: &T, at: At) -> (Verdict, Workspace) {
    let mut work = Workspace::new();
    let read = packet::parse_into(packet, &mut work.headers);
    let sender = at.sender();
    let came_by = at.came_by();
    if at.hook == Hook::FromPod
        && let Some(done) = exact_match::repeat(packet, tables, at.interface)
    {
        work.receiver = done.receiver;
        let is_translated = [done.here, done.there].contains(&Decision::TRANSLATE);
        work.step = if is_translated {
            Step::TRANSLATE
        } else {
            Step::PASS
        };
        return (done.here.verdict(), work);
    }
    if at.hook == Hook::ToPod
        && let Some(decision) = exact_match::repeat_received(packet, tables, at.interface, came_by)
    {
        return (decision.verdict(), work);
    }
    let decision = match read {
        Err(why) => not_parsed(why),
        Ok(()) => match at.hook {
            Hook::FromPod => from_pod(packet, tables, at.interface, &mut work),
            Hook::ToPod => to_pod(packet, tables, at.interface, sender, &mut work),
            Hook::FromNetwork => from_network(packet, tables, &mut work),
            Hook::ToNetwork => to_network(packet, tables, at.interface, &mut work),
            Hook::Socket => panic!("no packet meets a socket call"),
        },
    };
    let decision = if at.hook == Hook::FromPod && work.receiver != 0 {
        let decision = shortcut::carry_out(packet, &work, decision);
        if !decision.is_dropped() {
            exact_match::remember(packet, tables, &work, decision);
        }
        decision
    } else {
        carry_out(packet, &mut work, decision)
    };
    report(tables, at.hook, &mut work, decision);
    if work.receiver == 0
        && let Some(sight) = Sight::at(at.hook, at.interface, came_by)
    {
        exact_match::remember_passing(packet, tables, &mut work, sight, decision);
    }
    (decision.verdict(), work)
}
