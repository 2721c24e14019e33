//! Two pods of a node, in memory, and the policies that isolate them.

use weir_ebpf::{
    addr::{Port, Protocol},
    datapath::At,
    packet::TcpFlags,
    tables::{
        ANYONE, Class, ConnectionFlags, NOBODY, Pod, PodAddr, PodState, PolicyFlags, RuleKey,
        Slots, Tuple,
    },
    verdict::{DropReason, Verdict},
};

use super::{
    addr, frame,
    world::{Hook, Outcome, World},
};

/// The pod under test.
pub const POD: u32 = 10;
/// Another of the same node.
pub const OTHER: u32 = 11;
/// The subject set of what [`POD`] sends.
pub const EGRESS: u32 = 20;
/// The subject set of what it receives.
pub const INGRESS: u32 = 21;
/// The class of the peers that rules speak of.
pub const FRIENDS: u32 = 30;

/// An address in each family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Of [`POD`].
    pub pod: &'static str,
    /// Of [`OTHER`].
    pub other: &'static str,
    /// Somebody in [`FRIENDS`].
    pub friend: &'static str,
    /// Somebody of whom no rule speaks.
    pub stranger: &'static str,
    /// The node.
    pub node: &'static str,
    /// A service.
    pub service: &'static str,
    /// ICMP.
    pub icmp: Protocol,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [V4, V6];
/// IPv4.
pub const V4: Family = Family {
    pod: "10.200.0.2",
    other: "10.200.0.3",
    friend: "10.200.128.1",
    stranger: "203.0.113.9",
    node: "10.240.0.1",
    service: "10.32.0.140",
    icmp: Protocol::ICMP,
};
/// IPv6.
pub const V6: Family = Family {
    pod: "fd00:10:200::2",
    other: "fd00:10:200::3",
    friend: "fd00:10:200:8000::1",
    stranger: "2001:db8::9",
    node: "fd00:10:240::1",
    service: "fd00:10:32::8c",
    icmp: Protocol::ICMPV6,
};

/// `Ok`, but for the reason of a packet that is dropped.
pub type Passed = Result<Outcome, DropReason>;

impl World {
    /// [`POD`] and [`OTHER`], isolated in no direction, and their friends.
    pub fn with_pods() -> Self {
        let world = Self::default();
        world.set_pod(POD, 0, 0);
        world.set_pod(OTHER, 0, 0);
        for family in FAMILIES {
            for (interface, text) in [(POD, family.pod), (OTHER, family.other)] {
                let addr = addr(text);
                let own = PodAddr { interface, addr };
                world.pod_addrs.borrow_mut().insert(own);
            }
            let class = Class(Slots::both(FRIENDS));
            world.peers.borrow_mut().insert(addr(family.friend), class);
        }
        world
    }

    /// [`POD`] isolated in both directions.
    pub fn with_isolated_pod() -> Self {
        let world = Self::with_pods();
        world.set_pod(POD, EGRESS, INGRESS);
        world
    }

    /// Says which subject sets a pod has.
    pub fn set_pod(&self, interface: u32, egress: u32, ingress: u32) {
        let pod = Pod {
            egress: Slots::both(egress),
            ingress: Slots::both(ingress),
            netns: 3,
            state: PodState::PROGRAMMED,
            reserved: [0; 3],
            // The other one is found in `POD_ADDRS`.
            addr_v4: FAMILIES
                .into_iter()
                .map(|family| {
                    addr(if interface == POD {
                        family.pod
                    } else {
                        family.other
                    })
                })
                .find(|addr| addr.is_v4())
                .unwrap_or_default(),
            addr_v6: Default::default(),
        };
        self.pods.borrow_mut().insert(interface, pod);
    }

    /// Isolates [`POD`] as one of which no more is known.
    pub fn isolate_from_everybody(&self) {
        self.set_pod(POD, NOBODY, NOBODY);
    }

    /// Adds a rule for a port of a protocol.
    pub fn allow(&self, subject: u32, class: u32, protocol: Protocol, port: u16, rule: u32) {
        let key = RuleKey::new(subject, class, protocol, Port::new(port));
        self.rules.borrow_mut().insert(key, rule);
    }

