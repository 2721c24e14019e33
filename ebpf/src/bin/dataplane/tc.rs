//! The programs at interfaces: pods', and those that lead beyond the node.

use aya_ebpf::{
    helpers::{bpf_redirect, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use aya_log_ebpf::macro_support;
use weir_ebpf::{
    datapath::{
        self, Decision, Sender, Workspace,
        hand_over::{self, Entry},
    },
    packet::{self, Headers},
    verdict::Hook,
};

use crate::{
    maps::{self, KernelTables},
    routes::{self, Way},
    skb::{ETHERNET, NO_LINK_HEADER, Skb, begins_with_ip_header},
    trace,
};

/// Continue with the next program at the hook (`TCX_NEXT`, `TC_ACT_UNSPEC`): we are not alone.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
const DROP: i32 = 2;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let interface = interface(&ctx);
    run::<ETHERNET>(&ctx, Hook::FromPod, |packet, tables, work| {
        datapath::from_pod(packet, tables, interface, work)
    })
}

/// What `from_pod` and `from_network` go on with where a packet goes to a pod of this node: `to_pod`
/// of that pod's interface, and the way there.
#[classifier]
pub fn hand_over_to_pod(ctx: TcContext) -> i32 {
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    // SAFETY: the context is valid as long as the program runs.
    let [receiver, entry] = unsafe {
        [
            (&raw const (*ctx.skb.skb).cb[0]).read_volatile(),
            (&raw const (*ctx.skb.skb).cb[1]).read_volatile(),
        ]
    };
    if packet::parse_into(&Skb::<ETHERNET>(&ctx), &mut work.headers).is_err()
        || hand_over::is_last_hop(&Skb::<ETHERNET>(&ctx), &work.headers)
        || !is_routed(&ctx, &work.headers, entry, receiver)
    {
        return NEXT;
    }
    let decision = hand_over::deliver(&mut Skb::<ETHERNET>(&ctx), &KernelTables, receiver, work);
    if macro_support::level_enabled(macro_support::Level::Debug) {
        trace::packet(
            &ctx,
            Hook::ToPod,
            &work.headers.tuple,
            decision,
            &work.flow.to,
        );
    }
    maps::count_packet(Hook::ToPod, decision);
    datapath::report(&KernelTables, Hook::ToPod, work, decision);
    if decision.is_dropped() {
        return DROP;
    }
    // As what crosses a pair of interfaces arrives: nothing that the node noted on it goes with it.
    // SAFETY: the context is this program's own. Volatile, because the verifier takes no store to
    // both fields at once. The helper only takes numbers.
    unsafe {
        (&raw mut (*ctx.skb.skb).mark).write_volatile(0);
        (&raw mut (*ctx.skb.skb).priority).write_volatile(0);
        bpf_redirect_peer(receiver, 0) as i32
    }
}

/// Would the node's own IP layer take the packet in, and put it there?
#[inline(always)]
fn is_routed(ctx: &TcContext, headers: &Headers, entry: u32, receiver: u32) -> bool {
    let from = interface(ctx);
    // Where a pod sent it, its tables have told that the source is its own.
    let is_taken_in =
        entry == Entry::FromPod.number() || routes::lead(ctx, headers, Way::Back, from, from);
    is_taken_in && routes::lead(ctx, headers, Way::There, from, receiver)
}

/// Hands a packet over, of which this was decided. Comes back where it goes on by itself.
#[inline(always)]
fn hand_over(ctx: &TcContext, work: &Workspace, decision: Decision, entry: Entry) {
    // SAFETY: the context is valid as long as the program runs.
    let (kind, is_tagged) = unsafe { ((*ctx.skb.skb).pkt_type, (*ctx.skb.skb).vlan_present) };
    // What is not addressed to the node on this link is none of its IP layer's business, either
    // (`PACKET_HOST`); what has a VLAN tag is another device's.
    if kind != 0 || is_tagged != 0 {
        return;
    }
    let from = interface(ctx);
    if let Some(receiver) = hand_over::receiver(&KernelTables, work, decision, entry, from) {
        // By the packet, not by the workspace: the next program may be another version's, with a
        // workspace of its own.
        // SAFETY: the context is this program's own, and the program there is of the same kind.
        unsafe {
            (&raw mut (*ctx.skb.skb).cb[0]).write_volatile(receiver);
            (&raw mut (*ctx.skb.skb).cb[1]).write_volatile(entry.number());
            maps::NEXT_PROGRAMS.tail_call(ctx, 0);
        }
    }
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let interface = interface(&ctx);
    let sender = sender(&ctx, interface);
    run::<ETHERNET>(&ctx, Hook::ToPod, |packet, tables, work| {
        datapath::to_pod(packet, tables, interface, sender, work)
    })
}

/// The index of the interface that the hook belongs to.
#[inline(always)]
fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Who sent a packet that leaves by this interface.
#[inline(always)]
fn sender(ctx: &TcContext, interface: u32) -> Sender {
    // SAFETY: as above.
    match unsafe { (*ctx.skb.skb).ingress_ifindex } {
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
    run::<ETHERNET>(&ctx, Hook::FromNetwork, datapath::from_network)
}

#[classifier]
pub fn to_network(ctx: TcContext) -> i32 {
    if is_tagged(&ctx) {
        return NEXT;
    }
    leave::<ETHERNET>(&ctx)
}

/// `from_network` at a device without link-layer header.
#[classifier]
pub fn from_network_l3(ctx: TcContext) -> i32 {
    if !begins_with_ip_header(&ctx) {
        return NEXT;
    }
    run::<NO_LINK_HEADER>(&ctx, Hook::FromNetwork, datapath::from_network)
}

/// `to_network` at a device without link-layer header.
#[classifier]
pub fn to_network_l3(ctx: TcContext) -> i32 {
    if !begins_with_ip_header(&ctx) {
        return NEXT;
    }
    leave::<NO_LINK_HEADER>(&ctx)
}

#[inline(always)]
fn leave<const LINK: u32>(ctx: &TcContext) -> i32 {
    let interface = interface(ctx);
    run::<LINK>(ctx, Hook::ToNetwork, |packet, tables, work| {
        datapath::to_network(packet, tables, interface, work)
    })
}

/// Is it another network's? A packet with a VLAN tag is the business of its VLAN device, where it
/// comes by without the tag; number 0 is none (IEEE 802.1Q: a priority, and nothing else).
#[inline(always)]
fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    let (present, tag) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
    present != 0 && tag & 0xfff != 0
}

#[inline(always)]
fn run<'a, const LINK: u32>(
    ctx: &'a TcContext,
    hook: Hook,
    decide: impl FnOnce(&Skb<'a, LINK>, &KernelTables, &mut Workspace) -> Decision,
) -> i32 {
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    if let Err(why) = packet::parse_into(&Skb::<LINK>(ctx), &mut work.headers) {
        let decision = datapath::not_parsed(why);
        maps::count_packet(hook, decision);
        return action(ctx, decision);
    }
    let decision = decide(&Skb(ctx), &KernelTables, work);
    if macro_support::level_enabled(macro_support::Level::Debug) {
        trace::packet(ctx, hook, &work.headers.tuple, decision, &work.flow.to);
    }
    let decision = datapath::carry_out(&mut Skb::<LINK>(ctx), work, decision);
    maps::count_packet(hook, decision);
    datapath::report(&KernelTables, hook, work, decision);
    if LINK == ETHERNET
        && let Some(entry) = Entry::of(hook)
    {
        hand_over(ctx, work, decision, entry);
    }
    action(ctx, decision)
}

#[inline(always)]
fn action(ctx: &TcContext, decision: Decision) -> i32 {
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
