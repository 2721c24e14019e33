//! What a processor keeps of flows that it has looked up: always what `FLOWS` says.

use std::collections::BTreeMap;

use crate::common::{
    addr, backend,
    frame::{self, ACK, FIN_ACK, SYN, SYN_ACK},
    tuple,
    world::{Hook, World},
};
use bytemuck::Zeroable as _;
use proptest::prelude::*;
use weir_ebpf::{
    addr::{Port, Protocol},
    packet::TcpFlags,
    tables::{CachedFlow, Flow, Place, Tables as _, Tuple},
    verdict::Verdict,
};

const SERVICE: u32 = 3;

fn asked() -> Tuple {
    tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.32.0.140", 80))
}

/// A node with two processors.
fn world() -> World {
    let world = World::default();
    *world.flow_caches.borrow_mut() = vec![BTreeMap::new(); 2];
    let asked = asked();
    world.add_frontend(asked.dst, 80, Protocol::TCP, SERVICE);
    world.set_backends(SERVICE, &[backend("10.200.0.5", 80)]);
    world
}

/// The flow that a processor knows of a tuple.
fn known(world: &World, processor: usize, tuple: &Tuple) -> Option<Flow> {
    world.processor.set(processor);
    let mut flow = Flow::zeroed();
    let is_present = world.find_flow(tuple, Place::of(tuple), world.now(), &mut flow);
    is_present.then_some(flow)
}

/// Where a pod's segment goes that one of the processors sees.
fn send(world: &World, processor: usize, flags: TcpFlags) -> Tuple {
    world.processor.set(processor);
    let sent = world.pass(Hook::FromPod, &frame::of(&asked(), flags, b""));
    assert_eq!(sent.verdict, Verdict::Translate, "{flags:?}");
    frame::headers(&sent.frame).tuple
}

fn answer(world: &World, to: &Tuple, flags: TcpFlags) {
    let answer = world.pass(Hook::ToPod, &frame::of(&to.reversed(), flags, b""));
    assert_eq!(answer.verdict, Verdict::Translate);
    assert_eq!(frame::headers(&answer.frame).tuple, asked().reversed());
}

#[test]
fn a_flow_is_looked_up_again_after_a_while_and_not_before() {
    let (world, tuple) = (world(), asked());
    world.put_flow(&tuple, &Flow::zeroed());
    assert_eq!(known(&world, 0, &tuple), Some(Flow::zeroed()));
    // As the kernel does where the table is full: nobody counts it.
    world.evict(&tuple).expect("an entry");
    world.wait(CachedFlow::LIFETIME - 1);
    assert_eq!(known(&world, 0, &tuple), Some(Flow::zeroed()));
    world.wait(1);
    assert_eq!(known(&world, 0, &tuple), None);
}

#[test]
fn a_connection_that_begins_anew_is_led_by_every_processor_where_it_goes_now() {
    let world = world();
    for (server, ending) in [("10.200.0.6", FIN_ACK), ("10.200.0.7", TcpFlags::RST)] {
        let first = send(&world, 0, SYN);
        answer(&world, &first, SYN_ACK);
        for processor in [0, 1] {
            assert_eq!(send(&world, processor, ACK), first);
        }
        send(&world, 0, ending);
        world.set_backends(SERVICE, &[backend(server, 80)]);
        let second = send(&world, 0, SYN);
        assert_eq!(second.dst, addr(server));
        answer(&world, &second, SYN_ACK);
        for processor in [1, 0] {
            assert_eq!(send(&world, processor, ACK), second);
        }
        send(&world, 1, ending);
    }
}

#[test]
fn places_are_spread_over_their_ranges() {
    let mut changes = BTreeMap::new();
    let mut slots = BTreeMap::new();
    for port in 0..u16::try_from(8 * Place::SLOTS).expect("a few thousand") {
        let place = Place::of(&Tuple {
            src_port: Port::new(32_768 + port),
            ..asked()
        });
        assert!(place.changes() < Place::CHANGES && place.slot() < Place::SLOTS);
        *changes.entry(place.changes()).or_insert(0) += 1;
        *slots.entry(place.slot()).or_insert(0) += 1;
    }
    // Eight for each slot in the mean.
    let most = slots.values().max().copied();
    assert!(most < Some(32), "{most:?}");
    assert!(slots.len() > Place::SLOTS as usize * 9 / 10);
    assert!(changes.len() > Place::CHANGES as usize / 2);
}

#[test]
fn a_place_depends_on_every_part_of_a_tuple() {
    let tuple = asked();
    let others = [
        tuple.reversed(),
        Tuple {
            src: addr("10.200.0.3"),
            ..tuple
        },
        Tuple {
            dst: addr("10.32.0.141"),
            ..tuple
        },
        Tuple {
            src_port: Port::new(40_001),
            ..tuple
        },
        Tuple {
            dst_port: Port::new(81),
            ..tuple
        },
        Tuple {
            protocol: Protocol::UDP,
            ..tuple
        },
    ];
    for other in others {
        assert_ne!(Place::of(&other), Place::of(&tuple), "{other}");
        assert!(!other.is(&tuple), "{other}");
    }
    assert!(tuple.is(&asked()));
}

/// What happens on a processor.
#[derive(Clone, Copy, Debug)]
enum Event {
    Look(usize),
    Put(usize, u32),
    Add(usize, u32),
    Change(usize, u32),
    Remove(usize),
}

/// Tuples of which some share a slot.
fn tuples() -> Vec<Tuple> {
    let with_port = |port| Tuple {
        src_port: Port::new(port),
        ..asked()
    };
    let first = with_port(1);
    let slot = Place::of(&first).slot();
    let rivals = (2..).map(with_port);
    let mut tuples: Vec<_> = rivals
        .filter(|rival| Place::of(rival).slot() == slot)
        .take(2)
        .collect();
    tuples.extend([first, first.reversed()]);
    tuples
}

fn any_event() -> impl Strategy<Value = Event> {
    let tuple = 0..4_usize;
    prop_oneof![
        4 => tuple.clone().prop_map(Event::Look),
        1 => (tuple.clone(), any::<u32>()).prop_map(|(tuple, value)| Event::Put(tuple, value)),
        1 => (tuple.clone(), any::<u32>()).prop_map(|(tuple, value)| Event::Add(tuple, value)),
        1 => (tuple.clone(), any::<u32>()).prop_map(|(tuple, value)| Event::Change(tuple, value)),
        1 => tuple.prop_map(Event::Remove),
    ]
}

proptest! {
    #[test]
    fn what_a_processor_knows_is_what_the_table_says(
        events in prop::collection::vec((0..2_usize, any_event()), 0..60)
    ) {
        let (world, tuples) = (world(), tuples());
        let flow = |service| Flow { service, ..Flow::zeroed() };
        for (processor, event) in events {
            world.processor.set(processor);
            match event {
                Event::Look(tuple) => {
                    let tuple = &tuples[tuple];
                    prop_assert_eq!(known(&world, processor, tuple), world.flow(tuple));
                }
                Event::Put(tuple, value) => world.put_flow(&tuples[tuple], &flow(value)),
                Event::Add(tuple, value) => {
                    let _ = world.add_flow(&tuples[tuple], &flow(value));
                }
                Event::Change(tuple, value) => {
                    let _ = world.update_flow(&tuples[tuple], |flow| flow.revision = value);
                }
                Event::Remove(tuple) => world.remove_flow(&tuples[tuple]),
            }
        }
    }
}
