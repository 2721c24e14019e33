//! What policies say of packets at pods' interfaces, rule by rule.

use crate::common::{
    addr, backend, frame,
    policy::{EGRESS, FAMILIES, FRIENDS, INGRESS, OTHER, POD, V4, V6, echo, echo_reply, packet},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::{Addr, Protocol},
    conntrack::SECOND,
    datapath::At,
    packet::Opener,
    tables::{ANYONE, ConnectionFlags, Cover, Node, PodState, PolicyFlags, RuleKey, Slots},
    verdict::{DropReason, Hook, RejectReason, Verdict},
};

const SYN: weir_ebpf::packet::TcpFlags = frame::SYN;
const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// The first packet of a conversation, and one that answers it.
fn dialogue(protocol: Protocol, client: (&str, u16), server: (&str, u16)) -> [Vec<u8>; 2] {
    let asked = tuple(protocol, client, server);
    if protocol == Protocol::SCTP {
        return [
            frame::sctp(&asked, &[1, 0, 0, 4]),
            frame::sctp(&asked.reversed(), &[2, 0, 0, 4]),
        ];
    }
    [
        packet(&asked, SYN),
        packet(&asked.reversed(), frame::SYN_ACK),
    ]
}

#[test]
fn a_pod_without_policies_talks_to_all_and_is_not_tracked() {
    let world = World::with_pods();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let [first, answer] = dialogue(protocol, (family.pod, 4_000), (family.stranger, 80));
            assert!(world.send(POD, &first).is_ok());
            assert!(world.receive(POD, &answer).is_ok());
            let [first, answer] = dialogue(protocol, (family.stranger, 4_000), (family.pod, 80));
            assert!(world.receive(POD, &first).is_ok());
            assert!(world.send(POD, &answer).is_ok());
        }
    }
    assert!(world.connections.borrow().is_empty());
}

#[test]
fn an_isolated_pod_sends_and_receives_nothing_that_no_rule_allows() {
    for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let world = World::with_isolated_pod();
        let [first, _] = dialogue(protocol, (family.pod, 4_000), (family.friend, 80));
        assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
        let [first, _] = dialogue(protocol, (family.friend, 4_000), (family.pod, 80));
        assert_eq!(world.receive(POD, &first), Err(DropReason::IngressPolicy));
        assert!(world.connections.borrow().is_empty());
        assert!(world.flows.borrow().is_empty());
    }
}

#[test]
fn what_a_rule_allows_is_answered_and_nothing_else() {
    for (family, protocol) in FAMILIES.into_iter().flat_map(|f| PROTOCOLS.map(|p| (f, p))) {
        let world = World::with_isolated_pod();
        world.allow(EGRESS, FRIENDS, protocol, 80, 1);
        world.allow(INGRESS, FRIENDS, protocol, 81, 2);
        let [first, answer] = dialogue(protocol, (family.pod, 4_000), (family.friend, 80));
        // An answer to nothing.
        assert_eq!(world.receive(POD, &answer), Err(DropReason::IngressPolicy));
        assert!(world.send(POD, &first).is_ok());
        assert!(world.receive(POD, &answer).is_ok());
        assert_eq!(
            world.only_connection(),
            Some(ConnectionFlags::OPENED_BY_POD)
        );
        let [first, answer] = dialogue(protocol, (family.friend, 4_001), (family.pod, 81));
        assert_eq!(world.send(POD, &answer), Err(DropReason::EgressPolicy));
        assert!(world.receive(POD, &first).is_ok());
        assert!(world.send(POD, &answer).is_ok());
        // Other ports, other peers.
        for (peer, port) in [(family.friend, 81), (family.stranger, 80)] {
            let [first, _] = dialogue(protocol, (family.pod, 4_000), (peer, port));
            assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
        }
        for (peer, port) in [(family.friend, 80), (family.stranger, 81)] {
            let [first, _] = dialogue(protocol, (peer, 4_000), (family.pod, port));
            assert_eq!(world.receive(POD, &first), Err(DropReason::IngressPolicy));
        }
    }
}

