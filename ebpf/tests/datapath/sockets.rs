//! What socket calls of the node's processes become.

use crate::common::{addr, backend, world::World};
use weir_ebpf::{
    addr::{Port, Protocol},
    conntrack::SECOND,
    socket::{self, Caller, Decision, Peer},
    tables::FlowRole,
    verdict::RejectReason,
};

const NODE: Caller = Caller {
    cookie: 7,
    is_node: true,
};

fn peer(text: &str, port: u16) -> Peer {
    Peer {
        addr: addr(text),
        port: Port::new(port),
    }
}

fn world() -> World {
    let world = World::default();
    world.add_frontend(addr("10.32.0.10"), 53, Protocol::UDP, 1);
    world.add_frontend(addr("10.32.0.10"), 53, Protocol::TCP, 2);
    world.set_backends(1, &[backend("10.200.0.2", 5353)]);
    world.set_backends(2, &[backend("10.200.0.2", 5353)]);
    world
}

const SERVICE: (&str, u16) = ("10.32.0.10", 53);
const BACKEND: (&str, u16) = ("10.200.0.2", 5353);

#[test]
fn a_socket_that_sends_steadily_still_knows_who_answers_when_its_entry_was_forgotten() {
    let world = world();
    let (service, backend) = (peer(SERVICE.0, SERVICE.1), peer(BACKEND.0, BACKEND.1));
    assert_eq!(
        socket::sendmsg(&world, NODE, service),
        Decision::Translate(backend)
    );
    // The table was full.
    world
        .sockets
        .borrow_mut()
        .retain(|key, _| key.role == FlowRole::FORWARD);
    for _ in 0..4 {
        world.wait(SECOND / 2);
        socket::sendmsg(&world, NODE, service);
    }
    assert_eq!(
        socket::peer_name(&world, NODE, Protocol::UDP, backend),
        Some(service)
    );
}

#[test]
fn a_socket_that_sends_steadily_leaves_a_backend_that_has_gone() {
    let world = world();
    let service = peer(SERVICE.0, SERVICE.1);
    socket::sendmsg(&world, NODE, service);
    world.set_backends(1, &[backend("10.200.128.1", 5353)]);
    assert_eq!(
        socket::sendmsg(&world, NODE, service),
        Decision::Translate(peer("10.200.128.1", 5353))
    );
    world.set_backends(1, &[]);
    assert_eq!(
        socket::sendmsg(&world, NODE, service),
        Decision::Refuse(RejectReason::NoBackend)
    );
}

#[test]
fn a_connection_shows_the_service_as_its_peer() {
    let world = world();
    let (service, backend) = (peer(SERVICE.0, SERVICE.1), peer(BACKEND.0, BACKEND.1));
    let pod = Caller {
        is_node: false,
        ..NODE
    };
    for caller in [NODE, pod] {
        assert_eq!(
            socket::connect(&world, caller, Protocol::TCP, service),
            Decision::Translate(backend)
        );
        assert_eq!(
            socket::peer_name(&world, caller, Protocol::TCP, backend),
            Some(service)
        );
    }
    let stranger = Caller { cookie: 8, ..NODE };
    assert_eq!(
        socket::peer_name(&world, stranger, Protocol::TCP, backend),
        None
    );
}

#[test]
fn datagrams_of_pods_and_other_protocols_are_left_to_the_packet_path() {
    let world = world();
    let service = peer(SERVICE.0, SERVICE.1);
    let pod = Caller {
        is_node: false,
        ..NODE
    };
    assert_eq!(socket::sendmsg(&world, pod, service), Decision::Pass);
    assert_eq!(
        socket::connect(&world, pod, Protocol::UDP, service),
        Decision::Pass
    );
    assert_eq!(
        socket::connect(&world, NODE, Protocol::SCTP, service),
        Decision::Pass
    );
}
