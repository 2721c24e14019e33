//! The lesson's cluster, running.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::manifests::Manifests;
use crate::bed::wait::wait_for;
use crate::bed::{Agent, AgentOptions, Bed, Family, Pod, Topology, Wiring};
use crate::testpod::client::TestPod;
use crate::testpod::protocol::Transport;

/// The file of manifests that a step changes.
pub const ENDPOINTS: &str = "nginx-endpoints.yaml";
/// The repository's manifests by file name.
const MANIFESTS: [(&str, &str); 6] = [
    (
        "nodes.yaml",
        include_str!("../../../deploy/demo/nodes.yaml"),
    ),
    (
        "nginx.yaml",
        include_str!("../../../deploy/demo/nginx.yaml"),
    ),
    (
        ENDPOINTS,
        include_str!("../../../deploy/demo/nginx-endpoints.yaml"),
    ),
    (
        "kubernetes.yaml",
        include_str!("../../../deploy/demo/kubernetes.yaml"),
    ),
    (
        "kube-dns.yaml",
        include_str!("../../../deploy/demo/kube-dns.yaml"),
    ),
    (
        "lonely.yaml",
        include_str!("../../../deploy/demo/lonely.yaml"),
    ),
];
/// Where the API server listens on its node.
const API_SERVER_PORT: u16 = 6443;

/// Fields are dropped from first to last: agents before the bed.
pub struct Cluster {
    pub agents: Vec<Agent>,
    pub busybox: Pod,
    pub nginx: [Pod; 2],
    _dns: Pod,
    pub manifests: Manifests,
    pub weir: PathBuf,
    pub bed: Bed,
}

impl Cluster {
    /// Builds the network, starts the pods and an agent on each node, and waits until these are
    /// ready.
    pub fn start(weir: &Path, wiring: Wiring) -> Result<Self> {
        let weir = weir
            .canonicalize()
            .with_context(|| format!("there is no binary {}", weir.display()))?;
        let bed = Bed::start(Topology::two_nodes(wiring))?;
        let nginx = [
            bed.pod_at(0, "nginx-0", Ipv4Addr::new(10, 200, 0, 2))?,
            bed.pod_at(1, "nginx-1", Ipv4Addr::new(10, 200, 128, 1))?,
        ];
        for pod in &nginx {
            pod.serve_at(80)?;
        }
        let busybox = bed.pod_at(0, "busybox", Ipv4Addr::new(10, 200, 0, 3))?;
        let dns = bed.pod_at(1, "kube-dns", Ipv4Addr::new(10, 200, 128, 2))?;
        for family in Family::ALL {
            dns.serve_dns((dns.addr(family), 53).into(), records())?;
        }
        let node = bed.node(0);
        let api_server = (node.addresses().v4, API_SERVER_PORT).into();
        node.process().serve(Transport::Tcp, api_server)?;
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        for (name, text) in MANIFESTS {
            manifests.put_text(name, text)?;
        }
        let mut cluster = Self {
            agents: Vec::new(),
            busybox,
            nginx,
            _dns: dns,
            manifests,
            weir,
            bed,
        };
        cluster.record_members()?;
        cluster.start_agents()?;
        Ok(cluster)
    }

    /// Starts the agents of all nodes, ending those that run.
    pub fn start_agents(&mut self) -> Result<()> {
        self.agents.clear();
        let options = AgentOptions::new(&self.weir, self.manifests.directory());
        for node in self.bed.nodes() {
            self.agents.push(Agent::start(node, &options)?);
        }
        Ok(())
    }

    /// Writes the endpoints of `nginx` without those on a node, and waits until all agents know.
    pub fn remove_endpoints_on(&mut self, node: &str) -> Result<()> {
        self.change_endpoints(|cluster| {
            let objects = without_node(original(ENDPOINTS)?, node)?;
            cluster.manifests.put(ENDPOINTS, &objects)
        })
    }