#[test]
fn isolation_in_one_direction_leaves_the_other_alone() {
    let world = World::with_pods();
    world.set_pod(POD, 0, INGRESS);
    let [first, answer] = dialogue(Protocol::UDP, (V4.pod, 4_000), (V4.stranger, 53));
    assert!(world.send(POD, &first).is_ok());
    assert!(world.receive(POD, &answer).is_ok());
    let [first, _] = dialogue(Protocol::UDP, (V4.stranger, 4_000), (V4.pod, 53));
    assert_eq!(world.receive(POD, &first), Err(DropReason::IngressPolicy));
}

#[test]
fn rules_without_peers_and_rules_for_more_than_a_port_count() {
    let world = World::with_isolated_pod();
    let asks = |peer, protocol, port| {
        let [first, _] = dialogue(protocol, (V4.pod, 4_000), (peer, port));
        world.send(POD, &first).is_ok()
    };
    world.allow(EGRESS, ANYONE, Protocol::TCP, 80, 1);
    assert!(asks(V4.stranger, Protocol::TCP, 80));
    assert!(asks(V4.friend, Protocol::TCP, 80));
    assert!(!asks(V4.friend, Protocol::UDP, 80));
    let ports = RuleKey::ports(
        EGRESS,
        FRIENDS,
        Protocol::UDP,
        weir_ebpf::addr::Port::new(96),
        12,
    );
    world.rules.borrow_mut().insert(ports, 2);
    assert!(asks(V4.friend, Protocol::UDP, 96) && asks(V4.friend, Protocol::UDP, 111));
    assert!(!asks(V4.friend, Protocol::UDP, 95) && !asks(V4.friend, Protocol::UDP, 112));
    let [ping, _] = [echo(V4, V4.pod, V4.friend, 1), Vec::new()];
    assert!(
        world.send(POD, &ping).is_err(),
        "ports say nothing of protocols without them"
    );
    world.allow_everything(EGRESS, FRIENDS, 3);
    assert!(world.send(POD, &ping).is_ok());
    assert!(asks(V4.friend, Protocol::SCTP, 1));
    assert!(!asks(V4.stranger, Protocol::SCTP, 1));
}

#[test]
fn a_change_is_in_force_with_the_revision_and_all_at_once() {
    let world = World::with_pods();
    let mut pod = world.pods.borrow()[&POD];
    pod.egress = Slots([0, EGRESS]);
    world.pods.borrow_mut().insert(POD, pod);
    let [first, _] = dialogue(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 80));
    assert!(world.send(POD, &first).is_ok());
    world.revise(|_| ());
    assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
}

#[test]
fn service_traffic_is_judged_by_its_backend() {
    for family in FAMILIES {
        let world = World::with_isolated_pod();
        world.add_frontend(addr(family.service), 80, Protocol::TCP, 1);
        world.set_backends(1, &[backend(family.friend, 8_080)]);
        world.allow(EGRESS, FRIENDS, Protocol::TCP, 80, 1);
        let asked = tuple(Protocol::TCP, (family.pod, 4_000), (family.service, 80));
        let refused = world.send(POD, &packet(&asked, SYN));
        assert_eq!(
            refused,
            Err(DropReason::EgressPolicy),
            "port 80 is the service's"
        );
        assert!(world.flows.borrow().is_empty(), "nothing is left of it");
        assert!(world.connections.borrow().is_empty());
        world.allow(EGRESS, FRIENDS, Protocol::TCP, 8_080, 2);
        let sent = world
            .send(POD, &packet(&asked, SYN))
            .expect("it is allowed");
        let between = frame::tuple_of(&sent.frame);
        assert_eq!(between.dst, addr(family.friend));
        let answer = packet(&between.reversed(), frame::SYN_ACK);
        let received = world.receive(POD, &answer).expect("an answer");
        assert_eq!(frame::tuple_of(&received.frame), asked.reversed());
    }
}

#[test]
fn a_service_without_backends_refuses_before_policies_do() {
    let world = World::with_isolated_pod();
    world.add_frontend(addr(V4.service), 80, Protocol::TCP, 1);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.service, 80));
    let outcome = world.pass_at(At::new(Hook::FromPod, POD), &packet(&asked, SYN));
    assert_eq!(outcome.verdict, Verdict::Reject(RejectReason::NoBackend));
}

