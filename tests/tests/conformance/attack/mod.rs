//! Packets that nobody's stack would make: each test is an attempt to get past a policy.
//!
//! A packet is sent as it is from inside a pod, and behind it, by the same way, one that every
//! policy here allows. When that one has arrived, the first has arrived, too, or never will: no
//! time is waited for.
//!
//! ```text
//!   victim  x/a   lets in: friend, by port 80; pinger, by anything. May ask: friend, by port 80.
//!   friend  x/b   pinger  y/a   evil  y/b   far  z/c (on the other node): nothing said of them
//! ```

mod connections;
mod control;
mod echo;
mod fragments;
pub mod packets;
mod sources;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weir_tests::bed::raw::{Injector, Sniffer};
use weir_tests::bed::{Family, Pod};
use weir_tests::testpod::room::dropped_for_want_of_room;

use crate::cluster::{Cluster, PodId};
use crate::ground::Ground;

/// Every attack by its name, in the words of what must hold.
pub const ALL: &[(&str, Attack)] = &[
    (
        "without_policies_every_packet_arrives",
        control::every_packet_arrives,
    ),
    ("another_pods_address_as_source", sources::another_pods),
    ("the_nodes_address_as_source", sources::the_nodes),
    ("an_outside_address_as_source", sources::outside),
    (
        "another_nodes_pods_address_as_source",
        sources::another_nodes_pods,
    ),
    (
        "a_forged_source_opens_nothing_for_its_owner",
        sources::opens_nothing,
    ),
    ("a_lone_ack", connections::lone_ack),
    ("a_lone_syn_ack", connections::lone_syn_ack),
    ("a_lone_fin", connections::lone_fin),
    ("a_lone_rst", connections::lone_rst),
    (
        "a_lone_ack_from_another_node",
        connections::lone_ack_from_far,
    ),
    (
        "an_init_ack_and_a_cookie_ack_without_an_init",
        connections::lone_sctp,
    ),
    (
        "a_syn_from_the_servers_port",
        connections::syn_from_the_servers_port,
    ),
    (
        "a_port_used_again_after_the_close",
        connections::port_used_again,
    ),
    (
        "the_answer_to_a_refused_syn",
        connections::answer_to_a_refused_syn,
    ),
    (
        "udp_from_another_port_of_the_server",
        connections::udp_from_another_port,
    ),
    (
        "udp_from_another_pod_than_the_server",
        connections::udp_from_another_pod,
    ),
    (
        "an_icmp_error_about_nothing",
        connections::error_about_nothing,
    ),
    (
        "an_icmp_error_about_a_refused_packet",
        connections::error_about_a_refused_packet,
    ),
    (
        "an_echo_reply_without_a_request",
        echo::reply_without_request,
    ),
    ("an_echo_reply_from_another_pod", echo::reply_of_another),
    (
        "an_echo_request_that_rides_on_an_identifier",
        echo::identifier_used_again,
    ),
    (
        "a_later_fragment_without_its_first",
        fragments::without_first,
    ),
    (
        "a_later_fragment_of_another_datagram",
        fragments::of_another_datagram,
    ),
    (
        "a_later_fragment_of_a_refused_datagram",
        fragments::of_a_refused_datagram,
    ),
    (
        "a_later_fragment_of_another_sender",
        fragments::of_another_sender,
    ),
];

/// A test.
pub type Attack = fn(&Scene<'_>) -> Result<()>;

/// Where the packet goes that everybody may send.
const FENCE: u16 = 9;
/// What must arrive has long arrived by then.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a machine has no room for again and again has none by then.
const LIMIT: Duration = Duration::from_secs(60);

const POLICIES: &str = r#"
policies:
  x/lets-in:
    podSelector: {matchLabels: {pod: a}}
    policyTypes: [Ingress]
    ingress:
      - ports: [{port: 9, protocol: UDP}]
      - from: [{podSelector: {matchLabels: {pod: b}}}]
        ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]
      - from: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: a}}}]
  x/may-ask:
    podSelector: {matchLabels: {pod: a}}
    policyTypes: [Egress]
    egress:
      - ports: [{port: 9, protocol: UDP}]
      - to: [{podSelector: {matchLabels: {pod: b}}}]
        ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]
