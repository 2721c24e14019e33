//! What happens when things come and go: backends, agents, manifests, interfaces.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use serde_json::Value;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Flow, FlowRole, Tuple, name};
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Family, Node, Wiring};
use weir_tests::testpod::client::TIMEOUT;
use weir_tests::testpod::protocol::{Failure, Handle, Transport};

use crate::world::{EMPTY, MIRROR, WEB, World};

/// Nothing comes back within this from where nobody answers.
const SILENCE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(60);
/// Two hundred questions a second.
const PROBE: Duration = Duration::from_millis(5);

/// Makes a test of a function of a running world, routed.
macro_rules! in_a_world {
    ($($(#[$doc:meta])* $name:ident => $body:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[test]
        #[ignore = "needs root: cargo xtask test network"]
        fn $name() -> Result<()> {
            let mut world = World::start(Wiring::Routed)?;
            let result = $body(&mut world);
            world.explain(result)
        }
    )+};
}

in_a_world!(
    udp_sockets_of_a_pod_outlive_their_backend => udp_of_a_pod,
    udp_sockets_of_the_node_outlive_their_backend => udp_of_the_node,
    a_service_scaled_to_zero_refuses_and_comes_back => scaled_to_zero,
    a_killed_agent_leaves_a_transfer_running => killed_under_transfer,
    twenty_kills_lose_no_request => twenty_kills,
    a_second_agent_adopts_the_tables_of_the_first => adoption,
    a_stopped_agent_leaves_traffic_running => stopped,
    cleanup_leaves_nothing => cleanup,
    a_broken_manifest_keeps_the_last_good_state => broken_manifest,
    an_interface_removed_under_load_harms_nobody_else => interface_removed,
    a_pod_that_comes_later_is_served => pod_comes_later,
    a_deleted_service_is_not_translated_any_more => deleted,
);

fn udp_of_a_pod(world: &mut World) -> Result<()> {
    for family in Family::ALL {
        world.set_backends(&["near", "far"])?;
        let to = WEB.at(family);
        let any = match family {
            Family::V4 => "0.0.0.0:0".parse()?,
            Family::V6 => "[::]:0".parse()?,
        };
        let connected = world.client.connect_udp(to)?.handle;
        let unconnected = world.client.open_udp(any)?.handle;
        let bound = world
            .client
            .open_udp((world.client.addr(family), 4711).into())?
            .handle;
        for (kind, socket, to) in [
            ("connected", connected, None),
            ("unconnected", unconnected, Some(to)),
            ("bound", bound, Some(to)),
        ] {
            world.set_backends(&["near", "far"])?;
            let ask = |world: &World| world.client.ask_with(socket, to, 0, TIMEOUT);
            let first = ask(world)?.server;
            let other = if first == "near" { "far" } else { "near" };
            world.set_backends(&[other])?;
            let answer = ask(world).or_else(|_| ask(world));
            let answer = answer.with_context(|| {
                format!("{kind} {family:?} socket after {first} went: two datagrams were lost")
            })?;
            assert_eq!(answer.server, other, "{kind} {family:?}");
        }
    }
    Ok(())
}

fn udp_of_the_node(world: &mut World) -> Result<()> {
    for family in Family::ALL {
        let to = WEB.at(family);
        let any = match family {
            Family::V4 => "0.0.0.0:0".parse()?,
            Family::V6 => "[::]:0".parse()?,
        };
        for kind in ["unconnected", "connected"] {
            world.set_backends(&["near", "far"])?;
            let node = world.bed.node(0).process();
            let (socket, to) = match kind {
                "connected" => (node.connect_udp(to)?.handle, None),
                _ => (node.open_udp(any)?.handle, Some(to)),
            };
            let first = node.ask_with(socket, to, 0, TIMEOUT)?.server;
            let other = if first == "near" { "far" } else { "near" };
            world.set_backends(&[other])?;
            let node = world.bed.node(0).process();
            let answer = node.ask_with(socket, to, 0, TIMEOUT);
            if kind == "connected" {
                // Its packets meet no program: the application is told, and opens it anew.
                ensure!(
                    matches!(answer, Err(Failure::Errno(_))),
                    "a connected {family:?} socket whose backend {first} went says {answer:?}"
                );
                assert_eq!(node.udp_ask_connected(WEB.at(family))?.server, other);
            } else {
                assert_eq!(answer?.server, other, "{kind} {family:?}");
            }
        }
    }
    Ok(())
}

fn scaled_to_zero(world: &mut World) -> Result<()> {
    let socket = world.client.connect_udp(WEB.at(Family::V4))?.handle;
    world.client.ask(socket)?;
    world.set_backends(&[])?;
    assert_eq!(
        world.client.tcp_ask(WEB.at(Family::V4)),
        Err(Failure::refused())
    );
    assert_eq!(
        world.client.ask(socket),
        Err(Failure::refused()),
        "a socket that lives on"
    );
    world.set_backends(&["near"])?;
    assert_eq!(world.client.tcp_ask(WEB.at(Family::V4))?.server, "near");
    assert_eq!(
        world.client.ask(socket)?.server,
        "near",
        "a socket that lives on"
    );
    Ok(())
}

fn killed_under_transfer(world: &mut World) -> Result<()> {
    // One at the socket, one packet by packet.
    let foreign = world.client.outside_the_cgroup()?;
    let to = WEB.at(Family::V4);
    let transfers = [
        (&*world.client, world.client.start_transfer(to)?.handle),
        (&foreign, foreign.start_transfer(to)?.handle),
    ];
    let advance = |what: &str| -> Result<()> {
        for (client, transfer) in transfers {
            let before = client.transfer_progress(transfer)?;
            wait_for(
                || format!("a transfer to go on {what}"),
                LIMIT,
                || Ok(client.transfer_progress(transfer)? > before + 100_000),
            )?;
        }
        Ok(())
    };
    advance("before the kill")?;
    world.agents[0].kill()?;
    advance("without an agent")?;
    world.agents[0].restart()?;
    advance("under a new agent")?;
    for (client, transfer) in transfers {
        let transferred = client.finish_transfer(transfer)?;
        ensure!(transferred.is_complete(), "{transferred:?}");
    }
    Ok(())
}

fn twenty_kills(world: &mut World) -> Result<()> {
    let client = &world.client;
    let probes = [
        client.start_probe(WEB.at(Family::V4), Transport::Tcp, PROBE)?,
        client.start_probe(WEB.at(Family::V4), Transport::Udp, PROBE)?,
        client.start_probe(WEB.at(Family::V6), Transport::Tcp, PROBE)?,
    ];
    for _ in 0..20 {
        for agent in &mut world.agents {
            agent.kill()?;
            agent.restart()?;
        }
    }
    for probe in probes {
        let seen = finish_probe(world, probe)?;
        ensure!(seen > 100, "only {seen} questions were answered");
    }
    Ok(())
}

/// Ends a probe of which no question may have failed; gives the number of answers.
fn finish_probe(world: &World, probe: Handle) -> Result<u64> {
    let seen = world.client.read_probe(probe)?;
    world.client.close(probe)?;
    ensure!(seen.failed == 0, "requests failed: {seen:?}");
    Ok(seen.answered())
}

fn adoption(world: &mut World) -> Result<()> {
    let node = world.bed.node(0).clone();
    let before = node.map_ids()?;
    ensure!(before.len() >= 5, "{before:?} are all the maps");
    let pins = node.pins()?;
    let programs = count_programs(&node)?;
    ensure!(
        programs.len() == 2,
        "both pods' links carry programs: {programs:?}"
    );
    world.agents[0].stop()?;
    world.agents[0].restart()?;
    assert_eq!(
        count_programs(&node)?,
        programs,
        "nothing is attached twice"
    );
    assert_eq!(node.map_ids()?, before);
    assert_eq!(node.pins()?, pins);
    World::expect_answers_from(&["near", "far"], || {
        world.client.tcp_ask(WEB.at(Family::V4))
    })
}

/// How many TCX programs each pod's link carries.
fn count_programs(node: &Node) -> Result<BTreeMap<String, usize>> {
    let programs = node.tc_programs()?;
    Ok(programs
        .into_iter()
        .map(|(link, ids)| (link, ids.len()))
        .collect())
}

fn stopped(world: &mut World) -> Result<()> {
    for agent in &mut world.agents {
        let status = agent.stop()?.context("the agent ran")?;
        ensure!(status.success(), "the agent ended with {status}");
    }
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || world.client.tcp_ask(to))?;
        World::expect_answers_from(&["near", "far"], || world.client.udp_ask(to))?;
    }
    Ok(())
}

