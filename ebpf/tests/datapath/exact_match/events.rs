//! To know a packet like it changes nothing: random packets and changes, on a node that keeps what it
//! did and on one that does not.

use std::collections::BTreeMap;

use super::{
    by_itself::{node_with_long_ways, receive},
    connection, node,
};
use crate::common::{
    addr, backend,
    frame::{self, ACK, FIN_ACK, SYN, SYN_ACK},
    pods::{CLIENT, Delivered, SERVER, SERVICE, asked, deliver, direct, send},
    world::World,
};
use proptest::prelude::*;
use weir_ebpf::{
    addr::{Port, Protocol},
    conntrack::SECOND,
    datapath::{Decision, shortcut},
    packet::TcpFlags,
    tables::{
        CachedFlow, Flow, NOBODY, Nanos, Pod, PodState, PolicyFlags, Receiver, Slots, Tables as _,
        Tuple, Vetting,
    },
    verdict::Verdict,
};

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
    let flags = prop_oneof![6 => Just(ACK), 1 => Just(SYN), 1 => Just(SYN_ACK), 1 => Just(FIN_ACK),
        1 => any::<u8>().prop_map(TcpFlags)];
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
