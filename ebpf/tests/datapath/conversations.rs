//! Random conversations of pods with services whose backends come and go, judged by a model that
//! knows only what was sent and what was promised:
//! - an answer reaches the client from the address that the client used;
//! - a datagram never goes to a backend that does not serve;
//! - an established connection never changes its backend;
//! - a service with backends is reached, one without refuses.

use std::collections::BTreeMap;

use crate::common::{
    addr, frame,
    world::{
        Hook::{FromPod, ToPod},
        World,
    },
};
use proptest::prelude::*;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    conntrack::SECOND,
    packet::TcpFlags,
    tables::{Backend, Nanos, Tables, Tuple},
    verdict::{RejectReason, Verdict},
};

/// Two addresses of each family for one set of pods; both speak TCP and UDP.
const SERVICES: [&str; 4] = [
    "10.32.0.140",
    "10.32.0.141",
    "fd00:10:32::8c",
    "fd00:10:32::8d",
];
/// Pods: all are backends, the first two of each family are clients, too, and reach themselves.
const PODS: [[&str; 4]; 2] = [
    ["10.200.0.2", "10.200.0.3", "10.200.128.1", "10.200.128.2"],
    [
        "fd00:10:200::2",
        "fd00:10:200::3",
        "fd00:10:200:8000::1",
        "fd00:10:200:8000::2",
    ],
];
/// Source ports: one is also the port that backends serve at.
const SOURCE_PORTS: [u16; 3] = [40_000, 40_001, 8_080];
const BACKEND_PORTS: [u16; 2] = [8_080, 8_081];
const PORT: u16 = 80;

/// A flow that is only opening counts for half a minute, and time is noted to the second.
const ANSWERED_WITHIN: Nanos = 28 * SECOND;

#[derive(Clone, Debug)]
enum Step {
    /// A client asks a service; for TCP: opens, or continues what is open.
    Ask {
        service: usize,
        client: usize,
        source_port: usize,
        is_tcp: bool,
    },
    /// The receiver of an earlier packet answers it.
    Answer(prop::sample::Index),
    /// A side ends its connection.
    Finish(prop::sample::Index, bool),
    /// A service gets these backends: a bit for each pod and port.
    SetBackends(usize, u8),
    Wait(Nanos),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize, 0..2_usize, 0..3_usize, any::<bool>()).prop_map(
            |(service, client, source_port, is_tcp)| Step::Ask { service, client, source_port, is_tcp }
        ),
        5 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(at, by)| Step::Finish(at, by)),
        2 => (0..4_usize, any::<u8>()).prop_map(|(service, set)| Step::SetBackends(service, set)),
        2 => prop_oneof![0..2 * SECOND, 0..40 * SECOND, 100 * SECOND..200 * SECOND].prop_map(Step::Wait),
    ]
}

/// A packet that reached its receiver.
#[derive(Clone, Copy, Debug)]
struct Delivery {
    /// As the client sent it.
    asked: Tuple,
    /// As the receiver saw it.
    arrived: Tuple,
    when: Nanos,
}

/// A connection as its client sees it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    backend: Backend,
    is_established: bool,
    heard: Nanos,
}

struct Model {
    world: World,
    backends: BTreeMap<(usize, Protocol), Vec<Backend>>,
    deliveries: Vec<Delivery>,
    connections: BTreeMap<Tuple, Connection>,
}

