//! Why: what the agent says of packets that policies refuse or allow, live.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::bed::process::{Process, Streams};
use weir_tests::bed::wait::{wait_for, wait_for_some};
use weir_tests::bed::{Family, Pod};
use weir_tests::testpod::protocol::{Carrier, Inquiry};

use crate::world::{TARGET_PORT, WEB, World, in_both_wirings};

in_both_wirings!(a_refusal_is_told_with_names);

/// Nobody waits for what is dropped.
const SHORT: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(90);

/// The client's pod may reach pods of `db` by TCP, and by UDP on another port than it tries.
const POLICIES: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: db, labels: {kubernetes.io/metadata.name: db}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cart, namespace: shop}
spec:
  podSelector: {matchLabels: {app: cart}}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: db}}}]
    ports: [{port: 8080}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: db}}}]
    ports: [{port: 5433, protocol: UDP}]
"#;

fn a_refusal_is_told_with_names(world: &mut World) -> Result<()> {
    world.set_backends(&["far"])?;
    let pods = [
        pod(&world.client, "shop", "cart-1", "cart"),
        pod(&world.far, "db", "pg-0", "pg"),
        pod(&world.near, "db", "pg-1", "pg"),
    ];
    world.manifests.put("pods.yaml", &pods)?;
    world.manifests.put_text("policies.yaml", POLICIES)?;
    wait_for(
        || "the policy to be in force".to_owned(),
        PATIENCE,
        || {
            let list = answer(world, &["policy", "list"])?;
            let mut policies = list.as_array().into_iter().flatten();
            Ok(policies.any(|it| it["name"] == "cart" && it["pods"] == json!(["shop/cart-1"])))
        },
    )?;

    let refused = Watch::start(world, "refused", &["--verdict", "dropped", "--last", "100"])?;
    let opened = Watch::start(
        world,
        "opened",
        &["--verdict", "forwarded", "--pod", "shop/"],
    )?;
    for family in Family::ALL {
        let to = SocketAddr::from((world.far.addr(family), TARGET_PORT));
        let line = format!(
            "dropped egress shop/cart-1 → {to} UDP (db/pg-0): isolated by shop/cart, \
             shop/default-deny; nearest: shop/cart egress[0] allows db pods on 8080"
        );
        refused.expect(world, &line, Carrier::Udp, to)?;
        let line = format!(
            "forwarded egress shop/cart-1 → {to} TCP (db/pg-0): allowed by shop/cart egress[0]"
        );
        opened.expect(world, &line, Carrier::Tcp, to)?;
        // What was called is told, too.
        let service = WEB.at(family);
        let line = format!(
            "dropped egress shop/cart-1 → {to} UDP (db/pg-0 by default/{} {service}): isolated by",
            WEB.name
        );
        refused.expect(world, &line, Carrier::Udp, service)?;
    }
    says_the_same_without_a_packet(world)?;
    tells_programs_the_same(world)?;
    leaves_others_out(world)
}

/// The explanation gives the event's reason, and the simulation what would help.
fn says_the_same_without_a_packet(world: &World) -> Result<()> {
    let ask = |protocol| {
        let question = [
            "policy",
            "explain",
            "--from",
            "shop/cart-1",
            "--to",
            "db/pg-0",
            "--port",
            "8080",
            "--protocol",
            protocol,
        ];
        output(world, &question)
    };
    let refused = ask("UDP")?;
    let text: Value = serde_json::from_slice(&refused.stdout).context("an answer")?;
    let egress = &text["connections"][0]["egress"];
    ensure!(
        refused.status.code() == Some(1)
            && text["allowed"] == false
            && egress["isolatedBy"] == json!(["shop/cart", "shop/default-deny"])
            && egress["nearest"]["rule"] == "shop/cart egress[0]"
            && text["connections"][0]["doubt"].is_null(),
        "{refused:?}"
    );
    let allowed = ask("TCP")?;
    let text: Value = serde_json::from_slice(&allowed.stdout).context("an answer")?;
    ensure!(
        allowed.status.success()
            && text["connections"][0]["egress"]["rule"] == "shop/cart egress[0]",
        "{allowed:?}"
    );

    let tested = output(world, &["policy", "test", "--without", "shop/cart"])?;
    let text: Value = serde_json::from_slice(&tested.stdout).context("a comparison")?;
    let changes = text["changes"].as_array().context("changes")?;
    let lost: Vec<&Value> = changes.iter().map(|change| &change["what"]).collect();
    ensure!(
        tested.status.code() == Some(1)
            && changes.iter().all(|change| change["allowed"] == false)
            && lost == ["5433 UDP", "8080 TCP"],
        "{tested:?}"
    );
    Ok(())
}

