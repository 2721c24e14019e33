//! What the node's routes say of a packet: asked of the kernel, of each packet that takes no shortcut.
//!
//! So a route that changes, a rule, forwarding turned off or a neighbour that does not answer is
//! heeded within a second: what is not plainly routed takes the long way.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_fib_lookup as Question, helpers::bpf_fib_lookup,
    programs::TcContext,
};
use weir_ebpf::{datapath::hand_over, packet::Headers};

use crate::skb::{ETHERNET, Skb};

/// `AF_INET`, `AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 10;

/// Which way is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the packet's destination.
    There,
    /// Back to its source, as the kernel's reverse path filter asks where it is strict.
    Back,
}

/// Does the node lead what comes by one interface out by another, and does the packet fit there?
///
/// `headers` are the packet's own as it is now.
#[inline(never)]
pub fn lead(ctx: &TcContext, headers: &Headers, way: Way, from: u32, to: u32) -> bool {
    // SAFETY: it is made of integers.
    let mut question: Question = unsafe { core::mem::zeroed() };
    let tuple = &headers.tuple;
    let (src, dst, sport, dport) = match way {
        Way::There => (&tuple.src, &tuple.dst, tuple.src_port, tuple.dst_port),
        Way::Back => (&tuple.dst, &tuple.src, tuple.dst_port, tuple.src_port),
    };
    question.l4_protocol = tuple.protocol.0;
    question.sport = sport.0;
    question.dport = dport.0;
    question.ifindex = from;
    let length = match way {
        Way::There => hand_over::longest(&Skb::<ETHERNET>(ctx), headers),
        Way::Back => 1,
    };
    // Longer than this field has room for is nothing that is sent.
    question.__bindgen_anon_1.tot_len = if length > 0xffff {
        0xffff
    } else {
        length as u16
    };
    if headers.is_v4 {
        question.family = V4;
        question.__bindgen_anon_2.tos = hand_over::traffic_class(&Skb::<ETHERNET>(ctx), headers);
        question.__bindgen_anon_3.ipv4_src = src.0[3];
        question.__bindgen_anon_4.ipv4_dst = dst.0[3];
    } else {
        question.family = V6;
        question.__bindgen_anon_3.ipv6_src = src.0;
        question.__bindgen_anon_4.ipv6_dst = dst.0;
    }
    // SAFETY: the context is valid; the pointer is to as many bytes as are named.
    let answer = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            &raw mut question,
            size_of::<Question>() as i32,
            0,
        )
    };
    answer == 0 && question.ifindex == to
}
