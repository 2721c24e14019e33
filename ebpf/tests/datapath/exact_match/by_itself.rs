//! What goes on by itself, of pods no policy speaks of, on a node that hands nothing over.

use super::{OTHERS, connection, node, repeat, with_flags};
use crate::common::{
    addr, cluster_ips,
    frame::{self, ACK, FIN_ACK, SYN, SYN_ACK},
    pods::{CLIENT, Delivered, SERVER, SERVICE, asked, direct, send},
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    conntrack::SECOND,
    datapath::{self, At, Decision, exact_match},
    tables::{
        CachedFlow, Cover, FlowState, NOBODY, Node, Pod, PodState, Policy, PolicyFlags, Slots,
        Tables as _, Tuple,
    },
    verdict::{Hook, Verdict},
};

/// The two pods, on a node that hands nothing over.
pub fn node_with_long_ways() -> World {
    let world = node();
    world.node.set(Node {
        cover_v4: cluster_ips(),
        cover_v6: Cover::NOTHING,
        ..world.node.get()
    });
    world.policy.set(Policy::default());
    world
}

/// Where a packet is seen that goes from one pod to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Sender,
    Receiver,
}

/// What is done with a frame because of one before it, which was seen where this end is.
fn repeat_at(world: &World, end: End, interface: u32, frame: &[u8]) -> Option<Decision> {
    if end == End::Sender {
        let (done, after) = repeat(world, interface, frame)?;
        assert!(done.receiver == 0 && after == frame, "it goes on as it is");
        return Some(done.here);
    }
    let mut buffer = Buffer::<2048>::new(frame).expect("a short frame");
    let done = exact_match::repeat_received(&mut buffer, world, interface, At::ANOTHER);
    assert_eq!(buffer.bytes(), frame);
    done
}

/// A packet that comes by another interface to a pod.
pub fn receive(world: &World, to: u32, frame: &[u8]) -> Delivered {
    let mut buffer = Buffer::<2048>::new(frame).expect("a short frame");
    let (verdict, _) = datapath::run(&mut buffer, world, At::new(Hook::ToPod, to));
    Delivered {
        receiver: to,
        verdict,
        frame: buffer.bytes().to_vec(),
    }
}

/// What became of it there.
fn see(world: &World, end: End, interface: u32, frame: &[u8]) -> Verdict {
    match end {
        End::Sender => send(world, interface, frame).verdict,
        End::Receiver => receive(world, interface, frame).verdict,
    }
}

/// A packet of the client to the server's own address, which nothing is done with: what is kept of
/// it, and where.
fn plain_packets() -> [(Tuple, End, u32); 3] {
    let [tcp, udp, _] = direct();
    [
        (tcp, End::Sender, CLIENT),
        (tcp, End::Receiver, SERVER),
        (udp, End::Receiver, SERVER),
    ]
}

#[test]
fn what_goes_on_by_itself_is_known_at_either_end() {
    for (tuple, end, interface) in plain_packets() {
        let world = node_with_long_ways();
        let frame = frame::of(&tuple, ACK, b"payload");
        assert!(repeat_at(&world, end, interface, &frame).is_none());
        assert_eq!(see(&world, end, interface, &frame), Verdict::Pass);
        let longer = frame::of(&tuple, ACK, &[7; 1000]);
        for frame in [&frame, &longer] {
            let done = repeat_at(&world, end, interface, frame);
            assert_eq!(done, Some(Decision::PASS), "{tuple} {end:?}");
        }
        let other = match end {
            End::Sender => End::Receiver,
            End::Receiver => End::Sender,
        };
        for interface in [CLIENT, SERVER] {
            assert!(repeat_at(&world, other, interface, &frame).is_none());
        }
    }
}

#[test]
fn both_ends_know_it_at_once() {
    let world = node_with_long_ways();
    let frame = frame::of(&direct()[0], ACK, b"payload");
    let ends = [(End::Sender, CLIENT), (End::Receiver, SERVER)];
    for (end, interface) in ends {
        let _ = see(&world, end, interface, &frame);
    }
    for (end, interface) in ends {
        assert!(repeat_at(&world, end, interface, &frame).is_some());
    }
}

