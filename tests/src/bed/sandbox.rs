//! What a runtime prepares for a pod before its first process: a network namespace, its link to
//! the node, and the record of it that libcni keeps.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::fabric::UPLINK;
use super::namespace::Namespace;
use super::node::Node;
use super::plan::{Addresses, Family};
use super::process::Place;
use super::wiring::{Wiring, connect_pod};

/// Longest name of a link that the kernel takes.
const LINK_NAME_MAX: usize = 15;
/// Of the network in libcni's configuration.
const NETWORK: &str = "bed";

/// A pod's place on its node, without a process. It stays until [`Sandbox::remove`] or the bed's
/// end.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    node: Node,
    addresses: Addresses,
    link: String,
    namespace: Namespace,
}

impl Sandbox {
    /// Makes one on a node.
    pub fn create(node: &Node, wiring: Wiring, name: &str, addr: Ipv4Addr) -> Result<Self> {
        let link = format!("veth-{name}");
        ensure!(
            link.len() <= LINK_NAME_MAX,
            "pod {name}: {link} is longer than a link's name may be ({LINK_NAME_MAX} bytes)"
        );
        let addresses = Addresses::twins(addr);
        let namespace = Namespace::create(node.keeper(), node.netns_dir().join(name))?;
        connect_pod(
            wiring,
            node.namespace(),
            node.plan(),
            &namespace,
            addresses,
            &link,
        )
        .with_context(|| format!("connect pod {name} to {}", node.name()))?;
        node.links().push(link.clone());
        Ok(Self {
            name: name.to_owned(),
            node: node.clone(),
            addresses,
            link,
            namespace,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its address of a family.
    #[must_use]
    pub fn addr(&self, family: Family) -> IpAddr {
        self.addresses.of(family)
    }

    /// The name of its link's end at the node.
    #[must_use]
    pub fn link(&self) -> &str {
        &self.link
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where its processes run.
    #[must_use]
    pub fn place(&self) -> Place {
        let group = format!("pods/{}", self.name);
        self.node.place(&self.namespace, &group)
    }

    /// Writes libcni's record of the link, as of a pod of the cluster. (`cacheAdd` in libcni's
    /// `api.go` writes the file in place.)
    pub fn record(&self, namespace: &str, pod: &str, uid: &str) -> Result<()> {
        let path = self.record_path();
        fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                Ok(serde_json::to_writer(
                    file,
                    &self.cached(namespace, pod, uid),
                )?)
            })
            .with_context(|| format!("write {}", path.display()))
    }

    /// Removes it, as `cacheDel` does.
    pub fn forget_record(&self) -> Result<()> {
        let path = self.record_path();
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    fn record_path(&self) -> PathBuf {
        let file = format!("{NETWORK}-{}-{UPLINK}", self.container());
        self.node.cni_results_dir().join(file)
    }

    /// The sandbox's container.
    fn container(&self) -> String {
        format!("container-of-{}", self.name)
    }

    fn cached(&self, namespace: &str, pod: &str, uid: &str) -> Value {
        let sandbox = self.namespace.file();
        let plan = self.node.plan();
        let (v4, v6) = (self.addresses.v4, self.addresses.v6);
        let (v4_length, v6_length) = (plan.pods_v4.prefix(), plan.pods_v6.prefix());
        json!({
            "kind": "cniCacheV1",
            "containerId": self.container(),
            "config": "",
            "ifName": UPLINK,
            "networkName": NETWORK,
            "netns": sandbox,
            "cniArgs": [
                ["IgnoreUnknown", "1"],
                ["K8S_POD_NAMESPACE", namespace],
                ["K8S_POD_NAME", pod],
                ["K8S_POD_INFRA_CONTAINER_ID", self.container()],
                ["K8S_POD_UID", uid],
            ],
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    { "name": self.link, "mac": "ee:ee:ee:ee:ee:ee" },
                    { "name": UPLINK, "mac": "02:00:00:00:00:01", "sandbox": sandbox },
                ],
                "ips": [
                    { "interface": 1, "address": format!("{v4}/{v4_length}") },
                    { "interface": 1, "address": format!("{v6}/{v6_length}") },
                ],
                "dns": {},
            },
        })
    }

    /// Deletes its link, as a runtime does.
    pub fn remove(self) -> Result<()> {
        let link = self.link.as_str();
        self.node.links().retain(|other| other != link);
        self.node
            .namespace()
            .run(async |links| links.delete(link).await)?;
        self.namespace.remove(self.node.keeper())
    }
}
