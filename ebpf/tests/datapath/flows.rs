//! How flows live, end and share a node's ports: one behaviour a test.

use crate::common::{
    addr, backend,
    frame::{self, ACK, FIN_ACK, SYN, SYN_ACK},
    policy::{POD, V4},
    tuple,
    world::{
        Hook::{FromPod, ToPod},
        World,
    },
};
use weir_ebpf::{
    addr::{Port, Protocol},
    conntrack::SECOND,
    packet::{Opener, TcpFlags},
    tables::{FlowRole, FlowState, Node, PolicyFlags, Tuple},
    verdict::{DropReason, RejectReason, Verdict},
};

const CLIENT: &str = "10.200.0.7";
const VIP: &str = "10.32.0.140";
const OTHER_VIP: &str = "10.32.0.141";
const BACKEND: &str = "10.200.0.2";
const OTHER_BACKEND: &str = "10.200.128.1";

/// A node with a service at two addresses with a backend, for every protocol.
fn world() -> World {
    let world = World::default();
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        world.add_frontend(addr(VIP), 80, protocol, 1);
        world.add_frontend(addr(OTHER_VIP), 80, protocol, 2);
    }
    world.set_backends(1, &[backend(BACKEND, 80)]);
    world.set_backends(2, &[backend(BACKEND, 80)]);
    world
}

fn to_service(protocol: Protocol) -> Tuple {
    tuple(protocol, (CLIENT, 40_000), (VIP, 80))
}

/// Sends a packet of the client; the tuple with which it leaves the node's edge.
fn send(world: &World, tuple: &Tuple, flags: TcpFlags) -> Tuple {
    let outcome = world.pass(FromPod, &frame::of(tuple, flags, b"question"));
    assert_eq!(outcome.verdict, Verdict::Translate, "{tuple}");
    frame::assert_checksums(&outcome.frame);
    frame::tuple_of(&outcome.frame)
}

/// Answers a packet that had this tuple; the tuple with which the answer reaches the client.
fn answer(world: &World, tuple: &Tuple, flags: TcpFlags) -> Tuple {
    let outcome = world.pass(ToPod, &frame::of(&tuple.reversed(), flags, b"answer"));
    frame::assert_checksums(&outcome.frame);
    frame::tuple_of(&outcome.frame)
}

#[test]
fn a_client_that_sends_steadily_gets_its_first_answer_after_minutes() {
    let world = world();
    let asked = to_service(Protocol::UDP);
    let sent = send(&world, &asked, ACK);
    for _ in 0..600 {
        world.wait(SECOND / 2);
        assert_eq!(send(&world, &asked, ACK), sent);
    }
    assert_eq!(answer(&world, &sent, ACK), asked.reversed());
}

#[test]
fn what_another_proxy_has_the_kernel_translate_is_left_to_it_and_new_connections_are_not() {
    let world = world();
    for protocol in [Protocol::TCP, Protocol::SCTP] {
        let asked = to_service(protocol);
        world.set_policy_flags(PolicyFlags::LEAVE_TRACKED);
        let continued = world.pass(FromPod, &frame::of(&asked, ACK, b"question"));
        assert_eq!(continued.verdict, Verdict::Pass, "{protocol:?}");
        assert_eq!(world.flow(&asked), None);
    }
    let asked = to_service(Protocol::TCP);
    // It is nobody's any more: whoever still has it learns that from its backend.
    world.set_policy_flags(PolicyFlags::NONE);
    send(&world, &asked, ACK);
    world.evict(&asked);
    world.set_policy_flags(PolicyFlags::LEAVE_TRACKED);
    // One that is opened is ours, and stays so.
    let sent = send(&world, &asked, SYN);
    assert_eq!(send(&world, &asked, ACK), sent);
    let datagram = to_service(Protocol::UDP);
    assert_eq!(send(&world, &datagram, ACK).dst, addr(BACKEND));
    // What is addressed to no service is nobody's business.
    let elsewhere = tuple(Protocol::TCP, (CLIENT, 40_000), (BACKEND, 80));
    let outcome = world.pass(FromPod, &frame::of(&elsewhere, ACK, b""));
    assert_eq!(outcome.verdict, Verdict::Pass);
}

