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
pub mod between;
pub mod cgroup;
pub mod container;
pub mod fabric;
pub mod firewall;
pub mod guardian;
pub mod identity;
mod inspect;
pub mod keeper;
pub mod links;
pub mod manifests;
pub mod marker;
pub mod namespace;
pub mod neighbour;
pub mod node;
pub mod plan;
pub mod pod;
pub mod process;
pub mod raw;
pub mod sandbox;
pub mod upgrade;
pub mod wait;
pub mod wiring;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

pub use agent::{Agent, AgentOptions};
pub use between::Between;
pub use fabric::{Narrow, ReversePath};
pub use firewall::Firewall;
pub use neighbour::Neighbour;
pub use node::Node;
pub use plan::{Addresses, Family, NodePlan};
pub use pod::Pod;
pub use sandbox::Sandbox;
pub use upgrade::Upgrade;
pub use wiring::Wiring;

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
    /// How nodes reach each other's pods.
    pub between: Between,
    /// Where the router takes shorter packets than every link does.
    pub narrow: Narrow,
    /// What else the nodes do to packets.
    pub firewall: Firewall,
}

impl Topology {
    /// Two nodes with a strict reverse path filter.
    #[must_use]
    pub fn two_nodes(wiring: Wiring) -> Self {
        Self {
            nodes: 2,
            wiring,
            reverse_path: ReversePath::Strict,
            between: Between::Direct,
            narrow: Narrow::Nowhere,
            firewall: Firewall::None,
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
    fabric: Namespace,
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
        fabric::build(&fabric, &outside).context("build the fabric")?;
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
                fabric::build_node(&fabric, &namespace, plan, topology.reverse_path)?;
                wiring::build_bridge(topology.wiring, &fabric, &namespace, plan)?;
                topology.between.build(&namespace, plan, &plans)?;
                for range in plan.pod_ranges() {
                    fabric::route(&fabric, range, plan, topology.narrow.to_pods())?;
                }
                let group = identity.cgroup().join(&plan.name);
                let node = Node::start(&keeper, &helper, plan, namespace, directory, group)?;
                topology.firewall.load(&node)?;
                Ok(node)
            })
            .collect::<Result<_>>()
            .context("build the nodes")?;
        if let Some(mtu) = topology.narrow.to_hosts() {
            fabric::narrow(&fabric, &plans, mtu).context("narrow the router")?;
        }
        Ok(Self {
            topology,
            identity,
            nodes,
            outside,
            fabric,
            cleaner,
        })
    }

    /// How it was built.
    #[must_use]
    pub const fn topology(&self) -> &Topology {
        &self.topology
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
        Pod::start_in(self.sandbox_at(node, name, addr)?)
    }

    /// Makes the place of such a pod, without a process.
    pub fn sandbox_at(&self, node: usize, name: &str, addr: Ipv4Addr) -> Result<Sandbox> {
        let node = self.node(node);
        ensure!(
            node.plan().pods_v4.contains(addr),
            "{addr} is not in the range of {}'s pods",
            node.name()
        );
        Sandbox::create(node, self.topology.wiring, name, addr)
    }

    /// The host in the outside world.
    #[must_use]
    pub fn outside(&self) -> &TestPod {
        &self.outside
    }

    /// Makes another host on the nodes' network, with the address of this number there. What works
    /// in its namespace is up to the caller.
    pub fn host(&self, name: &str, number: u8) -> Result<Namespace> {
        let file = self.run_dir().join(format!("{name}.netns"));
        let host = Namespace::create(self.node(0).keeper(), file)?;
        fabric::build_host(&self.fabric, &host, name, plan::host(number))
            .with_context(|| format!("connect the host {name}"))?;
        Ok(host)
    }

    /// Has the router send what is for a range of addresses to a node: what a load balancer or an
    /// administrator's route does.
    pub fn route(&self, destination: (IpAddr, u8), node: usize) -> Result<()> {
        let plan = self.node(node).plan();
        fabric::route(
            &self.fabric,
            destination,
            plan,
            self.topology.narrow.to_hosts(),
        )
    }

    /// Takes a node's link to the fabric away, and gives it another one behind a bridge, with the
    /// same addresses and routes.
    pub fn replug(&self, node: usize) -> Result<()> {
        let plans: Vec<NodePlan> = self.nodes.iter().map(|node| node.plan().clone()).collect();
        let node = self.node(node);
        fabric::replug(&self.fabric, node.namespace(), node.plan())?;
        self.topology
            .between
            .build(node.namespace(), node.plan(), &plans)
    }

    /// Every address by which others may see a node.
    #[must_use]
    pub fn addresses_of(&self, node: usize) -> BTreeSet<IpAddr> {
        let plan = self.node(node).plan();
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::from([plan.v4.into(), plan.v6.into()]);
        if self.topology.wiring.bridge().is_some() {
            addresses.extend([IpAddr::V4(plan.gateway_v4()), plan.gateway_v6().into()]);
        }
        addresses.extend(self.topology.between.addresses(plan).into_iter().flatten());
        addresses
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
