//! What the node's routes say of a packet: asked of the kernel, for each packet anew.
//!
//! So a route that changes, a rule, forwarding turned off or a neighbour that does not answer is
//! heeded at once: what is not plainly routed takes the long way.

use aya_ebpf::{
    EbpfContext as _, bindings::bpf_fib_lookup as Question, helpers::bpf_fib_lookup,
    programs::TcContext,
};
use weir_ebpf::{
    addr::Protocol,
    packet::{Headers, Packet as _, TcpHeader},
};

use crate::skb::{ETHERNET, Skb};

/// `AF_INET`, `AF_INET6`.
const V4: u8 = 2;
const V6: u8 = 10;
/// What a segment of a long packet has besides its payload: a UDP header (RFC 768).
const UDP_LENGTH: u32 = 8;

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
        Way::There => longest(ctx, headers),
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
        let class: Option<[u8; 2]> = Skb::<ETHERNET>(ctx).load_near(headers.network);
        question.__bindgen_anon_2.tos = class.map_or(0, |bytes| bytes[1]);
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

/// The bytes of the IP packet, or of the longest one that it is cut into when it leaves a device.
#[inline(always)]
fn longest(ctx: &TcContext, headers: &Headers) -> u32 {
    // SAFETY: the context is valid as long as the program runs.
    let payload = unsafe { (*ctx.skb.skb).gso_size };
    if payload == 0 {
        return ctx.len() - headers.network;
    }
    let transport = if headers.tuple.protocol == Protocol::TCP {
        let header: Option<TcpHeader> = Skb::<ETHERNET>(ctx).load_near(headers.transport);
        header.map_or(60, |header| u32::from(header.data_offset >> 4) * 4)
    } else {
        UDP_LENGTH
    };
    headers.transport - headers.network + transport + payload
}
