//! What the node's routes said counts for what follows, and for how long.

use std::cell::Cell;

use crate::common::{addr, frame, tuple, world::World};
use bytemuck::Zeroable as _;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    buffer::Buffer,
    datapath::{hand_over::Entry, routes},
    packet::TcpFlags,
    tables::{Place, Route, Tuple},
};

const HERE: u32 = 10;
const UPLINK: u32 = 2;

fn answered() -> Tuple {
    tuple(Protocol::TCP, ("10.200.0.2", 80), ("192.0.2.7", 40_000))
}

/// A kernel that is asked where packets go.
struct FakeRoutes {
    world: World,
    to: Cell<u32>,
    asked: Cell<u32>,
}

impl FakeRoutes {
    fn new(to: u32) -> Self {
        Self {
            world: World::default(),
            to: Cell::new(to),
            asked: Cell::default(),
        }
    }

    /// Where a packet is led, and by whom.
    fn lead(&self, frame: &[u8], from: u32, entry: Entry) -> (u32, Addr) {
        let buffer = Buffer::<4096>::new(frame).expect("a short frame");
        let headers = frame::headers(frame);
        let ask = |route: &mut Route| {
            assert_eq!((route.tuple, route.from), (headers.tuple, from));
            assert_eq!(route.is_asked_back == 1, entry == Entry::FromNetwork);
            self.asked.set(self.asked.get() + 1);
            route.to = self.to.get();
            route.next_hop = addr("192.0.2.1");
        };
        let read = |route: &Route| (route.to, route.next_hop);
        routes::lead(&buffer, &self.world, &headers, (from, entry), ask, read)
            .expect("a processor has slots")
    }

    /// The same of a pod's packet with so many bytes of payload.
    fn send(&self, tuple: &Tuple, payload: usize) -> u32 {
        let frame = frame::of(tuple, TcpFlags::ACK, &vec![0; payload]);
        let (to, next_hop) = self.lead(&frame, HERE, Entry::FromPod);
        assert_eq!(next_hop, addr("192.0.2.1"));
        to
    }
}

#[test]
fn an_answer_counts_for_its_lifetime() {
    let routes = FakeRoutes::new(UPLINK);
    assert_eq!(routes.send(&answered(), 1), UPLINK);
    routes.to.set(UPLINK + 1);
    routes.world.wait(Route::LIFETIME - 1);
    assert_eq!(routes.send(&answered(), 1), UPLINK);
    assert_eq!(routes.asked.get(), 1);
    routes.world.wait(1);
    assert_eq!(routes.send(&answered(), 1), UPLINK + 1);
    assert_eq!(routes.asked.get(), 2);
}

#[test]
fn that_there_is_no_way_counts_for_less() {
    let routes = FakeRoutes::new(0);
    assert_eq!(routes.send(&answered(), 1), 0);
    routes.to.set(UPLINK);
    routes.world.wait(Route::NO_WAY - 1);
    assert_eq!(routes.send(&answered(), 1), 0);
    routes.world.wait(1);
    assert_eq!(routes.send(&answered(), 1), UPLINK);
}

#[test]
fn a_longer_packet_is_asked_about() {
    let routes = FakeRoutes::new(UPLINK);
    routes.send(&answered(), 100);
    routes.send(&answered(), 100);
    routes.send(&answered(), 20);
    assert_eq!(routes.asked.get(), 1);
    // It does not fit.
    routes.to.set(0);
    assert_eq!(routes.send(&answered(), 101), 0);
    assert_eq!(routes.asked.get(), 2);
}

#[test]
fn whatever_routes_may_go_by_is_asked_about() {
    let routes = FakeRoutes::new(UPLINK);
    let first = answered();
    routes.send(&first, 1);
    routes.send(&first, 1);
    assert_eq!(routes.asked.get(), 1);

    let mut expected = 1;
    let mut is_asked = |frame: &[u8], from, entry| {
        routes.lead(frame, from, entry);
        expected += 1;
        assert_eq!(routes.asked.get(), expected);
    };
    let frame = frame::of(&first, TcpFlags::ACK, b"x");
    is_asked(&frame, HERE, Entry::FromNetwork);
    is_asked(&frame, HERE, Entry::FromPod);
    is_asked(&frame, HERE + 1, Entry::FromPod);
    let mut with_class = frame.clone();
    with_class[frame::headers(&frame).network as usize + 1] = 0x10;
    is_asked(&with_class, HERE + 1, Entry::FromPod);
    for (protocol, src, dst) in [
        (Protocol::TCP, ("10.200.0.3", 80), ("192.0.2.7", 40_000)),
        (Protocol::TCP, ("10.200.0.2", 80), ("192.0.2.8", 40_000)),
        (Protocol::TCP, ("10.200.0.2", 81), ("192.0.2.7", 40_000)),
        (Protocol::TCP, ("10.200.0.2", 80), ("192.0.2.7", 40_001)),
        (Protocol::UDP, ("10.200.0.2", 80), ("192.0.2.7", 40_000)),
        (
            Protocol::TCP,
            ("fd00:10:200::2", 80),
            ("2001:db8::7", 40_000),
        ),
    ] {
        let other = tuple(protocol, src, dst);
        is_asked(
            &frame::of(&other, TcpFlags::ACK, b"x"),
            HERE,
            Entry::FromPod,
        );
    }
}

#[test]
fn tuples_that_share_a_slot_are_told_apart() {
    let routes = FakeRoutes::new(UPLINK);
    let first = answered();
    let slot = Place::of(&first).slot();
    let mut rivals = (1..).map(|port| Tuple {
        dst_port: Port::new(port),
        ..first
    });
    let rival = rivals
        .find(|rival| *rival != first && Place::of(rival).slot() == slot)
        .expect("there are more ports than slots");
    assert_eq!(routes.send(&first, 1), UPLINK);
    routes.to.set(UPLINK + 1);
    assert_eq!(routes.send(&rival, 1), UPLINK + 1);
    routes.to.set(UPLINK + 2);
    assert_eq!(routes.send(&first, 1), UPLINK + 2);
}

#[test]
fn a_slot_that_nobody_has_written_says_nothing() {
    // As the kernel makes it, all zero, with a clock that begins there.
    let route = Route::zeroed();
    assert!(route.counts(0, 0), "a slot would count by its time alone");
    let routes = FakeRoutes::new(UPLINK);
    assert_eq!(routes.send(&answered(), 1), UPLINK);
    assert_eq!(routes.asked.get(), 1);
}
