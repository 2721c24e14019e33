//! A node of a bed: a network namespace, a cgroup, a BPF file system, and what runs there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use super::keeper::Keeper;
use super::namespace::Namespace;
use super::plan::{Addresses, NodePlan};
use super::process::Place;
use crate::testpod::client::TestPod;

/// A node. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    plan: NodePlan,
    keeper: Keeper,
    helper: PathBuf,
    namespace: Namespace,
    run_dir: PathBuf,
    group: PathBuf,
    process: TestPod,
    /// Names of the node's ends of its pods' links.
    pod_links: Mutex<Vec<String>>,
}

impl Node {
    /// Prepares a node in a namespace that has its links already.
    pub fn start(
        keeper: &Keeper,
        helper: &Path,
        plan: &NodePlan,
        namespace: Namespace,
        run_dir: PathBuf,
        group: PathBuf,
    ) -> Result<Self> {
        for directory in ["bpffs", "agent", "netns", "cni"] {
            let path = run_dir.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        mount_bpffs(keeper, run_dir.join("bpffs"))?;
        let place = Place {
            keeper: keeper.clone(),
            helper: helper.to_owned(),
            namespace: namespace.file().to_owned(),
            group: group.join("system"),
        };
        let process = TestPod::start(&place, &plan.name)?;
        Ok(Self {
            shared: Arc::new(Shared {
                plan: plan.clone(),
                keeper: keeper.clone(),
                helper: helper.to_owned(),
                namespace,
                run_dir,
                group,
                process,
                pod_links: Mutex::default(),
            }),
        })
    }

    /// As in the Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.plan.name
    }

    /// Its part of the address plan.
    #[must_use]
    pub fn plan(&self) -> &NodePlan {
        &self.shared.plan
    }

    /// Its own addresses.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let NodePlan { v4, v6, .. } = self.shared.plan;
        Addresses { v4, v6 }
    }

    /// A process of the node itself.
    #[must_use]
    pub fn process(&self) -> &TestPod {
        &self.shared.process
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.shared.namespace
    }

    /// Where its files are.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.shared.run_dir
    }

    /// The agent's `--run-dir`.
    #[must_use]
    pub fn agent_dir(&self) -> PathBuf {
        self.shared.run_dir.join("agent")
    }

    /// The agent's `--bpffs`: a BPF file system of the node's own.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        self.shared.run_dir.join("bpffs")
    }

    /// The agent's `--netns-dir`: one file for each pod.
    #[must_use]
    pub fn netns_dir(&self) -> PathBuf {
        self.shared.run_dir.join("netns")
    }

    /// The agent's `--cni-results-dir`: where libcni keeps its records of the pods' links.
    #[must_use]
    pub fn cni_results_dir(&self) -> PathBuf {
        self.shared.run_dir.join("cni")
    }

    /// The agent's `--cgroup-root`: the root of the node's own tree.
    #[must_use]
    pub fn group(&self) -> &Path {
        &self.shared.group
    }

    /// Where the node's own programs run.
    #[must_use]
    pub fn system(&self) -> Place {
        self.place(&self.shared.namespace, "system")
    }

    /// A place in `namespace` and in this group of the node.
    #[must_use]
    pub fn place(&self, namespace: &Namespace, group: &str) -> Place {
        Place {
            keeper: self.shared.keeper.clone(),
            helper: self.shared.helper.clone(),
            namespace: namespace.file().to_owned(),
            group: self.shared.group.join(group),
        }
    }

    /// Runs `weir` with these arguments on the node, to its end.
    pub fn weir(&self, weir: &Path, arguments: &[&str]) -> Result<Output> {
        self.system().output(weir, arguments)
    }

    /// What `weir status` says.
    pub fn status(&self, weir: &Path) -> Result<Value> {
        let (bpffs, run_dir) = (self.bpffs(), self.agent_dir());
        let arguments = [
            "status".as_ref(),
            "--bpffs".as_ref(),
            bpffs.as_os_str(),
            "--run-dir".as_ref(),
            run_dir.as_os_str(),
            "--output=json".as_ref(),
        ];
        let output = self.system().output(weir, &arguments)?;
        // The exit code tells of complaints and of an agent that does not run, which the answer
        // tells, too.
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "weir status ({}) answered {:?} {:?}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Removes all that agents left on the node; gives what `weir cleanup` says.
    pub fn cleanup(&self, weir: &Path) -> Result<String> {
        let (bpffs, run_dir) = (self.bpffs(), self.agent_dir());
        let arguments = [
            "cleanup".as_ref(),
            "--bpffs".as_ref(),
            bpffs.as_os_str(),
            "--run-dir".as_ref(),
            run_dir.as_os_str(),
        ];
        let output = self.system().output(weir, &arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "weir cleanup ({}): {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Takes the BPF file system away, with all that is pinned in it, and mounts a fresh one: what
    /// programs and tables see of a restart of the node.
    pub fn remount_bpffs(&self) -> Result<()> {
        let directory = self.bpffs();
        self.keeper().run({
            let directory = directory.clone();
            move || {
                umount2(&directory, MntFlags::empty())
                    .with_context(|| format!("unmount {}", directory.display()))
            }
        })?;
        mount_bpffs(self.keeper(), directory)
    }

    /// Unmounts the BPF file system for all who look for it now, as `umount --lazy` does: for those
    /// who have something of it open it is still there.
    pub fn unmount_bpffs(&self) -> Result<()> {
        let directory = self.bpffs();
        self.keeper().run(move || {
            umount2(&directory, MntFlags::MNT_DETACH)
                .with_context(|| format!("unmount {}", directory.display()))
        })
    }

    /// Mounts a fresh one.
    pub fn mount_bpffs(&self) -> Result<()> {
        mount_bpffs(self.keeper(), self.bpffs())
    }

    /// Names of the node's ends of its pods' links.
    #[must_use]
    pub fn pod_links(&self) -> Vec<String> {
        self.links().clone()
    }

    pub(super) fn links(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        let links = self.shared.pod_links.lock();
        links.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.shared.keeper
    }
}

fn mount_bpffs(keeper: &Keeper, directory: PathBuf) -> Result<()> {
    keeper.run(move || {
        mount(
            Some("bpf"),
            &directory,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| format!("mount a BPF file system on {}", directory.display()))
    })
}