    /// Writes the endpoints of `nginx` as they are in the repository, and waits likewise.
    pub fn restore_endpoints(&mut self) -> Result<()> {
        self.change_endpoints(|cluster| cluster.manifests.put_text(ENDPOINTS, original(ENDPOINTS)?))
    }

    fn change_endpoints(&mut self, change: impl FnOnce(&Self) -> Result<bool>) -> Result<()> {
        let before: Vec<u64> = self
            .agents
            .iter()
            .map(Agent::generation)
            .collect::<Result<_>>()?;
        if change(self)? {
            for (agent, generation) in self.agents.iter_mut().zip(before) {
                agent.wait_generation_after(generation)?;
            }
        }
        Ok(())
    }

    /// Waits until a probe has `more` answers than now.
    pub fn wait_probe(&self, probe: crate::testpod::protocol::Handle, more: u64) -> Result<()> {
        let start = self.busybox.read_probe(probe)?.answered();
        wait_for(
            || format!("{more} more answers"),
            Duration::from_secs(20),
            || {
                let seen = self.busybox.read_probe(probe)?;
                ensure!(seen.failed == 0, "expected no failed request, saw {seen:?}");
                Ok(seen.answered() >= start + more)
            },
        )
    }

    /// Tells `weir-demo enter` where everyone is.
    fn record_members(&self) -> Result<()> {
        let pods = [&self.busybox, &self.nginx[0], &self.nginx[1], &self._dns];
        let pods = pods.into_iter().map(|pod| {
            let group = pod.node().group().join("pods").join(pod.name());
            (&**pod, group)
        });
        let nodes = self.bed.nodes().iter();
        let nodes = nodes.map(|node| (node.process(), node.group().join("system")));
        for (process, group) in pods.chain(nodes) {
            super::enter::record(
                self.bed.run_dir(),
                process.server_name(),
                pid(process),
                &group,
            )?;
        }
        Ok(())
    }
}

fn pid(process: &TestPod) -> u32 {
    process.pid()
}

/// A manifest as it is in the repository.
fn original(name: &str) -> Result<&'static str> {
    let found = MANIFESTS.iter().find(|(file, _)| *file == name);
    Ok(found
        .with_context(|| format!("there is no manifest {name}"))?
        .1)
}

/// The objects of a file of slices, without the endpoints on a node.
fn without_node(text: &str, node: &str) -> Result<Vec<Value>> {
    let mut objects: Vec<Value> =
        serde_saphyr::from_multiple(text).context("read the demonstration's manifest")?;
    for object in &mut objects {
        let endpoints = object["endpoints"].as_array_mut();
        endpoints
            .context("a slice has endpoints")?
            .retain(|endpoint| endpoint["nodeName"] != node);
    }
    Ok(objects)
}

/// What the cluster's resolver knows, without the zone.
fn records() -> BTreeMap<String, Vec<IpAddr>> {
    let mut records = BTreeMap::new();
    for (name, addresses) in [
        ("kubernetes.default.svc", &["10.32.0.1"][..]),
        ("nginx.default.svc", &["10.32.0.140", "fd00:10:32::8c"][..]),
        (
            "kube-dns.kube-system.svc",
            &["10.32.0.10", "fd00:10:32::a"][..],
        ),
    ] {
        let addresses = addresses.iter().filter_map(|text| text.parse().ok());
        records.insert(name.to_owned(), addresses.collect());
    }
    records
}

/// A service's address from the lesson.
pub fn at(text: &str) -> Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{text} is no address and port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_removed_from_both_families() {
        let slices = without_node(original(ENDPOINTS).unwrap(), "worker-1").unwrap();
        let left: Vec<&Value> = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().unwrap())
            .collect();
        assert_eq!(slices.len(), 2);
        assert_eq!(left.len(), 2);
        assert!(
            left.iter()
                .all(|endpoint| endpoint["nodeName"] == "worker-0")
        );
    }

    #[test]
    fn every_record_has_all_its_addresses() {
        let counts: Vec<usize> = records().values().map(Vec::len).collect();
        assert_eq!(counts, [2, 1, 2]);
    }
}
