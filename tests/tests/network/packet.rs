//! Service addresses translated at the pod's interface: UDP of pods, and TCP of processes that
//! the node's socket programs do not see.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use weir_tests::bed::Family;
use weir_tests::bed::fabric::UPLINK;
use weir_tests::testpod::client::{TIMEOUT, TestPod};
use weir_tests::testpod::protocol::Failure;

use crate::world::{EMPTY, MIRROR, TARGET_PORT, WEB, World, one_after_the_other_in_both_wirings};

// What looks for connections to a service comes before what leaves some behind.
one_after_the_other_in_both_wirings!(
    only_tcp_outside_the_cgroup_is_translated_packet_by_packet,
    udp_of_a_pod_is_answered_by_the_service,
    udp_of_a_pod_to_a_service_without_endpoints_is_refused,
    a_pod_reaches_itself_by_udp,
    tcp_outside_the_cgroup_reaches_both_backends_nobody_and_itself,
    connections_from_one_port_to_a_service_and_to_its_backend_are_two,
    a_large_transfer_arrives_whole_through_the_packet_path,
    datagrams_without_a_checksum_arrive,
    datagrams_as_long_as_the_link_allows_arrive,
    checksums_are_right_that_no_device_completes,
);

const ETHTOOL: &str = "/usr/sbin/ethtool";
/// Payload that fills an Ethernet frame behind IP and UDP headers.
const FULL_V4: usize = 1500 - 20 - 8;
const FULL_V6: usize = 1500 - 40 - 8;

fn udp_of_a_pod_is_answered_by_the_service(world: &mut World) -> Result<()> {
    let client = &world.client;
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || {
            let answer = client.udp_ask(to)?;
            assert_eq!(answer.from, to, "an unconnected socket");
            assert_eq!(
                answer.client.ip(),
                client.addr(family),
                "the pod's own address is kept"
            );
            Ok(answer)
        })
        .with_context(|| format!("unconnected UDP to {to}"))?;
        World::expect_answers_from(&["near", "far"], || client.udp_ask_connected(to))
            .with_context(|| format!("connected UDP to {to}"))?;
    }
    World::expect_answers_from(&["near", "far"], || client.udp_ask_connected(WEB.mapped()))
        .context("UDP to the IPv4 address in a socket of the other family")
}

fn udp_of_a_pod_to_a_service_without_endpoints_is_refused(world: &mut World) -> Result<()> {
    for family in Family::ALL {
        let to = EMPTY.at(family);
        assert_eq!(
            world.client.udp_ask_connected(to),
            Err(Failure::refused()),
            "{to}"
        );
    }
    Ok(())
}

fn a_pod_reaches_itself_by_udp(world: &mut World) -> Result<()> {
    let client = &world.client;
    for family in Family::ALL {
        let to = MIRROR.at(family);
        let answers = [client.udp_ask(to), client.udp_ask_connected(to)];
        for answer in answers {
            let answer = answer.with_context(|| format!("UDP to {to}"))?;
            ensure!(
                answer.server == client.name() && answer.from == to,
                "{to}: {answer:?}"
            );
        }
    }
    Ok(())
}

fn only_tcp_outside_the_cgroup_is_translated_packet_by_packet(world: &mut World) -> Result<()> {
    let foreign = world.client.outside_the_cgroup()?;
    let to = WEB.at(Family::V4);
    // To the kernel a connection translated at the socket is one to the backend.
    let inside = world.client.connect(to)?;
    ensure!(
        !connects_to(&world.client, to)?,
        "the socket programs do not see the pod"
    );
    world.client.close(inside.handle)?;
    let outside = foreign.connect(to)?;
    ensure!(
        connects_to(&foreign, to)?,
        "the socket programs see the foreign process"
    );
    foreign.close(outside.handle)?;
    Ok(())
}

/// Does the kernel hold a connection to this IPv4 address in the network of a process?
fn connects_to(process: &TestPod, to: SocketAddr) -> Result<bool> {
    let IpAddr::V4(addr) = to.ip() else {
        bail!("{to} is not of IPv4");
    };
    // The address as a number of the machine's, then the port.
    let remote = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(addr.octets()),
        to.port()
    );
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", process.pid()))?;
    Ok(table.contains(&remote))
}

