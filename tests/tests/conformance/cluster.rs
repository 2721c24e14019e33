//! What a case says of the cluster, for the reference evaluator and as manifests.
//!
//! ```text
//!   x/a 10.200.0.11   x/b 10.200.0.12   x/c 10.200.128.13     c's are on worker-1,
//!   y/a 10.200.0.21   y/b 10.200.0.22   y/c 10.200.128.23     the others on worker-0
//!   z/a 10.200.0.31   z/b 10.200.0.32   z/c 10.200.128.33
//! ```
//!
//! A pod has the label `pod` with its name, a namespace `ns` with its own; a pod's port 80 of TCP
//! is called `serve-80-tcp`, and so on. Policies go to the agent as the case has them, and to the
//! evaluator as it reads them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_tests::bed::{Addresses, Family, NodePlan};
use weir_tests::reference::policy::world::{
    Container, ContainerPort, Namespace, NetworkPolicy, Node, Phase, Pod, PolicyName, Protocol,
    Rule, Selector, World,
};
use weir_tests::reference::policy::{Connection, Sender, Traffic, evaluate, manifests};
use weir_tests::testpod::protocol::Carrier;

use crate::table::{Cell, PORTS, Party, Table};

/// The namespaces.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// The pods of each.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// All pods.
pub const PODS: usize = NAMESPACES.len() * NAMES.len();
/// Nodes.
pub const NODES: usize = 2;

/// A pod by its place: `x/a`, `x/b` …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId(pub usize);

impl PodId {
    /// Every pod.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PODS).map(Self)
    }

    /// `x/a`
    pub fn name(self) -> String {
        format!("{}/{}", self.namespace(), self.short())
    }

    /// The pod of this name.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::all().find(|id| id.name() == name);
        found.with_context(|| format!("there is no pod {name}"))
    }

    /// `x-a`, as its process and its link are called.
    pub fn process(self) -> String {
        format!("{}-{}", self.namespace(), self.short())
    }

    pub fn namespace(self) -> &'static str {
        NAMESPACES[self.0 / NAMES.len()]
    }

    fn short(self) -> &'static str {
        NAMES[self.0 % NAMES.len()]
    }

    /// The number of its node.
    pub fn node(self) -> usize {
        usize::from(self.short() == "c")
    }

    /// Its IPv4 address.
    pub fn v4(self) -> Ipv4Addr {
        let (namespace, name) = (self.0 / NAMES.len(), self.0 % NAMES.len());
        let number = u8::try_from(10 * (namespace + 1) + name + 1).expect("nine pods have numbers");
        NodePlan::new(self.node()).pod(number)
    }

    /// Its address of a family.
    pub fn addr(self, family: Family) -> IpAddr {
        Addresses::twins(self.v4()).of(family)
    }
}

/// Changes of a cluster.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Changes {
    /// Policies that appear or change: `namespace/name` → `spec`.
    pub policies: BTreeMap<String, Value>,
    /// Policies that go.
    pub delete: Vec<String>,
    /// Labels of namespaces; `null` takes one away.
    pub namespaces: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// Labels of pods, likewise.
    pub pods: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// Further pods, which have no process.
    pub others: Vec<Other>,
}

/// A pod that has no process: it runs on the node's network, or does not run any more.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Other {
    name: String,
    labels: BTreeMap<String, String>,
    /// With the addresses of its node, `worker-0`.
    #[serde(default)]
    host_network: bool,
    /// It has run, with the addresses of this pod.
    completed_with_addresses_of: Option<String>,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    world: World,
    specs: BTreeMap<PolicyName, Value>,
    others: Vec<Value>,
}

impl Cluster {
    /// Without policies.
    pub fn new() -> Self {
        let namespaces = NAMESPACES.iter().map(|&name| Namespace {
            name: name.to_owned(),
            labels: [("ns", name), ("kubernetes.io/metadata.name", name)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        });
        let nodes = (0..NODES).map(|index| {
            let NodePlan { name, v4, v6, .. } = NodePlan::new(index);
            Node {
                name,
                addresses: vec![v4.into(), v6.into()],
            }
        });
        let pods = PodId::all().map(|id| Pod {
            namespace: id.namespace().to_owned(),
            name: id.short().to_owned(),
            labels: [("pod".to_owned(), id.short().to_owned())].into(),
            node: Some(NodePlan::new(id.node()).name),
            host_network: false,
            addresses: Family::ALL.map(|family| id.addr(family)).to_vec(),
            phase: Phase::Running,
            ports: ports(),
        });
        let world = World {
            namespaces: namespaces.collect(),
            nodes: nodes.collect(),
            pods: pods.collect(),
            policies: Vec::new(),
        };
        Self {
            world,
            specs: BTreeMap::new(),
            others: Vec::new(),
        }
    }

    /// With changes that are given as a file's `change` is.
    pub fn with(changes: &str) -> Result<Self> {
        let mut cluster = Self::new();
        cluster.change(&serde_saphyr::from_str(changes)?)?;
        Ok(cluster)
    }

    /// A pod more, the youngest.
    pub fn add_pod(&mut self, namespace: &str, name: &str, label: (&str, &str), addr: Ipv4Addr) {
        let (key, value) = label;
        let addresses = Addresses::twins(addr);
        self.world.pods.push(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: [(key.to_owned(), value.to_owned())].into(),
            node: Some(NodePlan::new(0).name),
            host_network: false,
            addresses: Family::ALL.map(|family| addresses.of(family)).to_vec(),
            phase: Phase::Running,
            ports: Vec::new(),
        });
    }

