//! Two pods of a node that hands packets over from one to the other, and a service of the second one.

use super::{addr, frame, tuple, world::World};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    datapath::{
        self, At, Workspace,
        hand_over::{self, Entry, Onward, Told},
        shortcut::{self, Entrance},
    },
    tables::{Backend, Policy, PolicyFlags, Tuple},
    verdict::{Hook, Verdict},
};

pub const CLIENT: u32 = 10;
pub const SERVER: u32 = 11;
pub const SERVICE: u32 = 3;

/// A client's packets to a server of the other pod, by its own address.
pub fn direct() -> [Tuple; 3] {
    [
        tuple(Protocol::TCP, ("10.200.0.2", 40_000), ("10.200.0.5", 80)),
        tuple(Protocol::UDP, ("10.200.0.2", 40_000), ("10.200.0.5", 53)),
        tuple(
            Protocol::UDP,
            ("fd00:10:200::2", 40_000),
            ("fd00:10:200::5", 53),
        ),
    ]
}

pub fn asked() -> Tuple {
    tuple(Protocol::UDP, ("10.200.0.2", 40_000), ("10.32.0.140", 53))
}

pub fn world() -> World {
    let world = World::with_receivers([CLIENT, SERVER]);
    world.policy.set(Policy {
        flags: PolicyFlags::HAND_OVER,
        ..Policy::default()
    });
    let asked = asked();
    world.add_frontend(asked.dst, 53, Protocol::UDP, SERVICE);
    world.set_backends(SERVICE, &[Backend::new(addr("10.200.0.5"), asked.dst_port)]);
    world
}

/// What became of a packet that a pod sent.
pub struct Sent {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    pub work: Workspace,
}

impl Sent {
    pub const fn took_shortcut(&self) -> bool {
        self.work.receiver != 0
    }
}

pub fn send(world: &World, from: u32, frame: &[u8]) -> Sent {
    let buffer = Buffer::<2048>::new(frame).expect("a short frame");
    let mut buffer = buffer.with_known_checksum();
    let (verdict, work) = datapath::run(&mut buffer, world, At::new(Hook::FromPod, from));
    let frame = buffer.bytes().to_vec();
    Sent {
        verdict,
        frame,
        work,
    }
}

/// What became of a packet at its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub receiver: u32,
    pub verdict: Verdict,
    pub frame: Vec<u8>,
}

/// Hands over a packet that took no shortcut, as the next program does. `None`: it is not for a pod
/// of this node.
pub fn deliver(world: &World, from: u32, sent: &Sent) -> Option<Delivered> {
    assert!(!sent.took_shortcut());
    let decision = match sent.verdict {
        Verdict::Pass => datapath::Decision::PASS,
        Verdict::Translate => datapath::Decision::TRANSLATE,
        _ => return None,
    };
    let onward = hand_over::onward(world, &sent.work, decision, Entry::FromPod, from);
    let Onward::ToPod(receiver) = onward else {
        return None;
    };
    let told = Told::of(&sent.work, Entry::FromPod);
    assert_eq!(told.entry(), Entry::FromPod);
    let mut buffer = Buffer::<2048>::new(&sent.frame).expect("a short frame");
    let mut work = Workspace::new();
    work.headers = frame::headers(&sent.frame);
    if hand_over::is_last_hop(&buffer, &work.headers) {
        return None;
    }
    let delivered = hand_over::deliver(&mut buffer, world, receiver, &mut work);
    if let Some(epoch) = told.free_epoch()
        && !delivered.is_dropped()
    {
        let entrance = Entrance {
            interface: from,
            place: sent.work.place,
        };
        shortcut::remember(&buffer, world, &mut work, entrance, receiver, epoch);
    }
    Some(Delivered {
        receiver,
        verdict: delivered.verdict(),
        frame: buffer.bytes().to_vec(),
    })
}

/// Sends a packet that takes no shortcut and is for the other pod, and gives what arrives there.
pub fn lead(world: &World, from: u32, frame: &[u8]) -> Vec<u8> {
    let sent = send(world, from, frame);
    let delivered = deliver(world, from, &sent).expect("it is for a pod of this node");
    delivered.frame
}
