//! Flows that were vetted: what is asked of their packets no more, and when it is asked again.

use crate::common::{
    addr, backend, frame,
    policy::{EGRESS, FRIENDS, OTHER, POD, Passed, V4, V6, packet},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::{Addr, Protocol},
    conntrack::{REFRESH, SECOND},
    packet::TcpFlags,
    tables::{
        ConnectionFlags, Flow, FlowFlags, FlowRole, FlowState, PodAddr, PolicyFlags, Tuple, Vetting,
    },
    verdict::{DropReason, Verdict},
};

/// The service port that the pod talks to, and its only backend.
const SERVICE: u32 = 7;

/// A conversation of the pod with a service.
struct Conversation {
    world: World,
    /// What the pod sends.
    asked: Tuple,
    /// What it is sent.
    answered: Tuple,
}

impl Conversation {
    /// One that nobody has begun.
    fn of(protocol: Protocol, world: World) -> Self {
        world.add_frontend(addr(V4.service), 53, protocol, SERVICE);
        world.set_backends(SERVICE, &[backend(V4.friend, 53)]);
        world.allow(EGRESS, FRIENDS, protocol, 53, 1);
        Self {
            world,
            asked: tuple(protocol, (V4.pod, 4_000), (V4.service, 53)),
            answered: tuple(protocol, (V4.friend, 53), (V4.pod, 4_000)),
        }
    }

    /// One in which both have spoken, vetted in both directions.
    fn vetted(protocol: Protocol, world: World) -> Self {
        let conversation = Self::of(protocol, world);
        conversation.ask(frame::SYN).expect("a rule allows it");
        conversation.answer(frame::SYN_ACK).expect("an answer");
        for _ in 0..2 {
            conversation.ask(frame::ACK).expect("a part of it");
            conversation.answer(frame::ACK).expect("an answer");
        }
        assert_eq!(conversation.is_vetted(), [true; 2], "{protocol}");
        conversation
    }

    fn ask(&self, flags: TcpFlags) -> Passed {
        self.world.send(POD, &packet(&self.asked, flags))
    }

    fn answer(&self, flags: TcpFlags) -> Passed {
        self.world.receive(POD, &packet(&self.answered, flags))
    }

    fn flows(&self) -> [Flow; 2] {
        [self.asked, self.answered].map(|tuple| self.world.flow(&tuple).expect("its flow"))
    }

    /// Were both directions vetted in the epoch of the last packet?
    fn is_vetted(&self) -> [bool; 2] {
        let vetting = Vetting::new(POD, self.world.policy.get().epoch);
        self.flows().map(|flow| flow.is_vetted(vetting))
    }

    /// Neither direction passes any more, whoever speaks first and however often.
    fn assert_refused(&self, reason: DropReason) {
        for _ in 0..2 {
            assert_eq!(self.answer(frame::ACK), Err(reason));
            assert_eq!(self.ask(frame::ACK), Err(reason));
        }
    }
}

/// Of pods with and without policies. (TCP without any is asked nothing that a vetting would spare.)
fn all() -> [Conversation; 3] {
    [
        Conversation::vetted(Protocol::UDP, World::with_pods()),
        Conversation::vetted(Protocol::UDP, World::with_isolated_pod()),
        Conversation::vetted(Protocol::TCP, World::with_isolated_pod()),
    ]
}

#[test]
fn a_vetted_flow_is_translated_as_before() {
    for conversation in all() {
        let asked = conversation.ask(frame::ACK).expect("it passes");
        assert_eq!(asked.verdict, Verdict::Translate);
        assert_eq!(
            frame::tuple_of(&asked.frame),
            conversation.answered.reversed()
        );
        frame::assert_checksums(&asked.frame);
        let answered = conversation.answer(frame::ACK).expect("it passes");
        assert_eq!(
            frame::tuple_of(&answered.frame),
            conversation.asked.reversed()
        );
        frame::assert_checksums(&answered.frame);
    }
}

#[test]
fn an_address_that_is_taken_from_the_pod_is_not_sent_from() {
    for conversation in all() {
        let own = addr(V4.pod);
        let world = &conversation.world;
        world.pod_addrs.borrow_mut().remove(&PodAddr {
            interface: POD,
            addr: own,
        });
        let mut pod = world.pods.borrow()[&POD];
        pod.forget_addr(own);
        world.pods.borrow_mut().insert(POD, pod);
        assert_eq!(conversation.ask(frame::ACK), Err(DropReason::ForgedSource));
    }
}

#[test]
fn another_pod_at_the_interface_does_not_speak_as_the_one_before() {
    for conversation in all() {
        let (world, [old, new]) = (&conversation.world, [V4.pod, V4.other].map(addr));
        let mut pod = world.pods.borrow()[&POD];
        assert_eq!(pod.addr_v4, old);
        pod.addr_v4 = new;
        world.pods.borrow_mut().insert(POD, pod);
        let own = |addr: Addr| PodAddr {
            interface: POD,
            addr,
        };
        world.pod_addrs.borrow_mut().remove(&own(old));
        world.pod_addrs.borrow_mut().insert(own(new));
        assert_eq!(conversation.ask(frame::ACK), Err(DropReason::ForgedSource));
    }
}