#[test]
fn a_client_that_only_listens_keeps_its_backend() {
    let world = world();
    let backends = [backend(BACKEND, 80), backend(OTHER_BACKEND, 80)];
    world.set_backends(1, &backends);
    for seed in 1..20 {
        world.seed(seed);
        let asked = tuple(
            Protocol::UDP,
            (CLIENT, 40_000 + u16::try_from(seed).unwrap()),
            (VIP, 80),
        );
        let sent = send(&world, &asked, ACK);
        for _ in 0..600 {
            world.wait(SECOND / 2);
            assert_eq!(answer(&world, &sent, ACK), asked.reversed());
        }
        assert_eq!(send(&world, &asked, ACK), sent);
    }
}

#[test]
fn a_late_answer_of_a_removed_backend_still_comes_from_the_service() {
    let world = world();
    let asked = to_service(Protocol::UDP);
    let sent = send(&world, &asked, ACK);
    world.set_backends(1, &[backend(OTHER_BACKEND, 80)]);
    let sent_again = send(&world, &asked, ACK);
    assert_eq!(sent_again.dst, addr(OTHER_BACKEND));
    assert_eq!(answer(&world, &sent, ACK), asked.reversed());
    assert_eq!(answer(&world, &sent_again, ACK), asked.reversed());
    assert_eq!(send(&world, &asked, ACK), sent_again);
}

#[test]
fn a_handshake_with_a_removed_backend_is_not_completed_after_another_was_chosen() {
    let world = world();
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    world.set_backends(1, &[backend(OTHER_BACKEND, 80)]);
    let sent_again = send(&world, &asked, SYN);
    assert_eq!(sent_again.dst, addr(OTHER_BACKEND));
    // The client would take the first backend's sequence numbers to the second one.
    assert_eq!(answer(&world, &sent, SYN_ACK), sent.reversed());
    assert_eq!(answer(&world, &sent_again, SYN_ACK), asked.reversed());
}

#[test]
fn a_flow_that_is_forgotten_leaves_the_tuple_of_another_alone() {
    let world = world();
    let first = to_service(Protocol::UDP);
    let second = Tuple {
        dst: addr(OTHER_VIP),
        ..first
    };
    let first_sent = send(&world, &first, ACK);
    // The table was full: the first flow's way back is gone, and the second takes its place.
    world.evict(&first_sent.reversed());
    let second_sent = send(&world, &second, ACK);
    assert_eq!(second_sent, first_sent);
    world.set_backends(1, &[backend(OTHER_BACKEND, 80)]);
    send(&world, &first, ACK);
    assert_eq!(answer(&world, &second_sent, ACK), second.reversed());
}

#[test]
fn a_flow_whose_way_back_was_taken_opens_again_with_another_port() {
    let world = world();
    let first = to_service(Protocol::UDP);
    let second = Tuple {
        dst: addr(OTHER_VIP),
        ..first
    };
    let first_sent = send(&world, &first, ACK);
    world.evict(&first_sent.reversed());
    let second_sent = send(&world, &second, ACK);
    world.wait(2 * SECOND);
    let first_sent = send(&world, &first, ACK);
    assert_ne!(first_sent, second_sent);
    assert_eq!(answer(&world, &first_sent, ACK), first.reversed());
    assert_eq!(answer(&world, &second_sent, ACK), second.reversed());
}

#[test]
fn a_forgotten_way_back_is_found_again() {
    let world = world();
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    assert_eq!(answer(&world, &sent, SYN_ACK), asked.reversed());
    world.evict(&sent.reversed());
    world.wait(2 * SECOND);
    assert_eq!(send(&world, &asked, ACK), sent);
    assert_eq!(answer(&world, &sent, ACK), asked.reversed());
    world.evict(&asked);
    world.wait(2 * SECOND);
    assert_eq!(answer(&world, &sent, ACK), asked.reversed());
    assert_eq!(send(&world, &asked, ACK), sent);
}

#[test]
fn a_new_connection_from_the_port_of_a_lost_one_does_not_go_to_a_removed_backend() {
    let world = world();
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    answer(&world, &sent, SYN_ACK);
    send(&world, &asked, ACK);
    // The client's node loses power: no FIN, no RST. Then the backend goes.
    world.set_backends(1, &[backend(OTHER_BACKEND, 80)]);
    assert_eq!(send(&world, &asked, ACK), sent);
    assert_eq!(send(&world, &asked, SYN).dst, addr(OTHER_BACKEND));
    assert_eq!(send(&world, &asked, ACK).dst, addr(OTHER_BACKEND));
}

