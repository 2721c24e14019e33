//! The programs at interfaces: pods', and those that lead beyond the node.

use aya_ebpf::{
    bindings::__sk_buff, helpers::bpf_redirect, macros::classifier, programs::TcContext,
};
use aya_log_ebpf::macro_support;
use weir_ebpf::{
    datapath::{
        self, Decision, Sender, Workspace,
        exact_match::{self, Sight},
        hand_over::Entry,
    },
    tables::{PolicyFlags, Tables as _},
    verdict::Hook,
};

use crate::{
    hand_over::{hand_over, repeat, repeat_received, take_shortcut},
    maps::{self, KernelTables},
    skb::{ETHERNET, NO_LINK_HEADER, Skb, begins_with_ip_header},
    steps::{self, Rest, UNDECIDED},
    trace,
};

/// Continue with the next program at the hook (`TCX_NEXT`, `TC_ACT_UNSPEC`): we are not alone.
pub const NEXT: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
pub const DROP: i32 = 2;

/// The rest of a program, as [`steps`] says: what it decides, if it has not yet, and what becomes of
/// that.
macro_rules! rest {
    ($link:expr, $hook:expr, $name:ident, |$ctx:ident, $packet:ident, $work:ident| $decide:expr) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        unsafe extern "C" fn $name(skb: *mut __sk_buff, decided: u32) -> i32 {
            let ctx = TcContext::new(skb);
            let Some(work) = maps::workspace() else {
                return NEXT;
            };
            let decision = if decided == UNDECIDED {
                let ($ctx, $packet, $work) = (&ctx, &Skb::<{ $link }>(&ctx), work);
                $decide
            } else {
                decided.into()
            };
            finish::<{ $link }>(&ctx, $hook, decision)
        }
    };
}

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let interface = interface(&ctx);
    if let Some(done) = repeat(&ctx, interface) {
        return done;
    }
    run::<ETHERNET>(&ctx, Hook::FromPod, rest_of_from_pod, |packet, work| {
        datapath::from_pod_at_once(packet, &KernelTables, interface, work)
    })
}

rest! {
    ETHERNET, Hook::FromPod, rest_of_from_pod,
    |_ctx, packet, work| datapath::from_pod_at_length(packet, &KernelTables, work)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let interface = interface(&ctx);
    if let Some(decision) = repeat_received(&ctx, interface) {
        return action(&ctx, decision);
    }
    let sender = sender(&ctx, interface);
    run::<ETHERNET>(&ctx, Hook::ToPod, rest_of_to_pod, |_, work| {
        datapath::to_pod_at_once(&KernelTables, interface, sender, work)
    })
}

rest! {
    ETHERNET, Hook::ToPod, rest_of_to_pod,
    |ctx, packet, work| {
        let sender = sender(ctx, interface(ctx));
        datapath::to_pod_at_length(packet, &KernelTables, sender, work)
    }
}

/// The index of the interface that the hook belongs to.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// The index of the interface by which the packet came; zero: by none.
#[inline(always)]
pub fn came_by(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Who sent a packet that leaves by this interface.
#[inline(always)]
fn sender(ctx: &TcContext, interface: u32) -> Sender {
    match came_by(ctx) {
        // It came by no interface: a socket of the node, or the node's own stack.
        0 => Sender::Node,
        by if by == interface => Sender::Itself,
        _ => Sender::Other,
    }
}

#[classifier]
pub fn from_network(ctx: TcContext) -> i32 {
    if is_tagged(&ctx) {
        return NEXT;
    }
    run::<ETHERNET>(&ctx, Hook::FromNetwork, rest_of_from_network, |_, work| {
        datapath::from_network_at_once(&KernelTables, work)
    })
}

rest! {
    ETHERNET, Hook::FromNetwork, rest_of_from_network,
    |_ctx, packet, work| datapath::from_network_at_length(packet, &KernelTables, work)
}

#[classifier]
pub fn to_network(ctx: TcContext) -> i32 {
    if is_tagged(&ctx) {
        return NEXT;
    }
    run::<ETHERNET>(&ctx, Hook::ToNetwork, rest_of_to_network, |_, work| {
        datapath::to_network_at_once(&KernelTables, work)
    })
}

rest! {
    ETHERNET, Hook::ToNetwork, rest_of_to_network,
    |ctx, packet, work| datapath::to_network_at_length(packet, &KernelTables, interface(ctx), work)
}

/// `to_network` of frames that a bridge takes from a pod to one of its other ports.
#[classifier]
pub fn to_network_l2(ctx: TcContext) -> i32 {
    if is_tagged(&ctx) || !datapath::is_sent_straight(&KernelTables, came_by(&ctx)) {
        return NEXT;
    }
    run::<ETHERNET>(&ctx, Hook::ToNetwork, rest_of_to_network_l2, |_, work| {
        datapath::to_network_at_once(&KernelTables, work)
    })
}

rest! {
    ETHERNET, Hook::ToNetwork, rest_of_to_network_l2,
    |ctx, packet, work| {
        datapath::to_network_by_bridge_at_length(packet, &KernelTables, interface(ctx), work)
    }
}

/// `from_network` at a device without link-layer header.
#[classifier]
pub fn from_network_l3(ctx: TcContext) -> i32 {
    if !begins_with_ip_header(&ctx) {
        return NEXT;
    }
    run::<NO_LINK_HEADER>(
        &ctx,
        Hook::FromNetwork,
        rest_of_from_network_l3,
        |_, work| datapath::from_network_at_once(&KernelTables, work),
    )
}

rest! {
    NO_LINK_HEADER, Hook::FromNetwork, rest_of_from_network_l3,
    |_ctx, packet, work| datapath::from_network_at_length(packet, &KernelTables, work)
}

/// `to_network` at a device without link-layer header.
#[classifier]
pub fn to_network_l3(ctx: TcContext) -> i32 {
    if !begins_with_ip_header(&ctx) {
        return NEXT;
    }
    run::<NO_LINK_HEADER>(&ctx, Hook::ToNetwork, rest_of_to_network_l3, |_, work| {
        datapath::to_network_at_once(&KernelTables, work)
    })
}

rest! {
    NO_LINK_HEADER, Hook::ToNetwork, rest_of_to_network_l3,
    |ctx, packet, work| datapath::to_network_at_length(packet, &KernelTables, interface(ctx), work)
}

/// Is it another network's? A packet with a VLAN tag is the business of its VLAN device, where it
/// comes by without the tag; number 0 is none (IEEE 802.1Q: a priority, and nothing else).
#[inline(always)]
fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    let (present, tag) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
    present != 0 && tag & 0xfff != 0
}