#[test]
fn a_policy_that_comes_is_asked() {
    let conversation = Conversation::vetted(Protocol::UDP, World::with_pods());
    conversation.world.rules.borrow_mut().clear();
    conversation.world.set_pod(POD, EGRESS, 0);
    conversation.assert_refused(DropReason::EgressPolicy);
}

#[test]
fn a_policy_that_changes_is_asked() {
    for protocol in [Protocol::UDP, Protocol::TCP] {
        let conversation = Conversation::vetted(protocol, World::with_isolated_pod());
        conversation.world.revise(|_| {});
        conversation.assert_refused(DropReason::EgressPolicy);
        assert_eq!(
            conversation.world.only_connection(),
            Some(ConnectionFlags::OPENED_BY_POD.with(ConnectionFlags::DENIED))
        );
        // Allowed again, it is vetted again.
        conversation
            .world
            .revise(|world| world.allow(EGRESS, FRIENDS, protocol, 53, 2));
        for _ in 0..2 {
            conversation.ask(frame::ACK).expect("a rule allows it");
            conversation.answer(frame::ACK).expect("an answer");
        }
        assert_eq!(conversation.is_vetted(), [true; 2]);
    }
}

#[test]
fn what_is_kept_whatever_policies_say_is_vetted_too() {
    let world = World::with_isolated_pod();
    world.set_policy_flags(PolicyFlags::KEEP_ESTABLISHED);
    let conversation = Conversation::vetted(Protocol::UDP, world);
    conversation.world.revise(|_| {});
    for _ in 0..2 {
        conversation.ask(frame::ACK).expect("it was allowed once");
        conversation.answer(frame::ACK).expect("an answer");
    }
    assert_eq!(conversation.is_vetted(), [true; 2]);
    // Until it is not kept any more.
    conversation.world.set_policy_flags(PolicyFlags::NONE);
    conversation.assert_refused(DropReason::EgressPolicy);
}

#[test]
fn a_source_check_that_is_switched_on_is_made() {
    let world = World::with_pods();
    world.set_policy_flags(PolicyFlags::NO_SOURCE_CHECK);
    let mut conversation = Conversation::of(Protocol::UDP, world);
    conversation.asked.src = addr(V4.stranger);
    conversation.answered.dst = addr(V4.stranger);
    for _ in 0..2 {
        conversation.ask(frame::ACK).expect("nobody looks");
    }
    assert!(conversation.is_vetted()[0]);
    conversation.world.set_policy_flags(PolicyFlags::NONE);
    assert_eq!(conversation.ask(frame::ACK), Err(DropReason::ForgedSource));
}

#[test]
fn a_pod_that_nobody_knows_any_more_is_not_vetted() {
    for conversation in all() {
        conversation.world.pods.borrow_mut().remove(&POD);
        conversation
            .world
            .set_policy_flags(PolicyFlags::DENY_UNKNOWN);
        conversation.assert_refused(DropReason::UnknownPod);
    }
}

#[test]
fn a_backend_that_has_gone_gets_no_datagram_more() {
    for world in [World::with_pods(), World::with_isolated_pod()] {
        let conversation = Conversation::vetted(Protocol::UDP, world);
        let class = conversation.world.peers.borrow()[&addr(V4.friend)];
        conversation
            .world
            .peers
            .borrow_mut()
            .insert(addr(V4.other), class);
        let other = backend(V4.other, 53);
        conversation.world.set_backends(SERVICE, &[other]);
        let asked = conversation.ask(frame::ACK).expect("the other one serves");
        assert_eq!(frame::tuple_of(&asked.frame).dst, addr(V4.other));
    }
}

#[test]
fn a_connection_outlives_its_backend_as_before() {
    let conversation = Conversation::vetted(Protocol::TCP, World::with_isolated_pod());
    let other = backend(V4.other, 53);
    conversation.world.set_backends(SERVICE, &[other]);
    let asked = conversation.ask(frame::ACK).expect("it is established");
    assert_eq!(frame::tuple_of(&asked.frame).dst, addr(V4.friend));
}

#[test]
fn another_pod_is_not_taken_for_the_vetted_one() {
    for conversation in all() {
        let frame = packet(&conversation.asked, frame::ACK);
        let sent = conversation.world.send(OTHER, &frame);
        assert_eq!(sent, Err(DropReason::ForgedSource));
        // Nor does it undo the vetting.
        assert_eq!(conversation.is_vetted(), [true; 2]);
    }
}

#[test]
fn the_end_of_a_connection_is_noted() {
    for (flags, state) in [
        (frame::FIN_ACK, FlowState::CLOSING),
        (TcpFlags::RST, FlowState::CLOSED),
    ] {
        for is_asked in [true, false] {
            let conversation = Conversation::vetted(Protocol::TCP, World::with_isolated_pod());
            let end = if is_asked {
                conversation.ask(flags)
            } else {
                conversation.answer(flags)
            };
            end.expect("a part of it");
            assert_eq!(conversation.flows().map(|flow| flow.state), [state; 2]);
            let connections = conversation.world.connections.borrow();
            assert!(connections.values().all(|entry| entry.state == state));
        }
    }
}