#[test]
fn the_answers_through_a_service_pass_though_their_connection_was_forgotten() {
    let world = World::with_pods();
    world.add_frontend(addr(V4.service), 80, Protocol::UDP, 1);
    world.set_backends(1, &[backend(V4.friend, 8_080)]);
    let asked = tuple(Protocol::UDP, (V4.pod, 4_000), (V4.service, 80));
    let sent = world
        .send(POD, &packet(&asked, SYN))
        .expect("no policy yet");
    let answer = packet(&frame::tuple_of(&sent.frame).reversed(), SYN);
    world.set_pod(POD, EGRESS, INGRESS);
    assert_eq!(world.receive(POD, &answer), Err(DropReason::EgressPolicy));
    world.allow(EGRESS, FRIENDS, Protocol::UDP, 8_080, 1);
    assert!(world.receive(POD, &answer).is_ok());
    assert_eq!(
        world.only_connection(),
        Some(ConnectionFlags::OPENED_BY_POD)
    );
}

#[test]
fn the_node_reaches_its_pods_and_whoever_pretends_to_be_it_does_not() {
    for family in FAMILIES {
        let world = World::with_isolated_pod();
        world.isolate_from_everybody();
        let [probe, answer] = dialogue(Protocol::TCP, (family.node, 4_000), (family.pod, 80));
        assert_eq!(world.receive(POD, &probe), Err(DropReason::IngressPolicy));
        assert_eq!(world.send(POD, &answer), Err(DropReason::EgressPolicy));
        assert!(world.receive_from_node(POD, &probe).is_ok());
        assert!(world.send(POD, &answer).is_ok());
        // The same again, as a repetition: it is not the node's.
        assert_eq!(world.receive(POD, &probe), Err(DropReason::IngressPolicy));
        // A change of policies does not concern it.
        world.revise(|_| ());
        let data = packet(&frame::tuple_of(&answer), frame::ACK);
        assert!(world.send(POD, &data).is_ok());
        let sent = world.send(OTHER, &probe);
        assert_eq!(sent, Err(DropReason::ForgedSource));
    }
}

#[test]
fn what_a_pod_opens_to_the_node_is_judged() {
    let world = World::with_isolated_pod();
    let [first, answer] = dialogue(Protocol::TCP, (V4.pod, 4_000), (V4.node, 10_250));
    assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
    world.allow(EGRESS, ANYONE, Protocol::TCP, 10_250, 1);
    assert!(world.send(POD, &first).is_ok());
    assert!(world.receive_from_node(POD, &answer).is_ok());
    world.revise(|_| ());
    assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
}

#[test]
fn a_pod_talks_to_itself_through_a_service() {
    for family in FAMILIES {
        let world = World::with_isolated_pod();
        let mut node = world.node.get();
        node.addr_v6 = addr("fd00:10:240::1");
        world.node.set(node);
        world.isolate_from_everybody();
        world.add_frontend(addr(family.service), 80, Protocol::TCP, 1);
        world.set_backends(1, &[backend(family.pod, 8_080)]);
        let asked = tuple(Protocol::TCP, (family.pod, 4_000), (family.service, 80));
        let sent = world
            .send(POD, &packet(&asked, SYN))
            .expect("its own address");
        let arrived = world.receive(POD, &sent.frame).expect("its own address");
        let arrived = frame::tuple_of(&arrived.frame);
        assert_eq!(arrived.src, addr(family.node));
        let answer = packet(&arrived.reversed(), frame::SYN_ACK);
        let answered = world.send(POD, &answer).expect("its own answer");
        let heard = world
            .receive(POD, &answered.frame)
            .expect("its own address");
        assert_eq!(frame::tuple_of(&heard.frame), asked.reversed());
        assert!(world.connections.borrow().is_empty());
    }
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    let world = World::with_pods();
    let from = |source| {
        let asked = tuple(Protocol::UDP, (source, 68), (V4.stranger, 67));
        world.send(POD, &packet(&asked, SYN)).err()
    };
    assert_eq!(from(V4.pod), None);
    assert_eq!(from("0.0.0.0"), None);
    assert_eq!(from(V4.other), Some(DropReason::ForgedSource));
    assert_eq!(from(V4.node), Some(DropReason::ForgedSource));
    assert_eq!(from("169.254.0.1"), Some(DropReason::ForgedSource));
    let from = |source| {
        let asked = tuple(Protocol::UDP, (source, 4_000), (V6.stranger, 53));
        world.send(POD, &packet(&asked, SYN)).err()
    };
    assert_eq!(from(V6.pod), None);
    assert_eq!(from("fe80::1"), None);
    assert_eq!(from("::"), None);
    assert_eq!(from("fec0::1"), Some(DropReason::ForgedSource));
    assert_eq!(from(V6.other), Some(DropReason::ForgedSource));
    world.set_policy_flags(PolicyFlags::NO_SOURCE_CHECK);
    assert_eq!(from(V6.other), None);
}