/// What happens to nearly all packets happens here, without a call: with what processors do against
/// speculation, to return from one can cost as much as half a lookup. The rest is left to `rest`.
#[inline(always)]
fn run<'a, const LINK: u32>(
    ctx: &'a TcContext,
    hook: Hook,
    rest: Rest,
    at_once: impl FnOnce(&Skb<'a, LINK>, &mut Workspace) -> Option<Decision>,
) -> i32 {
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    if let Err(why) = steps::read_headers::<LINK>(ctx, work) {
        let decision = datapath::not_parsed(why);
        maps::count_packet(hook, decision);
        return action(ctx, decision);
    }
    let decided = match at_once(&Skb(ctx), work) {
        Some(decision) if hook == Hook::FromPod && work.receiver != 0 => {
            return take_shortcut(ctx, work, decision);
        }
        Some(decision) => {
            if !is_logged() && !is_handed_over(hook, work) {
                let packet = &mut Skb::<LINK>(ctx);
                if let Some(done) = datapath::carry_out_plainly(packet, work, decision) {
                    maps::count_packet(hook, done);
                    if done.is_dropped() {
                        datapath::report(&KernelTables, hook, work, done);
                    }
                    return action(ctx, done);
                }
            }
            decision.into()
        }
        None => UNDECIDED,
    };
    // SAFETY: the context is this program's own.
    unsafe { rest(ctx.skb.skb, decided) }
}

/// Is each packet traced?
#[inline(always)]
pub fn is_logged() -> bool {
    macro_support::level_enabled(macro_support::Level::Debug)
}

/// May packets at this hook be handed over to pods?
#[inline(always)]
fn is_handed_over(hook: Hook, work: &Workspace) -> bool {
    match Entry::of(hook) {
        Some(Entry::FromPod) => work.hands_over(),
        Some(Entry::FromNetwork) => KernelTables.policy().flags.contains(PolicyFlags::HAND_OVER),
        None => false,
    }
}

/// Performs what was decided.
#[inline(always)]
fn finish<const LINK: u32>(ctx: &TcContext, hook: Hook, decision: Decision) -> i32 {
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    if is_logged() {
        trace::packet(ctx, hook, &work.headers.tuple, decision, &work.flow.to);
    }
    let decision = steps::carry_out::<LINK>(ctx, work, decision);
    maps::count_packet(hook, decision);
    datapath::report(&KernelTables, hook, work, decision);
    if let Some(sight) = Sight::at(hook, interface(ctx), came_by(ctx)) {
        let packet = &Skb::<LINK>(ctx);
        exact_match::remember_passing(packet, &KernelTables, work, sight, decision);
    }
    if LINK == ETHERNET
        && let Some(entry) = Entry::of(hook)
    {
        return hand_over(ctx, work, decision, entry);
    }
    action(ctx, decision)
}

#[inline(always)]
pub fn action(ctx: &TcContext, decision: Decision) -> i32 {
    if decision.is_dropped() {
        DROP
    } else if decision.is_rejected() {
        // The answer leaves by the interface of the question.
        // SAFETY: the context is valid; the helper only takes numbers.
        unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
    } else {
        NEXT
    }
}
