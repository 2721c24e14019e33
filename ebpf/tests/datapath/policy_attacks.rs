//! What rides on an allowed conversation, or only looks like a part of it.

use crate::common::{
    addr, backend, frame,
    policy::{
        EGRESS, FAMILIES, FRIENDS, Family, INGRESS, OTHER, POD, V4, V6, echo, echo_reply, icmp,
        packet, unreachable,
    },
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    conntrack::SECOND,
    packet::{Opener, TcpFlags},
    tables::{NOBODY, Tuple},
    verdict::DropReason,
};

const RST: TcpFlags = TcpFlags::RST;

/// A pod that may open connections to friends, at port 80 and by echo, and be opened none to.
fn client(family: Family) -> (World, Tuple) {
    let world = World::with_pods();
    world.set_pod(POD, EGRESS, NOBODY);
    world.allow(EGRESS, FRIENDS, Protocol::TCP, 80, 1);
    world.allow(EGRESS, FRIENDS, Protocol::UDP, 80, 1);
    let asked = tuple(Protocol::TCP, (family.pod, 4_000), (family.friend, 80));
    (world, asked)
}

/// A pod that friends may open connections to at port 80, and that may open none.
fn server(family: Family) -> (World, Tuple) {
    let world = World::with_pods();
    world.set_pod(POD, NOBODY, INGRESS);
    world.allow(INGRESS, FRIENDS, Protocol::TCP, 80, 1);
    let asked = tuple(Protocol::TCP, (family.friend, 4_000), (family.pod, 80));
    (world, asked)
}

#[test]
fn a_forged_segment_opens_nothing() {
    for family in FAMILIES {
        for flags in [frame::ACK, frame::SYN_ACK, frame::FIN_ACK, RST, TcpFlags(0)] {
            let (world, asked) = client(family);
            let forged = packet(&asked.reversed(), flags);
            let received = world.receive(POD, &forged);
            assert_eq!(received, Err(DropReason::IngressPolicy), "{flags:?}");
            let (world, asked) = server(family);
            let sent = world.send(POD, &packet(&asked.reversed(), flags));
            assert_eq!(sent, Err(DropReason::EgressPolicy), "{flags:?}");
            assert!(world.connections.borrow().is_empty());
        }
    }
}

#[test]
fn nobody_is_the_pod_by_bearing_its_address() {
    for family in FAMILIES {
        let world = World::with_pods();
        world.isolate_from_everybody();
        let own = tuple(Protocol::UDP, (family.pod, 4_000), (family.pod, 80));
        let forged = packet(&own, TcpFlags(0));
        assert_eq!(world.receive(POD, &forged), Err(DropReason::IngressPolicy));
        let own = tuple(Protocol::TCP, (family.pod, 4_000), (family.pod, 80));
        let forged = packet(&own, frame::SYN);
        assert_eq!(world.receive(POD, &forged), Err(DropReason::IngressPolicy));
    }
}

#[test]
fn what_ends_or_answers_a_connection_makes_no_other_out_of_nothing() {
    for flags in [frame::SYN_ACK, frame::FIN_ACK, RST] {
        let (world, asked) = client(V4);
        assert!(
            world.send(POD, &packet(&asked, flags)).is_ok(),
            "a rule allows it"
        );
        assert!(world.connections.borrow().is_empty(), "{flags:?}");
        let answer = packet(&asked.reversed(), frame::ACK);
        assert_eq!(world.receive(POD, &answer), Err(DropReason::IngressPolicy));
    }
}

#[test]
fn a_syn_is_never_an_answer() {
    for family in FAMILIES {
        let (world, asked) = client(family);
        world.send(POD, &packet(&asked, frame::SYN)).expect("asked");
        let back = packet(&asked.reversed(), frame::SYN);
        assert_eq!(world.receive(POD, &back), Err(DropReason::IngressPolicy));
        let answer = packet(&asked.reversed(), frame::SYN_ACK);
        assert!(world.receive(POD, &answer).is_ok());
        assert_eq!(world.receive(POD, &back), Err(DropReason::IngressPolicy));
        assert!(world.receive(POD, &answer).is_ok(), "nor does it harm");
        let (world, asked) = server(family);
        world
            .receive(POD, &packet(&asked, frame::SYN))
            .expect("asked");
        let back = packet(&asked.reversed(), frame::SYN);
        assert_eq!(world.send(POD, &back), Err(DropReason::EgressPolicy));
    }
}