#[test]
fn a_vetting_lasts_until_the_flow_has_news() {
    for conversation in [
        Conversation::vetted(Protocol::UDP, World::with_isolated_pod()),
        Conversation::vetted(Protocol::TCP, World::with_isolated_pod()),
    ] {
        // Somebody else than the agent, who would begin an epoch.
        for entry in conversation.world.connections.borrow_mut().values_mut() {
            entry.flags = entry.flags.with(ConnectionFlags::DENIED);
        }
        conversation.world.wait(REFRESH - 1);
        conversation.ask(frame::ACK).expect("it was vetted");
        conversation.answer(frame::ACK).expect("it was vetted");
        conversation.world.wait(1);
        // Whoever speaks first tells the other direction.
        conversation.assert_refused(DropReason::EgressPolicy);
    }
}

#[test]
fn conversations_that_are_vetted_are_kept_alive() {
    for conversation in all() {
        for _ in 0..400 {
            conversation.world.wait(SECOND * 9 / 10);
            conversation.ask(frame::ACK).expect("it lives");
        }
        let now = conversation.flows().map(|flow| flow.last_seen);
        for entry in conversation.world.connections.borrow().values() {
            assert!(now.iter().all(|flow| entry.last_seen >= *flow));
        }
        conversation.answer(frame::ACK).expect("an answer");
        assert_eq!(conversation.world.flows.borrow().len(), 2);
    }
}

#[test]
fn what_the_node_sends_is_neither_vetted_nor_passes_for_it() {
    let conversation = Conversation::of(Protocol::UDP, World::with_isolated_pod());
    conversation.ask(frame::ACK).expect("a rule allows it");
    let answer = packet(&conversation.answered, frame::ACK);
    for _ in 0..2 {
        conversation
            .world
            .receive_from_node(POD, &answer)
            .expect("an answer");
    }
    assert!(!conversation.is_vetted()[1]);
}

#[test]
fn a_first_fragment_of_a_vetted_flow_is_remembered() {
    for world in [World::with_pods(), World::with_isolated_pod()] {
        let conversation = Conversation::vetted(Protocol::UDP, world);
        let mut first = packet(&conversation.asked, frame::ACK);
        // "More fragments".
        first[14 + 6] |= 0x20;
        conversation.world.send(POD, &first).expect("it passes");
        let fragments = conversation.world.fragments.borrow();
        let to: Vec<Addr> = fragments.values().map(|fragment| fragment.dst).collect();
        assert_eq!(to, [addr(V4.friend)]);
    }
}

#[test]
fn a_flow_that_begins_anew_is_not_vetted() {
    let conversation = Conversation::vetted(Protocol::TCP, World::with_isolated_pod());
    conversation.ask(TcpFlags::RST).expect("a part of it");
    conversation.ask(frame::SYN).expect("a rule allows it");
    assert_eq!(conversation.is_vetted(), [false; 2]);
}

#[test]
fn a_hairpin_is_asked_each_time_where_there_are_policies() {
    let world = World::with_isolated_pod();
    let conversation = Conversation::of(Protocol::UDP, world);
    let own = backend(V4.pod, 53);
    conversation.world.set_backends(SERVICE, &[own]);
    for _ in 0..3 {
        conversation.ask(frame::ACK).expect("it talks to itself");
    }
    let flow = conversation.world.flow(&conversation.asked);
    let vetting = Vetting::new(POD, conversation.world.policy.get().epoch);
    assert!(flow.is_some_and(|flow| !flow.is_vetted(vetting)));
}

#[test]
fn a_vetting_is_of_one_interface_and_one_epoch() {
    let mut flow = Flow {
        to: tuple(Protocol::UDP, (V6.pod, 1), (V6.friend, 2)),
        last_seen: 0,
        service: 0,
        revision: 0,
        state: FlowState::OPENING,
        role: FlowRole::FORWARD,
        flags: FlowFlags::NONE,
        vetted_late: 0,
        vetted: 0,
    };
    let all = [1, 2, 255, 256, (1 << 24) - 1]
        .map(|interface| [0, 1, 255, 256, u16::MAX].map(|epoch| Vetting::new(interface, epoch)));
    let all = all.as_flattened();
    assert!(!all.iter().any(|vetting| flow.is_vetted(*vetting)));
    for vetting in all {
        assert!(vetting.is_some());
        flow.set_vetted(*vetting);
        let same = all.iter().filter(|other| flow.is_vetted(**other));
        assert_eq!(same.collect::<Vec<_>>(), [vetting]);
    }
    // There is no room to note such an interface.
    assert_eq!(Vetting::new(1 << 24, 3), Vetting::NONE);
    assert!(!Vetting::NONE.is_some());
}
