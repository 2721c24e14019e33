//! What the commands that read the pinned tables show of a running world.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::bed::Family;

use crate::world::{EMPTY, MIRROR, WEB, World, in_both_wirings};

in_both_wirings!(services_and_flows_are_shown_with_and_without_an_agent);

fn services_and_flows_are_shown_with_and_without_an_agent(world: &mut World) -> Result<()> {
    world.set_backends(&["far"])?;
    // Kept open, so that the flow is this one.
    let to = WEB.at(Family::V4);
    let socket = world.client.connect_udp(to)?.handle;
    world.client.ask(socket)?;
    world.client.udp_ask(MIRROR.at(Family::V6))?;
    // One at the socket.
    let connection = world.client.connect(to)?.handle;
    world.client.ask(connection)?;

    expect_services(world)?;
    expect_flows(world)?;
    world.agents[0].stop()?;
    expect_services(world).context("without an agent")?;
    expect_flows(world).context("without an agent")?;

    world.bed.node(0).cleanup(&world.weir)?;
    let output = command(world, &["flow", "list"])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && text.contains("has an agent run here?"),
        "after cleanup: {text}"
    );
    Ok(())
}

fn expect_services(world: &World) -> Result<()> {
    let list = answer(world, &["service", "list", "-n", "default"])?;
    let ports = list["servicePorts"].as_array().context("a list")?;
    // Three services with TCP and UDP each.
    ensure!(ports.len() == 6, "{list:#}");
    let details = answer(world, &["service", "get", WEB.name])?;
    ensure!(
        details["ports"].as_array().map(Vec::len) == Some(2),
        "{details:#}"
    );
    for port in details["ports"].as_array().into_iter().flatten() {
        ensure!(ports.contains(port), "{port:#} is not in {list:#}");
        for (family, part) in Family::ALL.into_iter().zip(0..) {
            let part = &port["families"][part];
            let backend = (world.far.addr(family), crate::world::TARGET_PORT);
            let backend = std::net::SocketAddr::from(backend).to_string();
            ensure!(
                part["addresses"] == serde_json::json!([WEB.at(family).to_string()])
                    && part["backends"][0]["address"] == backend.as_str()
                    && part["refuses"] == false,
                "{family:?}: {part:#}"
            );
        }
    }
    let empty = answer(world, &["service", "get", EMPTY.name])?;
    ensure!(
        empty["ports"][0]["families"][0]["refuses"] == true,
        "{empty:#}"
    );
    Ok(())
}

fn expect_flows(world: &World) -> Result<()> {
    let client = world.client.addr(Family::V4).to_string();
    let service = format!("default/{}", WEB.name);
    let arguments = [
        "flow",
        "list",
        "--from",
        &client,
        "--service",
        &service,
        "--protocol",
        "udp",
    ];
    let list = answer(world, &arguments)?;
    let flows = list["flows"].as_array().context("a list")?;
    ensure!(flows.len() == 1, "one flow, one row: {list:#}");
    let flow = &flows[0];
    let backend =
        std::net::SocketAddr::from((world.far.addr(Family::V4), crate::world::TARGET_PORT));
    ensure!(
        flow["state"] == "ESTABLISHED"
            && flow["address"] == WEB.at(Family::V4).to_string().as_str()
            && flow["backend"] == backend.to_string().as_str()
            && flow["service"]["name"] == WEB.name
            && flow["hairpin"] == false
            && flow["idleSeconds"].as_u64().is_some_and(|idle| idle < 120),
        "{flow:#}"
    );
    let mirror = MIRROR.at(Family::V6).to_string();
    let list = answer(world, &["flow", "list", "--to", &mirror])?;
    ensure!(
        list["flows"].as_array().map(Vec::len) == Some(1) && list["flows"][0]["hairpin"] == true,
        "a hairpin is one row: {list:#}"
    );
    let list = answer(world, &["flow", "list", "--sockets", "--service", &service])?;
    let sockets = list["sockets"].as_array().context("a list of sockets")?;
    ensure!(
        sockets.iter().any(|socket| socket["protocol"] == "TCP"
            && socket["backend"] == backend.to_string().as_str()),
        "{list:#}"
    );
    Ok(())
}

fn answer(world: &World, arguments: &[&str]) -> Result<Value> {
    let output = command(world, &[arguments, &["-o", "json"]].concat())?;
    ensure!(output.status.success(), "weir {arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("weir {arguments:?}: {output:?}"))
}

fn command(world: &World, arguments: &[&str]) -> Result<std::process::Output> {
    let node = world.bed.node(0);
    let bpffs = node.bpffs();
    let bpffs = bpffs.to_str().context("a bed's paths are UTF-8")?;
    let run_dir = node.agent_dir();
    let run_dir = run_dir.to_str().context("a bed's paths are UTF-8")?;
    let paths = ["--bpffs", bpffs, "--run-dir", run_dir];
    node.weir(&world.weir, &[arguments, &paths].concat())
}