fn cleanup(world: &mut World) -> Result<()> {
    let node = world.bed.node(0).clone();
    ensure!(!node.pins()?.is_empty(), "an agent pins its maps");
    ensure!(
        node.cleanup(&world.weir).is_err(),
        "cleanup refuses while the agent runs"
    );
    world.agents[0].stop()?;
    node.cleanup(&world.weir)?;
    assert_eq!(node.pins()?, Vec::<PathBuf>::new());
    assert_eq!(node.tc_programs()?, BTreeMap::new());
    expect_no_refusal(world)?;
    node.cleanup(&world.weir).context("cleaning up twice")?;
    // The node can be used again.
    world.agents[0].restart()?;
    World::expect_answers_from(&["near", "far"], || {
        world.client.tcp_ask(WEB.at(Family::V4))
    })
}

/// Where nothing translates, nobody refuses in the name of a service without endpoints.
fn expect_no_refusal(world: &World) -> Result<()> {
    let to = EMPTY.at(Family::V4);
    let socket = world.client.connect_udp(to)?.handle;
    let by_packet = world.client.ask_with(socket, None, 0, SILENCE);
    let at_socket = world.client.tcp_ask(to);
    for (way, answer) in [("UDP", by_packet), ("TCP", at_socket)] {
        ensure!(
            answer.is_err() && answer != Err(Failure::refused()),
            "something still answers {way} for {to}: {answer:?}"
        );
    }
    Ok(())
}

