//! The answers to refused packets: right in every field and checksum, as an independent reader
//! (`etherparse`) sees them.

use crate::common::{
    addr,
    frame::{self, ACKNOWLEDGEMENT, LINK, SEQUENCE},
    tuple,
    world::{Hook::FromPod, World},
};
use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv4, icmpv6};
use proptest::prelude::*;
use weir_ebpf::{
    addr::{Port, Protocol},
    packet::TcpFlags,
    tables::Tuple,
    verdict::{DropReason, RejectReason, Verdict},
};

const V4: ((&str, u16), (&str, u16)) = (("10.200.0.7", 40_000), ("10.32.0.140", 80));
const V6: ((&str, u16), (&str, u16)) = (("fd00:10:200::7", 40_000), ("fd00:10:32::8c", 80));

/// Sends a frame to a service without backends.
fn refuse(asked: &Tuple, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let world = World::default();
    world.add_frontend(asked.dst, asked.dst_port.number(), asked.protocol, 1);
    let outcome = world.pass(FromPod, frame);
    assert!(world.flows.borrow().is_empty());
    (outcome.verdict, outcome.frame)
}

/// The answer to a frame, which must be refused with one.
fn answer(asked: &Tuple, frame: &[u8]) -> Vec<u8> {
    let (verdict, answer) = refuse(asked, frame);
    assert_eq!(verdict, Verdict::Reject(RejectReason::NoBackend));
    answer
}

/// What every answer has in common.
fn assert_is_answer(asked: &Tuple, answer: &[u8]) {
    assert_eq!(answer[..6], LINK.0, "to where the question came from");
    assert_eq!(answer[6..12], LINK.1);
    frame::assert_checksums(answer);
    let headers = frame::headers(answer);
    assert_eq!(headers.tuple.src, asked.dst);
    assert_eq!(headers.tuple.dst, asked.src);
    assert_eq!(headers.end as usize, answer.len(), "nothing behind it");
    let sliced = SlicedPacket::from_ethernet(answer).expect("the judge reads it");
    match sliced.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().ttl(), 64);
            assert!(ip.header().dont_fragment() && !ip.is_payload_fragmented());
        }
        NetSlice::Ipv6(ip) => assert_eq!(ip.header().hop_limit(), 64),
        NetSlice::Arp(_) => panic!("ARP"),
    }
}