#[test]
fn all_of_a_connection_without_flow_is_known_from_its_handshake_on() {
    for (tuple, end, interface) in &plain_packets()[..2] {
        for first in [SYN, SYN_ACK] {
            let world = node_with_long_ways();
            let opening = frame::of(tuple, SYN, b"");
            let first = frame::of(tuple, first, b"");
            assert_eq!(see(&world, *end, *interface, &first), Verdict::Pass);
            for flags in OTHERS.into_iter().chain([ACK]) {
                let frame = with_flags(&opening, flags);
                let done = repeat_at(&world, *end, *interface, &frame);
                assert_eq!(done, Some(Decision::PASS), "{end:?} {flags:?}");
            }
            // It may begin another one.
            assert!(repeat_at(&world, *end, *interface, &opening).is_none());
            world.wait(CachedFlow::LIFETIME);
            let frame = with_flags(&opening, ACK);
            assert!(repeat_at(&world, *end, *interface, &frame).is_none());
        }
    }
}

#[test]
fn the_end_of_a_connection_alone_tells_of_nothing() {
    for (tuple, end, interface) in &plain_packets()[..2] {
        let world = node_with_long_ways();
        let frame = frame::of(tuple, FIN_ACK, b"");
        assert_eq!(see(&world, *end, *interface, &frame), Verdict::Pass);
        assert!(repeat_at(&world, *end, *interface, &frame).is_none());
    }
}

#[test]
fn what_is_news_to_a_flow_is_told_to_it() {
    let world = node_with_long_ways();
    let opening = frame::of(&connection(), SYN, b"");
    let there = send(&world, CLIENT, &opening).frame;
    let answer = frame::headers(&there).tuple.reversed();
    // The answers go on by themselves, and have a flow.
    let agreeing = frame::of(&answer, SYN_ACK, b"");
    assert_eq!(send(&world, SERVER, &agreeing).verdict, Verdict::Pass);
    assert!(repeat_at(&world, End::Sender, SERVER, &agreeing).is_none());
    let plain = with_flags(&agreeing, ACK);
    for _ in 0..2 {
        assert_eq!(send(&world, SERVER, &plain).verdict, Verdict::Pass);
    }
    assert!(repeat_at(&world, End::Sender, SERVER, &plain).is_some());
    for flags in OTHERS {
        let frame = with_flags(&agreeing, flags);
        assert!(repeat_at(&world, End::Sender, SERVER, &frame).is_none());
    }
    assert_eq!(world.flows.borrow()[&answer].state, FlowState::ESTABLISHED);
    let _ = send(&world, SERVER, &with_flags(&agreeing, FIN_ACK));
    assert_eq!(world.flows.borrow()[&answer].state, FlowState::CLOSING);
}

#[test]
fn who_sends_it_is_part_of_what_is_known() {
    let world = node_with_long_ways();
    let frame = frame::of(&direct()[0], ACK, b"payload");
    let received = |came_by| {
        let mut buffer = Buffer::<2048>::new(&frame).expect("a short frame");
        exact_match::repeat_received(&mut buffer, &world, SERVER, came_by)
    };
    let _ = receive(&world, SERVER, &frame);
    assert!(received(At::ANOTHER).is_some());
    // The node, the very pod, and again another.
    for other in [0, SERVER, CLIENT] {
        assert!(received(other).is_none());
    }
}

#[test]
fn the_answers_of_a_flow_go_on_by_themselves_until_they_reach_the_client() {
    let world = node_with_long_ways();
    let question = frame::of(&asked(), ACK, b"question");
    let sent = send(&world, CLIENT, &question);
    assert_eq!(sent.verdict, Verdict::Translate);
    let answer = frame::of(&frame::headers(&sent.frame).tuple.reversed(), ACK, b"yes");
    for _ in 0..2 {
        assert_eq!(send(&world, SERVER, &answer).verdict, Verdict::Pass);
        let received = receive(&world, CLIENT, &answer);
        assert_eq!(received.verdict, Verdict::Translate);
        assert_eq!(frame::headers(&received.frame).tuple, asked().reversed());
    }
    assert!(repeat_at(&world, End::Sender, SERVER, &answer).is_some());
    assert!(repeat_at(&world, End::Receiver, CLIENT, &answer).is_none());
    assert!(repeat_at(&world, End::Sender, CLIENT, &question).is_none());
    // Then the flow is to be told of.
    world.wait(SECOND - 1);
    assert_eq!(send(&world, SERVER, &answer).verdict, Verdict::Pass);
    assert!(repeat_at(&world, End::Sender, SERVER, &answer).is_some());
    world.wait(1);
    assert!(repeat_at(&world, End::Sender, SERVER, &answer).is_none());
}

