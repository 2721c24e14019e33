//! What the commands that read the pinned tables show of a running world.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::bed::Family;
use weir_tests::bed::wait::wait_for;

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
    world.manifests.put_text("apart.yaml", APART)?;
    wait_for(
        || format!("an explanation: {:?}", explains_what_is_not_chosen(world)),
        Duration::from_secs(90),
        || Ok(explains_what_is_not_chosen(world).is_ok()),
    )?;
    world.agents[0].stop()?;
    expect_services(world).context("without an agent")?;
    expect_flows(world).context("without an agent")?;
    explains_what_is_not_chosen(world).context("without an agent")?;

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

/// A service with endpoints on another node, and one that is not ready.
const APART: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: apart, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.32.0.77
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  ports: [{port: 80, nodePort: 30077}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: apart-1, namespace: shop, labels: {kubernetes.io/service-name: apart}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.200.77.2], nodeName: elsewhere}
- {addresses: [10.200.77.3], nodeName: elsewhere, conditions: {ready: false}}
"#;

fn explains_what_is_not_chosen(world: &World) -> Result<()> {
    let details = answer(world, &["service", "get", "shop/apart"])?;
    let port = &details["ports"][0];
    let kinds: Vec<&Value> = port["addresses"]
        .as_array()
        .context("a list of addresses")?
        .iter()
        .map(|address| &address["kind"])
        .collect();
    let sets: Vec<(&Value, &Value)> = port["families"]
        .as_array()
        .context("a list of families")?
        .iter()
        .map(|part| (&part["trafficPolicy"], &part["drops"]))
        .collect();
    let reasons: Vec<[&Value; 3]> = details["account"]["notChosen"]["endpoints"]
        .as_array()
        .context("a list of endpoints")?
        .iter()
        .map(|it| [&it["address"], &it["trafficPolicy"], &it["reason"]])
        .collect();
    ensure!(
        kinds == ["clusterIP", "nodePort"]
            && port["externalTrafficPolicy"] == "Local"
            && port["affinitySeconds"] == 10_800
            && sets
                == [
                    (&"Cluster".into(), &false.into()),
                    (&"Local".into(), &true.into())
                ]
            && reasons
                == [
                    ["10.200.77.3:8080", "Cluster", "it is not ready"],
                    [
                        "10.200.77.2:8080",
                        "Local",
                        "the traffic policy is Local, and it is not on this node"
                    ],
                    ["10.200.77.3:8080", "Local", "it is not ready"],
                ],
        "{details:#}"
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