#[test]
fn an_interface_of_nobody_is_open_or_shut_as_told() {
    let world = World::with_pods();
    let asked = tuple(Protocol::UDP, ("10.200.0.99", 4_000), (V4.friend, 53));
    let frame = packet(&asked, SYN);
    let unknown = Err(DropReason::UnknownPod);
    assert!(world.send(99, &frame).is_ok());
    world.set_policy_flags(PolicyFlags::DENY_UNKNOWN);
    assert_eq!(world.send(99, &frame), unknown);
    assert_eq!(world.receive(99, &frame), unknown);
    assert!(world.receive_from_node(99, &frame).is_ok());
    // Known as an interface, and no more.
    let mut pod = world.pods.borrow()[&POD];
    pod.state = PodState::UNKNOWN;
    world.pods.borrow_mut().insert(99, pod);
    assert_eq!(world.send(99, &frame), unknown);
    assert!(
        world
            .send(POD, &echo_reply(V4, V4.pod, V4.friend, 1))
            .is_ok()
    );
}

#[test]
fn a_pod_that_is_only_named_is_isolated_from_all_but_its_node() {
    let world = World::with_pods();
    world.allow_everybody(1, 1);
    world.isolate_from_everybody();
    let [first, _] = dialogue(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 80));
    assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
    let [first, _] = dialogue(Protocol::TCP, (V4.node, 4_000), (V4.pod, 80));
    assert!(world.receive_from_node(POD, &first).is_ok());
}

#[test]
fn a_connection_older_than_its_policies_belongs_to_who_opened_it() {
    let segment =
        |from: (&str, u16), to: (&str, u16)| packet(&tuple(Protocol::TCP, from, to), frame::ACK);
    let (pod, peer) = ((V4.pod, 4_000), (V4.friend, 80));
    // The pod's sockets, what is allowed, and whether a segment of the pod and of the other side
    // passes.
    let cases = [
        (Opener::Pod, true, false, [true, true]),
        (Opener::Pod, false, true, [false, false]),
        (Opener::Peer, true, false, [false, false]),
        (Opener::Peer, false, true, [true, true]),
        (Opener::Unknown, true, false, [true, false]),
        (Opener::Unknown, false, true, [false, true]),
    ];
    for (opener, may_send, may_receive, expected) in cases {
        for (is_received, is_expected) in [false, true].into_iter().zip(expected) {
            let world = World::with_isolated_pod();
            world.opener.set(opener);
            if may_send {
                world.allow(EGRESS, FRIENDS, Protocol::TCP, 80, 1);
            }
            if may_receive {
                world.allow(INGRESS, FRIENDS, Protocol::TCP, 4_000, 2);
            }
            let passed = if is_received {
                world.receive(POD, &segment(peer, pod))
            } else {
                world.send(POD, &segment(pod, peer))
            };
            let what = format!("{opener:?} {may_send} {may_receive} received: {is_received}");
            assert_eq!(passed.is_ok(), is_expected, "{what}");
            if passed.is_ok() {
                // And so does the other direction from then on.
                assert!(world.send(POD, &segment(pod, peer)).is_ok(), "{what}");
                assert!(world.receive(POD, &segment(peer, pod)).is_ok(), "{what}");
            }
        }
    }
}

#[test]
fn a_flow_is_forgotten_for_its_silence() {
    let world = World::with_isolated_pod();
    world.allow(EGRESS, FRIENDS, Protocol::UDP, 53, 1);
    let [ask, answer] = dialogue(Protocol::UDP, (V4.pod, 4_000), (V4.friend, 53));
    world.send(POD, &ask).expect("it is allowed");
    world.wait(30 * SECOND);
    assert!(world.receive(POD, &answer).is_ok());
    world.wait(31 * SECOND);
    assert!(
        world.receive(POD, &answer).is_ok(),
        "what was answered lives longer"
    );
    world.wait(121 * SECOND);
    assert_eq!(world.receive(POD, &answer), Err(DropReason::IngressPolicy));
}