#[test]
fn a_port_is_not_used_again_by_the_other_side() {
    for end in [RST, frame::FIN_ACK] {
        let (world, asked) = client(V4);
        world.send(POD, &packet(&asked, frame::SYN)).expect("asked");
        let answer = |flags| world.receive(POD, &packet(&asked.reversed(), flags));
        answer(frame::SYN_ACK).expect("answered");
        answer(end).expect("ended");
        assert_eq!(answer(frame::SYN), Err(DropReason::IngressPolicy));
        world.wait(121 * SECOND);
        assert_eq!(answer(frame::ACK), Err(DropReason::IngressPolicy));
        // The pod may.
        assert!(world.send(POD, &packet(&asked, frame::SYN)).is_ok());
        assert!(answer(frame::SYN_ACK).is_ok());
    }
}

#[test]
fn a_connection_stays_at_its_interface() {
    let world = World::with_pods();
    world.set_pod(POD, EGRESS, NOBODY);
    world.set_pod(OTHER, EGRESS, NOBODY);
    world.allow(EGRESS, FRIENDS, Protocol::UDP, 80, 1);
    let asked = tuple(Protocol::UDP, (V4.pod, 4_000), (V4.friend, 80));
    world.send(POD, &packet(&asked, frame::SYN)).expect("asked");
    let answer = packet(&asked.reversed(), frame::SYN);
    assert_eq!(
        world.receive(OTHER, &answer),
        Err(DropReason::IngressPolicy)
    );
    let forged = world.send(OTHER, &packet(&asked, frame::SYN));
    assert_eq!(forged, Err(DropReason::ForgedSource));
    assert!(world.receive(POD, &answer).is_ok());
}

