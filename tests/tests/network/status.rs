//! What `weir status` and `weir top` say of a node: while its agent runs, after it was killed,
//! after it ended in order, and after all was removed.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::bed::wait::{wait_for, wait_for_some};
use weir_tests::bed::{Family, Wiring};

use crate::world::{EMPTY, WEB, World};

const PATIENCE: Duration = Duration::from_secs(90);
/// The services of a world.
const SERVICES: u64 = 3;
/// What a whole status may have on a node as small as this.
const SCREEN: usize = 60;

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn a_node_is_shown_with_its_agent_and_without() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let result = shown(&mut world);
    world.explain(result)
}

fn shown(world: &mut World) -> Result<()> {
    world.set_backends(&["far"])?;
    let to = WEB.at(Family::V4);
    // Kept open: one is translated packet by packet, one at its socket.
    let socket = world.client.connect_udp(to)?.handle;
    world.client.ask(socket)?;
    let connection = world.client.connect(to)?.handle;
    world.client.ask(connection)?;

    let alive = of_an_agent(world)?;
    top_of_an_agent(world)?;
    world.agents[0].kill()?;
    of_a_killed_agent(world, &alive)?;
    top_without_an_agent(world)?;
    world.agents[0].restart()?;
    world.agents[0].stop()?;
    of_an_agent_that_ended(world)?;
    world.bed.node(0).cleanup(&world.weir)?;
    of_nothing(world)
}