fn deleted(world: &mut World) -> Result<()> {
    world.manifests.remove("empty.yaml")?;
    for agent in &mut world.agents {
        agent.wait_status("the service to be gone", |status| {
            table(status, "SERVICE_NAMES") == 8
        })?;
    }
    expect_no_refusal(world)?;
    World::expect_answers_from(&["near", "far"], || {
        world.client.tcp_ask(WEB.at(Family::V4))
    })
}

/// A program that has met the tables of before a change may write a flow through an address that is
/// gone after all such flows were removed.
#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_flow_that_begins_with_the_tables_of_before_is_removed_soon() -> Result<()> {
    // So that nothing but the change makes the agent look.
    let mut world = World::start_with(Wiring::Routed, &["--resync-seconds=86400"])?;
    let result = begun_with_the_tables_of_before(&mut world);
    world.explain(result)
}

fn begun_with_the_tables_of_before(world: &mut World) -> Result<()> {
    let mut flows = flows(&world.bed.nodes()[0])?;
    let near = Addr::from(world.near.addr(Family::V4));
    let to_near = |flows: &Flows| -> Result<Option<(TupleBytes, FlowBytes)>> {
        let all = flows.iter().collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().find(|(_, flow)| {
            let flow: Flow = bytemuck::cast(*flow);
            flow.role == FlowRole::FORWARD && flow.to.dst == near
        }))
    };
    // On a machine that stops for long the agent has looked for the last time before the flow is
    // written: then once more.
    let mut last = Ok(());
    for _ in 0..5 {
        world.set_backends(&["near"])?;
        world.client.udp_ask(WEB.at(Family::V4))?;
        let (tuple, flow) = to_near(&flows)?.context("the question has a flow")?;
        world.manifests.remove("web.yaml")?;
        let gone = |flows: &Flows| Ok(to_near(flows)?.is_none());
        wait_for(|| "the flow to go".to_owned(), LIMIT, || gone(&flows))?;
        flows.insert(tuple, flow, 0)?;
        let what = || "the late flow to go".to_owned();
        last = wait_for(what, Duration::from_secs(10), || gone(&flows));
        if last.is_ok() {
            break;
        }
    }
    last
}

type TupleBytes = [u8; size_of::<Tuple>()];
type FlowBytes = [u8; size_of::<Flow>()];
type Flows = HashMap<MapData, TupleBytes, FlowBytes>;

/// What the programs of a node know of flows.
fn flows(node: &Node) -> Result<Flows> {
    let id = *node.map_ids()?.get(name::FLOWS).context("a pinned map")?;
    Ok(Map::from_map_data(MapData::from_id(id)?)?.try_into()?)
}

/// A full table leaves out whole entries, says which, and serves the rest.
#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_full_table_serves_what_fits_and_names_what_does_not() -> Result<()> {
    let mut world = World::start_with(Wiring::Routed, &["--max-backends=8"])?;
    let status = world.agents[0].wait_status("something to be left out", |status| {
        status["skipped"]
            .as_array()
            .is_some_and(|skipped| !skipped.is_empty())
    })?;
    ensure!(table(&status, "BACKENDS") <= 8, "{status}");
    let skipped = status["skipped"].to_string();
    ensure!(
        skipped.contains("default/") && skipped.contains("BACKENDS"),
        "{skipped}"
    );
    // What is in the table is whole: nobody is sent to a backend that is not there.
    let answers: Vec<_> = Family::ALL
        .into_iter()
        .flat_map(|family| [MIRROR.at(family), WEB.at(family)])
        .map(|to| (to, world.client.tcp_ask(to)))
        .collect();
    ensure!(
        answers.iter().any(|(_, answer)| answer.is_ok()),
        "{answers:?}"
    );
    ensure!(
        answers
            .iter()
            .all(|(_, answer)| answer != &Err(Failure::TimedOut)),
        "{answers:?}"
    );
    Ok(())
}