/// The packet that an ICMP error quotes, with what is right about the error asserted.
fn quoted(asked: &Tuple, answer: &[u8]) -> Vec<u8> {
    assert_is_answer(asked, answer);
    let sliced = SlicedPacket::from_ethernet(answer).expect("the judge reads it");
    match sliced.transport.expect("ICMP") {
        TransportSlice::Icmpv4(icmp) => {
            assert_eq!(
                icmp.icmp_type(),
                Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
            );
            icmp.payload().to_vec()
        }
        TransportSlice::Icmpv6(icmp) => {
            assert_eq!(
                icmp.icmp_type(),
                Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
            );
            icmp.payload().to_vec()
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_segment_is_answered_with_a_reset(
        is_v4: bool, flags: u8, payload in prop::collection::vec(any::<u8>(), 0..200), ports: (u16, u16),
    ) {
        let flags = TcpFlags(flags & 0x17 & !TcpFlags::RST.0);
        let (src, dst) = if is_v4 { V4 } else { V6 };
        let asked = tuple(Protocol::TCP, (src.0, ports.0), (dst.0, ports.1));
        let answer = answer(&asked, &frame::tcp(&asked, flags, &payload));
        assert_is_answer(&asked, &answer);
        let sliced = SlicedPacket::from_ethernet(&answer).expect("the judge reads it");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
        prop_assert_eq!((tcp.source_port(), tcp.destination_port()), (ports.1, ports.0));
        prop_assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && !tcp.psh() && !tcp.urg());
        prop_assert!(tcp.payload().is_empty() && tcp.options().is_empty());
        // RFC 9293 section 3.10.7.1
        if flags.contains(TcpFlags::ACK) {
            prop_assert!(!tcp.ack());
            prop_assert_eq!(tcp.sequence_number(), ACKNOWLEDGEMENT);
        } else {
            let length = payload.len() + usize::from(flags.contains(TcpFlags::SYN))
                + usize::from(flags.contains(TcpFlags::FIN));
            prop_assert!(tcp.ack());
            prop_assert_eq!(tcp.sequence_number(), 0);
            prop_assert_eq!(
                tcp.acknowledgment_number(),
                SEQUENCE.wrapping_add(u32::try_from(length).expect("short")),
            );
        }
    }

    #[test]
    fn a_datagram_is_answered_with_port_unreachable(
        is_v4: bool, payload in prop::collection::vec(any::<u8>(), 0..200), ports: (u16, u16), has_checksum: bool,
    ) {
        let (src, dst) = if is_v4 { V4 } else { V6 };
        let asked = tuple(Protocol::UDP, (src.0, ports.0), (dst.0, ports.1));
        let mut frame = frame::udp(&asked, &payload);
        if !has_checksum {
            let transport = frame::headers(&frame).transport as usize;
            frame[transport + 6..transport + 8].fill(0);
        }
        let quoted = quoted(&asked, &answer(&asked, &frame));
        // RFC 792: the header and 64 bits.
        prop_assert_eq!(quoted.len(), if is_v4 { 28 } else { 48 });
        prop_assert!(frame[14..].starts_with(&quoted));
    }

    #[test]
    fn a_packet_with_options_is_answered(
        words in 0_usize..=10, is_tcp: bool, payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let protocol = if is_tcp { Protocol::TCP } else { Protocol::UDP };
        let asked = tuple(protocol, V4.0, V4.1);
        let mut frame = frame::of(&asked, TcpFlags::SYN, &payload);
        frame.splice(34..34, std::iter::repeat_n(1, words * 4));
        frame[14] += u8::try_from(words).expect("at most ten");
        let length = u16::try_from(frame.len() - 14).expect("short");
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        let answer = answer(&asked, &frame);
        assert_is_answer(&asked, &answer);
        if !is_tcp {
            prop_assert_eq!(quoted(&asked, &answer), &frame[14..14 + 28 + words * 4]);
        }
    }
}

#[test]
fn a_reset_is_never_answered() {
    for (src, dst) in [V4, V6] {
        let asked = tuple(Protocol::TCP, src, dst);
        for flags in [TcpFlags::RST, TcpFlags(0x14), TcpFlags(0x06)] {
            let (verdict, _) = refuse(&asked, &frame::tcp(&asked, flags, b""));
            assert_eq!(verdict, Verdict::Drop(DropReason::Unanswerable));
        }
    }
}

/// An INIT chunk: type, flags, length, initiate tag, window, streams, first sequence number.
const INIT: [u8; 20] = [
    1, 0, 0, 20, 0xde, 0xad, 0xbe, 0xef, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7,
];

#[test]
fn the_answer_to_an_init_quotes_its_initiate_tag() {
    // RFC 9260 section 10: an error about an INIT, whose verification tag is zero, is believed
    // only where the initiate tag is quoted.
    for (src, dst) in [V4, V6] {
        let asked = tuple(Protocol::SCTP, src, dst);
        let frame = frame::sctp(&asked, &INIT);
        let quoted = quoted(&asked, &answer(&asked, &frame));
        assert!(frame[14..].starts_with(&quoted));
        let network = if asked.src.is_v4() { 20 } else { 40 };
        assert_eq!(quoted.len(), network + 12 + 8);
    }
}

#[test]
fn the_answer_to_a_short_chunk_quotes_what_there_is() {
    let asked = tuple(Protocol::SCTP, V4.0, V4.1);
    let frame = frame::sctp(&asked, &[10, 0, 0, 4]);
    assert_eq!(quoted(&asked, &answer(&asked, &frame)), &frame[14..]);
}

#[test]
fn link_layer_padding_is_no_part_of_the_answer() {
    let asked = Tuple {
        dst_port: Port::new(80),
        ..tuple(Protocol::TCP, V4.0, V4.1)
    };
    assert_eq!(asked.dst, addr("10.32.0.140"));
    let mut frame = frame::tcp(&asked, TcpFlags::SYN, b"");
    frame.resize(60, 0);
    let answer = answer(&asked, &frame);
    assert_is_answer(&asked, &answer);
    let sliced = SlicedPacket::from_ethernet(&answer).expect("the judge reads it");
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("{sliced:?}")
    };
    assert_eq!(tcp.acknowledgment_number(), SEQUENCE.wrapping_add(1));
}
