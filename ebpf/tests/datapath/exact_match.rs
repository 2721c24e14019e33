//! What is done with packets that are like one before them: what would be done without knowing it.

use std::collections::BTreeMap;

use crate::common::{
    addr, backend,
    frame::{self, ACK, FIN_ACK, SYN, assert_checksums},
    pods::{CLIENT, Delivered, SERVER, SERVICE, asked, deliver, direct, lead, send, world},
    tuple,
    world::World,
};
use proptest::prelude::*;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    buffer::Buffer,
    conntrack::SECOND,
    datapath::{
        self, At, Decision,
        exact_match::{self, Done},
        shortcut,
    },
    packet::TcpFlags,
    tables::{
        CachedFlow, Cover, ExactMatch, Flow, NOBODY, Nanos, Node, Pod, PodState, Policy,
        PolicyFlags, Receiver, Slots, Tables as _, Tuple, Vetting,
    },
    verdict::{Hook, Verdict},
};

/// The interface that [`datapath::run`] takes a packet to have come by.
const OTHER: u32 = ExactMatch::FROM_POD - 1;

/// A connection to a service.
fn connection() -> Tuple {
    tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.32.0.140", 80))
}

const OF_CONNECTIONS: u32 = SERVICE + 1;

/// The two pods, on a node that keeps what it found.
fn node() -> World {
    let world = world();
    *world.flow_caches.borrow_mut() = vec![BTreeMap::new()];
    world.add_frontend(connection().dst, 80, Protocol::TCP, OF_CONNECTIONS);
    world.set_backends(OF_CONNECTIONS, &[backend("10.200.0.5", 8080)]);
    world
}

/// What is done with a frame because of one before it, and what becomes of it.
fn repeat(world: &World, from: u32, frame: &[u8]) -> Option<(Done, Vec<u8>)> {
    let buffer = Buffer::<2048>::new(frame).expect("a short frame");
    let mut buffer = buffer.with_known_checksum();
    let done = exact_match::repeat(&mut buffer, world, from);
    if done.is_none() {
        assert_eq!(buffer.bytes(), frame, "what is not repeated is left alone");
    }
    done.map(|done| (done, buffer.bytes().to_vec()))
}

/// The frame of a pod, once it has taken a shortcut: what was done with it is kept.
fn frame_kept(world: &World, from: u32, tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let frame = frame::of(tuple, ACK, payload);
    let _ = lead(world, from, &frame);
    assert!(repeat(world, from, &frame).is_none());
    assert!(send(world, from, &frame).took_shortcut());
    frame
}

/// A question to a service which was answered: that of the datagrams and its answer, each kept.
fn conversation(world: &World, asked: &Tuple, flags: [TcpFlags; 2]) -> [(u32, Vec<u8>); 2] {
    let there = lead(world, CLIENT, &frame::of(asked, flags[0], b"question"));
    let answer = frame::headers(&there).tuple.reversed();
    let _ = lead(world, SERVER, &frame::of(&answer, flags[1], b"the answer"));
    let frames = [
        (CLIENT, frame::of(asked, ACK, b"question")),
        (SERVER, frame::of(&answer, ACK, b"the answer")),
    ];
    for (from, frame) in &frames {
        // Of a connection the first packet was shorter.
        let sent = send(world, *from, frame);
        if !sent.took_shortcut() {
            assert!(deliver(world, *from, &sent).is_some());
            assert!(send(world, *from, frame).took_shortcut());
        }
        assert!(repeat(world, *from, frame).is_some());
    }
    frames
}

#[test]
fn what_is_repeated_is_what_was_done_before() {
    for tuple in &direct()[..2] {
        let world = node();
        let frame = frame_kept(&world, CLIENT, tuple, b"payload");
        let before = send(&world, CLIENT, &frame);
        let (done, after) = repeat(&world, CLIENT, &frame).expect("it was kept");
        assert_eq!(done.receiver, SERVER);
        assert!(done.here == Decision::PASS && done.there == Decision::PASS);
        assert_eq!(after, before.frame);
        assert_checksums(&after);
    }
}

