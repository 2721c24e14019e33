//! What the node's routes say of a packet: asked of the kernel.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_fib_lookup as Question, bpf_redir_neigh as Neighbour},
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use weir_ebpf::{
    addr::Addr,
    datapath::{hand_over::Entry, routes},
    packet::Headers,
    tables::{Route, Tables as _},
};

use crate::{
    maps::KernelTables,
    skb::{ETHERNET, Skb},
};

/// `AF_INET`, `AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 10;

/// The interface that the node's routes lead a packet to with these headers, as it is now; zero: it
/// is not plainly led anywhere.
#[inline(always)]
pub fn lead(ctx: &TcContext, headers: &Headers, from: u32, entry: Entry) -> u32 {
    let ask = |route: &mut Route| ask(ctx, route);
    let packet = &Skb::<ETHERNET>(ctx);
    let to = routes::lead(packet, &KernelTables, headers, (from, entry), ask, |it| {
        it.to
    });
    to.unwrap_or(0)
}

/// The same of what a pod sends to somebody beyond the node, and the neighbour that it is sent to:
/// by an interface where a program of ours sees what leaves.
#[inline(always)]
pub fn lead_out(ctx: &TcContext, headers: &Headers, from: u32, neighbour: &mut Neighbour) -> u32 {
    let ask = |route: &mut Route| {
        ask(ctx, route);
        if KernelTables.interface(route.to).is_none() {
            route.to = 0;
        }
    };
    let read = |route: &Route| {
        let next_hop = &route.next_hop;
        if next_hop.is_v4() {
            neighbour.nh_family = V4.into();
            neighbour.__bindgen_anon_1.ipv4_nh = next_hop.0[3];
        } else {
            neighbour.nh_family = V6.into();
            neighbour.__bindgen_anon_1.ipv6_nh = next_hop.0;
        }
        route.to
    };
    let (packet, entry) = (&Skb::<ETHERNET>(ctx), Entry::FromPod);
    let to = routes::lead(packet, &KernelTables, headers, (from, entry), ask, read);
    to.unwrap_or(0)
}

/// Which way is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the packet's destination.
    There,
    /// Back to its source.
    Back,
}

/// Asks the kernel what [`routes::lead`] wants to know.
#[inline(always)]
fn ask(ctx: &TcContext, route: &mut Route) {
    // SAFETY: it is made of integers.
    let mut question: Question = unsafe { core::mem::zeroed() };
    if route.is_asked_back != 0
        && !(is_led(ctx, route, Way::Back, &mut question) && question.ifindex == route.from)
    {
        return;
    }
    if !is_led(ctx, route, Way::There, &mut question) {
        return;
    }
    // SAFETY: the kernel has written an address of the family that it names, which is the packet's or,
    // of an IPv4 route by an IPv6 gateway, the other; any bytes are one.
    route.next_hop = unsafe {
        if question.family == V4 {
            Addr::from_v4_word(question.__bindgen_anon_4.ipv4_dst)
        } else {
            Addr(question.__bindgen_anon_4.ipv6_dst)
        }
    };
    route.to = question.ifindex;
}

/// Does the node lead what enters by one interface out by another, and does the packet fit there?
/// The question becomes the answer: by which, and to which neighbour.
#[inline(never)]
fn is_led(ctx: &TcContext, route: &Route, way: Way, question: &mut Question) -> bool {
    let tuple = &route.tuple;
    let (src, dst, sport, dport) = match way {
        Way::There => (&tuple.src, &tuple.dst, tuple.src_port, tuple.dst_port),
        Way::Back => (&tuple.dst, &tuple.src, tuple.dst_port, tuple.src_port),
    };
    question.l4_protocol = tuple.protocol.0;
    question.sport = sport.0;
    question.dport = dport.0;
    question.ifindex = route.from;
    // Longer than this field has room for is nothing that is sent.
    question.__bindgen_anon_1.tot_len = match way {
        Way::There if route.longest > 0xffff => 0xffff,
        Way::There => route.longest as u16,
        Way::Back => 1,
    };
    if src.is_v4() {
        question.family = V4;
        question.__bindgen_anon_2.tos = route.traffic_class;
        question.__bindgen_anon_3.ipv4_src = src.0[3];
        question.__bindgen_anon_4.ipv4_dst = dst.0[3];
    } else {
        question.family = V6;
        question.__bindgen_anon_2.flowinfo = 0;
        question.__bindgen_anon_3.ipv6_src = src.0;
        question.__bindgen_anon_4.ipv6_dst = dst.0;
    }
    // SAFETY: the context is valid; the pointer is to as many bytes as are named.
    let answer = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            (&raw mut *question).cast(),
            size_of::<Question>() as i32,
            0,
        )
    };
    answer == 0
}
