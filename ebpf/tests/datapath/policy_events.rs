//! What is told of packets at pods' interfaces.

use crate::common::{
    addr, backend, frame,
    policy::{EGRESS, FRIENDS, INGRESS, OTHER, POD, V4, packet},
    tuple,
    world::{Hook, World},
};
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    datapath::At,
    event::{Direction, Event},
    tables::{PolicyFlags, Tuple},
    verdict::{DropReason, RejectReason, Verdict},
};

fn world(flags: PolicyFlags) -> World {
    let world = World::with_isolated_pod();
    world.set_policy_flags(flags);
    world.revise(|world| {
        world.allow(EGRESS, FRIENDS, Protocol::TCP, 8_080, 5);
        world.allow(INGRESS, FRIENDS, Protocol::TCP, 80, 6);
    });
    world
}

fn told(world: &World) -> Vec<Event> {
    world.events.take()
}

fn expected(tuple: Tuple, verdict: Verdict, hook: Hook, direction: Direction) -> Event {
    let number = |number: u32| u8::try_from(number).expect("few");
    Event {
        time: 1_000_000_000_000,
        tuple,
        service_addr: Addr::UNSPECIFIED,
        service_port: Port(0),
        verdict: number(verdict.number()),
        hook: number(hook.number()),
        interface: POD,
        direction,
        reserved: [0; 3],
        subject: if direction == Direction::EGRESS {
            EGRESS
        } else {
            INGRESS
        },
        class: FRIENDS,
        rule: 0,
        revision: 1,
        reserved_tail: 0,
    }
}

#[test]
fn nothing_is_told_that_nobody_asked_for() {
    let world = world(PolicyFlags::NONE);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 81));
    assert!(world.send(POD, &packet(&asked, frame::SYN)).is_err());
    assert!(told(&world).is_empty());
}

#[test]
fn a_refusal_is_told_with_its_grounds() {
    let world = world(PolicyFlags::EVENTS_DENIED);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 81));
    world
        .send(POD, &packet(&asked, frame::SYN))
        .expect_err("no rule");
    let verdict = Verdict::Drop(DropReason::EgressPolicy);
    let event = expected(asked, verdict, Hook::FromPod, Direction::EGRESS);
    assert_eq!(told(&world), [event]);
    let asked = tuple(Protocol::TCP, (V4.friend, 4_000), (V4.pod, 81));
    world
        .receive(POD, &packet(&asked, frame::SYN))
        .expect_err("no rule");
    let verdict = Verdict::Drop(DropReason::IngressPolicy);
    let event = expected(asked, verdict, Hook::ToPod, Direction::INGRESS);
    assert_eq!(told(&world), [event]);
    let allowed = tuple(Protocol::TCP, (V4.friend, 4_000), (V4.pod, 80));
    world
        .receive(POD, &packet(&allowed, frame::SYN))
        .expect("a rule");
    assert!(told(&world).is_empty());
}

#[test]
fn a_refusal_names_the_backend_and_the_service() {
    let world = world(PolicyFlags::EVENTS_DENIED);
    world.add_frontend(addr(V4.service), 80, Protocol::TCP, 1);
    world.set_backends(1, &[backend(V4.friend, 81)]);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.service, 80));
    world
        .send(POD, &packet(&asked, frame::SYN))
        .expect_err("no rule");
    let judged = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 81));
    let verdict = Verdict::Drop(DropReason::EgressPolicy);
    let event = Event {
        service_addr: addr(V4.service),
        service_port: Port::new(80),
        ..expected(judged, verdict, Hook::FromPod, Direction::EGRESS)
    };
    assert_eq!(told(&world), [event]);
    world.set_backends(1, &[]);
    world.pass_at(At::new(Hook::FromPod, POD), &packet(&asked, frame::SYN));
    let verdict = Verdict::Reject(RejectReason::NoBackend);
    let event = Event {
        service_addr: addr(V4.service),
        service_port: Port::new(80),
        subject: 0,
        class: 0,
        ..expected(asked, verdict, Hook::FromPod, Direction::NONE)
    };
    assert_eq!(told(&world), [event]);
}

#[test]
fn a_connection_is_told_once_and_with_its_rule() {
    let world = world(PolicyFlags::EVENTS_OPENED);
    world.add_frontend(addr(V4.service), 80, Protocol::TCP, 1);
    world.set_backends(1, &[backend(V4.friend, 8_080)]);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.service, 80));
    for _ in 0..2 {
        world
            .send(POD, &packet(&asked, frame::SYN))
            .expect("a rule");
    }
    let judged = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 8_080));
    let event = Event {
        service_addr: addr(V4.service),
        service_port: Port::new(80),
        rule: 5,
        ..expected(judged, Verdict::Translate, Hook::FromPod, Direction::EGRESS)
    };
    assert_eq!(told(&world), [event]);
    world
        .receive(POD, &packet(&judged.reversed(), frame::SYN_ACK))
        .expect("an answer");
    assert!(told(&world).is_empty());
    let asked = tuple(Protocol::TCP, (V4.friend, 4_000), (V4.pod, 80));
    world
        .receive(POD, &packet(&asked, frame::SYN))
        .expect("a rule");
    let event = Event {
        rule: 6,
        ..expected(asked, Verdict::Pass, Hook::ToPod, Direction::INGRESS)
    };
    assert_eq!(told(&world), [event]);
}

#[test]
fn a_forged_source_is_told_without_a_judgement() {
    let world = world(PolicyFlags::EVENTS_DENIED);
    let forged = tuple(Protocol::TCP, (V4.other, 4_000), (V4.friend, 8_080));
    world
        .send(POD, &packet(&forged, frame::SYN))
        .expect_err("forged");
    let verdict = Verdict::Drop(DropReason::ForgedSource);
    let event = Event {
        subject: 0,
        class: 0,
        ..expected(forged, verdict, Hook::FromPod, Direction::NONE)
    };
    assert_eq!(told(&world), [event]);
}

#[test]
fn what_stops_after_a_change_is_told_in_the_direction_it_was_opened() {
    let world = world(PolicyFlags::EVENTS_DENIED);
    let asked = tuple(Protocol::TCP, (V4.friend, 4_000), (V4.pod, 80));
    world
        .receive(POD, &packet(&asked, frame::SYN))
        .expect("a rule");
    world.revise(|_| ());
    let verdict = Verdict::Drop(DropReason::IngressPolicy);
    for _ in 0..2 {
        let answer = packet(&asked.reversed(), frame::SYN_ACK);
        world.send(POD, &answer).expect_err("no rule any more");
        let event = Event {
            revision: 2,
            ..expected(asked.reversed(), verdict, Hook::FromPod, Direction::INGRESS)
        };
        assert_eq!(told(&world), [event]);
    }
    let unjudged = tuple(Protocol::TCP, (V4.other, 1), (V4.friend, 1));
    world
        .send(OTHER, &packet(&unjudged, frame::SYN))
        .expect("no policy");
    assert!(told(&world).is_empty());
}