fn of_an_agent(world: &World) -> Result<Value> {
    // How full the programs' tables are is asked every now and then.
    let status = wait_for_some(
        || "a status that knows of a flow and a socket".to_owned(),
        PATIENCE,
        || {
            let status = json(world)?.1;
            let is_known =
                entries(&status, "FLOWS") >= Some(2) && entries(&status, "SOCKETS") >= Some(1);
            Ok(is_known.then_some(status))
        },
    )?;
    let (code, _) = json(world)?;
    ensure!(code == Some(0), "exit code {code:?}: {status:#}");
    ensure!(
        status["running"] == true
            && status["toldBy"] == "agent"
            && status["node"] == world.bed.node(0).name()
            && status["ended"].is_null()
            && status["recentErrors"] == serde_json::json!([])
            && status["layouts"].as_array().map(Vec::len) == Some(1),
        "{status:#}"
    );
    let sources = status["sources"].as_array().context("sources")?;
    let services = sources.iter().find(|row| row["kind"] == "Service");
    let services = services.context("the services' source")?;
    ensure!(
        services["source"] == "manifests"
            && services["state"] == "synced"
            && services["objects"] == SERVICES
            && services["lastNews"].is_string(),
        "{services:#}"
    );
    let of_node = |source: &str| sources.iter().find(|row| row["source"] == source);
    let interfaces = of_node("netlink").context("the node's interfaces")?;
    let links = world.bed.node(0).pod_links().len() as u64;
    ensure!(
        interfaces["state"] == "synced"
            && interfaces["objects"].as_u64() > Some(links)
            && interfaces["lastNews"].is_string(),
        "{interfaces:#}"
    );
    let records = of_node("cni").context("the CNI's records")?;
    ensure!(
        records["state"] == "synced" && records["error"].is_null(),
        "{records:#}"
    );
    ensure!(entries(&status, "FRONTENDS") > Some(0), "{status:#}");
    expect_hooks(world, &status)?;

    let output = weir(world, &["status"])?;
    let text = text(&output);
    for part in [
        "runs for",
        "last synchronised",
        "Sources\n",
        "manifests",
        "Tables\n",
        "Hooks\n",
        "connect4, connect6",
        "from_pod, to_pod",
        "Ports\n",
        "10249",
    ] {
        ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    ensure!(text.lines().count() <= SCREEN, "no screen:\n{text}");
    let wide = weir(world, &["status", "-o", "wide"])?;
    let wide = self::text(&wide);
    for link in world.bed.node(0).pod_links() {
        ensure!(wide.contains(&link), "{link} is not in:\n{wide}");
    }
    Ok(status)
}

/// Both programs at each pod's interface, and every one at the cgroup.
fn expect_hooks(world: &World, status: &Value) -> Result<()> {
    let sockets = status["hooks"]["sockets"].as_array().context("hooks")?;
    ensure!(
        sockets.len() == 8 && sockets.iter().all(|hook| hook["cgroup"].is_u64()),
        "{sockets:#?}"
    );
    let packets = status["hooks"]["packets"].as_array().context("hooks")?;
    let interfaces = status["interfaces"].as_array().context("interfaces")?;
    ensure!(
        interfaces.len() == world.bed.node(0).pod_links().len(),
        "{interfaces:#?}"
    );
    for interface in interfaces {
        for hook in ["from_pod", "to_pod"] {
            let is_there = packets.iter().any(|packet| {
                packet["interface"] == interface["index"]
                    && packet["hook"] == hook
                    && packet["program"].is_u64()
            });
            ensure!(is_there, "no {hook} at {interface:#}: {packets:#?}");
        }
    }
    Ok(())
}

fn top_of_an_agent(world: &World) -> Result<()> {
    let mut seen = String::new();
    let refused = EMPTY.at(Family::V4);
    let outcome = wait_for(
        || "a frame with a service, a rate and a refusal".to_owned(),
        PATIENCE,
        || {
            // Nobody serves there: how the client is told is not the question.
            let _ = world.client.udp_ask_connected(refused);
            seen = frame(world)?;
            Ok([
                &format!("node {}", world.bed.node(0).name()),
                " runs (pid ",
                "packets/s",
                "no_backend at from_pod",
                &format!("default/{}:udp", WEB.name),
                &format!("default/{}:tcp", WEB.name),
                &WEB.at(Family::V4).to_string(),
                "ESTABLISHED",
                "rejected egress",
                &refused.to_string(),
            ]
            .iter()
            .all(|part| seen.contains(*part)))
        },
    );
    outcome.with_context(|| format!("it showed:\n{seen}"))
}

fn of_a_killed_agent(world: &World, alive: &Value) -> Result<()> {
    let (code, status) = json(world)?;
    ensure!(
        code == Some(2)
            && status["running"] == false
            && status["toldBy"] == "file"
            && status["pid"] == alive["pid"]
            && status["ended"].is_null()
            && status["lastWord"].is_string(),
        "exit code {code:?}: {status:#}"
    );
    // Of these the kernel tells.
    for table in ["FRONTENDS", "BACKENDS", "PODS"] {
        let (now, before) = (entries(&status, table), entries(alive, table));
        ensure!(now == before, "{table}: {before:?} became {now:?}");
    }
    ensure!(entries(&status, "FLOWS") >= Some(2), "{status:#}");
    expect_hooks(world, &status)?;
    let text = text(&weir(world, &["status"])?);
    for part in [
        "no agent runs",
        "did not end by itself",
        "programs and tables go on without one",
        "from_pod, to_pod",
    ] {
        ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    Ok(())
}

fn top_without_an_agent(world: &World) -> Result<()> {
    let mut seen = String::new();
    let outcome = wait_for(
        || "a frame that says that no agent tells of drops".to_owned(),
        PATIENCE,
        || {
            seen = frame(world)?;
            Ok([
                "no agent runs",
                "which packets are refused only the agent tells",
                "no_backend at from_pod",
                &format!("default/{}:udp", WEB.name),
            ]
            .iter()
            .all(|part| seen.contains(*part)))
        },
    );
    outcome.with_context(|| format!("it showed:\n{seen}"))
}

fn of_an_agent_that_ended(world: &World) -> Result<()> {
    let (code, status) = json(world)?;
    ensure!(
        code == Some(2) && status["running"] == false && status["ended"].is_string(),
        "exit code {code:?}: {status:#}"
    );
    let text = text(&weir(world, &["status"])?);
    ensure!(text.contains("no agent runs since"), "{text}");
    Ok(())
}

fn of_nothing(world: &World) -> Result<()> {
    let (code, status) = json(world)?;
    ensure!(
        code == Some(2)
            && status["running"] == false
            && status["toldBy"] == "pins"
            && status["tables"].is_null()
            && status["layouts"] == serde_json::json!([])
            && status["hooks"]["sockets"] == serde_json::json!([])
            && status["hooks"]["packets"] == serde_json::json!([]),
        "exit code {code:?}: {status:#}"
    );
    let output = weir(world, &["top", "--once"])?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && error.contains("has an agent run here?"),
        "{output:?}"
    );
    Ok(())
}

/// Entries of a table.
fn entries(status: &Value, table: &str) -> Option<u64> {
    let tables = status["tables"].as_array()?;
    let row = tables.iter().find(|row| row["name"] == table)?;
    row["entries"].as_u64()
}

/// The exit code of `weir status`, and what it says to programs.
fn json(world: &World) -> Result<(Option<i32>, Value)> {
    let output = weir(world, &["status", "-o", "json"])?;
    let status = serde_json::from_slice(&output.stdout);
    let status = status.with_context(|| format!("weir status: {output:?}"))?;
    Ok((output.status.code(), status))
}

fn frame(world: &World) -> Result<String> {
    let output = weir(world, &["top", "--once", "--interval", "0.3"])?;
    ensure!(output.status.success(), "weir top: {output:?}");
    Ok(text(&output))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn weir(world: &World, arguments: &[&str]) -> Result<Output> {
    let node = world.bed.node(0);
    let bpffs = node.bpffs();
    let bpffs = bpffs.to_str().context("a bed's paths are UTF-8")?;
    let run_dir = node.agent_dir();
    let run_dir = run_dir.to_str().context("a bed's paths are UTF-8")?;
    let paths = ["--bpffs", bpffs, "--run-dir", run_dir];
    node.weir(&world.weir, &[arguments, &paths].concat())
}