impl Model {
    fn new(seed: u64) -> Self {
        let world = World::default();
        world.seed(seed);
        for (service, text) in SERVICES.iter().enumerate() {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let number = Self::number(service, protocol);
                world.add_frontend(addr(text), PORT, protocol, number);
            }
        }
        Self {
            world,
            backends: BTreeMap::new(),
            deliveries: Vec::new(),
            connections: BTreeMap::new(),
        }
    }

    fn number(service: usize, protocol: Protocol) -> u32 {
        let service = u32::try_from(service).expect("few services");
        2 * service + 1 + u32::from(protocol == Protocol::UDP)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Ask {
                service,
                client,
                source_port,
                is_tcp,
            } => {
                let asked = Tuple {
                    src: addr(PODS[service / 2][client]),
                    dst: addr(SERVICES[service]),
                    src_port: Port::new(SOURCE_PORTS[source_port]),
                    dst_port: Port::new(PORT),
                    protocol: if is_tcp { Protocol::TCP } else { Protocol::UDP },
                    is_beside: 0,
                    reserved: [0; 2],
                };
                let flags = match self.connections.get(&asked) {
                    Some(connection) if connection.is_established => frame::ACK,
                    _ => frame::SYN,
                };
                self.ask(service, &asked, flags);
            }
            Step::Answer(at) => {
                if let Some(delivery) = self.pick(at) {
                    self.answer(&delivery, frame::SYN_ACK);
                }
            }
            Step::Finish(at, by_client) => {
                if let Some(delivery) = self.pick(at)
                    && delivery.asked.protocol == Protocol::TCP
                    && self
                        .connections
                        .get(&delivery.asked)
                        .is_some_and(|connection| connection.is_established)
                {
                    if by_client {
                        let frame = frame::tcp(&delivery.asked, frame::FIN_ACK, b"");
                        self.world.pass(FromPod, &frame);
                    } else {
                        self.answer(&delivery, frame::FIN_ACK);
                    }
                    self.end(&delivery.asked);
                }
            }
            Step::SetBackends(service, set) => self.set_backends(service, set),
            Step::Wait(time) => self.world.wait(time),
        }
    }

    /// A packet still worth an answer. Of a connection: of the one that now is.
    fn pick(&self, at: prop::sample::Index) -> Option<Delivery> {
        let recent: Vec<_> = self
            .deliveries
            .iter()
            .filter(|delivery| self.world.now() - delivery.when < ANSWERED_WITHIN)
            .collect();
        (!recent.is_empty()).then(|| **at.get(&recent))
    }

    /// After its end, nothing is promised to a connection's packets.
    fn end(&mut self, asked: &Tuple) {
        self.connections.remove(asked);
        self.deliveries.retain(|delivery| delivery.asked != *asked);
    }

    fn set_backends(&mut self, service: usize, set: u8) {
        let backends: Vec<Backend> = (0..8)
            .filter(|bit| set & (1 << bit) != 0)
            .map(|bit| {
                let pod = PODS[service / 2][bit % 4];
                Backend::new(addr(pod), Port::new(BACKEND_PORTS[bit / 4]))
            })
            .collect();
        for protocol in [Protocol::TCP, Protocol::UDP] {
            self.world
                .set_backends(Self::number(service, protocol), &backends);
            self.backends.insert((service, protocol), backends.clone());
        }
    }

    fn ask(&mut self, service: usize, asked: &Tuple, flags: TcpFlags) {
        let now = self.world.now();
        let serving = self
            .backends
            .get(&(service, asked.protocol))
            .cloned()
            .unwrap_or_default();
        let connection = self.connections.get(asked).copied();
        let established = connection.filter(|connection| connection.is_established);
        let sent = self
            .world
            .pass(FromPod, &frame::of(asked, flags, b"question"));
        if serving.is_empty() && established.is_none() {
            assert_eq!(
                sent.verdict,
                Verdict::Reject(RejectReason::NoBackend),
                "{asked}"
            );
            self.end(asked);
            return;
        }
        assert_eq!(sent.verdict, Verdict::Translate, "{asked}");
        frame::assert_checksums(&sent.frame);
        let between = frame::tuple_of(&sent.frame);
        let backend = Backend::new(between.dst, between.dst_port);
        match established {
            Some(connection) => {
                assert_eq!(backend, connection.backend, "{asked} changed its backend")
            }
            None => assert!(
                serving.contains(&backend),
                "{asked} went to {backend:?}, which does not serve"
            ),
        }
        assert_eq!(between.src, asked.src, "the source is kept on the way");

        let received = self.world.pass(ToPod, &sent.frame);
        frame::assert_checksums(&received.frame);
        let arrived = frame::tuple_of(&received.frame);
        assert_eq!(
            (arrived.dst, arrived.dst_port),
            (backend.addr, backend.port)
        );
        if between.src == between.dst {
            assert_ne!(arrived.src, arrived.dst, "a pod refuses itself as a source");
        } else {
            assert_eq!(received.verdict, Verdict::Pass);
        }
        if asked.protocol == Protocol::TCP {
            if connection.is_some_and(|connection| connection.backend != backend) {
                // The first backend of this handshake does not count any more.
                self.end(asked);
            }
            self.connections.insert(
                *asked,
                Connection {
                    backend,
                    is_established: established.is_some(),
                    heard: now,
                },
            );
        }
        self.deliveries.push(Delivery {
            asked: *asked,
            arrived,
            when: now,
        });
    }

    fn answer(&mut self, delivery: &Delivery, flags: TcpFlags) {
        let answer = frame::of(&delivery.arrived.reversed(), flags, b"the answer");
        let sent = self.world.pass(FromPod, &answer);
        assert!(matches!(sent.verdict, Verdict::Pass | Verdict::Translate));
        let received = self.world.pass(ToPod, &sent.frame);
        frame::assert_checksums(&received.frame);
        assert_eq!(
            frame::tuple_of(&received.frame),
            delivery.asked.reversed(),
            "the answer to {} that arrived as {}",
            delivery.asked,
            delivery.arrived
        );
        let now = self.world.now();
        if let Some(connection) = self.connections.get_mut(&delivery.asked) {
            connection.is_established = true;
            connection.heard = now;
        }
    }

    /// No two conversations may look alike to a receiver.
    fn assert_told_apart(&self) {
        let mut seen: BTreeMap<Tuple, Tuple> = BTreeMap::new();
        for delivery in &self.deliveries {
            if self.world.now() - delivery.when >= ANSWERED_WITHIN {
                continue;
            }
            let other = seen.insert(delivery.arrived, delivery.asked);
            assert!(
                other.is_none_or(|other| other == delivery.asked),
                "{} and {} both arrive as {}",
                other.unwrap_or(delivery.asked),
                delivery.asked,
                delivery.arrived
            );
        }
    }
}

fn play(seed: u64, node_has_v6: bool, steps: &[Step]) {
    let mut model = Model::new(seed);
    if node_has_v6 {
        let mut node = model.world.node.get();
        node.addr_v6 = addr("fd00:10:240::1");
        model.world.node.set(node);
    }
    for step in steps {
        model.step(step);
        model.assert_told_apart();
    }
    let no_addr: Addr = Addr::UNSPECIFIED;
    let flows = model.world.flows.borrow();
    for (tuple, flow) in flows.iter() {
        assert_eq!(tuple.protocol, flow.to.protocol);
        assert_eq!(tuple.src.is_v4(), flow.to.src.is_v4(), "{tuple}");
        assert!(flow.to.src != no_addr && flow.to.dst != no_addr);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_whatever_happens(
        seed: u64, node_has_v6: bool, steps in prop::collection::vec(any_step(), 1..120),
    ) {
        play(seed, node_has_v6, &steps);
    }
}
