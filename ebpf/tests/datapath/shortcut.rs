//! Shortcuts: what of a packet that was handed over counts for the next ones, and for how long.

use crate::common::{
    addr,
    frame::{self, ACK, FIN_ACK, SYN, assert_checksums},
    pods::{CLIENT, SERVER, asked, direct, lead, send, world},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::{Addr, Protocol},
    buffer::Buffer,
    conntrack::SECOND,
    datapath::{
        self, Workspace,
        hand_over::{Entry, Told},
        shortcut,
    },
    packet::TcpFlags,
    tables::{ANYONE, Pod, PodState, Policy, PolicyFlags, ShortcutKey, Slots, Tables as _, Tuple},
    verdict::{DropReason, Verdict},
};

#[test]
fn what_follows_takes_the_shortcut_and_arrives_the_same() {
    for tuple in direct() {
        let world = world();
        let frame = frame::of(&tuple, ACK, b"x");
        let first = lead(&world, CLIENT, &frame);
        let second = send(&world, CLIENT, &frame);
        assert_eq!(second.work.receiver, SERVER, "{tuple}");
        assert_eq!(second.verdict, Verdict::Pass, "{tuple}");
        assert_eq!(second.frame, first, "{tuple}");
        assert_checksums(&second.frame);
    }
}

#[test]
fn a_shortcut_is_for_every_port_and_for_the_beginning_and_the_end_of_connections() {
    let [tcp, udp, _] = direct();
    let world = world();
    let _ = lead(&world, CLIENT, &frame::of(&udp, ACK, b"longer than these"));
    for flags in [SYN, ACK, FIN_ACK, TcpFlags::RST] {
        let sent = send(&world, CLIENT, &frame::of(&tcp, flags, b""));
        assert!(sent.took_shortcut(), "{flags:?}");
    }
}

#[test]
fn a_services_client_and_its_answers_take_shortcuts() {
    let world = world();
    let (question, asked) = (frame::of(&asked(), ACK, b"question"), asked());
    let there = lead(&world, CLIENT, &question);
    // The answer establishes the flow.
    let answer = frame::of(&frame::headers(&there).tuple.reversed(), ACK, b"answer");
    let back = lead(&world, SERVER, &answer);
    assert_eq!(frame::headers(&back).tuple, asked.reversed());

    let second = send(&world, CLIENT, &question);
    assert_eq!(second.work.receiver, SERVER);
    assert_eq!(second.verdict, Verdict::Translate);
    assert_eq!(second.frame, there);
    let here = datapath::Decision::TRANSLATE;
    assert_eq!(
        shortcut::decision_there(&second.work, here),
        datapath::Decision::PASS
    );

    let answered = send(&world, SERVER, &answer);
    assert_eq!(answered.work.receiver, CLIENT);
    assert_eq!(answered.verdict, Verdict::Pass);
    assert_eq!(answered.frame, back);
    let here = datapath::Decision::PASS;
    assert_eq!(
        shortcut::decision_there(&answered.work, here),
        datapath::Decision::TRANSLATE
    );
}

#[test]
fn a_new_flow_takes_none() {
    let world = world();
    let [_, udp, _] = direct();
    let _ = lead(&world, CLIENT, &frame::of(&udp, ACK, b"longer than it is"));
    let sent = send(&world, CLIENT, &frame::of(&asked(), ACK, b"x"));
    assert!(!sent.took_shortcut());
    assert_eq!(sent.verdict, Verdict::Translate);
}

#[test]
fn a_shortcut_counts_for_a_second() {
    let [tcp, ..] = direct();
    let world = world();
    let frame = frame::of(&tcp, ACK, b"x");
    let _ = lead(&world, CLIENT, &frame);
    world.wait(SECOND - 1);
    assert!(send(&world, CLIENT, &frame).took_shortcut());
    world.wait(1);
    assert!(!send(&world, CLIENT, &frame).took_shortcut());
}

#[test]
fn what_changes_about_pods_ends_shortcuts() {
    let [tcp, ..] = direct();
    let frame = frame::of(&tcp, ACK, b"x");
    let isolated = Pod {
        ingress: Slots::both(7),
        state: PodState::PROGRAMMED,
        ..Pod::default()
    };
    let changes: [&dyn Fn(&World); 3] = [
        &|world| {
            world.pods.borrow_mut().insert(SERVER, isolated);
        },
        &|world| {
            world.receivers.borrow_mut().remove(&tcp.dst);
        },
        &|world| {
            let policy = world.policy.get();
            world.policy.set(Policy {
                flags: PolicyFlags::NONE,
                ..policy
            });
        },
    ];
    for change in changes {
        let world = world();
        let _ = lead(&world, CLIENT, &frame);
        assert!(send(&world, CLIENT, &frame).took_shortcut());
        change(&world);
        assert!(!send(&world, CLIENT, &frame).took_shortcut());
    }
}

#[test]
fn pods_under_policy_have_no_shortcuts() {
    let [_, udp, _] = direct();
    let frame = frame::of(&udp, ACK, b"x");
    for interface in [CLIENT, SERVER] {
        let world = world();
        // Isolated in the direction in which nothing is sent here.
        let pod = Pod {
            state: PodState::PROGRAMMED,
            ..Pod::default()
        };
        let pod = if interface == CLIENT {
            Pod {
                ingress: Slots::both(7),
                addr_v4: udp.src,
                ..pod
            }
        } else {
            Pod {
                egress: Slots::both(7),
                addr_v4: udp.dst,
                ..pod
            }
        };
        world.pods.borrow_mut().insert(interface, pod);
        for _ in 0..3 {
            let _ = lead(&world, CLIENT, &frame);
        }
        assert!(world.shortcuts.borrow().is_empty());
    }
}