#[test]
fn what_is_translated_is_translated_again_and_counted_where_it_was() {
    for (asked, flags) in [(asked(), [ACK; 2]), (connection(), [SYN, ACK])] {
        let world = node();
        let [question, answer] = conversation(&world, &asked, flags);
        let (done, after) = repeat(&world, question.0, &question.1).expect("it was kept");
        assert_eq!(done.receiver, SERVER);
        assert!(done.here == Decision::TRANSLATE && done.there == Decision::PASS);
        assert_eq!(frame::headers(&after).tuple.dst, addr("10.200.0.5"));
        assert_checksums(&after);

        let (done, after) = repeat(&world, answer.0, &answer.1).expect("it was kept");
        assert_eq!(done.receiver, CLIENT);
        assert!(done.here == Decision::PASS && done.there == Decision::TRANSLATE);
        assert_eq!(frame::headers(&after).tuple, asked.reversed());
        assert_checksums(&after);
    }
}

#[test]
fn a_datagram_without_checksum_gets_none() {
    let world = node();
    let [(from, mut frame), _] = conversation(&world, &asked(), [ACK; 2]);
    frame[40..42].fill(0);
    let (_, after) = repeat(&world, from, &frame).expect("it is like the one before");
    assert_eq!(after[40..42], [0; 2]);
}

#[test]
fn nothing_is_repeated_of_which_the_checksum_is_not_known() {
    let world = node();
    let [(from, frame), _] = conversation(&world, &asked(), [ACK; 2]);
    let mut buffer = Buffer::<2048>::new(&frame).expect("a short frame");
    assert!(exact_match::repeat(&mut buffer, &world, from).is_none());
    assert_eq!(buffer.bytes(), frame);
}

#[test]
fn it_counts_for_a_tenth_of_a_second() {
    let world = node();
    let frame = frame_kept(&world, CLIENT, &direct()[1], b"x");
    world.wait(CachedFlow::LIFETIME - 1);
    assert!(repeat(&world, CLIENT, &frame).is_some());
    world.wait(1);
    assert!(repeat(&world, CLIENT, &frame).is_none());
}

#[test]
fn it_counts_no_longer_than_its_shortcut() {
    let world = node();
    let frame = frame_kept(&world, CLIENT, &direct()[1], b"x");
    let rest = CachedFlow::LIFETIME / 2;
    world.wait(SECOND - rest);
    // All else that is known of it is new.
    assert!(send(&world, CLIENT, &frame).took_shortcut());
    world.wait(rest - 1);
    assert!(repeat(&world, CLIENT, &frame).is_some());
    world.wait(1);
    assert!(repeat(&world, CLIENT, &frame).is_none());
}

#[test]
fn it_counts_no_longer_than_nothing_is_to_be_noted_of_its_flow() {
    let world = node();
    let [(from, frame), _] = conversation(&world, &asked(), [ACK; 2]);
    let rest = CachedFlow::LIFETIME / 2;
    world.wait(SECOND / 2);
    // The shortcut lasts longer.
    let _ = lead(&world, CLIENT, &frame::of(&direct()[0], ACK, &[0; 100]));
    world.wait(SECOND / 2 - rest);
    assert!(send(&world, from, &frame).took_shortcut());
    world.wait(rest - 1);
    assert!(repeat(&world, from, &frame).is_some());
    world.wait(1);
    assert!(repeat(&world, from, &frame).is_none());
}