fn tells_programs_the_same(world: &World) -> Result<()> {
    let past = Watch::start(
        world,
        "json",
        &[
            "--last",
            "1",
            "--verdict",
            "dropped",
            // What a pod's kernel says to groups of neighbours is refused as well, at any time.
            "--protocol",
            "udp",
            "-o",
            "json",
        ],
    )?;
    let line = wait_for_some(
        || "a record".to_owned(),
        PATIENCE,
        // A line is there once its end is.
        || {
            Ok(past
                .text()?
                .split_once('\n')
                .map(|(line, _)| line.to_owned()))
        },
    )?;
    let record: Value = serde_json::from_str(&line).context("a record is JSON")?;
    ensure!(
        record["verdict"] == "dropped"
            && record["direction"] == "egress"
            && record["reason"] == "egress_policy"
            && record["from"]["pod"] == "shop/cart-1"
            && record["nearest"]["missed"] == "ports",
        "{record:#}"
    );
    Ok(())
}

/// A filter that nothing meets shows nothing, while one beside it shows what happens.
fn leaves_others_out(world: &World) -> Result<()> {
    let others = Watch::start(world, "others", &["--to", "192.0.2.0/24"])?;
    let all = Watch::start(world, "all", &["--protocol", "udp"])?;
    let to = SocketAddr::from((world.far.addr(Family::V4), TARGET_PORT));
    all.expect(world, "dropped egress shop/cart-1", Carrier::Udp, to)?;
    ensure!(others.text()?.is_empty(), "{}", others.text()?);
    Ok(())
}

fn pod(pod: &Pod, namespace: &str, name: &str, app: &str) -> Value {
    let addresses = Family::ALL.map(|family| pod.addr(family));
    let ips: Vec<Value> = addresses
        .iter()
        .map(|addr: &IpAddr| json!({"ip": addr}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": pod.node().name(), "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips},
    })
}

/// A running `weir flow watch`.
struct Watch {
    log: PathBuf,
    _process: Process,
}

impl Watch {
    fn start(world: &World, name: &str, arguments: &[&str]) -> Result<Self> {
        let node = world.bed.node(0);
        let log = node.run_dir().join(format!("watch-{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let run_dir = node.agent_dir();
        let run_dir = run_dir.to_str().context("a bed's paths are UTF-8")?;
        let arguments = [&["flow", "watch", "--run-dir", run_dir], arguments].concat();
        let process = node
            .system()
            .start(&world.weir, &arguments, Streams::Log(file))?;
        Ok(Self {
            log,
            _process: process,
        })
    }

    fn text(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// The client asks until a line begins so.
    fn expect(&self, world: &World, line: &str, by: Carrier, to: SocketAddr) -> Result<()> {
        let mut seen = String::new();
        let outcome = wait_for(
            || format!("the line {line:?}"),
            PATIENCE,
            || {
                let question = Inquiry {
                    by,
                    to,
                    timeout: SHORT,
                };
                // Whether it is answered is not the question.
                let _ = world.client.inquire(vec![question])?;
                seen = self.text()?;
                Ok(seen.lines().any(|it| it.starts_with(line)))
            },
        );
        outcome.with_context(|| format!("but it said:\n{seen}"))
    }
}

fn answer(world: &World, arguments: &[&str]) -> Result<Value> {
    let output = output(world, arguments)?;
    ensure!(output.status.success(), "weir {arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("weir {arguments:?}: {output:?}"))
}

fn output(world: &World, arguments: &[&str]) -> Result<std::process::Output> {
    let node = world.bed.node(0);
    let run_dir = node.agent_dir();
    let run_dir = run_dir.to_str().context("a bed's paths are UTF-8")?;
    node.weir(
        &world.weir,
        &[arguments, &["--run-dir", run_dir, "-o", "json"]].concat(),
    )
}