#[test]
fn what_may_become_a_services_is_not_kept_where_a_pod_sends() {
    let [tcp, udp, _] = direct();
    let with_flags = |flags| {
        let world = node_with_long_ways();
        world.policy.set(Policy {
            flags,
            ..Policy::default()
        });
        world
    };
    let of_no_service = Tuple {
        dst: addr("10.32.0.200"),
        ..tcp
    };
    for (what, world, tuple) in [
        ("a datagram", node_with_long_ways(), udp),
        ("a cluster IP", node_with_long_ways(), of_no_service),
        ("handed over", with_flags(PolicyFlags::HAND_OVER), tcp),
        ("another's", with_flags(PolicyFlags::LEAVE_TRACKED), tcp),
    ] {
        let frame = frame::of(&tuple, ACK, b"payload");
        for first in [SYN, ACK] {
            let first = frame::of(&tuple, first, b"payload");
            assert_eq!(send(&world, CLIENT, &first).verdict, Verdict::Pass);
            assert!(repeat(&world, CLIENT, &frame).is_none(), "{what}");
        }
    }
}

#[test]
fn what_policies_have_a_say_in_is_not_kept() {
    for (tuple, end, interface) in plain_packets() {
        for (egress, ingress) in [(NOBODY, 0), (0, NOBODY)] {
            let world = node_with_long_ways();
            let pod = Pod {
                egress: Slots::both(egress),
                ingress: Slots::both(ingress),
                netns: -1,
                state: PodState::PROGRAMMED,
                addr_v4: if interface == CLIENT {
                    tuple.src
                } else {
                    tuple.dst
                },
                ..Pod::default()
            };
            let frame = frame::of(&tuple, ACK, b"payload");
            assert_eq!(see(&world, end, interface, &frame), Verdict::Pass);
            world.pods.borrow_mut().insert(interface, pod);
            assert!(repeat_at(&world, end, interface, &frame).is_none());
            let _ = see(&world, end, interface, &frame);
            assert!(repeat_at(&world, end, interface, &frame).is_none());
        }
    }
}

#[test]
fn what_changes_of_pods_and_flows_ends_what_goes_on_by_itself() {
    type Change = dyn Fn(&World, &Tuple);
    let changes: [&Change; 3] = [
        &|world, _| world.policy.set(world.policy.get().in_next_epoch()),
        &|world, tuple| world.remove_flow(tuple),
        &|world, _| world.wait(CachedFlow::LIFETIME),
    ];
    for (tuple, end, interface) in plain_packets() {
        for (number, change) in changes.into_iter().enumerate() {
            let world = node_with_long_ways();
            let frame = frame::of(&tuple, ACK, b"payload");
            let _ = see(&world, end, interface, &frame);
            assert!(repeat_at(&world, end, interface, &frame).is_some());
            change(&world, &tuple);
            let done = repeat_at(&world, end, interface, &frame);
            assert!(done.is_none(), "{tuple} {end:?}: change {number}");
        }
    }
}

/// As the agent says by the epoch.
#[test]
fn what_becomes_a_services_is_led_to_its_backend_at_once() {
    let [tcp, ..] = direct();
    let world = node_with_long_ways();
    let frame = frame::of(&tcp, ACK, b"payload");
    assert_eq!(send(&world, CLIENT, &frame).verdict, Verdict::Pass);
    world.add_frontend(tcp.dst, 80, Protocol::TCP, SERVICE);
    assert_eq!(send(&world, CLIENT, &frame).verdict, Verdict::Translate);
}
