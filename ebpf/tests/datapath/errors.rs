//! ICMP errors as whole frames: right checksums, only declared bytes, and back again.

use crate::common::{
    frame,
    strategy::any_tuples,
    world::{Hook, World},
};
use proptest::prelude::*;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    packet::TcpFlags,
    tables::{Flow, FlowFlags, FlowRole, FlowState, Tables as _, Tuple},
    verdict::Verdict,
};

/// Where the quoted packet begins in a frame.
const QUOTE_V4: usize = 14 + 20 + 8;
const QUOTE_V6: usize = 14 + 40 + 8;

/// An error about the first bytes of a packet, from a router or from the packet's destination.
fn error(quoted: &Tuple, from: Addr, payload: &[u8], behind_header: usize) -> Vec<u8> {
    let packet = frame::of(quoted, TcpFlags::ACK, payload);
    let is_v4 = quoted.src.is_v4();
    let header = 14 + if is_v4 { 20 } else { 40 };
    let end = packet.len().min(header + behind_header);
    let outer = Tuple {
        src: from,
        dst: quoted.src,
        src_port: Port(0),
        dst_port: Port(0),
        protocol: if is_v4 {
            Protocol::ICMP
        } else {
            Protocol::ICMPV6
        },
        is_beside: 0,
        reserved: [0; 2],
    };
    let mut icmp = if is_v4 {
        vec![3, 4, 0, 0, 0, 0, 5, 120]
    } else {
        vec![2, 0, 0, 0, 0, 0, 5, 120]
    };
    icmp.extend(&packet[14..end]);
    let mut frame = frame::raw(&outer, outer.protocol, &icmp);
    let checksum = !u16::try_from(icmp_sum(&frame, is_v4)).expect("folded");
    let place = if is_v4 { 14 + 20 + 2 } else { 14 + 40 + 2 };
    frame[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The sum over an ICMP message and, of `ICMPv6`, its pseudo-header (RFC 4443 section 2.3).
fn icmp_sum(frame: &[u8], is_v4: bool) -> u32 {
    if is_v4 {
        return frame::sum(&frame[14 + 20..]);
    }
    let message = &frame[14 + 40..];
    let mut all = frame[14 + 8..14 + 40].to_vec();
    all.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
    all.extend([0, 0, 0, 58]);
    all.extend(message);
    frame::sum(&all)
}

/// Sends an error to a pod that has a flow whose answers are translated from
/// `quoted.reversed()` to `answer`.
fn translate(frame: &[u8], quoted: &Tuple, answer: &Tuple) -> Vec<u8> {
    let world = World::default();
    let flow = Flow {
        to: *answer,
        last_seen: world.now(),
        service: 1,
        revision: 1,
        state: FlowState::ESTABLISHED,
        role: FlowRole::REPLY,
        flags: FlowFlags::NONE,
        vetted_late: 0,
        vetted: 0,
    };
    world.put_flow(&quoted.reversed(), &flow);
    let outcome = world.pass(Hook::ToPod, frame);
    assert_eq!(outcome.verdict, Verdict::Translate);
    assert_eq!(world.flow(&quoted.reversed()), Some(flow));
    outcome.frame
}

/// Ones' complement has two zeros, which mean the same (RFC 1624 section 3). The checksums whose
/// zero a translation may turn are those of both IPv4 headers, of ICMP, and the quoted one.
fn normal(frame: &[u8], protocol: Protocol, is_v4: bool) -> Vec<u8> {
    let mut places = vec![if is_v4 { 14 + 20 + 2 } else { 14 + 40 + 2 }];
    let transport = if is_v4 { QUOTE_V4 + 20 } else { QUOTE_V6 + 40 };
    if is_v4 {
        places.extend([14 + 10, QUOTE_V4 + 10]);
    }
    match protocol {
        Protocol::TCP => places.push(transport + 16),
        Protocol::UDP => places.push(transport + 6),
        _ => {}
    }
    let mut frame = frame.to_vec();
    for place in places {
        if frame.get(place..place + 2) == Some(&[0xff, 0xff]) {
            frame[place..place + 2].fill(0);
        }
    }
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_translated_error_is_the_error_about_the_other_packet(
        (quoted, other, router) in any_tuples(), is_from_router: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100), behind_header in 8_usize..120,
    ) {
        // Of SCTP the ports stay; and its checksum with them.
        let other = if quoted.protocol == Protocol::SCTP {
            Tuple { src_port: quoted.src_port, dst_port: quoted.dst_port, ..other }
        } else {
            other
        };
        // Half a checksum cannot be right.
        let behind_header = if behind_header == 17 { 16 } else { behind_header };
        let is_v4 = quoted.src.is_v4();
        prop_assume!(router != quoted.dst);
        let (from, to) = if is_from_router { (router, router) } else { (quoted.dst, other.dst) };
        let translated = translate(
            &error(&quoted, from, &payload, behind_header),
            &quoted,
            &other.reversed(),
        );
        prop_assert_eq!(icmp_sum(&translated, is_v4), 0xffff);
        if is_v4 {
            prop_assert_eq!(frame::sum(&translated[14..34]), 0xffff);
        }
        let expected = error(&other, to, &payload, behind_header);
        prop_assert_eq!(
            normal(&translated, quoted.protocol, is_v4),
            normal(&expected, quoted.protocol, is_v4)
        );
    }

    #[test]
    fn translating_an_error_back_gives_it_as_it_was(
        (quoted, other, router) in any_tuples(), is_from_router: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100), behind_header in 8_usize..120,
    ) {
        prop_assume!(router != quoted.dst && router != other.dst);
        let from = if is_from_router { router } else { quoted.dst };
        let frame = error(&quoted, from, &payload, behind_header);
        let there = translate(&frame, &quoted, &other.reversed());
        let back = translate(&there, &other, &quoted.reversed());
        let is_v4 = quoted.src.is_v4();
        prop_assert_eq!(
            normal(&frame, quoted.protocol, is_v4),
            normal(&back, quoted.protocol, is_v4)
        );
    }
}
