//! What is done with packets that are like one before them: what would be done without knowing it.

mod by_itself;
mod events;

use std::collections::BTreeMap;

use crate::common::{
    addr, backend,
    frame::{self, ACK, FIN_ACK, SYN, SYN_ACK, assert_checksums},
    pods::{CLIENT, SERVER, SERVICE, asked, deliver, direct, lead, send, world},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    conntrack::SECOND,
    datapath::{
        Decision,
        exact_match::{self, Done},
    },
    packet::TcpFlags,
    tables::{CachedFlow, Policy, PolicyFlags, Tables as _, Tuple},
};

/// A connection to a service.
fn connection() -> Tuple {
    tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.32.0.140", 80))
}

const OF_CONNECTIONS: u32 = SERVICE + 1;

/// The two pods, on a node that keeps what it found.
fn node() -> World {
    let world = world();
    *world.flow_caches.borrow_mut() = vec![BTreeMap::new()];
    world.add_frontend(connection().dst, 80, Protocol::TCP, OF_CONNECTIONS);
    world.set_backends(OF_CONNECTIONS, &[backend("10.200.0.5", 8080)]);
    world
}

/// What is done with a frame because of one before it, and what becomes of it.
fn repeat(world: &World, from: u32, frame: &[u8]) -> Option<(Done, Vec<u8>)> {
    let buffer = Buffer::<2048>::new(frame).expect("a short frame");
    let mut buffer = buffer.with_known_checksum();
    let done = exact_match::repeat(&mut buffer, world, from);
    if done.is_none() {
        assert_eq!(buffer.bytes(), frame, "what is not repeated is left alone");
    }
    done.map(|done| (done, buffer.bytes().to_vec()))
}

/// The frame of a pod, once it has taken a shortcut: what was done with it is kept.
fn frame_kept(world: &World, from: u32, tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let frame = frame::of(tuple, ACK, payload);
    let _ = lead(world, from, &frame);
    assert!(repeat(world, from, &frame).is_none());
    assert!(send(world, from, &frame).took_shortcut());
    frame
}

/// A question to a service which was answered: that of the datagrams and its answer, each kept.
fn conversation(world: &World, asked: &Tuple, flags: [TcpFlags; 2]) -> [(u32, Vec<u8>); 2] {
    let there = lead(world, CLIENT, &frame::of(asked, flags[0], b"question"));
    let answer = frame::headers(&there).tuple.reversed();
    let _ = lead(world, SERVER, &frame::of(&answer, flags[1], b"the answer"));
    let frames = [
        (CLIENT, frame::of(asked, ACK, b"question")),
        (SERVER, frame::of(&answer, ACK, b"the answer")),
    ];
    for (from, frame) in &frames {
        // Of a connection the first packet was shorter.
        let sent = send(world, *from, frame);
        if !sent.took_shortcut() {
            assert!(deliver(world, *from, &sent).is_some());
            assert!(send(world, *from, frame).took_shortcut());
        }
        assert!(repeat(world, *from, frame).is_some());
    }
    frames
}

#[test]
fn what_is_repeated_is_what_was_done_before() {
    for tuple in &direct()[..2] {
        let world = node();
        let frame = frame_kept(&world, CLIENT, tuple, b"payload");
        let before = send(&world, CLIENT, &frame);
        let (done, after) = repeat(&world, CLIENT, &frame).expect("it was kept");
        assert_eq!(done.receiver, SERVER);
        assert!(done.here == Decision::PASS && done.there == Decision::PASS);
        assert_eq!(after, before.frame);
        assert_checksums(&after);
    }
}

#[test]
fn what_is_translated_is_translated_again_and_counted_where_it_was() {
    for (asked, flags) in [(asked(), [ACK; 2]), (connection(), [SYN, ACK])] {
        let world = node();
        let [question, answer] = conversation(&world, &asked, flags);
        let (done, after) = repeat(&world, question.0, &question.1).expect("it was kept");
        assert_eq!(done.receiver, SERVER);
        assert!(done.here == Decision::TRANSLATE && done.there == Decision::PASS);
        assert_eq!(frame::headers(&after).tuple.dst, addr("10.200.0.5"));
        assert_checksums(&after);

        let (done, after) = repeat(&world, answer.0, &answer.1).expect("it was kept");
        assert_eq!(done.receiver, CLIENT);
        assert!(done.here == Decision::PASS && done.there == Decision::TRANSLATE);
        assert_eq!(frame::headers(&after).tuple, asked.reversed());
        assert_checksums(&after);
    }
}

#[test]
fn a_datagram_without_checksum_gets_none() {
    let world = node();
    let [(from, mut frame), _] = conversation(&world, &asked(), [ACK; 2]);
    frame[40..42].fill(0);
    let (_, after) = repeat(&world, from, &frame).expect("it is like the one before");
    assert_eq!(after[40..42], [0; 2]);
}

#[test]
fn nothing_is_repeated_of_which_the_checksum_is_not_known() {
    let world = node();
    let [(from, frame), _] = conversation(&world, &asked(), [ACK; 2]);
    let mut buffer = Buffer::<2048>::new(&frame).expect("a short frame");
    assert!(exact_match::repeat(&mut buffer, &world, from).is_none());
    assert_eq!(buffer.bytes(), frame);
}

#[test]
fn it_counts_for_a_tenth_of_a_second() {
    let world = node();
    let frame = frame_kept(&world, CLIENT, &direct()[1], b"x");
    world.wait(CachedFlow::LIFETIME - 1);
    assert!(repeat(&world, CLIENT, &frame).is_some());
    world.wait(1);
    assert!(repeat(&world, CLIENT, &frame).is_none());
}