/// Talks through the service until its flow is vetted at either end.
fn talk(world: &World) {
    for _ in 0..4 {
        let there = lead(world, CLIENT, &frame::of(&asked(), ACK, b"question"));
        let answer = frame::headers(&there).tuple.reversed();
        let _ = lead(world, SERVER, &frame::of(&answer, ACK, b"an answer"));
    }
}

/// A client of which this is isolated.
fn isolate_client(world: &World, egress: u32, ingress: u32) {
    let pod = Pod {
        egress: Slots::both(egress),
        ingress: Slots::both(ingress),
        state: PodState::PROGRAMMED,
        addr_v4: asked().src,
        ..Pod::default()
    };
    world.pods.borrow_mut().insert(CLIENT, pod);
}

#[test]
fn a_vetted_flow_of_a_pod_under_egress_policy_opens_no_way_to_other_ports() {
    let world = world();
    isolate_client(&world, 7, 0);
    world.allow(7, ANYONE, Protocol::UDP, 53, 1);
    talk(&world);
    assert!(world.shortcuts.borrow().is_empty());
    let other = tuple(Protocol::UDP, ("10.200.0.2", 40_001), ("10.200.0.5", 54));
    let sent = send(&world, CLIENT, &frame::of(&other, ACK, b"x"));
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::EgressPolicy));
}

#[test]
fn a_vetted_flow_to_a_pod_under_ingress_policy_opens_no_way_to_its_ports() {
    let world = world();
    isolate_client(&world, 0, 7);
    talk(&world);
    assert!(world.shortcuts.borrow().is_empty());
    let other = tuple(Protocol::UDP, ("10.200.0.5", 40_001), ("10.200.0.2", 54));
    assert!(!send(&world, SERVER, &frame::of(&other, ACK, b"x")).took_shortcut());
}

/// As the programs do, in whose memory is what the packet before has left.
#[test]
fn what_is_known_of_one_packet_is_not_taken_for_known_of_the_next() {
    let world = world();
    isolate_client(&world, 7, 0);
    world.allow(7, ANYONE, Protocol::UDP, 53, 1);
    talk(&world);
    let frames = [
        (SERVER, frame::of(&direct()[0].reversed(), ACK, b"x")),
        (CLIENT, frame::of(&asked(), ACK, b"question")),
    ];
    let mut work = Workspace::new();
    let told = frames.map(|(from, frame)| {
        let buffer = Buffer::<2048>::new(&frame).expect("a short frame");
        work.headers = frame::headers(&frame);
        let _ = datapath::from_pod(&buffer, &world, from, &mut work);
        Told::of(&work, Entry::FromPod).free_epoch().is_some()
    });
    assert_eq!(told, [true, false]);
}

#[test]
fn what_differs_in_what_routes_go_by_takes_none() {
    let [tcp, ..] = direct();
    let world = world();
    let frame = frame::of(&tcp, ACK, b"x");
    let _ = lead(&world, CLIENT, &frame);
    // Longer.
    assert!(!send(&world, CLIENT, &frame::of(&tcp, ACK, b"xx")).took_shortcut());
    // Another type of service.
    let mut urgent = frame.clone();
    urgent[15] = 0xb8;
    assert!(!send(&world, CLIENT, &urgent).took_shortcut());
    // The last hop.
    let mut last = frame.clone();
    last[22] = 1;
    assert!(!send(&world, CLIENT, &last).took_shortcut());
    // By another interface, and from another source.
    assert!(!send(&world, SERVER, &frame).took_shortcut());
    let other = Tuple {
        src: addr("10.200.0.3"),
        ..tcp
    };
    assert!(!send(&world, CLIENT, &frame::of(&other, ACK, b"x")).took_shortcut());
    assert!(send(&world, CLIENT, &frame).took_shortcut());
}

#[test]
fn a_longer_packet_makes_room_for_those_of_its_length() {
    let [_, _, v6] = direct();
    let world = world();
    for payload in [b"x".as_slice(), &[0; 1_000]] {
        let _ = lead(&world, CLIENT, &frame::of(&v6, ACK, payload));
    }
    assert!(send(&world, CLIENT, &frame::of(&v6, ACK, &[0; 1_000])).took_shortcut());
    assert!(send(&world, CLIENT, &frame::of(&v6, ACK, b"x")).took_shortcut());
}

#[test]
fn what_comes_from_beyond_the_node_leaves_no_shortcut() {
    let [tcp, ..] = direct();
    let work = {
        let mut work = Workspace::new();
        work.headers = frame::headers(&frame::of(&tcp, ACK, b"x"));
        work
    };
    let told = Told::of(&work, Entry::FromNetwork);
    assert_eq!(told.entry(), Entry::FromNetwork);
    assert_eq!(told.free_epoch(), None);
}

#[test]
fn the_key_is_the_pair_and_the_interface() {
    let [tcp, ..] = direct();
    let world = world();
    let _ = lead(&world, CLIENT, &frame::of(&tcp, ACK, b"x"));
    let key = ShortcutKey {
        src: tcp.src,
        dst: tcp.dst,
        interface: CLIENT,
        traffic_class: 0,
        reserved: [0; 3],
    };
    let shortcut = world.shortcut(&key).expect("it was noted");
    assert_eq!(shortcut.receiver, SERVER);
    assert_eq!(shortcut.longest, 20 + 20 + 1);
    assert_ne!(key.src, Addr::UNSPECIFIED);
}