#[test]
fn an_echo_is_answered_to_who_asked_and_under_the_same_number() {
    for family in FAMILIES {
        let world = World::with_pods();
        world.set_pod(POD, EGRESS, NOBODY);
        world.allow_everything(EGRESS, FRIENDS, 1);
        for identifier in [0, 7] {
            let (pod, friend) = (family.pod, family.friend);
            world
                .send(POD, &echo(family, pod, friend, identifier))
                .expect("asked");
            let received = |frame: &[u8]| world.receive(POD, frame).err();
            let refused = Some(DropReason::IngressPolicy);
            assert_eq!(received(&echo_reply(family, friend, pod, identifier)), None);
            // A question is no answer, whatever its number.
            assert_eq!(received(&echo(family, friend, pod, identifier)), refused);
            assert_eq!(
                received(&echo_reply(family, friend, pod, identifier + 1)),
                refused
            );
            let stranger = echo_reply(family, family.stranger, pod, identifier);
            assert_eq!(received(&stranger), refused);
            // Other messages have no number.
            let kind = if family.icmp == Protocol::ICMP {
                5
            } else {
                137
            };
            let redirect = icmp(family, friend, pod, &[kind, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(received(&redirect), refused);
        }
    }
}

#[test]
fn an_error_passes_about_what_was_sent_and_nothing_else() {
    for family in FAMILIES {
        let (world, asked) = client(family);
        let sent = packet(&asked, frame::SYN);
        let router = family.stranger;
        let error = unreachable(family, router, family.pod, &sent);
        let refused = Err(DropReason::IngressPolicy);
        assert_eq!(world.receive(POD, &error), refused, "nothing was sent yet");
        world.send(POD, &sent).expect("it is allowed");
        assert!(world.receive(POD, &error).is_ok());
        // About another port; about a packet of the other side; at another's interface.
        let other = Tuple {
            src_port: weir_ebpf::addr::Port::new(4_001),
            ..asked
        };
        let error = unreachable(family, router, family.pod, &packet(&other, frame::SYN));
        assert_eq!(world.receive(POD, &error), refused);
        let error = unreachable(
            family,
            router,
            family.pod,
            &packet(&asked.reversed(), frame::SYN),
        );
        assert_eq!(world.receive(POD, &error), refused);
        world.set_pod(OTHER, NOBODY, NOBODY);
        let error = unreachable(family, router, family.pod, &sent);
        assert_eq!(world.receive(OTHER, &error), refused);
        // It keeps nothing alive.
        world.wait(100 * SECOND);
        assert!(world.receive(POD, &error).is_ok());
        world.wait(100 * SECOND);
        assert_eq!(world.receive(POD, &error), refused);
    }
}

#[test]
fn a_pod_complains_about_what_it_received_to_who_sent_it() {
    for family in FAMILIES {
        let (world, asked) = server(family);
        let received = packet(&asked, frame::SYN);
        let error = unreachable(family, family.pod, family.friend, &received);
        let refused = Err(DropReason::EgressPolicy);
        assert_eq!(world.send(POD, &error), refused);
        world.receive(POD, &received).expect("it is allowed");
        assert!(world.send(POD, &error).is_ok());
        let elsewhere = unreachable(family, family.pod, family.stranger, &received);
        assert_eq!(world.send(POD, &elsewhere), refused);
    }
}

#[test]
fn errors_find_their_connection_through_a_service() {
    for family in FAMILIES {
        let (world, _) = client(family);
        world.allow(EGRESS, FRIENDS, Protocol::UDP, 8_080, 2);
        world.add_frontend(addr(family.service), 80, Protocol::UDP, 1);
        world.set_backends(1, &[backend(family.friend, 8_080)]);
        let asked = tuple(Protocol::UDP, (family.pod, 4_000), (family.service, 80));
        let sent = world
            .send(POD, &packet(&asked, frame::SYN))
            .expect("allowed");
        // The backend about what it received.
        let error = unreachable(family, family.friend, family.pod, &sent.frame);
        let heard = world.receive(POD, &error).expect("it is about a live flow");
        assert_eq!(frame::tuple_of(&heard.frame).src, addr(family.service));
        // The pod about an answer.
        let between = frame::tuple_of(&sent.frame);
        let answer = world
            .receive(POD, &packet(&between.reversed(), frame::SYN))
            .expect("an answer");
        let error = unreachable(family, family.pod, family.service, &answer.frame);
        let told = world.send(POD, &error).expect("it is about a live flow");
        assert_eq!(frame::tuple_of(&told.frame).dst, addr(family.friend));
        world.connections.borrow_mut().clear();
        assert_eq!(world.send(POD, &error), Err(DropReason::EgressPolicy));
    }
}

#[test]
fn errors_about_echoes_pass_like_others() {
    let world = World::with_pods();
    world.set_pod(POD, EGRESS, NOBODY);
    world.allow_everything(EGRESS, FRIENDS, 1);
    for family in FAMILIES {
        let ask = echo(family, family.pod, family.friend, 9);
        let error = unreachable(family, family.stranger, family.pod, &ask);
        assert!(world.receive(POD, &error).is_err());
        world.send(POD, &ask).expect("it is allowed");
        assert!(world.receive(POD, &error).is_ok());
    }
}

/// The two fragments of a UDP datagram, over IPv4.
fn fragments(tuple: &Tuple, identification: u8) -> [Vec<u8>; 2] {
    let mut first = frame::udp(tuple, &[0; 8]);
    first[18..20].copy_from_slice(&[0, identification]);
    first[20..22].copy_from_slice(&[0x20, 0]);
    let mut later = first.clone();
    later[20..22].copy_from_slice(&[0, 2]);
    [first, later]
}

#[test]
fn a_later_fragment_follows_its_first_and_no_other() {
    let world = World::with_pods();
    world.set_pod(POD, EGRESS, INGRESS);
    world.allow(EGRESS, FRIENDS, Protocol::UDP, 80, 1);
    world.allow(INGRESS, FRIENDS, Protocol::UDP, 80, 1);
    let orphan = Some(DropReason::NoFirstFragment);
    let sends = |frame: &[u8]| world.send(POD, frame).err();
    let receives = |frame: &[u8]| world.receive(POD, frame).err();
    let allowed = tuple(Protocol::UDP, (V4.pod, 4_000), (V4.friend, 80));
    let refused = tuple(Protocol::UDP, (V4.pod, 4_000), (V4.friend, 81));
    let [first, later] = fragments(&allowed, 1);
    assert_eq!(sends(&later), orphan);
    assert_eq!(sends(&first), None);
    assert_eq!(sends(&later), None);
    let [_, other] = fragments(&allowed, 2);
    assert_eq!(sends(&other), orphan);
    // A first fragment that is refused takes the place of the one that was not.
    let [first, later] = fragments(&refused, 1);
    assert_eq!(sends(&first), Some(DropReason::EgressPolicy));
    assert_eq!(sends(&later), orphan);
    // What was sent says nothing of what is received.
    let [first, later] = fragments(&allowed, 3);
    assert_eq!(sends(&first), None);
    assert_eq!(receives(&later), orphan);
    let asked = tuple(Protocol::UDP, (V4.friend, 4_000), (V4.pod, 80));
    let [first, later] = fragments(&asked, 4);
    assert_eq!(receives(&later), orphan);
    assert_eq!(receives(&first), None);
    assert_eq!(receives(&later), None);
    world.wait(31 * SECOND);
    assert_eq!(receives(&later), orphan);
    // The node's pass, and so do those in a direction in which the pod is not isolated.
    assert!(world.receive_from_node(POD, &later).is_ok());
    world.set_pod(POD, EGRESS, 0);
    assert_eq!(receives(&later), None);
}

#[test]
fn fragments_to_a_service_are_judged_with_their_first() {
    let world = World::with_pods();
    world.set_pod(POD, EGRESS, NOBODY);
    world.add_frontend(addr(V4.service), 80, Protocol::UDP, 1);
    world.set_backends(1, &[backend(V4.friend, 8_080)]);
    let asked = tuple(Protocol::UDP, (V4.pod, 4_000), (V4.service, 80));
    let [first, later] = fragments(&asked, 1);
    assert_eq!(world.send(POD, &first), Err(DropReason::EgressPolicy));
    let refused = world.send(POD, &later).expect_err("no first fragment");
    assert_eq!(refused, DropReason::NoFirstFragment);
    world.allow(EGRESS, FRIENDS, Protocol::UDP, 8_080, 1);
    assert!(world.send(POD, &first).is_ok());
    let sent = world.send(POD, &later).expect("its first one passed");
    assert_eq!(frame::tuple_of(&sent.frame).dst, addr(V4.friend));
}

#[test]
fn discovery_passes_if_it_comes_from_this_link() {
    let world = World::with_pods();
    world.set_pod(POD, NOBODY, NOBODY);
    let message = |kind: u8, from: &str, hop_limit: u8| {
        let mut frame = icmp(V6, from, V6.other, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        frame[21] = hop_limit;
        [
            world.send(POD, &frame).is_ok(),
            world.receive(POD, &frame).is_ok(),
        ]
    };
    for kind in 133..=136 {
        assert_eq!(message(kind, V6.pod, 255), [true, true], "{kind}");
        assert_eq!(message(kind, V6.pod, 254), [false, false], "{kind}");
        assert_eq!(message(kind, "::", 255), [true, true], "{kind}");
        assert_eq!(message(kind, V6.stranger, 255), [false, true], "{kind}");
    }
    for kind in [130, 131, 132, 143] {
        assert_eq!(message(kind, "fe80::1", 1), [true, true], "{kind}");
        assert_eq!(message(kind, V6.pod, 1), [false, false], "{kind}");
    }
    for kind in [137, 138, 139, 144, 200] {
        assert_eq!(message(kind, "fe80::1", 255), [false, false], "{kind}");
    }
}

#[test]
fn a_socket_in_the_pod_does_not_lend_itself_to_a_syn() {
    let (world, asked) = client(V4);
    world.opener.set(Opener::Pod);
    let back = packet(&asked.reversed(), frame::SYN);
    assert_eq!(world.receive(POD, &back), Err(DropReason::IngressPolicy));
    let refused = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 81));
    world.opener.set(Opener::Peer);
    let sent = world.send(POD, &packet(&refused, frame::SYN));
    assert_eq!(sent, Err(DropReason::EgressPolicy));
}

#[test]
fn what_a_bridge_floods_lends_no_source() {
    let world = World::with_pods();
    world.set_pod(POD, NOBODY, INGRESS);
    world.allow_everything(INGRESS, FRIENDS, 1);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let flooded = tuple(protocol, (V4.friend, 4_000), (V4.other, 80));
        let received = world.receive(POD, &packet(&flooded, frame::SYN));
        assert!(received.is_ok(), "a rule allows it");
        assert!(world.connections.borrow().is_empty());
        let forged = world.send(POD, &packet(&flooded.reversed(), frame::ACK));
        assert_eq!(forged, Err(DropReason::ForgedSource));
    }
}
