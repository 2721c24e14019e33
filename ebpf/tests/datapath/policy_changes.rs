//! What becomes of conversations when policies change.

use crate::common::{
    frame,
    policy::{EGRESS, FAMILIES, FRIENDS, Family, INGRESS, POD, V4, packet},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    conntrack::SECOND,
    packet::{Opener, TcpFlags},
    tables::{ConnectionFlags, PolicyFlags, Tuple},
    verdict::DropReason,
};

/// A connection of the isolated pod, as its opener sees it.
struct Connection {
    world: World,
    asked: Tuple,
    is_opened_by_pod: bool,
}

impl Connection {
    fn open(family: Family, protocol: Protocol, is_opened_by_pod: bool) -> Self {
        let (pod, friend) = ((family.pod, 4_000), (family.friend, 4_000));
        let (asked, subject) = if is_opened_by_pod {
            (tuple(protocol, pod, friend), EGRESS)
        } else {
            (tuple(protocol, friend, pod), INGRESS)
        };
        let world = World::with_isolated_pod();
        world.allow(subject, FRIENDS, protocol, 4_000, 1);
        let connection = Self {
            world,
            asked,
            is_opened_by_pod,
        };
        connection.ask(frame::SYN).expect("a rule allows it");
        connection.answer(frame::SYN_ACK).expect("an answer");
        connection
    }

    /// A packet that goes the way the connection was opened.
    fn ask(&self, flags: TcpFlags) -> Result<(), DropReason> {
        self.pass(&packet(&self.asked, flags), self.is_opened_by_pod)
    }

    /// One that goes the other way.
    fn answer(&self, flags: TcpFlags) -> Result<(), DropReason> {
        let frame = packet(&self.asked.reversed(), flags);
        self.pass(&frame, !self.is_opened_by_pod)
    }

    fn pass(&self, frame: &[u8], is_sent: bool) -> Result<(), DropReason> {
        let passed = if is_sent {
            self.world.send(POD, frame)
        } else {
            self.world.receive(POD, frame)
        };
        passed.map(|_| ())
    }

    fn subject(&self) -> u32 {
        if self.is_opened_by_pod {
            EGRESS
        } else {
            INGRESS
        }
    }

    fn refusal(&self) -> Result<(), DropReason> {
        Err(if self.is_opened_by_pod {
            DropReason::EgressPolicy
        } else {
            DropReason::IngressPolicy
        })
    }

    fn allow(&self, protocol: Protocol) {
        let subject = self.subject();
        self.world
            .revise(|world| world.allow(subject, FRIENDS, protocol, 4_000, 2));
    }
}

