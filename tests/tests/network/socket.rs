//! Service addresses translated at the socket: TCP of everybody, UDP of the node's processes.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use weir_tests::bed::Family;
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::Failure;

use crate::world::{EMPTY, MIRROR, WEB, World, one_after_the_other_in_both_wirings};

one_after_the_other_in_both_wirings!(
    tcp_of_a_pod_reaches_both_backends_and_names_the_service,
    tcp_of_the_node_reaches_both_backends_and_names_the_service,
    udp_of_the_node_is_answered_by_the_service,
    tcp_to_a_service_without_endpoints_is_refused,
    udp_of_the_node_to_a_service_without_endpoints_is_refused,
    a_pod_reaches_itself_by_tcp,
);

/// A service's address in both families, and the IPv4 one in a socket of the other family.
fn addresses() -> [SocketAddr; 3] {
    [WEB.at(Family::V4), WEB.at(Family::V6), WEB.mapped()]
}

fn tcp_of_a_pod_reaches_both_backends_and_names_the_service(world: &mut World) -> Result<()> {
    let client = &world.client;
    expect_tcp(client)?;
    for family in Family::ALL {
        let answer = client.tcp_ask(WEB.at(family))?;
        assert_eq!(
            answer.client.ip(),
            client.addr(family),
            "the pod's own address is kept"
        );
    }
    Ok(())
}

fn tcp_of_the_node_reaches_both_backends_and_names_the_service(world: &mut World) -> Result<()> {
    expect_tcp(world.bed.node(0).process())
}

fn expect_tcp(client: &TestPod) -> Result<()> {
    for to in addresses() {
        World::expect_answers_from(&["near", "far"], || {
            let ends = client.connect(to)?;
            assert_eq!(ends.peer, Some(to), "getpeername names the service");
            let answer = client.ask(ends.handle)?;
            client.close(ends.handle)?;
            Ok(answer)
        })
        .with_context(|| format!("TCP to {to}"))?;
    }
    Ok(())
}

fn udp_of_the_node_is_answered_by_the_service(world: &mut World) -> Result<()> {
    let node = world.bed.node(0).process();
    for to in addresses() {
        World::expect_answers_from(&["near", "far"], || {
            let answer = node.udp_ask(to)?;
            assert_eq!(answer.from, to, "an unconnected socket");
            Ok(answer)
        })
        .with_context(|| format!("unconnected UDP to {to}"))?;
        World::expect_answers_from(&["near", "far"], || {
            let ends = node.connect_udp(to)?;
            assert_eq!(ends.peer, Some(to), "getpeername names the service");
            let answer = node.ask(ends.handle)?;
            assert_eq!(answer.from, to, "a connected socket");
            node.close(ends.handle)?;
            Ok(answer)
        })
        .with_context(|| format!("connected UDP to {to}"))?;
    }
    Ok(())
}

fn tcp_to_a_service_without_endpoints_is_refused(world: &mut World) -> Result<()> {
    for client in [&*world.client, world.bed.node(0).process()] {
        for to in [EMPTY.at(Family::V4), EMPTY.at(Family::V6), EMPTY.mapped()] {
            assert_eq!(client.tcp_ask(to), Err(Failure::refused()), "{to}");
        }
    }
    Ok(())
}

fn udp_of_the_node_to_a_service_without_endpoints_is_refused(world: &mut World) -> Result<()> {
    let node = world.bed.node(0).process();
    for to in [EMPTY.at(Family::V4), EMPTY.at(Family::V6), EMPTY.mapped()] {
        assert_eq!(
            node.udp_ask(to),
            Err(Failure::refused()),
            "unconnected, {to}"
        );
        assert_eq!(
            node.udp_ask_connected(to),
            Err(Failure::refused()),
            "connected, {to}"
        );
    }
    Ok(())
}

fn a_pod_reaches_itself_by_tcp(world: &mut World) -> Result<()> {
    let client = &world.client;
    for to in [
        MIRROR.at(Family::V4),
        MIRROR.at(Family::V6),
        MIRROR.mapped(),
    ] {
        let answer = client.tcp_ask(to).with_context(|| format!("TCP to {to}"))?;
        ensure!(
            answer.server == client.name() && answer.from == to,
            "{to}: {answer:?}"
        );
    }
    Ok(())
}