#[test]
fn an_established_connection_stays_with_its_removed_backend() {
    let world = world();
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    answer(&world, &sent, SYN_ACK);
    world.set_backends(1, &[]);
    world.remove_frontend(addr(VIP), 80, Protocol::TCP);
    world.wait(100_000 * SECOND);
    assert_eq!(send(&world, &asked, ACK), sent);
    assert_eq!(answer(&world, &sent, ACK), asked.reversed());
}

#[test]
fn a_client_may_use_its_port_again_after_the_end() {
    let world = world();
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    answer(&world, &sent, SYN_ACK);
    send(&world, &asked, FIN_ACK);
    answer(&world, &sent, FIN_ACK);
    assert_eq!(world.state(&asked), Some(FlowState::CLOSING));
    world.set_backends(1, &[backend(OTHER_BACKEND, 80)]);
    assert_eq!(send(&world, &asked, SYN).dst, addr(OTHER_BACKEND));
    assert_eq!(world.state(&asked), Some(FlowState::OPENING));
}

#[test]
fn a_processor_that_is_late_does_not_reopen_what_another_has_closed() {
    let world = world();
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    answer(&world, &sent, SYN_ACK);
    send(&world, &asked, ACK);
    world.wait(2 * SECOND);
    // Between this packet's own entry and the other direction's, the backend resets.
    let reset = frame::of(&sent.reversed(), TcpFlags::RST, b"");
    world.interrupt(1, move |world| {
        world.pass(ToPod, &reset);
    });
    send(&world, &asked, ACK);
    assert_eq!(world.state(&asked), Some(FlowState::CLOSED));
    assert_eq!(world.state(&sent.reversed()), Some(FlowState::CLOSED));
}

#[test]
fn two_processors_that_open_one_flow_both_get_their_answers() {
    let world = world();
    world.set_backends(1, &[backend(BACKEND, 80), backend(OTHER_BACKEND, 80)]);
    for port in 41_000..41_050 {
        let asked = tuple(Protocol::UDP, (CLIENT, port), (VIP, 80));
        world.interrupt(0, move |world| {
            let sent = send(world, &asked, ACK);
            assert_eq!(answer(world, &sent, ACK), asked.reversed());
        });
        let sent = send(&world, &asked, ACK);
        assert_eq!(answer(&world, &sent, ACK), asked.reversed());
        assert_eq!(send(&world, &asked, ACK), sent);
    }
}

#[test]
fn one_port_to_two_addresses_of_a_backend_is_told_apart() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let world = world();
        let first = to_service(protocol);
        let second = Tuple {
            dst: addr(OTHER_VIP),
            ..first
        };
        let first_sent = send(&world, &first, SYN);
        let second_sent = send(&world, &second, SYN);
        assert_ne!(first_sent, second_sent);
        assert_eq!(answer(&world, &second_sent, SYN_ACK), second.reversed());
        assert_eq!(answer(&world, &first_sent, SYN_ACK), first.reversed());
    }
}

#[test]
fn two_pods_that_ask_each_other_from_the_ports_they_serve_are_told_apart() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let world = world();
        world.set_backends(1, &[backend(OTHER_BACKEND, 80)]);
        let there = tuple(protocol, (BACKEND, 80), (VIP, 80));
        let back = tuple(protocol, (OTHER_BACKEND, 80), (OTHER_VIP, 80));
        let there_sent = send(&world, &there, SYN);
        let back_sent = send(&world, &back, SYN);
        assert_ne!(back_sent, there_sent.reversed());
        assert_eq!(answer(&world, &there_sent, SYN_ACK), there.reversed());
        assert_eq!(answer(&world, &back_sent, SYN_ACK), back.reversed());
    }
}

#[test]
fn no_flow_gets_source_port_zero_from_a_node_that_is_not_described() {
    let world = world();
    world.node.set(Node::default());
    let first = to_service(Protocol::UDP);
    let second = Tuple {
        dst: addr(OTHER_VIP),
        ..first
    };
    send(&world, &first, ACK);
    let outcome = world.pass(FromPod, &frame::udp(&second, b"question"));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoSourcePort));
}