fn all_connections() -> impl Iterator<Item = (Protocol, Connection)> {
    FAMILIES.into_iter().flat_map(|family| {
        [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
            .into_iter()
            .flat_map(move |protocol| {
                [true, false].map(|by_pod| (protocol, Connection::open(family, protocol, by_pod)))
            })
    })
}

#[test]
fn a_change_that_allows_it_still_leaves_a_connection_alone() {
    for (protocol, connection) in all_connections() {
        connection.allow(protocol);
        assert_eq!(connection.answer(frame::ACK), Ok(()));
        assert_eq!(connection.ask(frame::ACK), Ok(()));
        let connections = connection.world.connections.borrow();
        let entry = connections.values().next().expect("an entry");
        assert_eq!((entry.rule, entry.revision), (2, 1));
    }
}

#[test]
fn a_connection_that_is_not_allowed_any_more_stops_in_both_directions() {
    for (protocol, connection) in all_connections() {
        // The other direction's rules do not help it: it was opened this way.
        let other = EGRESS + INGRESS - connection.subject();
        let revoke = |world: &World| world.allow(other, FRIENDS, protocol, 4_000, 3);
        connection.world.revise(revoke);
        for _ in 0..2 {
            assert_eq!(connection.answer(frame::ACK), connection.refusal());
            assert_eq!(connection.ask(frame::ACK), connection.refusal());
        }
        let flags = connection.world.only_connection().expect("it stays");
        assert!(flags.contains(ConnectionFlags::DENIED));
        // A permission that appears takes effect.
        connection.allow(protocol);
        assert_eq!(connection.ask(frame::ACK), Ok(()));
        assert_eq!(connection.answer(frame::ACK), Ok(()));
    }
}

#[test]
fn what_is_refused_does_not_keep_itself_alive() {
    let connection = Connection::open(V4, Protocol::UDP, true);
    let world = &connection.world;
    world.revise(|world| world.allow(INGRESS, FRIENDS, Protocol::UDP, 4_000, 1));
    for _ in 0..13 {
        world.wait(10 * SECOND);
        let _ = connection.ask(frame::ACK);
    }
    // By now it is another conversation, which the other side opens.
    assert_eq!(connection.ask(frame::ACK), connection.refusal());
    assert_eq!(connection.answer(frame::ACK), Ok(()));
    assert_eq!(world.only_connection(), Some(ConnectionFlags::NONE));
}

#[test]
fn a_refused_connection_gives_way_to_one_that_the_other_side_opens() {
    let connection = Connection::open(V4, Protocol::TCP, true);
    let world = &connection.world;
    world.revise(|world| world.allow(INGRESS, FRIENDS, Protocol::TCP, 4_000, 1));
    assert_eq!(connection.ask(frame::ACK), connection.refusal());
    assert_eq!(connection.answer(frame::ACK), connection.refusal());
    assert_eq!(connection.answer(frame::SYN), Ok(()));
    assert_eq!(world.only_connection(), Some(ConnectionFlags::NONE));
}

#[test]
fn one_that_would_be_refused_gives_way_before_it_is() {
    let connection = Connection::open(V4, Protocol::TCP, true);
    let world = &connection.world;
    world.revise(|world| world.allow(INGRESS, FRIENDS, Protocol::TCP, 4_000, 1));
    assert_eq!(connection.answer(frame::SYN), Ok(()));
    assert_eq!(connection.ask(frame::SYN_ACK), Ok(()));
    assert_eq!(world.only_connection(), Some(ConnectionFlags::NONE));
}

#[test]
fn established_connections_are_kept_if_that_is_wanted() {
    for (protocol, connection) in all_connections() {
        let world = &connection.world;
        world.set_policy_flags(PolicyFlags::KEEP_ESTABLISHED);
        world.revise(|_| ());
        assert_eq!(connection.ask(frame::ACK), Ok(()));
        assert_eq!(connection.answer(frame::ACK), Ok(()));
        if protocol == Protocol::TCP {
            // A new connection from the same port is none of them, and harms none.
            assert_eq!(connection.ask(frame::SYN), connection.refusal());
            assert_eq!(connection.ask(frame::ACK), Ok(()));
            assert_eq!(connection.ask(TcpFlags::RST), Ok(()));
            assert_eq!(connection.ask(frame::SYN), connection.refusal());
        }
        world.set_policy_flags(PolicyFlags::NONE);
        assert_eq!(connection.ask(frame::ACK), connection.refusal());
    }
}

#[test]
fn connections_from_before_all_policies_are_kept_by_what_sockets_know() {
    let world = World::with_isolated_pod();
    world.set_policy_flags(PolicyFlags::KEEP_ESTABLISHED);
    let asked = tuple(Protocol::TCP, (V4.pod, 4_000), (V4.friend, 80));
    let segment = packet(&asked, frame::ACK);
    assert_eq!(world.send(POD, &segment), Err(DropReason::EgressPolicy));
    world.opener.set(Opener::Pod);
    assert!(world.send(POD, &segment).is_ok());
    let other = tuple(Protocol::TCP, (V4.pod, 4_001), (V4.friend, 80));
    let opening = packet(&other, frame::SYN);
    assert_eq!(world.send(POD, &opening), Err(DropReason::EgressPolicy));
}

#[test]
fn isolation_that_comes_and_goes_is_in_force_at_once() {
    for family in FAMILIES {
        let world = World::with_pods();
        let asked = tuple(Protocol::UDP, (family.pod, 4_000), (family.friend, 53));
        let frame = packet(&asked, frame::SYN);
        assert!(world.send(POD, &frame).is_ok());
        world.revise(|world| world.set_pod(POD, EGRESS, 0));
        assert_eq!(world.send(POD, &frame), Err(DropReason::EgressPolicy));
        world.revise(|world| world.set_pod(POD, 0, 0));
        assert!(world.send(POD, &frame).is_ok());
    }
}