    /// A pod goes.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let mut pods = std::mem::take(&mut self.world.pods);
        pods.retain(|pod| (pod.namespace.as_str(), pod.name.as_str()) != (namespace, name));
        self.world.pods = pods;
    }

    /// An object of another kind.
    pub fn add_object(&mut self, object: Value) {
        self.others.push(object);
    }

    /// Changes it.
    pub fn change(&mut self, changes: &Changes) -> Result<()> {
        for name in &changes.delete {
            let name = policy_name(name)?;
            ensure!(
                self.specs.remove(&name).is_some(),
                "there is no policy {name} to delete"
            );
        }
        for (name, spec) in &changes.policies {
            self.specs.insert(policy_name(name)?, spec.clone());
        }
        self.world.policies = self
            .specs
            .iter()
            .map(|(name, spec)| read_policy(name, spec))
            .collect::<Result<_>>()?;
        for (name, labels) in &changes.namespaces {
            let mut all = self.world.namespaces.iter_mut();
            let found = all.find(|namespace| namespace.name == *name);
            let namespace = found.with_context(|| format!("there is no namespace {name}"))?;
            relabel(&mut namespace.labels, labels);
        }
        for (name, labels) in &changes.pods {
            let mut all = self.world.pods.iter_mut();
            let found = all.find(|pod| format!("{}/{}", pod.namespace, pod.name) == *name);
            let pod = found.with_context(|| format!("there is no pod {name}"))?;
            relabel(&mut pod.labels, labels);
        }
        for other in &changes.others {
            let pod = self.other(other)?;
            self.world.pods.push(pod);
        }
        Ok(())
    }

    fn other(&self, other: &Other) -> Result<Pod> {
        let PolicyName { namespace, name } = policy_name(&other.name)?;
        let node = NodePlan::new(0).name;
        let (addresses, phase) = match (&other.completed_with_addresses_of, other.host_network) {
            (None, true) => (self.world.nodes[0].addresses.clone(), Phase::Running),
            (Some(pod), false) => {
                let id = PodId::named(pod)?;
                let addresses = Family::ALL.map(|family| id.addr(family)).to_vec();
                (addresses, Phase::Succeeded)
            }
            (None, false) | (Some(_), true) => {
                bail!(
                    "{}: a pod without a process is the node's or a completed one",
                    other.name
                )
            }
        };
        Ok(Pod {
            namespace,
            name,
            labels: other.labels.clone(),
            node: Some(node),
            host_network: other.host_network,
            addresses,
            phase,
            ports: Vec::new(),
        })
    }

    /// Its objects.
    pub fn objects(&self) -> Vec<Value> {
        let without_policies = World {
            policies: Vec::new(),
            ..self.world.clone()
        };
        let mut objects = manifests::objects(&without_policies);
        objects.extend(self.others.iter().cloned());
        objects.extend(self.specs.iter().map(|(name, spec)| {
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": name.name, "namespace": name.namespace},
                "spec": spec,
            })
        }));
        objects
    }

    /// Who reaches whom, by the reference evaluator.
    pub fn expected(&self) -> Table<bool> {
        Table::from_fn(|cell| evaluate(&self.world, &connection(cell)).is_allowed())
    }
}

fn connection(cell: Cell) -> Connection {
    let addr = cell.client.addr(cell.family);
    let from = match cell.client {
        Party::Pod(_) => Sender::Pod(addr),
        Party::Node => Sender::Node {
            name: NodePlan::new(0).name,
            addr,
        },
        Party::Outside => Sender::Outside(addr),
    };
    let protocol = protocol(cell.carrier);
    Connection {
        from,
        to: cell.server.addr(cell.family),
        traffic: Traffic::Ports {
            protocol,
            port: cell.port,
        },
    }
}

const fn protocol(carrier: Carrier) -> Protocol {
    match carrier {
        Carrier::Tcp => Protocol::Tcp,
        Carrier::Udp => Protocol::Udp,
        Carrier::Sctp => Protocol::Sctp,
    }
}

fn ports() -> Vec<ContainerPort> {
    let mut ports = Vec::new();
    for carrier in Carrier::ALL {
        for port in PORTS {
            let protocol = protocol(carrier);
            ports.push(ContainerPort {
                container: Container::Ordinary,
                name: Some(format!("serve-{port}-{}", protocol.name().to_lowercase())),
                protocol: Some(protocol),
                port,
            });
        }
    }
    ports
}

fn policy_name(text: &str) -> Result<PolicyName> {
    let (namespace, name) = text
        .split_once('/')
        .with_context(|| format!("{text:?} is not NAMESPACE/NAME"))?;
    Ok(PolicyName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn relabel(labels: &mut BTreeMap<String, String>, changes: &BTreeMap<String, Option<String>>) {
    for (key, value) in changes {
        match value {
            Some(value) => labels.insert(key.clone(), value.clone()),
            None => labels.remove(key),
        };
    }
}

/// `spec` of a policy, as the evaluator knows it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    pod_selector: Option<Selector>,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

fn read_policy(name: &PolicyName, spec: &Value) -> Result<NetworkPolicy> {
    let spec: Spec =
        serde_json::from_value(spec.clone()).with_context(|| format!("in the policy {name}"))?;
    Ok(NetworkPolicy {
        name: name.clone(),
        pod_selector: spec.pod_selector,
        policy_types: spec.policy_types,
        ingress: spec.ingress,
        egress: spec.egress,
    })
}