"#;

/// Plays an attack on a ground.
pub fn play(ground: &mut Ground, attack: Attack) -> Result<()> {
    let is_control = std::ptr::fn_addr_eq(attack, control::every_packet_arrives as Attack);
    let cluster = if is_control {
        Cluster::new()
    } else {
        Cluster::with(POLICIES)?
    };
    ground.apply(&cluster)?;
    for family in Family::ALL {
        let scene = Scene::new(ground, family)?;
        attack(&scene).with_context(|| format!("{family:?}"))?;
    }
    Ok(())
}

/// Who plays, in one family.
pub struct Scene<'a> {
    pub victim: Player<'a>,
    pub friend: Player<'a>,
    pub pinger: Player<'a>,
    pub evil: Player<'a>,
    pub far: Player<'a>,
    /// The node of all but one.
    pub node: IpAddr,
    /// An address beyond the nodes.
    pub outside: IpAddr,
}

impl<'a> Scene<'a> {
    fn new(ground: &'a Ground, family: Family) -> Result<Self> {
        let player = |name: &str| -> Result<Player<'a>> {
            let pod = ground.pod(PodId::named(name)?)?;
            Ok(Player {
                pod,
                addr: pod.addr(family),
                injector: Injector::open(pod.namespace())?,
                sniffer: Sniffer::open(pod.namespace())?,
            })
        };
        Ok(Self {
            victim: player("x/a")?,
            friend: player("x/b")?,
            pinger: player("y/a")?,
            evil: player("y/b")?,
            far: player("z/c")?,
            node: ground.bed().node(0).addresses().of(family),
            outside: match family {
                Family::V4 => weir_tests::bed::plan::OUTSIDE_V4.into(),
                Family::V6 => weir_tests::bed::plan::OUTSIDE_V6.into(),
            },
        })
    }
}

/// A pod that plays a part.
pub struct Player<'a> {
    pub pod: &'a Pod,
    pub addr: IpAddr,
    injector: Injector,
    sniffer: Sniffer,
}

impl Player<'_> {
    /// One of its ports.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addr, port)
    }

    /// Sends a packet that must arrive. It is waited for itself: a sender that is moved from one
    /// processor to another has its packets overtake each other.
    pub fn reaches(&self, receiver: &Player<'_>, packet: &[u8]) -> Result<()> {
        receiver.sniffer.all()?;
        self.send_until(receiver, packet)?;
        Ok(())
    }

    /// Sends a packet that must not arrive.
    pub fn is_kept_from(&self, receiver: &Player<'_>, packet: &[u8]) -> Result<()> {
        ensure!(
            !self.arrives(receiver, packet)?,
            "{} arrived",
            packets::describe(packet)
        );
        Ok(())
    }

    /// Sends a packet; tells whether it arrives.
    fn arrives(&self, receiver: &Player<'_>, packet: &[u8]) -> Result<bool> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        receiver.sniffer.all()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let fence = packets::udp(self.at(FENCE), receiver.at(FENCE), &number.to_be_bytes())?;
        self.injector.send(packet)?;
        let before = self
            .send_until(receiver, &fence)
            .with_context(|| format!("after {}", packets::describe(packet)))?;
        Ok(before.iter().any(|seen| packets::is_same(seen, packet)))
    }

    /// Sends a packet, and again where this machine had no room for it, until it arrives; gives what
    /// arrived before.
    fn send_until(&self, receiver: &Player<'_>, packet: &[u8]) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let dropped = dropped_for_want_of_room()?;
            self.injector.send(packet)?;
            let arrived = receiver
                .sniffer
                .until(&packets::describe(packet), PATIENCE, |seen| {
                    packets::is_same(seen, packet)
                });
            let is_over = Instant::now() > deadline || dropped_for_want_of_room()? == dropped;
            if arrived.is_ok() || is_over {
                return arrived;
            }
        }
    }
}
