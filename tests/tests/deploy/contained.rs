//! The image on a node of a bed, with the rights and volumes of the DaemonSet and no others.
//!
//! The node has no service proxy, no BPF file system and no manifests: an API server answers at its
//! address, as on a control plane, and the kubelet's configuration names it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set};
use serde_json::{Value, json};
use weir_tests::bed::container::{Container, HostRoot, Mount, Propagation};
use weir_tests::bed::manifests::{self, Endpoint, ServicePort};
use weir_tests::bed::process::Process;
use weir_tests::bed::wait::{wait_for, wait_for_some};
use weir_tests::bed::{Bed, Family, Node, Pod, Topology, Wiring};
use weir_tests::fake_api::{FakeApi, Options, ServiceAccount};

use crate::image::Image;
use crate::objects::{deploy, only};
use crate::pod::{Declared, containers};
use crate::rendered::kustomize;

const LIMIT: Duration = Duration::from_secs(120);
/// The service `kubernetes`, which nothing serves before the agent does.
const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
const API_PORT: u16 = 6443;
const WEB: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 140);
const TARGET_PORT: u16 = 8080;
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Fields are dropped from first to last: the bed is the last.
struct Cluster {
    client: Pod,
    _backend: Pod,
    api: FakeApi,
    account: ServiceAccount,
    host: HostRoot,
    image: Image,
    /// Of `kubectl apply -k deploy/`, and of `deploy/cleanup`.
    installed: Vec<Value>,
    cleanup: Vec<Value>,
    weir: PathBuf,
    bed: Bed,
}

impl Cluster {
    fn start() -> Result<Self> {
        let weir = std::env::var_os("WEIR_BINARY")
            .context("WEIR_BINARY is not set; run these tests by: cargo xtask test deploy")?;
        let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
        let node = bed.node(0);
        let host = HostRoot::create(node)?;
        let image = Image::unpack(bed.directory("image")?)?;
        let address = SocketAddr::from((node.plan().v4, API_PORT));
        let api = FakeApi::start_in(
            node.namespace(),
            &Options {
                address,
                is_secure: true,
                ..Options::default()
            },
        )?;
        let account = api.service_account(&bed.run_dir().join("account"))?;
        host.write("/etc/kubernetes/kubelet.conf", &kubelet(&api.url()))?;
        let backend = bed.pod(0, "backend", 2)?;
        let client = bed.pod(0, "client", 9)?;
        backend.serve_at(TARGET_PORT)?;
        api.apply([manifests::node(node.plan())])?;
        api.apply(service("kubernetes", API_SERVICE, 443, address, node))?;
        let endpoint = SocketAddr::from((backend.addr(Family::V4), TARGET_PORT));
        api.apply(service("web", WEB, 80, endpoint, node))?;
        Ok(Self {
            client,
            _backend: backend,
            api,
            account,
            host,
            image,
            installed: kustomize(&deploy())?,
            cleanup: kustomize(&deploy().join("cleanup"))?,
            weir: weir.into(),
            bed,
        })
    }

    fn node(&self) -> &Node {
        self.bed.node(0)
    }

    /// A container of the installation, or of cleaning it up.
    fn container(&self, objects: &[Value], name: &str) -> Result<Container> {
        let set = only(objects, "DaemonSet")?;
        let nothing = Value::Null;
        let settings = only(objects, "ConfigMap").unwrap_or(&nothing);
        let declared = containers(set, settings, self.node().name())?;
        let declared = declared
            .iter()
            .find(|it| it.name == name)
            .with_context(|| format!("there is no container {name}"))?;
        self.as_a_runtime_starts(declared, &set["spec"]["template"]["spec"]["volumes"])
    }

