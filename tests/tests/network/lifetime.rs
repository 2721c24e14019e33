//! Agents that are killed at any moment, replaced by others, started twice, and started on a node
//! that was restarted: no packet is lost, none gets past a policy, nothing is left.
//!
//! `WEIR_KILLS` and `WEIR_UPGRADES` make the long test longer: 12 and 3 by default.

mod load;
mod meddling;
mod pins;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_agent::maps::layout::layout_version;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Agent, AgentOptions, Family, Node, Upgrade, Wiring};

use crate::world::{WEB, World};
use load::Load;

const PATIENCE: Duration = Duration::from_secs(120);
/// One agent lives for up to this before it is killed: about as long as it takes to start.
const START: Duration = Duration::from_millis(800);
/// Another for up to this after it has loaded its programs: about as long as it takes to bring the
/// tables up to date and to attach the programs, under the load of this test.
const SYNCHRONISATION: Duration = Duration::from_millis(200);

/// The same numbers in each run (Steele, Lea, Flood: `SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A time of up to this, in steps of a thousandth.
    fn part_of(&mut self, limit: Duration) -> Duration {
        limit / 1_000 * u32::try_from(self.next() % 1_000).unwrap_or(0)
    }
}

fn number(variable: &str, default: u32) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn kills_and_upgrades_lose_no_packet_and_leak_none() -> Result<()> {
    let (kills, upgrades) = (number("WEIR_KILLS", 12)?, number("WEIR_UPGRADES", 3)?);
    let mut world = World::start(Wiring::Routed)?;
    let load = Load::start(&mut world)?;
    let result = live_through(&mut world, kills, upgrades)
        .and_then(|newest| load.finish(&world).map(|()| newest))
        .and_then(|newest| only_the_newest_tables_are_left(&world, &newest));
    world.explain(result)
}

/// Kills and upgrades both nodes' agents; gives the binary that runs in the end.
fn live_through(world: &mut World, kills: u32, upgrades: u32) -> Result<Newest> {
    let mut random = Random(5);
    let mut newest = Newest {
        version: layout_version(),
        binary: None,
    };
    let mut killed = 0;
    for round in 0..=upgrades {
        for agent in &mut world.agents {
            agent.wait_ready()?;
        }
        if round > 0 {
            newest.next(world)?;
        }
        // The last round begins with all kills but those of its own behind it.
        let until = u64::from(kills) * u64::from(round + 1) / u64::from(upgrades + 1);
        while u64::from(killed) < until {
            // So that there is something to write, at any moment of an agent's life.
            world.manifests.put_text("decoy.yaml", &decoy(killed))?;
            let number = usize::try_from(killed)?;
            let agents = world.agents.len();
            let agent = &mut world.agents[number % agents];
            if (number / agents).is_multiple_of(2) {
                sleep(random.part_of(START));
            } else {
                has_loaded(agent)?;
                sleep(random.part_of(SYNCHRONISATION));
            }
            agent.kill()?;
            agent.relaunch()?;
            killed += 1;
        }
    }
    for agent in &mut world.agents {
        agent.wait_ready()?;
    }
    Ok(newest)
}

/// Waits until an agent that was just launched has loaded its programs, and now fills tables and
/// attaches programs.
fn has_loaded(agent: &Agent) -> Result<()> {
    wait_for(
        || "the agent to load its programs".to_owned(),
        PATIENCE,
        || Ok(agent.log()?.contains(" loaded ")),
    )
}

/// The latest version of the binary: a copy with another layout, but for the first.
struct Newest {
    version: u32,
    binary: Option<Upgrade>,
}

impl Newest {
    /// Makes the next version and gives it to both nodes, to one as the kubelet does and to the
    /// other by a crash.
    fn next(&mut self, world: &mut World) -> Result<()> {
        self.version += 1;
        let binary = Upgrade::to_layout(&world.weir, self.version)?;
        let mut agents = world.agents.iter_mut();
        let (first, second) = agents.next().zip(agents.next()).context("two agents")?;
        first.stop()?;
        first.upgrade(binary.path())?;
        second.kill()?;
        second.upgrade(binary.path())?;
        self.binary = Some(binary);
        Ok(())
    }
}

/// A service whose endpoints are others each time.
fn decoy(number: u32) -> String {
    let last = number % 200 + 1;
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: decoy, namespace: default}}
spec: {{clusterIP: 10.32.0.200, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: decoy-1, namespace: default, labels: {{kubernetes.io/service-name: decoy}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{{addresses: [10.200.77.{last}]}}, {{addresses: [10.200.78.{last}]}}]
"
    )
}

fn only_the_newest_tables_are_left(world: &World, newest: &Newest) -> Result<()> {
    for node in world.bed.nodes() {
        let layouts = layouts(node)?;
        ensure!(
            layouts == [format!("v{}", newest.version)],
            "{} holds {layouts:?}",
            node.name()
        );
    }
    Ok(())
}