/// A hairpin there and back; the tuples at the pod's own door.
fn hairpin(world: &World, asked: &Tuple, flags: TcpFlags) -> Option<Tuple> {
    let sent = world.pass(FromPod, &frame::of(asked, flags, b"question"));
    assert_eq!(sent.verdict, Verdict::Translate);
    let received = world.pass(ToPod, &sent.frame);
    let arrived = frame::tuple_of(&received.frame);
    (received.verdict == Verdict::Translate && arrived.src != arrived.dst).then_some(arrived)
}

fn hairpin_answer(world: &World, arrived: &Tuple, flags: TcpFlags) -> Tuple {
    let sent = world.pass(
        FromPod,
        &frame::of(&arrived.reversed(), flags, b"the answer"),
    );
    assert_eq!(sent.verdict, Verdict::Translate);
    let received = world.pass(ToPod, &sent.frame);
    frame::assert_checksums(&received.frame);
    frame::tuple_of(&received.frame)
}

#[test]
fn a_pod_reaches_itself_and_hears_the_service_answer() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        for source_port in [40_000, 80] {
            let world = world();
            let asked = tuple(protocol, (BACKEND, source_port), (VIP, 80));
            let arrived = hairpin(&world, &asked, SYN).expect("the source is translated");
            assert_eq!(arrived.dst, addr(BACKEND));
            assert_eq!(arrived.src, addr("10.240.0.1"));
            assert_eq!(hairpin_answer(&world, &arrived, SYN_ACK), asked.reversed());
            assert_eq!(hairpin(&world, &asked, ACK), Some(arrived));
        }
    }
}

#[test]
fn a_hairpin_that_found_no_port_does_not_go_half_translated_the_next_time() {
    let world = world();
    world.node.set(Node::default());
    let asked = tuple(Protocol::UDP, (BACKEND, 40_000), (VIP, 80));
    for _ in 0..2 {
        let outcome = world.pass(FromPod, &frame::udp(&asked, b"question"));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NoSourcePort));
    }
}

#[test]
fn a_hairpin_whose_inner_entry_was_forgotten_heals() {
    let world = world();
    let asked = tuple(Protocol::UDP, (BACKEND, 40_000), (VIP, 80));
    hairpin(&world, &asked, ACK).expect("the source is translated");
    for inner in world.tuples(FlowRole::SNAT_FORWARD) {
        world.evict(&inner);
    }
    world.wait(2 * SECOND);
    let arrived = hairpin(&world, &asked, ACK).expect("the source is translated again");
    assert_eq!(hairpin_answer(&world, &arrived, ACK), asked.reversed());
}

#[test]
fn a_service_without_backends_refuses_until_it_has_one() {
    let world = world();
    world.set_backends(1, &[]);
    let asked = to_service(Protocol::UDP);
    let outcome = world.pass(FromPod, &frame::udp(&asked, b"question"));
    assert_eq!(outcome.verdict, Verdict::Reject(RejectReason::NoBackend));
    world.set_backends(1, &[backend(BACKEND, 80)]);
    assert_eq!(send(&world, &asked, ACK).dst, addr(BACKEND));
}

#[test]
fn an_sctp_service_may_have_another_target_port() {
    let world = world();
    let asked = to_service(Protocol::SCTP);
    world.set_backends(1, &[backend(BACKEND, 8080)]);
    let outcome = world.pass(FromPod, &frame::of(&asked, SYN, b""));
    assert_eq!(outcome.verdict, Verdict::Translate);
    let sent = frame::headers(&outcome.frame).tuple;
    assert_eq!((sent.dst, sent.dst_port), (addr(BACKEND), Port::new(8080)));
    assert_eq!(outcome.frame, frame::of(&sent, SYN, b""));
}

#[test]
fn what_is_addressed_to_no_service_passes_untouched() {
    let world = world();
    let other_port = Tuple {
        dst_port: Port::new(81),
        ..to_service(Protocol::TCP)
    };
    let frame = frame::tcp(&other_port, SYN, b"");
    for hook in [FromPod, ToPod] {
        let outcome = world.pass(hook, &frame);
        assert_eq!(outcome.verdict, Verdict::Pass);
        assert_eq!(outcome.frame, frame);
    }
    assert!(world.flows.borrow().is_empty());
}

