//! `cargo xtask kind`: a cluster of containers with Weir in place of kube-proxy, and what the
//! upstream tests say of it.
//!
//! `up` may be repeated: it builds the image, creates the cluster where there is none, loads and
//! installs, and returns when every node is served. `test` runs the network tests of the upstream
//! conformance image as a pod. `down` deletes the cluster.

mod conformance;
mod junit;

use std::{
    fs,
    path::Path,
    process::Command as Program,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{build, build_ebpf, image, process, progress::Step, workspace::Workspace};

/// The cluster's name.
const CLUSTER: &str = "weir";
const CONTEXT: &str = "kind-weir";
/// As deploy/kind names it.
const IMAGE: &str = "localhost/weir:dev";
const NAMESPACE: &str = "kube-system";
/// Images may have to be pulled first.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to do with the cluster.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create it, or bring it up to date, and wait until every node is served
    Up,
    /// Run the upstream tests of services and network policies, and show the result of each
    Test {
        /// Which tests, as a regular expression of their names [default: the network's]
        #[arg(long)]
        focus: Option<String>,
    },
    /// Delete it
    Down,
}

/// Does it.
pub fn run(workspace: &Workspace, command: &Command) -> Result<()> {
    match command {
        Command::Up => up(workspace),
        Command::Test { focus } => test(workspace, focus.as_deref()),
        Command::Down => down(),
    }
}

/// The programs that are needed, and how to get them.
const KIND: (&str, &str) = ("kind", "go install sigs.k8s.io/kind@latest");
const KUBECTL: (&str, &str) = (
    "kubectl",
    "apt-get install kubernetes-client, or a release of Kubernetes",
);
const CONTAINERS: (&[&str], &str) = (
    &["docker", "podman", "nerdctl"],
    "apt-get install docker.io, or podman",
);

/// Fails with all that is missing, and gives the program that runs containers.
fn require(programs: &[(&str, &str)]) -> Result<&'static str> {
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|(program, _)| process::find(program).is_none())
        .map(|(program, remedy)| format!("{program}: {remedy}"))
        .collect();
    let (names, remedy) = CONTAINERS;
    let containers = names.iter().find(|name| process::find(name).is_some());
    if containers.is_none() {
        missing.push(format!("{}: {remedy}", names.join(" or ")));
    }
    match (containers, missing.is_empty()) {
        (Some(containers), true) => Ok(containers),
        _ => bail!(
            "a cluster of containers needs programs that are not on PATH:\n- {}",
            missing.join("\n- ")
        ),
    }
}

fn up(workspace: &Workspace) -> Result<()> {
    require(&[KIND, KUBECTL])?;
    build_ebpf::build(workspace)?;
    let binary = build::build(workspace, true)?;
    let archive = image::of_binary(workspace, &binary, IMAGE)?;
    if !exists()? {
        process::step(
            "create the cluster",
            kind()
                .args(["create", "cluster", "--name", CLUSTER, "--config"])
                .arg(workspace.root().join("deploy/kind.yaml")),
            None,
        )?;
    }
    process::step(
        "load the image into the nodes",
        kind()
            .args(["load", "image-archive", "--name", CLUSTER])
            .arg(&archive),
        None,
    )?;
    process::step(
        "install Weir",
        kubectl()
            .args(["apply", "--kustomize"])
            .arg(workspace.root().join("deploy/kind")),
        None,
    )?;
    // The tag is the same whatever is in the image.
    process::output(kubectl().args([
        "--namespace",
        NAMESPACE,
        "rollout",
        "restart",
        "daemonset/weir",
    ]))?;
    process::step(
        "wait for the agents",
        kubectl()
            .args(["--namespace", NAMESPACE])
            .args(["rollout", "status", "daemonset/weir"])
            .arg(format!("--timeout={}s", PATIENCE.as_secs())),
        None,
    )?;
    wait_until_served()?;
    println!("every node is served; kubectl --context {CONTEXT} talks to the cluster");
    Ok(())
}

fn down() -> Result<()> {
    require(&[KIND])?;
    process::step(
        "delete the cluster",
        kind().args(["delete", "cluster", "--name", CLUSTER]),
        None,
    )?;
    Ok(())
}

fn exists() -> Result<bool> {
    let clusters = process::output(kind().args(["get", "clusters"]))?;
    Ok(clusters.lines().any(|line| line.trim() == CLUSTER))
}

/// Waits until every node's agent says that its tables are complete.
fn wait_until_served() -> Result<()> {
    let mut step = Step::start("wait until every node is served");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let waiting = unserved()?;
        if waiting.is_empty() {
            step.done();
            return Ok(());
        }
        if Instant::now() >= deadline {
            step.failed();
            bail!("not served:\n- {}", waiting.join("\n- "));
        }
        step.note(&waiting.join(", "));
        thread::sleep(Duration::from_secs(1));
    }
}

/// The nodes without an agent that is ready, and what is known of it.
fn unserved() -> Result<Vec<String>> {
    let nodes = json(kubectl().args(["get", "nodes", "--output", "json"]))?;
    let pods = json(
        kubectl()
            .args(["--namespace", NAMESPACE, "get", "pods"])
            .args(["--selector", "app.kubernetes.io/name=weir"])
            .args(["--output", "json"]),
    )?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let mut unserved = Vec::new();
    for node in nodes["items"].as_array().context("a list of nodes")? {
        let name = node["metadata"]["name"].as_str().context("a node's name")?;
        let pod = pods
            .iter()
            .find(|pod| pod["spec"]["nodeName"] == name)
            .and_then(|pod| pod["metadata"]["name"].as_str());
        let problem = match pod {
            None => Some("no agent".to_owned()),
            Some(pod) => problem(pod),
        };
        unserved.extend(problem.map(|problem| format!("{name}: {problem}")));
    }
    Ok(unserved)
}

/// What keeps the agent of a pod from serving its node.
fn problem(pod: &str) -> Option<String> {
    // Exit code 1 is an agent that is ready, and complains.
    let output = kubectl()
        .args(["--namespace", NAMESPACE, "exec", pod, "--container", "weir"])
        .args(["--", "/weir", "status", "--output", "json"])
        .output();
    match output.map(|it| serde_json::from_slice::<Value>(&it.stdout)) {
        Ok(Ok(status)) if status["ready"] == true => None,
        Ok(Ok(_)) => Some("the agent is not ready".to_owned()),
        Ok(Err(_)) => Some("the agent does not answer".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

fn test(workspace: &Workspace, focus: Option<&str>) -> Result<()> {
    let containers = require(&[KIND, KUBECTL])?;
    if !exists()? {
        bail!("there is no cluster: cargo xtask kind up");
    }
    let report = conformance::run(containers, focus)?;
    let kept = workspace.target().join("kind/junit.xml");
    keep(&kept, &report)?;
    let results = junit::parse(&report).context("read the report of the tests")?;
    print!("{}", junit::table(&results));
    println!("report: {}", kept.display());
    let failed = results.iter().filter(|it| it.failed()).count();
    let passed = results.iter().filter(|it| it.passed()).count();
    if failed > 0 || passed == 0 {
        bail!("{failed} tests failed, {passed} passed");
    }
    println!("{passed} tests passed");
    Ok(())
}

fn keep(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().context("a file is in a directory")?;
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("write {}", path.display()))
}

fn kind() -> Program {
    Program::new("kind")
}

fn kubectl() -> Program {
    let mut command = Program::new("kubectl");
    command.args(["--context", CONTEXT]);
    command
}

fn json(command: &mut Program) -> Result<Value> {
    serde_json::from_str(&process::output(command)?).context("read what kubectl answers")
}
