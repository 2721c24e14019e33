//! What a bridge takes to the network past the node's IP layer: translated where it belongs to a flow,
//! and else left alone.

use crate::common::{
    addr, backend, cluster_ips,
    frame::{self, ACK, FIN_ACK, SYN, SYN_ACK, assert_checksums},
    policy::{self, V4, unreachable},
    tuple,
    world::World,
};
use weir_ebpf::{
    addr::Protocol,
    buffer::Buffer,
    datapath::{self, Decision, Workspace},
    packet,
    tables::{FlowState, Frontend, FrontendFlags, FrontendKey, Node, PortRange, Tuple},
    verdict::{DropReason, Hook, Verdict},
};

const SERVICE: u32 = 7;
/// The bridge's port that leads to the network.
const PORT: u32 = 9;
const CLIENT: &str = "203.0.113.9";
const NODE: &str = "10.240.0.11";
const POD: &str = "10.200.0.2";

/// A connection of somebody outside to a node port.
fn asked() -> Tuple {
    tuple(Protocol::TCP, (CLIENT, 40_000), (NODE, 30_080))
}

/// A node at whose port a pod of its own answers, masqueraded or not.
fn node(flags: FrontendFlags) -> World {
    let world = World::default();
    world.node.set(Node {
        cover_v4: cluster_ips(),
        addr_v4: addr(NODE),
        snat_ports: [PortRange::new(16_384, 16_384), PortRange::NONE],
        ..world.node.get()
    });
    world.put_frontend(
        FrontendKey::new(asked().dst, asked().dst_port, Protocol::TCP),
        Frontend::to(SERVICE, flags),
    );
    world.set_backends(SERVICE, &[backend(POD, 8080)]);
    world
}

/// What becomes of a frame that the bridge takes to its port.
fn leave(world: &World, frame: &[u8]) -> (Decision, Vec<u8>) {
    let mut buffer = Buffer::<2048>::new(frame).expect("a short frame");
    let mut work = Workspace::new();
    packet::parse_into(&buffer, &mut work.headers).expect("a whole packet");
    let decision = datapath::to_network_at_once(world, &mut work).unwrap_or_else(|| {
        datapath::to_network_by_bridge_at_length(&buffer, world, PORT, &mut work)
    });
    let done = datapath::carry_out(&mut buffer, &mut work, decision);
    (done, buffer.bytes().to_vec())
}

/// The tuple of the pod's answers, once the client has asked.
fn answer(world: &World) -> Tuple {
    let question = world.pass(Hook::FromNetwork, &frame::of(&asked(), SYN, b""));
    assert_eq!(question.verdict, Verdict::Translate);
    frame::tuple_of(&question.frame).reversed()
}

#[test]
fn answers_to_clients_outside_are_translated() {
    let world = node(FrontendFlags::NONE);
    let answer = answer(&world);
    for flags in [SYN_ACK, ACK, FIN_ACK] {
        let (decision, after) = leave(&world, &frame::of(&answer, flags, b"yes"));
        assert_eq!(decision, Decision::TRANSLATE);
        assert_eq!(frame::tuple_of(&after), asked().reversed());
        assert_checksums(&after);
    }
    assert_eq!(world.state(&asked()), Some(FlowState::CLOSING));
}

#[test]
fn what_comes_from_the_ip_layer_was_translated_there() {
    let world = World::with_pods();
    assert!(datapath::is_sent_straight(&world, policy::POD));
    // The node's own, what came by the bridge, and what hangs on it.
    for other in [0, 4, PORT] {
        assert!(!datapath::is_sent_straight(&world, other));
    }
}

#[test]
fn what_is_masqueraded_gets_the_nodes_address() {
    let world = node(FrontendFlags::MASQUERADE_OUTSIDE);
    let there = answer(&world).reversed();
    let (decision, after) = leave(&world, &frame::of(&there, SYN, b""));
    assert_eq!(decision, Decision::TRANSLATE);
    let seen = tuple(Protocol::TCP, (NODE, 16_384), (POD, 8080));
    assert_eq!(frame::tuple_of(&after), seen);
    assert_checksums(&after);
}

#[test]
fn an_error_about_a_question_is_translated() {
    let world = node(FrontendFlags::NONE);
    let there = answer(&world).reversed();
    let error = unreachable(V4, POD, CLIENT, &frame::of(&there, SYN, b""));
    let (decision, after) = leave(&world, &error);
    assert_eq!(decision, Decision::TRANSLATE_ERROR);
    // It quotes what the client has sent.
    assert_eq!(after[54..58], [203, 0, 113, 9]);
    assert_eq!(after[58..62], [10, 240, 0, 11]);
}

#[test]
fn what_belongs_to_no_flow_is_nobodys_business() {
    let world = node(FrontendFlags::NONE);
    world.add_frontend(addr("10.32.0.10"), 80, Protocol::TCP, SERVICE);
    // To a cluster IP: somebody else's node may serve it.
    let to_service = tuple(Protocol::TCP, (CLIENT, 40_000), ("10.32.0.10", 81));
    let frame = frame::of(&to_service, SYN, b"");
    world.put_frontend(
        FrontendKey::address_only(to_service.dst),
        Frontend::to(SERVICE, FrontendFlags::NONE),
    );
    let by_the_ip_layer = world.pass(Hook::ToNetwork, &frame);
    assert_eq!(
        by_the_ip_layer.verdict,
        Verdict::Drop(DropReason::ServiceAddress)
    );
    assert_eq!(leave(&world, &frame), (Decision::PASS, frame));
    let mut later = frame::of(&asked().reversed(), ACK, b"12345678");
    later[21] = 1;
    assert_eq!(leave(&world, &later).0, Decision::PASS_FRAGMENT);
}