    fn as_a_runtime_starts(&self, declared: &Declared<'_>, volumes: &Value) -> Result<Container> {
        let rights = &declared.value["securityContext"];
        let mut mounts = Vec::new();
        for mount in declared.value["volumeMounts"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let volume = volumes
                .as_array()
                .into_iter()
                .flatten()
                .find(|volume| volume["name"] == mount["name"])
                .with_context(|| format!("there is no volume {}", mount["name"]))?;
            let path = volume["hostPath"]["path"].as_str().context("a path")?;
            if volume["hostPath"]["type"] == "FileOrCreate" {
                self.host.write(path, "")?;
            }
            mounts.push(Mount {
                source: self.host.path(path),
                target: mount["mountPath"].as_str().context("a path")?.into(),
                is_read_only: mount["readOnly"] == true,
                propagation: match mount["mountPropagation"].as_str() {
                    None => Propagation::None,
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    Some(other) => bail!("there is no propagation {other}"),
                },
            });
        }
        let is_privileged = rights["privileged"] == true;
        ensure!(
            is_privileged
                || mounts
                    .iter()
                    .all(|it| it.propagation != Propagation::Bidirectional),
            "a container that is not privileged mounts nothing on its host"
        );
        // What the kubelet adds.
        mounts.push(Mount {
            source: self.account.directory().to_owned(),
            target: ACCOUNT.into(),
            is_read_only: true,
            propagation: Propagation::None,
        });
        let mut environment = declared.environment.clone();
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", API_SERVICE.to_string()),
            ("KUBERNETES_SERVICE_PORT", "443".to_owned()),
        ] {
            environment.insert(name.to_owned(), value);
        }
        Ok(Container {
            root: self.image.root.clone(),
            is_read_only: rights["readOnlyRootFilesystem"] == true,
            mounts,
            capabilities: (!is_privileged)
                .then(|| serde_json::from_value(rights["capabilities"]["add"].clone()))
                .transpose()?,
            no_new_privileges: rights["allowPrivilegeEscalation"] == false,
            environment,
            command: [&self.image.entrypoint[..], &declared.arguments].concat(),
        })
    }

    /// Waits until `weir status` is as `condition` says.
    fn wait_status(
        &self,
        agent: &mut (Process, PathBuf),
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let mut last = String::new();
        let outcome = wait_for_some(
            || what.to_owned(),
            LIMIT,
            || {
                if let Some(status) = agent.0.status()? {
                    bail!("the agent ended: {status}");
                }
                // There may be none yet.
                let Ok(status) = self.node().status(&self.weir) else {
                    return Ok(None);
                };
                last = status.to_string();
                Ok(condition(&status).then_some(()))
            },
        );
        outcome.with_context(|| format!("last status: {last}\n{}", text(&agent.1)))
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
}

/// A kubelet's own configuration.
fn kubelet(server: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": {"server": server}}],
        "contexts": [{"name": "node", "context": {"cluster": "bed", "user": "node"}}],
        "current-context": "node",
        "users": [{"name": "node", "user": {"token": "the-kubelets-own"}}],
    })
    .to_string()
}

fn service(name: &str, ip: Ipv4Addr, port: u16, to: SocketAddr, node: &Node) -> [Value; 2] {
    let ports = |port| {
        [ServicePort {
            name: "tcp",
            port,
            protocol: "TCP",
        }]
    };
    let endpoint = Endpoint {
        addr: to.ip(),
        node: node.name().to_owned(),
    };
    [
        manifests::service(name, &[IpAddr::V4(ip)], &ports(port)),
        manifests::slice(name, Family::V4, &ports(to.port()), &[endpoint]),
    ]
}

#[test]
#[ignore = "needs root and the image: cargo xtask test deploy"]
fn the_image_serves_a_node_with_the_rights_of_its_daemon_set_and_no_others() -> Result<()> {
    let cluster = Cluster::start()?;
    prepares(&cluster).context("prepare")?;
    is_in_good_health(&cluster).context("doctor")?;
    serves(&cluster).context("agent")?;
    needs_every_right(&cluster).context("agent with less")?;
    cleans_up(&cluster).context("cleanup")
}

fn prepares(cluster: &Cluster) -> Result<()> {
    let prepare = cluster.container(&cluster.installed, "prepare")?;
    let (succeeded, said) = prepare.run(cluster.node(), "prepare")?;
    ensure!(succeeded && said.contains("mounted a BPF"), "{said}");
    ensure!(said.contains(&cluster.api.url()), "{said}");
    let kept = text(&cluster.node().agent_dir().join("kubelet.conf"));
    ensure!(
        kept.contains(&cluster.api.url()) && !kept.contains("the-kubelets-own"),
        "{kept}"
    );
    // As after a restart of the pod: what is there stays.
    let (succeeded, said) = prepare.run(cluster.node(), "prepare-again")?;
    ensure!(succeeded && said.contains("is a BPF file system"), "{said}");
    Ok(())
}

fn is_in_good_health(cluster: &Cluster) -> Result<()> {
    let doctor = cluster.container(&cluster.installed, "doctor")?;
    let (succeeded, said) = doctor.run(cluster.node(), "doctor")?;
    ensure!(succeeded, "{said}");
    Ok(())
}