/// The directories of tables on a node.
fn layouts(node: &Node) -> Result<Vec<String>> {
    let root = node.bpffs().join("weir");
    let pins = node.pins()?;
    let directories = pins.iter().filter(|pin| pin.parent() == Some(&root));
    Ok(directories
        .filter_map(|pin| Some(pin.file_name()?.to_string_lossy().into_owned()))
        .filter(|name| name.starts_with('v'))
        .collect())
}

/// The way back, to a version that does not know the tables of the one before it.
#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_version_that_cannot_take_over_says_so_and_serves() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let newer = Upgrade::to_layout(&world.weir, layout_version() + 1)?;
    let weir = world.weir.clone();
    let node = world.bed.node(0).clone();
    let programs = node.tc_programs()?;
    let result = (|| {
        let agent = &mut world.agents[0];
        agent.stop()?;
        agent.upgrade(newer.path())?;
        agent.wait_ready()?;
        assert_eq!(layouts(&node)?, [format!("v{}", layout_version() + 1)]);
        let replaced = node.tc_programs()?;
        ensure!(
            replaced.keys().eq(programs.keys())
                && replaced
                    .iter()
                    .all(|(link, ids)| ids.len() == programs[link].len() && ids != &programs[link]),
            "each program is replaced and none added: {programs:?}, {replaced:?}"
        );
        agent.stop()?;
        agent.upgrade(&weir)?;
        agent.wait_ready()?;
        assert_eq!(layouts(&node)?, [format!("v{}", layout_version())]);
        let log = agent.log()?;
        let lost = format!(
            "tables of layout {} cannot be taken over",
            layout_version() + 1
        );
        ensure!(log.contains(&lost), "{log}");
        agent.wait_status("the remark", |status| {
            status["remarks"].to_string().contains(&lost)
        })?;
        for family in Family::ALL {
            let to = WEB.at(family);
            World::expect_answers_from(&["near", "far"], || world.client.tcp_ask(to))?;
            World::expect_answers_from(&["near", "far"], || world.client.udp_ask(to))?;
        }
        Ok(())
    })();
    world.explain(result)
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_second_agent_on_a_node_waits_for_the_first() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let options = AgentOptions::new(&world.weir, world.manifests.directory());
    let node = world.bed.node(0).clone();
    let first = world.agents[0].id();
    let says = format!("another agent runs here (process {first} holds");
    // The first to wait is stopped, which leaves the agent alone.
    let mut stopped = Agent::launch(&node, &options)?;
    waits(&stopped, &says)?;
    let status = stopped.stop()?.context("it ran")?;
    ensure!(status.success(), "an agent that waited ended with {status}");
    let mut second = Agent::launch(&node, &options)?;
    waits(&second, &says)?;
    // Nothing is wrong with the first, and nobody may clean up under either.
    world.agents[0].wait_ready()?;
    ensure!(
        node.cleanup(&world.weir).is_err(),
        "cleanup refuses while an agent runs"
    );
    World::expect_answers_from(&["near", "far"], || {
        world.client.tcp_ask(WEB.at(Family::V4))
    })?;
    world.agents[0].stop()?;
    second.wait_ready()?;
    World::expect_answers_from(&["near", "far"], || {
        world.client.udp_ask(WEB.at(Family::V4))
    })
}

fn waits(agent: &Agent, says: &str) -> Result<()> {
    wait_until_said(says, || agent.log())
}

fn wait_until_said(says: &str, log: impl Fn() -> Result<String>) -> Result<()> {
    wait_for(
        || format!("the second agent to say: {says}"),
        PATIENCE,
        || Ok(log()?.contains(says)),
    )
}

/// Programs, tables and pins are gone, files of the agent before are not.
#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_node_that_was_restarted_starts_afresh() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let node = world.bed.node(0).clone();
    let result = (|| {
        world.agents[0].kill()?;
        node.remount_bpffs()?;
        assert_eq!(node.pins()?, Vec::<PathBuf>::new());
        // The number of a process that cannot be.
        std::fs::write(node.agent_dir().join("agent.lock"), "4194305\n")?;
        ensure!(
            node.agent_dir().join("status.json").is_file(),
            "the status of the agent that was killed is still there"
        );
        world.agents[0].restart()?;
        serves(&world)?;
        // The directory may be gone as well: it is in memory on most nodes.
        world.agents[0].kill()?;
        std::fs::remove_dir_all(node.agent_dir())?;
        world.agents[0].restart()?;
        serves(&world)
    })();
    world.explain(result)
}

fn serves(world: &World) -> Result<()> {
    for family in Family::ALL {
        let to = WEB.at(family);
        World::expect_answers_from(&["near", "far"], || world.client.tcp_ask(to))?;
        World::expect_answers_from(&["near", "far"], || world.client.udp_ask(to))?;
    }
    Ok(())
}
