//! The way past the node's IP layer: the programs' part of it, see
//! [`hand_over`](weir_ebpf::datapath::hand_over) and [`shortcut`].

use aya_ebpf::{
    bindings::{__sk_buff, bpf_redir_neigh},
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    macros::classifier,
    programs::TcContext,
};
use weir_ebpf::{
    datapath::{
        self, Decision, Workspace, exact_match,
        hand_over::{self, Entry, Onward, Told},
        shortcut::{self, Entrance},
    },
    packet::{Headers, Packet as _},
    tables::Place,
    verdict::Hook,
};

use crate::{
    maps::{self, KernelTables},
    routes,
    skb::{ETHERNET, Skb},
    steps,
    tc::{DROP, NEXT, action, came_by, interface, is_logged},
    trace,
};

/// What `from_pod` and `from_network` go on with where a packet goes to a pod of this node: `to_pod`
/// of that pod's interface, and the way there.
#[classifier]
pub fn hand_over_to_pod(ctx: TcContext) -> i32 {
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    if steps::read_headers::<ETHERNET>(&ctx, work).is_err()
        || hand_over::is_last_hop(&Skb::<ETHERNET>(&ctx), &work.headers)
        || !is_routed(&ctx, &work.headers)
    {
        return NEXT;
    }
    let packet = &Skb::<ETHERNET>(&ctx);
    let decision = hand_over::judge(packet, &KernelTables, receiver(&ctx), work);
    // SAFETY: the context is this program's own.
    unsafe { finish_delivery(ctx.skb.skb, decision.into()) }
}

#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn finish_delivery(skb: *mut __sk_buff, decision: u32) -> i32 {
    let ctx = TcContext::new(skb);
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    let decision = Decision::from(decision);
    if is_logged() {
        trace::packet(
            &ctx,
            Hook::ToPod,
            &work.headers.tuple,
            decision,
            &work.flow.to,
        );
    }
    let decision = steps::carry_out::<ETHERNET>(&ctx, work, decision);
    let decision = hand_over::take_hop_of(&mut Skb::<ETHERNET>(&ctx), work, decision);
    maps::count_packet(Hook::ToPod, decision);
    datapath::report(&KernelTables, Hook::ToPod, work, decision);
    if decision.is_dropped() {
        return DROP;
    }
    if let Some(epoch) = told(&ctx).free_epoch() {
        let packet = &Skb::<ETHERNET>(&ctx);
        shortcut::remember(
            packet,
            &KernelTables,
            work,
            Entrance {
                interface: interface(&ctx),
                place: place(&ctx),
            },
            receiver(&ctx),
            epoch,
        );
    }
    put_into(&ctx, receiver(&ctx))
}

/// Puts the packet where the other end of an interface receives, as what crosses a pair of them
/// arrives: nothing that the node noted on it goes with it.
#[inline(always)]
fn put_into(ctx: &TcContext, receiver: u32) -> i32 {
    // SAFETY: the context is this program's own. Volatile, because the verifier takes no store to
    // both fields at once. The helper only takes numbers.
    unsafe {
        (&raw mut (*ctx.skb.skb).mark).write_volatile(0);
        (&raw mut (*ctx.skb.skb).priority).write_volatile(0);
        bpf_redirect_peer(receiver, 0) as i32
    }
}

/// Does with a packet what was done with one like it, and gives what the program then gives back.
/// `None`: there was none.
#[inline(always)]
pub fn repeat(ctx: &TcContext, interface: u32) -> Option<i32> {
    if is_logged() {
        return None;
    }
    let done = exact_match::repeat(&mut Skb::<ETHERNET>(ctx), &KernelTables, interface)?;
    maps::count_packet(Hook::FromPod, done.here);
    if done.receiver == 0 {
        return Some(action(ctx, done.here));
    }
    maps::count_packet(Hook::ToPod, done.there);
    Some(put_into(ctx, done.receiver))
}

/// [`repeat`] of what a pod receives: what was decided.
#[inline(always)]
pub fn repeat_received(ctx: &TcContext, interface: u32) -> Option<Decision> {
    if is_logged() {
        return None;
    }
    let packet = &mut Skb::<ETHERNET>(ctx);
    let decision = exact_match::repeat_received(packet, &KernelTables, interface, came_by(ctx))?;
    maps::count_packet(Hook::ToPod, decision);
    Some(decision)
}

