//! The way past the node's IP layer: what takes it, and what it does to a packet.

mod common;

use common::{
    addr,
    frame::{self, assert_checksums},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    datapath::{
        Decision, Workspace,
        hand_over::{self, Entry},
    },
    packet::TcpFlags,
    tables::{Policy, PolicyFlags, Receiver, Tuple},
    verdict::DropReason,
};

const HERE: u32 = 10;
const THERE: u32 = 11;

fn ends() -> [Tuple; 2] {
    [
        tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.200.0.5", 80)),
        tuple(
            Protocol::UDP,
            ("fd00:10:200::2", 40_000),
            ("fd00:10:200::5", 53),
        ),
    ]
}

fn world(flags: PolicyFlags) -> World {
    let world = World::default();
    for (pod, interface) in [
        ("10.200.0.2", HERE),
        ("fd00:10:200::2", HERE),
        ("10.200.0.5", THERE),
        ("fd00:10:200::5", THERE),
    ] {
        let entry = Receiver { interface };
        world.receivers.borrow_mut().insert(addr(pod), entry);
    }
    world.policy.set(Policy {
        revision: 2,
        flags,
        epoch: 0,
    });
    world
}

fn work(frame: &[u8]) -> Workspace {
    let mut work = Workspace::new();
    work.headers = frame::headers(frame);
    work
}

#[test]
fn what_passes_to_a_pod_of_the_node_is_handed_over() {
    for tuple in ends() {
        let work = work(&frame::of(&tuple, TcpFlags::SYN, b"x"));
        let world = world(PolicyFlags::HAND_OVER);
        let to =
            |decision, from| hand_over::receiver(&world, &work, decision, Entry::FromPod, from);
        assert_eq!(to(Decision::PASS, HERE), Some(THERE), "{tuple}");
        // It came from there.
        assert_eq!(to(Decision::PASS, THERE), None, "{tuple}");
        assert_eq!(to(Decision::PASS_FRAGMENT, HERE), None, "{tuple}");
        assert_eq!(to(Decision::TRANSLATE_ERROR, HERE), None, "{tuple}");
    }
}

#[test]
fn what_is_translated_goes_where_it_is_led_to() {
    let asked = tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.32.0.140", 80));
    let mut work = work(&frame::of(&asked, TcpFlags::SYN, b""));
    work.flow.to = ends()[0];
    let world = world(PolicyFlags::HAND_OVER);
    let to = |decision| hand_over::receiver(&world, &work, decision, Entry::FromPod, HERE);
    assert_eq!(to(Decision::TRANSLATE), Some(THERE));
    assert_eq!(to(Decision::PASS), None);
}

#[test]
fn nothing_is_handed_over_where_it_is_not_asked_for() {
    for tuple in ends() {
        let work = work(&frame::of(&tuple, TcpFlags::SYN, b""));
        let world = world(PolicyFlags::NONE);
        let receiver = hand_over::receiver(&world, &work, Decision::PASS, Entry::FromPod, HERE);
        assert_eq!(receiver, None, "{tuple}");
    }
}

#[test]
fn what_a_pod_sends_from_elsewhere_takes_the_long_way() {
    for tuple in ends() {
        let work = work(&frame::of(&tuple, TcpFlags::SYN, b""));
        let world = world(PolicyFlags::HAND_OVER);
        let from =
            |entry, interface| hand_over::receiver(&world, &work, Decision::PASS, entry, interface);
        // Another pod's address, or one that nobody knows.
        assert_eq!(from(Entry::FromPod, 12), None, "{tuple}");
        world.receivers.borrow_mut().remove(&tuple.src);
        assert_eq!(from(Entry::FromPod, HERE), None, "{tuple}");
        // Of what comes from beyond the node the kernel is asked.
        assert_eq!(from(Entry::FromNetwork, 1), Some(THERE), "{tuple}");
    }
}