#[test]
fn what_changes_of_pods_flows_and_services_ends_it() {
    let changes: [&dyn Fn(&World); 4] = [
        &|world| world.policy.set(world.policy.get().in_next_epoch()),
        &|world| {
            world.policy.set(Policy {
                flags: PolicyFlags::NONE,
                ..world.policy.get()
            });
        },
        &|world| world.remove_flow(&asked()),
        &|world| world.set_backends(SERVICE, &[backend("10.200.0.6", 53)]),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let world = node();
        let [(from, frame), _] = conversation(&world, &asked(), [ACK; 2]);
        change(&world);
        assert!(repeat(&world, from, &frame).is_none(), "change {number}");
    }
}

/// Two stacks share its state: it goes on with its backend.
#[test]
fn a_change_of_its_service_is_nothing_to_an_established_connection() {
    let world = node();
    let [(from, frame), _] = conversation(&world, &connection(), [SYN, ACK]);
    world.set_backends(OF_CONNECTIONS, &[backend("10.200.0.6", 8080)]);
    let (_, after) = repeat(&world, from, &frame).expect("it goes on");
    assert_eq!(frame::headers(&after).tuple.dst, addr("10.200.0.5"));
}

#[test]
fn what_differs_in_anything_that_was_asked_is_not_repeated() {
    for tuple in &direct()[..2] {
        let world = node();
        let frame = frame_kept(&world, CLIENT, tuple, b"payload");
        let differs = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let mut other = frame.clone();
            change(&mut other);
            assert_ne!(other, frame);
            assert!(repeat(&world, CLIENT, &other).is_none(), "{tuple}: {name}");
        };
        differs("another protocol by the link layer", &|frame| frame[13] = 6);
        differs("another version", &|frame| frame[14] = 0x65);
        differs("options", &|frame| frame[14] = 0x46);
        differs("another type of service", &|frame| frame[15] = 0xb8);
        differs("longer than it is", &|frame| frame[17] += 1);
        differs("shorter than its headers", &|frame| frame[17] = 27);
        differs("a fragment", &|frame| frame[20] |= 0x20);
        differs("a later fragment", &|frame| frame[21] |= 1);
        differs("the last hop", &|frame| frame[22] = 1);
        differs("no hop", &|frame| frame[22] = 0);
        differs("a protocol without ports", &|frame| frame[23] = 1);
        differs("another source", &|frame| frame[29] ^= 1);
        differs("another destination", &|frame| frame[33] ^= 1);
        differs("another source port", &|frame| frame[35] ^= 1);
        differs("another destination port", &|frame| frame[37] ^= 1);
        differs("longer", &|frame| frame.push(0));
        differs("cut", &|frame| frame.truncate(40));
        let v6 = frame::of(&direct()[2], ACK, b"x");
        assert!(repeat(&world, CLIENT, &v6).is_none());
        assert!(repeat(&world, SERVER, &frame).is_none());
        assert!(repeat(&world, CLIENT, &frame).is_some());
    }
    let [tcp, ..] = direct();
    let world = node();
    let frame = frame_kept(&world, CLIENT, &tcp, b"payload");
    for flags in [SYN, FIN_ACK, TcpFlags::RST] {
        let mut other = frame.clone();
        other[47] = flags.0;
        assert!(repeat(&world, CLIENT, &other).is_none(), "{flags:?}");
    }
    let mut short = frame.clone();
    short[46] = 0x40;
    assert!(repeat(&world, CLIENT, &short).is_none());
    let mut long = frame;
    long[46] = 0xf0;
    assert!(repeat(&world, CLIENT, &long).is_none());
}