/// Does with a packet that takes a shortcut all that is left to be done.
#[inline(always)]
pub fn take_shortcut(ctx: &TcContext, work: &mut Workspace, decision: Decision) -> i32 {
    let decision = shortcut::carry_out(&mut Skb::<ETHERNET>(ctx), work, decision);
    maps::count_packet(Hook::FromPod, decision);
    if decision.is_dropped() {
        datapath::report(&KernelTables, Hook::FromPod, work, decision);
        return DROP;
    }
    // The compiler would write what counts it twice, once for each decision, with jumps there and
    // back that are as far as a short one goes: x86's JIT before Linux 5.12 changes its mind about
    // them for ever, and refuses the program.
    let there = core::hint::black_box(shortcut::decision_there(work, decision));
    maps::count_packet(Hook::ToPod, there);
    if is_logged() {
        let (tuple, to) = (&work.headers.tuple, &work.flow.to);
        trace::packet(ctx, Hook::FromPod, tuple, decision, to);
        trace::packet(ctx, Hook::ToPod, tuple, there, to);
    }
    exact_match::remember(&Skb::<ETHERNET>(ctx), &KernelTables, work, decision);
    put_into(ctx, work.receiver)
}

/// The interface of the pod that the packet is handed over to, as the program before has said.
#[inline(always)]
fn receiver(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe { (&raw const (*ctx.skb.skb).cb[0]).read_volatile() }
}

/// What else it has said of it.
#[inline(always)]
fn told(ctx: &TcContext) -> Told {
    // SAFETY: as above.
    Told::from_number(unsafe { (&raw const (*ctx.skb.skb).cb[1]).read_volatile() })
}

/// Where the one before keeps what it knows of the packet's flow.
#[inline(always)]
fn place(ctx: &TcContext) -> Place {
    // SAFETY: as above.
    Place::from_changes(unsafe { (&raw const (*ctx.skb.skb).cb[2]).read_volatile() })
}

/// Would the node's own IP layer take the packet in, and put it there?
#[inline(always)]
fn is_routed(ctx: &TcContext, headers: &Headers) -> bool {
    let from = interface(ctx);
    routes::lead(ctx, headers, from, told(ctx).entry()) == receiver(ctx)
}

/// Hands a packet over, of which this was decided; says what the program then gives back.
#[inline(always)]
pub fn hand_over(ctx: &TcContext, work: &Workspace, decision: Decision, entry: Entry) -> i32 {
    if !Skb::<ETHERNET>(ctx).is_for_ip_layer() {
        return action(ctx, decision);
    }
    let from = interface(ctx);
    match hand_over::onward(&KernelTables, work, decision, entry, from) {
        Onward::ByItself => action(ctx, decision),
        Onward::ToPod(receiver) => {
            // By the packet, not by the workspace: the next program may be another version's, with
            // a workspace of its own.
            // SAFETY: the context is this program's own, and the program there is of the same kind.
            unsafe {
                (&raw mut (*ctx.skb.skb).cb[0]).write_volatile(receiver);
                (&raw mut (*ctx.skb.skb).cb[1]).write_volatile(Told::of(work, entry).number());
                (&raw mut (*ctx.skb.skb).cb[2]).write_volatile(work.place.changes());
                maps::NEXT_PROGRAMS.tail_call(ctx, 0);
            }
            // There is none.
            NEXT
        }
        // SAFETY: the context is this program's own.
        Onward::ToNetwork => unsafe { hand_over_to_network(ctx.skb.skb, decision.into()) },
    }
}

/// Hands a packet that a pod has sent, and of which this was decided and carried out, to the
/// interface by which it leaves the node. A function that the verifier looks at once, see [`steps`].
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn hand_over_to_network(skb: *mut __sk_buff, decision: u32) -> i32 {
    let ctx = TcContext::new(skb);
    let Some(work) = maps::workspace() else {
        return NEXT;
    };
    let packet = &mut Skb::<ETHERNET>(&ctx);
    if Decision::from(decision) == Decision::TRANSLATE {
        work.headers.tuple = work.flow.to;
    }
    if hand_over::is_last_hop(packet, &work.headers)
        || !hand_over::has_usual_priority(packet, &work.headers)
    {
        return NEXT;
    }
    // SAFETY: it is made of integers.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    let to = routes::lead_out(&ctx, &work.headers, interface(&ctx), &mut neighbour);
    if to == 0 {
        return NEXT;
    }
    let done = hand_over::take_hop_of(packet, work, Decision::PASS);
    if done.is_dropped() {
        maps::count_packet(Hook::ToNetwork, done);
        datapath::report(&KernelTables, Hook::ToNetwork, work, done);
        return DROP;
    }
    // SAFETY: the context is this program's own; the pointer is to as many bytes as are named.
    unsafe {
        if work.headers.is_v4 {
            (&raw mut (*ctx.skb.skb).priority).write_volatile(0);
        }
        let size = size_of::<bpf_redir_neigh>() as i32;
        bpf_redirect_neigh(to, &raw mut neighbour, size, 0) as i32
    }
}