    /// Adds a rule for everything.
    pub fn allow_everything(&self, subject: u32, class: u32, rule: u32) {
        let key = RuleKey::everything(subject, class);
        self.rules.borrow_mut().insert(key, rule);
    }

    /// Adds a rule for every peer and everything.
    pub fn allow_everybody(&self, subject: u32, rule: u32) {
        self.allow_everything(subject, ANYONE, rule);
    }

    /// Changes policies: what the rules were before is forgotten, and a revision begins.
    pub fn revise(&self, change: impl FnOnce(&Self)) {
        self.rules.borrow_mut().clear();
        change(self);
        let mut policy = self.policy.get();
        policy.revision += 1;
        self.policy.set(policy);
    }

    /// Says what holds for all pods.
    pub fn set_policy_flags(&self, flags: PolicyFlags) {
        let mut policy = self.policy.get();
        policy.flags = flags;
        self.policy.set(policy);
    }

    /// The pod at an interface sends a frame.
    pub fn send(&self, interface: u32, frame: &[u8]) -> Passed {
        passed(self.pass_at(At::new(Hook::FromPod, interface), frame))
    }

    /// It is sent a frame.
    pub fn receive(&self, interface: u32, frame: &[u8]) -> Passed {
        passed(self.pass_at(At::new(Hook::ToPod, interface), frame))
    }

    /// It is sent a frame by the node.
    pub fn receive_from_node(&self, interface: u32, frame: &[u8]) -> Passed {
        let at = At {
            is_from_node: true,
            ..At::new(Hook::ToPod, interface)
        };
        passed(self.pass_at(at, frame))
    }

    /// The flags in the only entry of `CONNECTIONS`, but for those that only save lookups.
    pub fn only_connection(&self) -> Option<ConnectionFlags> {
        let connections = self.connections.borrow();
        assert!(connections.len() < 2, "{connections:?}");
        let short_cuts = ConnectionFlags::SENT_AS_IS.with(ConnectionFlags::RECEIVED_AS_IS);
        let mut flags = connections.values().map(|entry| entry.flags);
        flags.next().map(|flags| flags.without(short_cuts))
    }
}

fn passed(outcome: Outcome) -> Passed {
    match outcome.verdict {
        Verdict::Drop(reason) => Err(reason),
        Verdict::Pass | Verdict::Translate | Verdict::PassFragment => Ok(outcome),
        Verdict::Reject(reason) => panic!("rejected: {reason:?}"),
    }
}

/// A packet with ports from one to another; TCP with these flags.
pub fn packet(tuple: &Tuple, flags: TcpFlags) -> Vec<u8> {
    frame::of(tuple, flags, b"something")
}

/// An ICMP message.
pub fn icmp(family: Family, from: &str, to: &str, message: &[u8]) -> Vec<u8> {
    let tuple = super::tuple(family.icmp, (from, 0), (to, 0));
    frame::raw(&tuple, family.icmp, message)
}

/// An echo request.
pub fn echo(family: Family, from: &str, to: &str, identifier: u16) -> Vec<u8> {
    let kind = if family.icmp == Protocol::ICMP {
        8
    } else {
        128
    };
    icmp(family, from, to, &echo_message(kind, identifier))
}

/// The answer to one.
pub fn echo_reply(family: Family, from: &str, to: &str, identifier: u16) -> Vec<u8> {
    let kind = if family.icmp == Protocol::ICMP {
        0
    } else {
        129
    };
    icmp(family, from, to, &echo_message(kind, identifier))
}

fn echo_message(kind: u8, identifier: u16) -> [u8; 12] {
    let [high, low] = identifier.to_be_bytes();
    [kind, 0, 0, 0, high, low, 0, 1, 1, 2, 3, 4]
}

/// "Port unreachable" about a packet: what stands behind its link-layer header.
pub fn unreachable(family: Family, from: &str, to: &str, about: &[u8]) -> Vec<u8> {
    let head = if family.icmp == Protocol::ICMP {
        [3, 3, 0, 0, 0, 0, 0, 0]
    } else {
        [1, 4, 0, 0, 0, 0, 0, 0]
    };
    icmp(family, from, to, &[&head, &about[14..]].concat())
}