#[test]
fn it_counts_no_longer_than_its_shortcut() {
    let world = node();
    let frame = frame_kept(&world, CLIENT, &direct()[1], b"x");
    let rest = CachedFlow::LIFETIME / 2;
    world.wait(SECOND - rest);
    // All else that is known of it is new.
    assert!(send(&world, CLIENT, &frame).took_shortcut());
    world.wait(rest - 1);
    assert!(repeat(&world, CLIENT, &frame).is_some());
    world.wait(1);
    assert!(repeat(&world, CLIENT, &frame).is_none());
}

#[test]
fn it_counts_no_longer_than_nothing_is_to_be_noted_of_its_flow() {
    let world = node();
    let [(from, frame), _] = conversation(&world, &asked(), [ACK; 2]);
    let rest = CachedFlow::LIFETIME / 2;
    world.wait(SECOND / 2);
    // The shortcut lasts longer.
    let _ = lead(&world, CLIENT, &frame::of(&direct()[0], ACK, &[0; 100]));
    world.wait(SECOND / 2 - rest);
    assert!(send(&world, from, &frame).took_shortcut());
    world.wait(rest - 1);
    assert!(repeat(&world, from, &frame).is_some());
    world.wait(1);
    assert!(repeat(&world, from, &frame).is_none());
}

#[test]
fn what_changes_of_pods_flows_and_services_ends_it() {
    let changes: [&dyn Fn(&World); 4] = [
        &|world| world.policy.set(world.policy.get().in_next_epoch()),
        &|world| {
            world.policy.set(Policy {
                flags: PolicyFlags::NONE,
                ..world.policy.get()
            });
        },
        &|world| world.remove_flow(&asked()),
        &|world| world.set_backends(SERVICE, &[backend("10.200.0.6", 53)]),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let world = node();
        let [(from, frame), _] = conversation(&world, &asked(), [ACK; 2]);
        change(&world);
        assert!(repeat(&world, from, &frame).is_none(), "change {number}");
    }
}

/// Two stacks share its state: it goes on with its backend.
#[test]
fn a_change_of_its_service_is_nothing_to_an_established_connection() {
    let world = node();
    let [(from, frame), _] = conversation(&world, &connection(), [SYN, ACK]);
    world.set_backends(OF_CONNECTIONS, &[backend("10.200.0.6", 8080)]);
    let (_, after) = repeat(&world, from, &frame).expect("it goes on");
    assert_eq!(frame::headers(&after).tuple.dst, addr("10.200.0.5"));
}

/// What is no plain segment, and opens no connection.
const OTHERS: [TcpFlags; 4] = [SYN_ACK, FIN_ACK, TcpFlags::RST, TcpFlags(0x3f)];

/// A segment with other flags.
fn with_flags(frame: &[u8], flags: TcpFlags) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[47] = flags.0;
    frame
}

#[test]
fn what_ends_a_connection_is_repeated_where_it_has_no_flow() {
    let world = node();
    let frame = frame_kept(&world, CLIENT, &direct()[0], b"payload");
    let (done, _) = repeat(&world, CLIENT, &frame).expect("it is like the one before");
    for flags in OTHERS {
        let (other, _) = repeat(&world, CLIENT, &with_flags(&frame, flags)).expect("so is it");
        assert!(other == done && done.receiver == SERVER, "{flags:?}");
    }
    for (from, frame) in conversation(&node(), &connection(), [SYN, SYN_ACK]) {
        for flags in OTHERS {
            let frame = with_flags(&frame, flags);
            assert!(repeat(&world, from, &frame).is_none(), "{flags:?}");
        }
    }
}

#[test]
fn what_differs_in_anything_that_was_asked_is_not_repeated() {
    for tuple in &direct()[..2] {
        let world = node();
        let frame = frame_kept(&world, CLIENT, tuple, b"payload");
        let differs = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let mut other = frame.clone();
            change(&mut other);
            assert_ne!(other, frame);
            assert!(repeat(&world, CLIENT, &other).is_none(), "{tuple}: {name}");
        };
        differs("another protocol by the link layer", &|frame| frame[13] = 6);
        differs("another version", &|frame| frame[14] = 0x65);
        differs("options", &|frame| frame[14] = 0x46);
        differs("another type of service", &|frame| frame[15] = 0xb8);
        differs("longer than it is", &|frame| frame[17] += 1);
        differs("shorter than its headers", &|frame| frame[17] = 27);
        differs("a fragment", &|frame| frame[20] |= 0x20);
        differs("a later fragment", &|frame| frame[21] |= 1);
        differs("the last hop", &|frame| frame[22] = 1);
        differs("no hop", &|frame| frame[22] = 0);
        differs("a protocol without ports", &|frame| frame[23] = 1);
        differs("another source", &|frame| frame[29] ^= 1);
        differs("another destination", &|frame| frame[33] ^= 1);
        differs("another source port", &|frame| frame[35] ^= 1);
        differs("another destination port", &|frame| frame[37] ^= 1);
        differs("longer", &|frame| frame.push(0));
        differs("cut", &|frame| frame.truncate(40));
        let v6 = frame::of(&direct()[2], ACK, b"x");
        assert!(repeat(&world, CLIENT, &v6).is_none());
        assert!(repeat(&world, SERVER, &frame).is_none());
        assert!(repeat(&world, CLIENT, &frame).is_some());
    }
    let [tcp, ..] = direct();
    let world = node();
    let frame = frame_kept(&world, CLIENT, &tcp, b"payload");
    assert!(repeat(&world, CLIENT, &with_flags(&frame, SYN)).is_none());
    let mut short = frame.clone();
    short[46] = 0x40;
    assert!(repeat(&world, CLIENT, &short).is_none());
    let mut long = frame;
    long[46] = 0xf0;
    assert!(repeat(&world, CLIENT, &long).is_none());
}