#[test]
fn a_source_of_the_link_alone_is_led_nowhere() {
    let local = tuple(Protocol::UDP, ("fe80::2", 40_000), ("fd00:10:200::5", 53));
    let work = work(&frame::of(&local, TcpFlags::SYN, b""));
    let world = world(PolicyFlags::HAND_OVER);
    let entry = Receiver { interface: HERE };
    world.receivers.borrow_mut().insert(local.src, entry);
    let to = hand_over::receiver(&world, &work, Decision::PASS, Entry::FromNetwork, 1);
    assert_eq!(to, None);
}

#[test]
fn what_is_delivered_is_judged_as_the_receivers_and_loses_a_hop() {
    for tuple in ends() {
        let frame = frame::of(&tuple, TcpFlags::SYN, b"x");
        let world = world(PolicyFlags::HAND_OVER);
        let mut buffer = Buffer::<2048>::new(&frame).expect("a short frame");
        let mut work = work(&frame);
        let decision = hand_over::deliver(&mut buffer, &world, THERE, &mut work);
        assert_eq!(decision, Decision::PASS, "{tuple}");
        let offset = work.headers.network as usize + if work.headers.is_v4 { 8 } else { 7 };
        assert_eq!(buffer.bytes()[offset], frame[offset] - 1, "{tuple}");

        world.policy.set(Policy {
            revision: 3,
            epoch: 0,
            flags: PolicyFlags::HAND_OVER.with(PolicyFlags::DENY_UNKNOWN),
        });
        let decision = hand_over::deliver(&mut buffer, &world, THERE, &mut work);
        assert_eq!(decision, Decision::drop(DropReason::UnknownPod), "{tuple}");
    }
}

#[test]
fn fragments_and_options_take_the_long_way() {
    let [v4, _] = ends();
    let world = world(PolicyFlags::HAND_OVER);
    let mut work = work(&frame::of(&v4, TcpFlags::SYN, b""));
    work.headers.is_fragment = true;
    let to =
        |work: &Workspace| hand_over::receiver(&world, work, Decision::PASS, Entry::FromPod, HERE);
    assert_eq!(to(&work), None);
    work.headers.is_fragment = false;
    work.headers.transport += 4;
    assert_eq!(to(&work), None);
}

#[test]
fn a_hop_is_taken_and_nothing_else_changes() {
    for tuple in ends() {
        let before = frame::of(&tuple, TcpFlags::ACK, b"payload");
        let headers = frame::headers(&before);
        let offset = headers.network as usize + if headers.is_v4 { 8 } else { 7 };
        let mut buffer = Buffer::<2048>::new(&before).expect("a short frame");
        assert!(!hand_over::is_last_hop(&buffer, &headers));
        let mut work = Workspace::new();
        work.headers = headers;
        let decision = hand_over::take_hop_of(&mut buffer, &work, Decision::PASS);
        assert_eq!(decision, Decision::PASS, "{tuple}");
        let after = buffer.bytes();
        assert_checksums(after);
        assert_eq!(after[offset], before[offset] - 1);
        let checksum = headers.network as usize + 10;
        let changed = (0..before.len()).filter(|&byte| before[byte] != after[byte]);
        for byte in changed {
            let is_checksum = headers.is_v4 && (checksum..checksum + 2).contains(&byte);
            assert!(byte == offset || is_checksum, "byte {byte} changed");
        }
    }
}

#[test]
fn the_last_hop_is_seen() {
    for tuple in ends() {
        for (hops, is_last) in [(0, true), (1, true), (2, false), (255, false)] {
            let mut frame = frame::of(&tuple, TcpFlags::ACK, b"");
            let headers = frame::headers(&frame);
            frame[headers.network as usize + if headers.is_v4 { 8 } else { 7 }] = hops;
            let buffer = Buffer::<2048>::new(&frame).expect("a short frame");
            assert_eq!(
                hand_over::is_last_hop(&buffer, &headers),
                is_last,
                "{tuple}"
            );
        }
    }
}