/// How many entries a table holds.
fn table(status: &Value, name: &str) -> u64 {
    let tables = status["tables"].as_array();
    let table = tables.and_then(|all| all.iter().find(|table| table["name"] == name));
    table
        .and_then(|table| table["entries"].as_u64())
        .unwrap_or(0)
}

fn broken_manifest(world: &mut World) -> Result<()> {
    let name = "web.yaml";
    let good = std::fs::read_to_string(world.manifests.file(name))?;
    let cut = &good[..good.len() / 2];
    world.manifests.put_text(name, cut)?;
    for agent in &mut world.agents {
        agent.wait_status("the problem to be reported", |status| {
            let problems = status["problems"].as_array();
            problems.is_some_and(|problems| {
                problems.iter().any(|problem| {
                    problem["file"]
                        .as_str()
                        .is_some_and(|file| file.ends_with(name))
                        && problem["line"].as_u64().is_some()
                })
            })
        })?;
    }
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || world.client.tcp_ask(to))?;
    }
    world.manifests.put_text(name, &good)?;
    for agent in &mut world.agents {
        agent.wait_status("the problem to be gone", |status| {
            status["problems"].as_array().is_some_and(Vec::is_empty)
        })?;
    }
    Ok(())
}

fn interface_removed(world: &mut World) -> Result<()> {
    let victim = world.bed.pod(0, "victim", 33)?;
    world.agents[0].wait_ready()?;
    let load = victim.start_probe(WEB.at(Family::V4), Transport::Udp, PROBE)?;
    let probe = world
        .client
        .start_probe(WEB.at(Family::V4), Transport::Udp, PROBE)?;
    wait_for(
        || "the load to run".to_owned(),
        LIMIT,
        || Ok(victim.read_probe(load)?.answered() > 20),
    )?;
    let link = victim.link().to_owned();
    victim.remove()?;
    world.agents[0].wait_status("the interface to be gone", |status| {
        let interfaces = status["interfaces"].as_array();
        interfaces.is_some_and(|all| all.iter().all(|one| one["name"] != link.as_str()))
            && status["error"].is_null()
    })?;
    let before = world.client.read_probe(probe)?.answered();
    wait_for(
        || "the other pod's questions to go on".to_owned(),
        LIMIT,
        || Ok(world.client.read_probe(probe)?.answered() > before + 20),
    )?;
    finish_probe(world, probe)?;
    Ok(())
}

fn pod_comes_later(world: &mut World) -> Result<()> {
    let later = world.bed.pod(1, "later", 40)?;
    world.agents[1].wait_ready()?;
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || later.udp_ask(to))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn two_clusters_at_once_do_not_meet() -> Result<()> {
    let mut worlds = [
        World::start(Wiring::Routed)?,
        World::start(Wiring::Bridged)?,
    ];
    worlds[0].set_backends(&["near"])?;
    worlds[1].set_backends(&["far"])?;
    for (world, expected) in worlds.iter().zip(["near", "far"]) {
        let to = WEB.at(Family::V4);
        World::expect_answers_from(&[expected], || world.client.tcp_ask(to))?;
        World::expect_answers_from(&[expected], || world.client.udp_ask(to))?;
        let node = world.bed.node(0).process();
        World::expect_answers_from(&[expected], || node.tcp_ask(to))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn clsact_serves_as_tcx_does() -> Result<()> {
    let mut world = World::start_with(Wiring::Routed, &["--tc=clsact"])?;
    let result = (|| {
        let node = world.bed.node(0).clone();
        ensure!(
            node.clsact_links()?.len() == 2,
            "clsact is at both pods' links"
        );
        for family in Family::ALL {
            let to = WEB.at(family);
            World::expect_answers_from(&["near", "far"], || world.client.udp_ask(to))?;
        }
        killed_under_transfer(&mut world)?;
        world.agents[0].stop()?;
        node.cleanup(&world.weir)?;
        assert_eq!(node.pins()?, Vec::<PathBuf>::new());
        assert_eq!(node.clsact_links()?, Vec::<String>::new());
        Ok(())
    })();
    world.explain(result)
}