/// A connection from the client's port to the backend itself, beside one through the service.
fn past_the_service(asked: &Tuple) -> Tuple {
    Tuple {
        dst: addr(BACKEND),
        dst_port: Port::new(80),
        ..*asked
    }
}

#[test]
fn a_port_that_a_service_has_answered_at_is_free_for_the_pod_itself_when_that_is_over() {
    let world = world();
    world.set_backends(1, &[backend(BACKEND, 80)]);
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    assert_eq!(answer(&world, &sent, FIN_ACK), asked.reversed());
    let direct = past_the_service(&asked);
    let outcome = world.pass(FromPod, &frame::tcp(&direct, SYN, b""));
    assert_eq!(outcome.verdict, Verdict::Pass);
    let outcome = world.pass(ToPod, &frame::tcp(&direct.reversed(), SYN_ACK, b""));
    assert_eq!(outcome.verdict, Verdict::Pass);
}

#[test]
fn a_port_that_a_service_answers_at_is_another_one_to_the_pod_itself() {
    let world = world();
    world.set_backends(1, &[backend(BACKEND, 80)]);
    let asked = to_service(Protocol::TCP);
    let sent = send(&world, &asked, SYN);
    assert_eq!(answer(&world, &sent, SYN_ACK), asked.reversed());
    let direct = past_the_service(&asked);
    let moved = send(&world, &direct, SYN);
    assert_eq!((moved.dst, moved.dst_port), (direct.dst, direct.dst_port));
    assert_ne!(moved.src_port, direct.src_port);
    assert_eq!(answer(&world, &moved, SYN_ACK), direct.reversed());
    assert_eq!(send(&world, &direct, ACK), moved);
    // The other connection goes on.
    assert_eq!(answer(&world, &sent, ACK), asked.reversed());
}

#[test]
fn a_port_from_which_the_pod_talks_to_the_backend_itself_is_another_one_to_the_service() {
    let of_pod = |netns| {
        let world = World::with_pods();
        for protocol in [Protocol::TCP, Protocol::UDP] {
            world.add_frontend(addr(V4.service), 80, protocol, 1);
        }
        world.set_backends(1, &[backend(V4.friend, 8_080)]);
        let mut pods = world.pods.borrow_mut();
        pods.get_mut(&POD).expect("the pod").netns = netns;
        drop(pods);
        world
    };
    // Nobody knows of sockets behind an interface that no table has.
    const NOBODYS: u32 = 99;
    for (opener, netns, interface, protocol, is_moved) in [
        (Opener::Pod, 3, POD, Protocol::TCP, true),
        (Opener::Peer, 3, POD, Protocol::TCP, true),
        (Opener::Pod, 0, POD, Protocol::TCP, true),
        (Opener::Unknown, 3, POD, Protocol::TCP, false),
        (Opener::Pod, -1, POD, Protocol::TCP, false),
        (Opener::Pod, 3, NOBODYS, Protocol::TCP, false),
        // Of a datagram's socket the kernel does not choose the port by whom it talks to.
        (Opener::Pod, 3, POD, Protocol::UDP, false),
    ] {
        let world = of_pod(netns);
        world.opener.set(opener);
        let asked = tuple(protocol, (V4.pod, 40_000), (V4.service, 80));
        let sent = |flags| {
            let outcome = world.send(interface, &frame::of(&asked, flags, b""));
            frame::tuple_of(&outcome.expect("no policy").frame)
        };
        let first = sent(SYN);
        let what = format!("{opener:?}, {netns}, {interface}, {protocol:?}");
        assert_eq!(
            (first.dst, first.dst_port),
            (addr(V4.friend), Port::new(8_080))
        );
        assert_eq!(first.src_port != asked.src_port, is_moved, "{what}");
        let answered = world.receive(interface, &frame::of(&first.reversed(), SYN_ACK, b""));
        let answered = answered.expect("no policy");
        assert_eq!(frame::tuple_of(&answered.frame), asked.reversed(), "{what}");
        // It stays what it was, also where the first segment is sent again.
        assert_eq!((sent(SYN), sent(ACK)), (first, first), "{what}");
    }
}
