//! What has to hold on every kernel, and where kernels differ.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::machine::Kernel;
use super::older;
use super::world::{AWAY, EMPTY, MIRROR, PUBLIC, WEB, WEIR, World};
use crate::bed::Family;
use crate::bed::neighbour::{self, Network};
use crate::testpod::client::Outcome;
use crate::testpod::protocol::{Answer, Failure};

/// A sentence, and whether it is true here.
pub type Check = (&'static str, fn(&mut World, &Kernel) -> Result<()>);

/// In the order in which they run: the last takes everything away.
pub const ALL: [Check; 15] = [
    (
        "programs are held as this kernel can hold them",
        programs_are_held,
    ),
    ("TCP is translated at the socket", tcp_at_the_socket),
    ("TCP is translated packet by packet", tcp_packet_by_packet),
    ("a pod's UDP is answered by the service", udp_of_a_pod),
    ("the node's UDP is answered by the service", udp_of_the_node),
    ("a pod reaches itself", a_pod_reaches_itself),
    ("a service without endpoints refuses", refusals),
    (
        "node ports are served with and without a VLAN's tag",
        node_ports_with_and_without_a_tag,
    ),
    (
        "what leaves by a VLAN has that device's address",
        masquerade_at_a_vlan,
    ),
    ("a pod's SCTP is translated", sctp_of_a_pod),
    ("SCTP from outside is translated", sctp_from_outside),
    (
        "connections older than their policies belong to who opened them",
        |world, _| older::belong_to_who_opened_them(world),
    ),
    (
        "connections go on without an agent and under a new one",
        restart_under_connections,
    ),
    (
        "UDP sockets outlive their backend",
        udp_sockets_outlive_their_backend,
    ),
    ("cleanup leaves nothing", cleanup),
];

/// Questions by an open connection in each phase of an agent's life.
const ROUNDS: usize = 4;
/// Enough for segments as large as the kernel makes them.
const BULK: u64 = 1_000_000;

/// TCX links came with Linux 6.6.
fn programs_are_held(world: &mut World, kernel: &Kernel) -> Result<()> {
    let node = world.bed.node(0);
    let (clsact, links) = (node.clsact_links()?, node.pod_links());
    if kernel.is_at_least(6, 6) {
        let tcx: Vec<String> = node.tc_programs()?.into_keys().collect();
        ensure!(clsact.is_empty(), "clsact is at {clsact:?} beside TCX");
        ensure!(tcx == sorted(links), "TCX is at {tcx:?}");
    } else {
        ensure!(
            sorted(clsact) == sorted(links),
            "clsact is not at all of them"
        );
    }
    let status = node.status(Path::new(WEIR))?;
    for name in ["from_network_l3", "to_network_l3"] {
        let programs = status["programs"].as_array();
        let is_there = programs.is_some_and(|all| all.iter().any(|one| one["name"] == name));
        ensure!(is_there, "{name} is not loaded: {status}");
    }
    Ok(())
}

fn tcp_at_the_socket(world: &mut World, _: &Kernel) -> Result<()> {
    for client in [&*world.client, world.node()] {
        for to in addresses() {
            let ends = client.connect(to)?;
            ensure!(ends.peer == Some(to), "{to}: getpeername says {ends:?}");
            expect(client.ask(ends.handle), "server", to)?;
            client.close(ends.handle)?;
        }
    }
    for family in Family::ALL {
        expect_own_address(world, family, world.client.tcp_ask(WEB.at(family)))?;
    }
    Ok(())
}

fn tcp_packet_by_packet(world: &mut World, _: &Kernel) -> Result<()> {
    for family in Family::ALL {
        let to = WEB.at(family);
        let answer = world.foreign.tcp_ask(to);
        expect(answer.clone(), "server", to)?;
        expect_own_address(world, family, answer)?;
        let transferred = world.foreign.bulk(to, BULK)?;
        ensure!(transferred.is_complete(), "{to}: {transferred:?}");
    }
    Ok(())
}

fn udp_of_a_pod(world: &mut World, _: &Kernel) -> Result<()> {
    for to in addresses() {
        expect_from(world.client.udp_ask(to), "server", to)?;
        expect_from(world.client.udp_ask_connected(to), "server", to)?;
    }
    for family in Family::ALL {
        expect_own_address(world, family, world.client.udp_ask(WEB.at(family)))?;
    }
    Ok(())
}

fn udp_of_the_node(world: &mut World, _: &Kernel) -> Result<()> {
    for to in addresses() {
        expect_from(world.node().udp_ask(to), "server", to)?;
        expect_from(world.node().udp_ask_connected(to), "server", to)?;
    }
    Ok(())
}

fn a_pod_reaches_itself(world: &mut World, _: &Kernel) -> Result<()> {
    for to in Family::ALL.map(|family| MIRROR.at(family)) {
        expect(world.client.tcp_ask(to), "client", to)?;
        expect(world.foreign.tcp_ask(to), "client", to)?;
        expect_from(world.client.udp_ask(to), "client", to)?;
    }
    Ok(())
}

/// A program at the socket can name the error from Linux 5.18 on. Below, what it refuses reads
/// EPERM, so that it leaves pods to the packet path; the node's own traffic has none.
fn refusals(world: &mut World, kernel: &Kernel) -> Result<()> {
    let at_the_node = if kernel.is_at_least(5, 18) {
        Failure::refused()
    } else {
        Failure::Errno("EPERM".to_owned())
    };
    for to in Family::ALL.map(|family| EMPTY.at(family)) {
        for (who, client, expected) in [
            ("a pod", &*world.client, &Failure::refused()),
            ("a foreign process", &world.foreign, &Failure::refused()),
            ("the node", world.node(), &at_the_node),
        ] {
            for answer in [client.tcp_ask(to), client.udp_ask_connected(to)] {
                let failure = answer.err();
                ensure!(
                    failure.as_ref() == Some(expected),
                    "{who} to {to}: {failure:?} instead of {expected:?}"
                );
            }
        }
    }
    Ok(())
}

fn restart_under_connections(world: &mut World, _: &Kernel) -> Result<()> {
    let to = WEB.at(Family::V4);
    let at_the_socket = world.client.connect(to)?.handle;
    let packet_by_packet = world.foreign.connect(to)?.handle;
    let go_on = |world: &World, when: &str| {
        let (client, foreign) = (&world.client, &world.foreign);
        for _ in 0..ROUNDS {
            expect(client.ask(at_the_socket), "server", to).context(when.to_owned())?;
            expect(foreign.ask(packet_by_packet), "server", to).context(when.to_owned())?;
            expect(foreign.tcp_ask(to), "server", to).context(when.to_owned())?;
            expect(client.udp_ask(to), "server", to).context(when.to_owned())?;
        }
        Ok(())
    };
    go_on(world, "before the agent was killed")?;
    world.agent.kill()?;
    go_on(world, "without an agent")?;
    world.start_agent_that_logs_packets()?;
    go_on(world, "under a new agent")
}

/// Nobody told the agent of the VLAN's device, nor of the one below it.
fn node_ports_with_and_without_a_tag(world: &mut World, _: &Kernel) -> Result<()> {
    let status = world.bed.node(0).status(Path::new(WEIR))?;
    for link in [neighbour::LINK, neighbour::VLAN_LINK] {
        let interfaces = status["networkInterfaces"].as_array();
        let is_there = interfaces.is_some_and(|all| all.iter().any(|one| one["name"] == link));
        ensure!(is_there, "no programs at {link}: {status}");
    }
    let neighbour = world.neighbour.process();
    for network in Network::ALL {
        for family in Family::ALL {
            let to = PUBLIC.at_node(network.node(family));
            let answer = neighbour.tcp_ask(to);
            expect_from(answer.clone(), "server", to)?;
            let (seen, own) = (answer?.client.ip(), network.host(family));
            ensure!(seen == own, "{own} came as {seen}");
            let transferred = neighbour.bulk(to, BULK)?;
            ensure!(transferred.is_complete(), "{to}: {transferred:?}");
        }
    }
    Ok(())
}

/// The backend sees the address of the VLAN's device, by which the flow leaves.
fn masquerade_at_a_vlan(world: &mut World, _: &Kernel) -> Result<()> {
    let (node, outside) = (world.bed.node(0), world.bed.outside());
    for family in Family::ALL {
        let to = AWAY.at_node(node.addresses().of(family));
        let answer = outside.tcp_ask(to);
        expect_from(answer.clone(), "neighbour", to)?;
        let (seen, expected) = (answer?.client.ip(), Network::Tagged.node(family));
        ensure!(seen == expected, "{to}: {seen} instead of {expected}");
        let transferred = outside.bulk(to, BULK)?;
        ensure!(transferred.is_complete(), "{to}: {transferred:?}");
    }
    Ok(())
}

/// A veth is left to write the pod's checksums. Answers from another host have theirs.
fn sctp_of_a_pod(world: &mut World, _: &Kernel) -> Result<()> {
    let client = &world.client;
    for (servers, service) in [(&world.sctp, PUBLIC), (&world.sctp_away, AWAY)] {
        let (own, to) = (|family| client.addr(family), |family| service.at(family));
        servers.ask(client.namespace(), own, to)?;
    }
    Ok(())
}

/// What the client sends has its checksum: no device of its own can write it.
fn sctp_from_outside(world: &mut World, _: &Kernel) -> Result<()> {
    let client = world.neighbour.namespace();
    for network in Network::ALL {
        let own = |family| network.host(family);
        let to = |family| PUBLIC.at_node(network.node(family));
        world.sctp.ask(client, own, to)?;
    }
    Ok(())
}

/// A pod's datagrams choose again. A connected socket of the node is closed over netlink, so that
/// its owner opens another.
fn udp_sockets_outlive_their_backend(world: &mut World, _: &Kernel) -> Result<()> {
    let to = WEB.at(Family::V4);
    let of_the_pod = world.client.connect_udp(to)?.handle;
    let of_the_node = world.node().connect_udp(to)?.handle;
    expect(world.client.ask(of_the_pod), "server", to)?;
    expect(world.node().ask(of_the_node), "server", to)?;
    world.move_web_to_the_client()?;
    expect(world.client.ask(of_the_pod), "client", to)?;
    let answer = world.node().ask(of_the_node);
    ensure!(
        matches!(answer, Err(Failure::Errno(_))),
        "the node's socket was not closed: {answer:?}"
    );
    expect(world.node().udp_ask_connected(to), "client", to)
}

fn cleanup(world: &mut World, kernel: &Kernel) -> Result<()> {
    let node = world.bed.node(0);
    ensure!(!node.pins()?.is_empty(), "the agent pinned nothing");
    let status = world.agent.stop()?.context("the agent ran")?;
    ensure!(status.success(), "the agent ended with {status}");
    node.cleanup(Path::new(WEIR))?;
    ensure!(node.pins()? == Vec::<PathBuf>::new(), "pins are left");
    ensure!(node.clsact_links()?.is_empty(), "clsact is left");
    if kernel.is_at_least(6, 6) {
        ensure!(node.tc_programs()? == BTreeMap::new(), "TCX is left");
    }
    Ok(())
}

/// The service in both families, and its IPv4 address as sockets of the other family write it.
fn addresses() -> [SocketAddr; 3] {
    [WEB.at(Family::V4), WEB.at(Family::V6), WEB.mapped()]
}

fn expect(answer: Outcome<Answer>, server: &str, to: SocketAddr) -> Result<()> {
    let answer = answer.with_context(|| format!("ask {to}"))?;
    ensure!(answer.server == server, "{to}: {answer:?}");
    Ok(())
}

/// The client must see the service answer.
fn expect_from(answer: Outcome<Answer>, server: &str, to: SocketAddr) -> Result<()> {
    if let Ok(answer) = &answer {
        ensure!(answer.from == to, "{to}: {answer:?}");
    }
    expect(answer, server, to)
}

/// The server must see the pod itself.
fn expect_own_address(world: &World, family: Family, answer: Outcome<Answer>) -> Result<()> {
    let (answer, own) = (answer?, world.client.addr(family));
    ensure!(answer.client.ip() == own, "{own} came as {answer:?}");
    Ok(())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}