fn serves(cluster: &Cluster) -> Result<()> {
    let node = cluster.node();
    let container = cluster.container(&cluster.installed, "weir")?;
    let mut agent = container.start(node, "agent")?;
    let pods = node.pod_links();
    cluster.wait_status(&mut agent, "the agent to be ready", |status| {
        is_ready(status, &pods)
    })?;
    let web = SocketAddr::from((WEB, 80));
    let answer = cluster.client.tcp_ask(web)?;
    ensure!(answer.server == "backend", "{answer:?}");
    // Now the API server's own address leads there, too.
    node.process().connect((API_SERVICE, 443).into())?;

    // A pod that comes later: its namespace is mounted on the node after the container's start.
    let late = cluster.bed.pod(0, "late", 11)?;
    let pods = node.pod_links();
    cluster.wait_status(&mut agent, "a later pod to be served", |status| {
        is_ready(status, &pods)
    })?;
    ensure!(late.tcp_ask(web)?.server == "backend");

    has_these_rights(&agent.0, &container)?;
    // What `kubectl exec` asks for.
    let exec = Container {
        command: ["/weir", "status", "-o", "json"].map(str::to_owned).into(),
        ..container
    };
    let (_, said) = exec.run(node, "exec")?;
    let status: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(status["ready"] == true, "{said}");

    // The first process of a container ends only by a signal that it handles.
    let ended = agent.0.end(Signal::SIGTERM)?;
    ensure!(
        ended.is_some_and(|status| status.success()),
        "{ended:?}: {}",
        text(&agent.1)
    );
    let answer = cluster.client.tcp_ask(web)?;
    ensure!(answer.server == "backend", "without an agent: {answer:?}");
    Ok(())
}

fn is_ready(status: &Value, pods: &[String]) -> bool {
    let interfaces = status["interfaces"].as_array();
    let is_served = |pod: &String| {
        interfaces.is_some_and(|all| all.iter().any(|one| one["name"] == pod.as_str()))
    };
    status["running"] == true
        && status["ready"] == true
        && status["error"].is_null()
        && pods.iter().all(is_served)
}

/// The process in the container has exactly the capabilities that the manifest adds, cannot get
/// others, and cannot write to its root.
fn has_these_rights(process: &Process, container: &Container) -> Result<()> {
    let outside = process.id();
    let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children"))?;
    let inside = children.split_whitespace().next().context("a container")?;
    let status = fs::read_to_string(format!("/proc/{inside}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).context("a field of the status")
    };
    let added = container.capabilities.as_ref().context("capabilities")?;
    // Nobody gives what the machine has not: root of a virtual machine may lack some.
    let added: BTreeSet<&str> = added
        .iter()
        .map(String::as_str)
        .filter(|name| {
            let one = CapabilitySet::from_name(name);
            one.is_some_and(|one| capability_is_in_bounding_set(one).unwrap_or(false))
        })
        .collect();
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let bits = u64::from_str_radix(field(set)?, 16)?;
        let held = CapabilitySet::from_bits_retain(bits);
        let held: BTreeSet<&str> = held.iter_names().map(|(name, _)| name).collect();
        ensure!(held == added, "{set} {held:?} against {added:?}");
    }
    ensure!(field("NoNewPrivs:")? == "1", "{status}");
    ensure!(field("NSpid:")?.ends_with("\t1"), "{status}");
    let mounts = fs::read_to_string(format!("/proc/{inside}/mountinfo"))?;
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
        .context("a root")?;
    let options = root.split(' ').nth(5).context("options")?;
    ensure!(options.split(',').any(|it| it == "ro"), "{root}");
    Ok(())
}

/// Whatever capability is taken away, the agent does not get far, and says so.
fn needs_every_right(cluster: &Cluster) -> Result<()> {
    let whole = cluster.container(&cluster.installed, "weir")?;
    let all = whole.capabilities.clone().context("capabilities")?;
    for taken in &all {
        // Of use before Linux 5.11 alone.
        if taken == "SYS_RESOURCE" {
            continue;
        }
        let less = Container {
            capabilities: Some(all.iter().filter(|it| *it != taken).cloned().collect()),
            ..whole.clone()
        };
        let (mut agent, log) = less.start(cluster.node(), &format!("without-{taken}"))?;
        let status = wait_for_some(
            || format!("the agent without {taken} to give up: {}", text(&log)),
            LIMIT,
            || agent.status(),
        )?;
        ensure!(!status.success(), "without {taken}: {}", text(&log));
    }
    Ok(())
}

fn cleans_up(cluster: &Cluster) -> Result<()> {
    let node = cluster.node();
    let cleanup = cluster.container(&cluster.cleanup, "cleanup")?;
    let (succeeded, said) = cleanup.run(node, "cleanup")?;
    ensure!(succeeded && said.contains("removed"), "{said}");
    ensure!(
        cluster.client.tcp_ask((WEB, 80).into()).is_err(),
        "nothing translates the service any more"
    );
    let stays = cluster.container(&cluster.cleanup, "weir")?;
    let (mut stays, log) = stays.start(node, "cleanup-stay")?;
    wait_for(
        || format!("the node to be clean: {}", text(&log)),
        LIMIT,
        || {
            ensure!(stays.status()?.is_none(), "it ended: {}", text(&log));
            Ok(text(&log).contains("nothing to remove"))
        },
    )?;
    let ended = stays.end(Signal::SIGTERM)?;
    ensure!(ended.is_some_and(|status| status.success()), "{ended:?}");
    let left: Vec<PathBuf> = fs::read_dir(node.agent_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left.is_empty(), "{left:?} is left in the run directory");
    Ok(())
}