fn tcp_outside_the_cgroup_reaches_both_backends_nobody_and_itself(world: &mut World) -> Result<()> {
    let foreign = world.client.outside_the_cgroup()?;
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || {
            let answer = foreign.tcp_ask(to)?;
            let source = world.client.addr(family);
            assert_eq!(answer.client.ip(), source, "the pod's own address is kept");
            Ok(answer)
        })
        .with_context(|| format!("TCP to {to}"))?;
        let empty = EMPTY.at(family);
        assert_eq!(foreign.tcp_ask(empty), Err(Failure::refused()), "{empty}");
        let mirror = MIRROR.at(family);
        let answer = foreign
            .tcp_ask(mirror)
            .with_context(|| format!("a pod to itself by {mirror}"))?;
        ensure!(answer.server == world.client.name(), "{mirror}: {answer:?}");
    }
    Ok(())
}

/// The kernel lets them share a port: to it they have two peers.
fn connections_from_one_port_to_a_service_and_to_its_backend_are_two(
    world: &mut World,
) -> Result<()> {
    for name in ["near", "far"] {
        world.set_backends(&[name])?;
        let backend = if name == "near" {
            &world.near
        } else {
            &world.far
        };
        let foreign = world.client.outside_the_cgroup()?;
        for family in Family::ALL {
            let itself = SocketAddr::from((backend.addr(family), TARGET_PORT));
            let service = WEB.at(family);
            for [first, second] in [[itself, service], [service, itself]] {
                let context = || format!("{first}, then {second}");
                let any = SocketAddr::from((world.client.addr(family), 0));
                let older = foreign.connect_from(Some(any), first)?;
                let newer = foreign
                    .connect_from(Some(older.local), second)
                    .with_context(context)?;
                for handle in [older.handle, newer.handle, older.handle] {
                    let answer = foreign.ask(handle).with_context(context)?;
                    ensure!(answer.server == name, "{}: {answer:?}", context());
                }
                for handle in [older.handle, newer.handle] {
                    foreign.close(handle)?;
                }
            }
        }
    }
    Ok(())
}

fn a_large_transfer_arrives_whole_through_the_packet_path(world: &mut World) -> Result<()> {
    for backend in ["near", "far"] {
        world.set_backends(&[backend])?;
        let foreign = world.client.outside_the_cgroup()?;
        for family in Family::ALL {
            let transferred = foreign
                .bulk(WEB.at(family), 32_000_000)
                .with_context(|| format!("{family:?} to {backend}"))?;
            ensure!(
                transferred.is_complete() && transferred.server == backend,
                "{family:?} to {backend}: {transferred:?}"
            );
        }
    }
    Ok(())
}

fn datagrams_without_a_checksum_arrive(world: &mut World) -> Result<()> {
    let client = &world.client;
    World::expect_answers_from(&["near", "far"], || {
        let socket = client.open_udp_without_checksum()?;
        let answer = client.ask_at(socket.handle, WEB.at(Family::V4))?;
        client.close(socket.handle)?;
        Ok(answer)
    })
}

fn datagrams_as_long_as_the_link_allows_arrive(world: &mut World) -> Result<()> {
    let client = &world.client;
    for (family, length) in [(Family::V4, FULL_V4), (Family::V6, FULL_V6)] {
        World::expect_answers_from(&["near", "far"], || {
            let socket = client.connect_udp(WEB.at(family))?;
            let answer = client.ask_with(socket.handle, None, length, TIMEOUT)?;
            client.close(socket.handle)?;
            Ok(answer)
        })
        .with_context(|| format!("{length} bytes, {family:?}"))?;
    }
    Ok(())
}

/// What leaves by these links gets its checksum before it does, of what our programs have left in the
/// packet, and is checked where it arrives. Elsewhere links between namespaces leave it out: only here
/// a wrong one shows.
fn checksums_are_right_that_no_device_completes(world: &mut World) -> Result<()> {
    let foreign = world.client.outside_the_cgroup()?;
    let node = world.bed.node(0);
    for link in [UPLINK, world.client.link(), world.near.link()] {
        let arguments = ["-K", link, "tx", "off"];
        node.system().run(Path::new(ETHTOOL), &arguments)?;
    }
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || world.client.udp_ask(to))
            .with_context(|| format!("UDP to {to}"))?;
        World::expect_answers_from(&["near", "far"], || foreign.tcp_ask(to))
            .with_context(|| format!("TCP to {to}"))?;
    }
    Ok(())
}