#[test]
fn other_protocols_are_told_apart_by_addresses() {
    const GRE: Protocol = Protocol(47);
    let world = World::with_isolated_pod();
    let of = |from, to, protocol| {
        let tuple = tuple(protocol, (from, 0), (to, 0));
        frame::raw(&tuple, protocol, &[0; 16])
    };
    let [asked, answer] = [of(V4.pod, V4.friend, GRE), of(V4.friend, V4.pod, GRE)];
    world.allow(EGRESS, FRIENDS, Protocol::TCP, 80, 1);
    assert_eq!(world.send(POD, &asked), Err(DropReason::EgressPolicy));
    world.allow_everything(EGRESS, FRIENDS, 2);
    assert_eq!(world.receive(POD, &answer), Err(DropReason::IngressPolicy));
    assert!(world.send(POD, &asked).is_ok());
    assert!(world.receive(POD, &answer).is_ok());
    let other = of(V4.friend, V4.pod, Protocol(4));
    assert_eq!(world.receive(POD, &other), Err(DropReason::IngressPolicy));
    let _: Addr = addr(V4.pod);
}

#[test]
fn echoes_are_answered() {
    for family in FAMILIES {
        let world = World::with_isolated_pod();
        world.allow_everything(EGRESS, FRIENDS, 1);
        let ask = echo(family, family.pod, family.friend, 7);
        let answer = echo_reply(family, family.friend, family.pod, 7);
        assert_eq!(world.receive(POD, &answer), Err(DropReason::IngressPolicy));
        assert!(world.send(POD, &ask).is_ok());
        assert!(world.receive(POD, &answer).is_ok());
        world.revise(|world| world.allow_everything(INGRESS, FRIENDS, 2));
        let ask = echo(family, family.friend, family.pod, 7);
        let answer = echo_reply(family, family.pod, family.friend, 7);
        assert_eq!(world.send(POD, &answer), Err(DropReason::EgressPolicy));
        assert!(world.receive(POD, &ask).is_ok());
        assert!(world.send(POD, &answer).is_ok());
    }
}

#[test]
fn an_established_connection_is_not_looked_for_among_flows() {
    let world = World::with_isolated_pod();
    // No cluster IP is near the friend's address.
    world.node.set(Node {
        cover_v4: Cover::NOTHING,
        ..world.node.get()
    });
    world.allow(EGRESS, FRIENDS, Protocol::TCP, 80, 1);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 80));
    world.send(POD, &packet(&asked, SYN)).expect("a rule");
    let answer = packet(&asked.reversed(), frame::SYN_ACK);
    let segment = packet(&asked, frame::ACK);
    for _ in 0..2 {
        world.receive(POD, &answer).expect("an answer");
        world.send(POD, &segment).expect("established");
    }
    let counted = std::rc::Rc::new(std::cell::Cell::new(false));
    let seen = counted.clone();
    world.interrupt(0, move |_| seen.set(true));
    world.receive(POD, &answer).expect("an answer");
    world.send(POD, &segment).expect("established");
    assert!(!counted.get(), "FLOWS was read");
    // What opens a connection is.
    world.send(POD, &packet(&asked, SYN)).expect("a repetition");
    assert!(counted.get());
}

#[test]
fn a_connection_through_a_service_takes_the_place_of_a_direct_one() {
    let world = World::with_isolated_pod();
    world.allow(EGRESS, FRIENDS, Protocol::TCP, 8_080, 1);
    world.add_frontend(addr(V4.service), 80, Protocol::TCP, 1);
    world.set_backends(1, &[backend(V4.friend, 8_080)]);
    let direct = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 8_080));
    let answer = packet(&direct.reversed(), frame::SYN_ACK);
    world.send(POD, &packet(&direct, SYN)).expect("a rule");
    for _ in 0..2 {
        world.receive(POD, &answer).expect("an answer");
        world
            .send(POD, &packet(&direct, frame::ACK))
            .expect("established");
    }
    // From the same port, as sockets may that see another destination.
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.service, 80));
    let sent = world.send(POD, &packet(&asked, SYN)).expect("a rule");
    let between = frame::tuple_of(&sent.frame);
    for flags in [frame::SYN_ACK, frame::ACK] {
        let heard = world
            .receive(POD, &packet(&between.reversed(), flags))
            .expect("an answer");
        assert_eq!(frame::tuple_of(&heard.frame), asked.reversed());
    }
}
