//! A cluster's network on one machine: nodes, pods and an outside host as network namespaces.
//!
//! ```text
//!   outside ── fabric ─┬─ worker-0 ─┬─ pod      each box a network namespace,
//!                      │            └─ pod      each node with its own cgroup, BPF file system,
//!                      └─ worker-1 ─── pod      directory of namespaces and agent
//! ```
//!
//! Promises:
//! - no packet leaves the bed: the fabric has no way out;
//! - two beds at once never meet, be they of one process or of two;
//! - nothing is left when a bed ends, whatever ends it ([`guardian`], [`keeper`]).
//!
//! Everything needs root.

pub mod agent;
pub mod cgroup;
pub mod guardian;
pub mod identity;
mod inspect;
pub mod keeper;
pub mod links;
pub mod manifests;
pub mod namespace;
pub mod node;
pub mod plan;
pub mod pod;
pub mod process;
pub mod wait;
pub mod wiring;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

pub use agent::{Agent, AgentOptions};
pub use node::Node;
pub use plan::{Addresses, Family, NodePlan};
pub use pod::Pod;
pub use wiring::{ReversePath, Wiring};

use crate::testpod::client::TestPod;
use guardian::Guardian;
use identity::Identity;
use keeper::Keeper;
use namespace::Namespace;
use process::Place;

/// What a bed consists of at its start.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// At most [`plan::MAX_NODES`].
    pub nodes: usize,
    /// How pods hang on their nodes.
    pub wiring: Wiring,
    /// The nodes' reverse path filter.
    pub reverse_path: ReversePath,
}

impl Topology {
    /// Two nodes with a strict reverse path filter.
    #[must_use]
    pub fn two_nodes(wiring: Wiring) -> Self {
        Self {
            nodes: 2,
            wiring,
            reverse_path: ReversePath::Strict,
        }
    }

    /// One node with a strict reverse path filter.
    #[must_use]
    pub fn one_node(wiring: Wiring) -> Self {
        Self {
            nodes: 1,
            ..Self::two_nodes(wiring)
        }
    }
}

/// A running network. Dropping it removes everything.
#[derive(Debug)]
pub struct Bed {
    topology: Topology,
    identity: Identity,
    nodes: Vec<Node>,
    outside: TestPod,
    /// Last, so that it finds the processes ended.
    cleaner: Cleaner,
}

/// Removes a bed on demand, from any thread. Clones are of the same bed.
#[derive(Clone, Debug)]
pub struct Cleaner {
    guardian: Arc<Mutex<Guardian>>,
}

impl Cleaner {
    /// Ends the bed's processes, removes what it has on the machine, and waits for both.
    pub fn clean_up(&self) -> Result<()> {
        let mut guardian = self.guardian.lock().unwrap_or_else(PoisonError::into_inner);
        guardian.finish()
    }
}

impl Bed {
    /// Builds a network. What earlier runs may have left is removed first.
    pub fn start(topology: Topology) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a test bed needs root: it makes network namespaces, cgroups and mounts"
        );
        guardian::reap().context("remove what an earlier run left")?;
        let helper = process::helper()?;
        let identity = Identity::new()?;
        // From here on whatever fails is cleaned up by the guardian.
        let cleaner = Cleaner {
            guardian: Arc::new(Mutex::new(Guardian::start(&helper, &identity)?)),
        };
        let keeper = Keeper::start()?;
        let run_dir = identity.run_dir();
        let fabric = Namespace::create(&keeper, run_dir.join("fabric.netns"))?;
        let outside = Namespace::create(&keeper, run_dir.join("outside.netns"))?;
        wiring::build_fabric(&fabric, &outside).context("build the fabric")?;
        let outside = TestPod::start(
            &Place {
                keeper: keeper.clone(),
                helper: helper.clone(),
                namespace: outside.file().to_owned(),
                group: identity.cgroup().join("outside"),
            },
            "outside",
        )?;
        let plans: Vec<NodePlan> = (0..topology.nodes).map(NodePlan::new).collect();
        let nodes = plans
            .iter()
            .map(|plan| {
                let directory = run_dir.join(&plan.name);
                let namespace = Namespace::create(&keeper, directory.join("node.netns"))?;
                let (wiring, reverse_path) = (topology.wiring, topology.reverse_path);
                wiring::build_node(&fabric, &namespace, plan, &plans, wiring, reverse_path)?;
                let group = identity.cgroup().join(&plan.name);
                Node::start(&keeper, &helper, plan, namespace, directory, group)
            })
            .collect::<Result<_>>()
            .context("build the nodes")?;
        Ok(Self {
            topology,
            identity,
            nodes,
            outside,
            cleaner,
        })
    }

    /// The node `worker-<index>`.
    ///
    /// # Panics
    ///
    /// When the bed has fewer nodes.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Makes a pod with the node's address of that number.
    pub fn pod(&self, node: usize, name: &str, number: u8) -> Result<Pod> {
        let addr = self.node(node).plan().pod(number);
        self.pod_at(node, name, addr)
    }

    /// Makes a pod with an address, and its IPv6 twin, in the node's ranges.
    pub fn pod_at(&self, node: usize, name: &str, addr: Ipv4Addr) -> Result<Pod> {
        let node = self.node(node);
        ensure!(
            node.plan().pods_v4.contains(addr),
            "{addr} is not in the range of {}'s pods",
            node.name()
        );
        Pod::start(node, self.topology.wiring, name, addr)
    }

    /// The host in the outside world.
    #[must_use]
    pub fn outside(&self) -> &TestPod {
        &self.outside
    }

    /// The bed's directory: files there go with it.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        self.identity.run_dir()
    }

    /// The bed's group.
    #[must_use]
    pub fn group(&self) -> &Path {
        self.identity.cgroup()
    }

    /// The process that removes the bed when this one cannot.
    #[must_use]
    pub fn guardian_pid(&self) -> u32 {
        let guardian = self.cleaner.guardian.lock();
        guardian.unwrap_or_else(PoisonError::into_inner).id()
    }

    /// For a thread that has to end the bed before its owner does.
    #[must_use]
    pub fn cleaner(&self) -> Cleaner {
        self.cleaner.clone()
    }

    /// Makes a directory for the bed's files.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.run_dir().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = self.cleaner.clean_up() {
            // A drop has no other way to say it; the next bed's start tries again and fails loudly.
            #[allow(clippy::print_stderr, reason = "a drop cannot return an error")]
            {
                eprintln!("the bed {} remains: {error:#}", self.run_dir().display());
            }
        }
    }
}
