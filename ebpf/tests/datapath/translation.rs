//! Translating whole frames: right checksums, only declared bytes, and back again.

use std::collections::BTreeSet;

use crate::common::{
    frame::{self, assert_checksums},
    strategy::any_tuples,
};
use proptest::prelude::*;
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    nat,
    packet::{Headers, TcpFlags},
    tables::Tuple,
};

fn translate(frame: &[u8], to: &Tuple) -> Option<Vec<u8>> {
    let headers = frame::headers(frame);
    let mut buffer = Buffer::<4096>::new(frame).expect("a short frame");
    nat::translate(&mut buffer, &headers, to)?;
    Some(buffer.bytes().to_vec())
}

/// The bytes that a translation may change: addresses, ports and the checksums over them.
fn declared(headers: &Headers) -> BTreeSet<usize> {
    let (network, transport) = (headers.network as usize, headers.transport as usize);
    let mut bytes = BTreeSet::new();
    if headers.is_v4 {
        bytes.extend(network + 10..network + 20);
    } else {
        bytes.extend(network + 8..network + 40);
    }
    match headers.tuple.protocol {
        Protocol::TCP => {
            bytes.extend(transport..transport + 4);
            bytes.extend(transport + 16..transport + 18);
        }
        Protocol::UDP => {
            bytes.extend(transport..transport + 4);
            bytes.extend(transport + 6..transport + 8);
        }
        Protocol::SCTP => {
            bytes.extend(transport..transport + 4);
            bytes.extend(transport + 8..transport + 12);
        }
        _ => {}
    }
    bytes
}

/// Ones' complement has two zeros: a checksum may come back as the other one, which means the
/// same (RFC 1624 section 3). Everything else must be equal.
fn same_but_for_zeros(a: &[u8], b: &[u8], headers: &Headers) -> bool {
    let mut places = vec![];
    if headers.is_v4 {
        places.push(headers.network as usize + 10);
    }
    match headers.tuple.protocol {
        Protocol::TCP => places.push(headers.transport as usize + 16),
        Protocol::UDP => places.push(headers.transport as usize + 6),
        _ => {}
    }
    let normal = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        for &place in &places {
            if bytes[place..place + 2] == [0xff, 0xff] {
                bytes[place..place + 2].fill(0);
            }
        }
        bytes
    };
    normal(a) == normal(b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_translated_frame_has_the_new_tuple_and_right_checksums(
        (from, to, _) in any_tuples(), flags: u8, payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let frame = frame::of(&from, TcpFlags(flags), &payload);
        assert_checksums(&frame);
        let translated = translate(&frame, &to).expect("it can be changed");
        assert_checksums(&translated);
        prop_assert_eq!(frame::tuple_of(&translated), to);
    }

    #[test]
    fn only_addresses_ports_and_their_checksums_change(
        (from, to, _) in any_tuples(), payload in prop::collection::vec(any::<u8>(), 0..100), padding in 0..20_usize,
    ) {
        let mut frame = frame::of(&from, TcpFlags::SYN, &payload);
        frame.resize(frame.len() + padding, 0xee);
        let translated = translate(&frame, &to).expect("it can be changed");
        let declared = declared(&frame::headers(&frame));
        prop_assert_eq!(frame.len(), translated.len());
        for (place, (before, after)) in frame.iter().zip(&translated).enumerate() {
            prop_assert!(before == after || declared.contains(&place), "byte {} changed", place);
        }
    }

    #[test]
    fn translating_back_gives_the_frame_as_it_was(
        (from, to, _) in any_tuples(), payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let frame = frame::of(&from, TcpFlags::ACK, &payload);
        let there = translate(&frame, &to).expect("it can be changed");
        let back = translate(&there, &from).expect("it can be changed back");
        prop_assert!(same_but_for_zeros(&frame, &back, &frame::headers(&frame)));
    }

    #[test]
    fn a_datagram_without_a_checksum_stays_without_one(
        (from, to, _) in any_tuples(), payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let from = Tuple { protocol: Protocol::UDP, ..from };
        let to = Tuple { protocol: Protocol::UDP, ..to };
        let mut frame = frame::udp(&from, &payload);
        let place = frame::headers(&frame).transport as usize + 6;
        frame[place..place + 2].fill(0);
        let there = translate(&frame, &to).expect("it can be changed");
        prop_assert_eq!(&there[place..place + 2], &[0, 0]);
        assert_checksums(&there);
        prop_assert_eq!(translate(&there, &from), Some(frame));
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_not_taken_for_none(
        (from, to, _) in any_tuples(), mut payload in prop::collection::vec(any::<u8>(), 2..100),
    ) {
        let from = Tuple { protocol: Protocol::UDP, ..from };
        let to = Tuple { protocol: Protocol::UDP, ..to };
        // Two bytes of payload are chosen so that the translated datagram's sum is 0xffff, whose
        // complement is zero.
        payload[..2].fill(0);
        let place = frame::headers(&frame::udp(&to, &payload)).transport as usize + 6;
        let plain = frame::udp(&to, &payload);
        payload[..2].copy_from_slice(&plain[place..place + 2]);
        let translated = translate(&frame::udp(&from, &payload), &to).expect("it can be changed");
        prop_assert_eq!(&translated[place..place + 2], &[0xff, 0xff]);
        assert_checksums(&translated);
    }

    #[test]
    fn an_sctp_packet_gets_the_checksum_of_its_new_ports(
        (from, to, _) in any_tuples(), data in prop::collection::vec(any::<u8>(), 0..1_400),
    ) {
        let from = Tuple { protocol: Protocol::SCTP, ..from };
        let to = Tuple { protocol: Protocol::SCTP, ..to };
        let chunks = [&[0, 3, 0, 4], &data[..]].concat();
        let there = translate(&frame::sctp(&from, &chunks), &to);
        prop_assert_eq!(there, Some(frame::sctp(&to, &chunks)));
    }
}