/// The two pods, on a node that hands nothing over.
fn node_with_long_ways() -> World {
    let world = node();
    world.node.set(Node {
        cover_v4: Cover {
            prefix: addr("10.32.0.0"),
            mask: Addr([
                u32::MAX,
                u32::MAX,
                u32::MAX,
                u32::from_ne_bytes([255, 255, 255, 0]),
            ]),
        },
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
    let done = exact_match::repeat_received(&mut buffer, world, interface, OTHER);
    assert_eq!(buffer.bytes(), frame);
    done
}

/// A packet that comes by another interface to a pod.
fn receive(world: &World, to: u32, frame: &[u8]) -> Delivered {
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
fn who_sends_it_is_part_of_what_is_known() {
    let world = node_with_long_ways();
    let frame = frame::of(&direct()[0], ACK, b"payload");
    let received = |came_by| {
        let mut buffer = Buffer::<2048>::new(&frame).expect("a short frame");
        exact_match::repeat_received(&mut buffer, &world, SERVER, came_by)
    };
    let _ = receive(&world, SERVER, &frame);
    assert!(received(OTHER).is_some());
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
        assert_eq!(send(&world, CLIENT, &frame).verdict, Verdict::Pass);
        assert!(repeat(&world, CLIENT, &frame).is_none(), "{what}");
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

/// What happens on a node.
#[derive(Clone, Debug)]
enum Event {
    Send(Sending),
    Wait(Nanos),
    Policies,
    Backends(u8),
    MoreBackends,
    Remove(usize),
    /// The server's address becomes a service's, too, or is none any more.
    Frontend(usize, bool),
    /// Policies isolate one of the pods, or none.
    Isolate(Option<u32>),
}

#[derive(Clone, Debug)]
struct Sending {
    from_client: bool,
    tuple: usize,
    port: u16,
    flags: TcpFlags,
    payload: usize,
    /// Another byte somewhere in the frame.
    noise: Option<(usize, u8)>,
}

/// What the pods send, and what answers it.
fn tuples() -> Vec<Tuple> {
    let sent = [asked(), connection(), direct()[0], direct()[1], direct()[2]];
    let answers = sent.map(|tuple| match tuple.dst {
        dst if dst == asked().dst => Tuple {
            dst: addr("10.200.0.5"),
            dst_port: if tuple.protocol == Protocol::TCP {
                Port::new(8080)
            } else {
                tuple.dst_port
            },
            ..tuple
        }
        .reversed(),
        _ => tuple.reversed(),
    });
    sent.into_iter().chain(answers).collect()
}

fn any_sending() -> impl Strategy<Value = Sending> {
    let flags = prop_oneof![6 => Just(ACK), 1 => Just(SYN), 1 => Just(FIN_ACK)];
    let noise = prop_oneof![6 => Just(None), 1 => (12..60_usize, any::<u8>()).prop_map(Some)];
    let payload = prop_oneof![4 => Just(8_usize), 1 => 0..20_usize];
    let port = prop_oneof![6 => Just(40_000_u16), 1 => 40_000..40_003_u16];
    (any::<bool>(), 0..5_usize, port, flags, payload, noise).prop_map(
        |(from_client, tuple, port, flags, payload, noise)| Sending {
            from_client,
            tuple,
            port,
            flags,
            payload,
            noise,
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        30 => any_sending().prop_map(Event::Send),
        2 => (0..2 * CachedFlow::LIFETIME).prop_map(Event::Wait),
        1 => (0..3 * SECOND).prop_map(Event::Wait),
        1 => Just(Event::Policies),
        1 => (5..7_u8).prop_map(Event::Backends),
        1 => Just(Event::MoreBackends),
        1 => (0..10_usize).prop_map(Event::Remove),
        1 => (2..4_usize, any::<bool>()).prop_map(|(of, is_one)| Event::Frontend(of, is_one)),
        1 => prop_oneof![Just(None), Just(Some(CLIENT)), Just(Some(SERVER))]
            .prop_map(Event::Isolate),
    ]
}

/// What becomes of a packet that a pod sends, here and where it arrives: whichever way it goes.
fn fate(world: &World, from: u32, frame: &[u8]) -> (Verdict, Option<Delivered>) {
    let sent = send(world, from, frame);
    if !world.policy.get().flags.contains(PolicyFlags::HAND_OVER) {
        let to = if from == CLIENT { SERVER } else { CLIENT };
        let goes_on = matches!(sent.verdict, Verdict::Pass | Verdict::Translate);
        let received = goes_on.then(|| receive(world, to, &sent.frame));
        return (sent.verdict, received);
    }
    if !sent.took_shortcut() {
        return (sent.verdict, deliver(world, from, &sent));
    }
    let here = match sent.verdict {
        Verdict::Pass => Decision::PASS,
        _ => Decision::TRANSLATE,
    };
    let delivered = Delivered {
        receiver: sent.work.receiver,
        verdict: shortcut::decision_there(&sent.work, here).verdict(),
        frame: sent.frame,
    };
    (sent.verdict, Some(delivered))
}

fn happen(world: &World, event: &Event) -> Option<(Verdict, Option<Delivered>)> {
    match event {
        Event::Send(sending) => {
            let place = sending.tuple + if sending.from_client { 0 } else { 5 };
            let mut tuple = tuples()[place];
            let port = Port::new(sending.port);
            if sending.from_client {
                tuple.src_port = port;
            } else {
                tuple.dst_port = port;
            }
            let mut frame = frame::of(&tuple, sending.flags, &vec![7; sending.payload]);
            if let Some((place, byte)) = sending.noise
                && let Some(there) = frame.get_mut(place)
            {
                *there = byte;
            }
            let from = if sending.from_client { CLIENT } else { SERVER };
            return Some(fate(world, from, &frame));
        }
        Event::Wait(time) => world.wait(*time),
        Event::Policies => world.policy.set(world.policy.get().in_next_epoch()),
        Event::Backends(last) => {
            let text = format!("10.200.0.{last}");
            world.set_backends(SERVICE, &[backend(&text, 53)]);
        }
        Event::MoreBackends => {
            let backends = [backend("10.200.0.5", 53), backend("10.200.0.6", 53)];
            world.set_backends(SERVICE, &backends);
        }
        Event::Remove(tuple) => world.remove_flow(&tuples()[*tuple]),
        Event::Frontend(of, is_one) => {
            let Tuple {
                dst,
                dst_port,
                protocol,
                ..
            } = tuples()[*of];
            let mut receivers = world.receivers.borrow_mut();
            if *is_one {
                world.add_frontend(dst, dst_port.number(), protocol, SERVICE);
                // Nothing is handed over to what is a service's.
                receivers.remove(&dst);
            } else {
                for tuple in &direct()[..2] {
                    world.remove_frontend(dst, tuple.dst_port.number(), tuple.protocol);
                }
                receivers.insert(dst, Receiver { interface: SERVER });
            }
        }
        Event::Isolate(isolated) => {
            let mut pods = world.pods.borrow_mut();
            for (interface, addr_v4) in [(CLIENT, "10.200.0.2"), (SERVER, "10.200.0.5")] {
                let is_isolated = *isolated == Some(interface);
                let pod = Pod {
                    ingress: Slots::both(if is_isolated { NOBODY } else { 0 }),
                    netns: -1,
                    state: PodState::PROGRAMMED,
                    addr_v4: addr(addr_v4),
                    ..Pod::default()
                };
                pods.insert(interface, pod);
            }
        }
    }
    None
}

/// What is known of flows, but for what need not be asked of their next packets.
fn flows(world: &World) -> BTreeMap<Tuple, Flow> {
    let mut flows = world.flows.borrow().clone();
    for flow in flows.values_mut() {
        flow.set_vetted(Vetting::NONE);
    }
    flows
}

proptest! {
    #[test]
    fn to_know_a_packet_like_it_changes_nothing(
        events in proptest::collection::vec(any_event(), 1..60),
        hands_over in any::<bool>(),
    ) {
        let node = if hands_over { node } else { node_with_long_ways };
        let (knowing, forgetful) = (node(), node());
        for event in &events {
            forgetful.exact_matches.borrow_mut().clear();
            prop_assert_eq!(happen(&knowing, event), happen(&forgetful, event), "{:?}", event);
        }
        prop_assert_eq!(flows(&knowing), flows(&forgetful));
    }
}
