//! The way past the node's IP layer: what takes it, and what it does to a packet.

use crate::common::{
    frame::{self, assert_checksums},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    datapath::{
        Decision, Workspace,
        hand_over::{self, Entry, Onward},
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
    let world = World::with_receivers([HERE, THERE]);
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
        let to = |decision, from| hand_over::onward(&world, &work, decision, Entry::FromPod, from);
        assert_eq!(to(Decision::PASS, HERE), Onward::ToPod(THERE), "{tuple}");
        // It came from there.
        assert_eq!(to(Decision::PASS, THERE), Onward::ByItself, "{tuple}");
        assert_eq!(
            to(Decision::PASS_FRAGMENT, HERE),
            Onward::ByItself,
            "{tuple}"
        );
        assert_eq!(
            to(Decision::TRANSLATE_ERROR, HERE),
            Onward::ByItself,
            "{tuple}"
        );
    }
}

#[test]
fn what_is_translated_goes_where_it_is_led_to() {
    let asked = tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.32.0.140", 80));
    let mut work = work(&frame::of(&asked, TcpFlags::SYN, b""));
    work.flow.to = ends()[0];
    let world = world(PolicyFlags::HAND_OVER);
    let to = |decision| hand_over::onward(&world, &work, decision, Entry::FromPod, HERE);
    assert_eq!(to(Decision::TRANSLATE), Onward::ToPod(THERE));
    assert_eq!(to(Decision::PASS), Onward::ToNetwork);
}

#[test]
fn what_a_pod_sends_beyond_the_node_is_handed_over_to_the_network() {
    let beyond = [
        ("10.200.0.2", "192.0.2.7"),
        ("fd00:10:200::2", "2001:db8::7"),
    ];
    for (src, dst) in beyond {
        let tuple = tuple(Protocol::UDP, (src, 40_000), (dst, 53));
        let work = work(&frame::of(&tuple, TcpFlags::ACK, b"x"));
        let world = world(PolicyFlags::HAND_OVER);
        let to = |entry, from| hand_over::onward(&world, &work, Decision::PASS, entry, from);
        assert_eq!(to(Entry::FromPod, HERE), Onward::ToNetwork, "{tuple}");
        // Not its own address.
        assert_eq!(to(Entry::FromPod, THERE), Onward::ByItself, "{tuple}");
        // What the node forwards for others is its own business.
        assert_eq!(to(Entry::FromNetwork, 2), Onward::ByItself, "{tuple}");
    }
    let neighbour = tuple(Protocol::UDP, ("fd00:10:200::2", 40_000), ("fe80::7", 53));
    let work = work(&frame::of(&neighbour, TcpFlags::ACK, b"x"));
    let world = world(PolicyFlags::HAND_OVER);
    let to = hand_over::onward(&world, &work, Decision::PASS, Entry::FromPod, HERE);
    assert_eq!(to, Onward::ByItself);
}

#[test]
fn what_asks_for_another_priority_than_the_usual_one_is_seen() {
    for tuple in ends() {
        let mut frame = frame::of(&tuple, TcpFlags::ACK, b"");
        let headers = frame::headers(&frame);
        let is_usual = |frame: &[u8]| {
            let buffer = Buffer::<2048>::new(frame).expect("a short frame");
            hand_over::has_usual_priority(&buffer, &headers)
        };
        assert!(is_usual(&frame), "{tuple}");
        frame[headers.network as usize + 1] |= 0x10;
        // Of IPv6 the kernel takes none.
        assert_eq!(is_usual(&frame), !headers.is_v4, "{tuple}");
    }
}

#[test]
fn nothing_is_handed_over_where_it_is_not_asked_for() {
    for tuple in ends() {
        let work = work(&frame::of(&tuple, TcpFlags::SYN, b""));
        let world = world(PolicyFlags::NONE);
        let receiver = hand_over::onward(&world, &work, Decision::PASS, Entry::FromPod, HERE);
        assert_eq!(receiver, Onward::ByItself, "{tuple}");
    }
}

#[test]
fn what_a_pod_sends_from_elsewhere_takes_the_long_way() {
    for tuple in ends() {
        let work = work(&frame::of(&tuple, TcpFlags::SYN, b""));
        let world = world(PolicyFlags::HAND_OVER);
        let from =
            |entry, interface| hand_over::onward(&world, &work, Decision::PASS, entry, interface);
        // Another pod's address, or one that nobody knows.
        assert_eq!(from(Entry::FromPod, 12), Onward::ByItself, "{tuple}");
        world.receivers.borrow_mut().remove(&tuple.src);
        assert_eq!(from(Entry::FromPod, HERE), Onward::ByItself, "{tuple}");
        // Of what comes from beyond the node the kernel is asked.
        assert_eq!(from(Entry::FromNetwork, 1), Onward::ToPod(THERE), "{tuple}");
    }
}

#[test]
fn a_source_of_the_link_alone_is_led_nowhere() {
    let local = tuple(Protocol::UDP, ("fe80::2", 40_000), ("fd00:10:200::5", 53));
    let work = work(&frame::of(&local, TcpFlags::SYN, b""));
    let world = world(PolicyFlags::HAND_OVER);
    let entry = Receiver { interface: HERE };
    world.receivers.borrow_mut().insert(local.src, entry);
    let to = hand_over::onward(&world, &work, Decision::PASS, Entry::FromNetwork, 1);
    assert_eq!(to, Onward::ByItself);
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
        |work: &Workspace| hand_over::onward(&world, work, Decision::PASS, Entry::FromPod, HERE);
    assert_eq!(to(&work), Onward::ByItself);
    work.headers.is_fragment = false;
    work.headers.transport += 4;
    assert_eq!(to(&work), Onward::ByItself);
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
