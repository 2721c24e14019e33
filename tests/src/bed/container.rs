//! A container on a node of a bed, as a runtime starts one: an image's root, the volumes of a pod's
//! manifest, and no more rights than it names.
//!
//! [`Container`] says what is wanted and starts it; [`contain`] and [`become_contained`] are the
//! helper's part, which does what `runc` does: namespaces of its own for processes, mounts, groups,
//! host name and messages; the root read-only; `/proc`, `/sys` and `/sys/fs/cgroup` as a pod of the
//! host's network sees them; what propagates of mounts as the manifest says; and a bounding set of
//! capabilities, which is what a program of root's gets.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, chdir, fchdir, pivot_root};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use serde::{Deserialize, Serialize};

use super::node::Node;
use super::process::{Process, Streams};

/// What a container is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Container {
    /// The image, unpacked.
    pub root: PathBuf,
    /// `readOnlyRootFilesystem`
    pub is_read_only: bool,
    /// Its volumes.
    pub mounts: Vec<Mount>,
    /// All capabilities, or these.
    pub capabilities: Option<Vec<String>>,
    /// `allowPrivilegeEscalation: false`
    pub no_new_privileges: bool,
    /// All that its environment holds.
    pub environment: BTreeMap<String, String>,
    /// Program, as the container sees it, and arguments.
    pub command: Vec<String>,
}

/// A volume in a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// A directory or file of the node.
    pub source: PathBuf,
    /// Where the container has it.
    pub target: PathBuf,
    /// It cannot be written there.
    pub is_read_only: bool,
    /// What is mounted later.
    pub propagation: Propagation,
}

/// Who sees what the other mounts later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Nobody.
    None,
    /// The container what the node mounts.
    HostToContainer,
    /// Both.
    Bidirectional,
}

/// A node's root directory, as the volumes of a manifest name what is in it.
#[derive(Debug)]
pub struct HostRoot {
    node: Node,
    directory: PathBuf,
}

impl HostRoot {
    /// Makes it: mounts propagate from it as systemd has it on a node, and `/sys/fs/bpf` has no
    /// file system. Before the node's pods, whose namespaces are to be seen in containers.
    pub fn create(node: &Node) -> Result<Self> {
        let directory = node.run_dir().join("host");
        let (root, namespaces) = (directory.clone(), node.netns_dir());
        let records = node.cni_results_dir();
        node.keeper().run(move || {
            fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
            mount(
                Some("host"),
                &root,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .with_context(|| format!("mount a file system on {}", root.display()))?;
            propagate(&root, MsFlags::MS_SHARED)?;
            bind(&namespaces, &namespaces)?;
            propagate(&namespaces, MsFlags::MS_SHARED)?;
            for path in ["sys/fs/bpf", "var/lib/cni/results"] {
                let path = root.join(path);
                fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
            }
            bind(&records, &root.join("var/lib/cni/results"))
        })?;
        Ok(Self {
            node: node.clone(),
            directory,
        })
    }

    /// Writes a file of the node's.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.path(path);
        let text = text.to_owned();
        self.node.keeper().run(move || {
            let parent = file.parent().context("a file is in a directory")?;
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&file, text))
                .with_context(|| format!("write {}", file.display()))
        })
    }

    /// Where the bed has a path of the node's, for those who share the node's mounts.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        match path {
            "/run/weir" => self.node.agent_dir(),
            "/run/netns" => self.node.netns_dir(),
            "/sys/fs/cgroup" => self.node.group().to_owned(),
            _ => self.directory.join(path.trim_start_matches('/')),
        }
    }
}

impl Container {
    /// Starts it among a node's own programs. `name` is its directory's, which is made in the
    /// node's, with the log in it.
    pub fn start(&self, node: &Node, name: &str) -> Result<(Process, PathBuf)> {
        let directory = node.run_dir().join("containers").join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        // A root of its own, since the places of its mounts are made there.
        let own = Self {
            root: directory.join("root"),
            ..self.clone()
        };
        copy(&self.root, &own.root)?;
        let file = directory.join("container.json");
        fs::write(&file, serde_json::to_vec(&own)?)
            .with_context(|| format!("write {}", file.display()))?;
        let log = directory.join("log");
        let output = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let place = node.system();
        let arguments = ["contain".as_ref(), file.as_os_str()];
        let process = place.start(&place.helper, &arguments, Streams::Log(output))?;
        Ok((process, log))
    }

    /// Runs it to its end: whether it succeeded, and what it said.
    pub fn run(&self, node: &Node, name: &str) -> Result<(bool, String)> {
        let (mut process, log) = self.start(node, name)?;
        let status = process
            .child()?
            .wait()
            .with_context(|| format!("wait for container {name}"))?;
        let text = fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
        Ok((status.success(), text))
    }
}

/// Copies the files of an image, which are few.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if !target.exists() {
            // The same bytes are enough: nobody may write to them.
            fs::hard_link(entry.path(), &target)
                .or_else(|_| fs::copy(entry.path(), &target).map(|_| ()))
                .with_context(|| format!("copy {}", target.display()))?;
        }
    }
    Ok(())
}

/// The helper's part, outside: starts the container's first process, hands the signal to end on to
/// it, and ends as it does.
pub fn contain(file: &Path) -> Result<ExitCode> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("block signals")?;
    let helper = std::env::current_exe().context("find the running program")?;
    // The next child is the first process of the namespace.
    unshare(CloneFlags::CLONE_NEWPID).context("make a namespace of processes")?;
    let mut child = Command::new(helper)
        .arg("contained")
        .arg(file)
        .spawn()
        .context("start the container")?;
    let id = Pid::from_raw(i32::try_from(child.id()).context("a process id fits")?);
    loop {
        if signals.wait().context("wait for a signal")? == Signal::SIGTERM {
            // It is not waited for yet, so the id is its own.
            kill(id, Signal::SIGTERM).context("end the container")?;
        }
        if let Some(status) = child.try_wait().context("look at the container")? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
    }
}

/// The helper's part, inside: becomes the container's program.
pub fn become_contained(file: &Path) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("ask to end with the parent")?;
    // A program starts with what its parent blocks.
    SigSet::empty()
        .thread_set_mask()
        .context("let signals through")?;
    let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let container: Container = serde_json::from_slice(&text).context("read what to contain")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("make the container's namespaces")?;
    build_root(&container)?;
    if container.no_new_privileges {
        set_no_new_privs().context("give up new privileges")?;
    }
    if let Some(names) = &container.capabilities {
        keep_capabilities(names)?;
    }
    let (program, arguments) = container.command.split_first().context("no program")?;
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&container.environment)
        .exec();
    Err(error).with_context(|| format!("run {program}"))
}

fn build_root(container: &Container) -> Result<()> {
    let root = &container.root;
    let shares = container
        .mounts
        .iter()
        .any(|mount| mount.propagation == Propagation::Bidirectional);
    if !shares {
        propagate(Path::new("/"), MsFlags::MS_SLAVE)?;
    }
    bind(root, root)?;
    propagate(root, MsFlags::MS_PRIVATE)?;
    let make = |target: &str, kind: &str, flags: MsFlags| {
        let target = root.join(target);
        fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        mount(Some(kind), &target, Some(kind), flags, None::<&str>)
            .with_context(|| format!("mount {kind} on {}", target.display()))
    };
    make("proc", "proc", MsFlags::empty())?;
    let settings = root.join("proc/sys");
    bind(&settings, &settings)?;
    make_read_only(&settings)?;
    make("sys", "sysfs", MsFlags::MS_RDONLY)?;
    make("sys/fs/cgroup", "cgroup2", MsFlags::MS_RDONLY)?;
    for wanted in &container.mounts {
        let target = root.join(
            wanted
                .target
                .strip_prefix("/")
                .context("a target is absolute")?,
        );
        if wanted.source.is_dir() {
            fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        } else {
            let parent = target.parent().context("a file is in a directory")?;
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&target, ""))
                .with_context(|| format!("create {}", target.display()))?;
        }
        bind(&wanted.source, &target)?;
        match wanted.propagation {
            Propagation::None => propagate(&target, MsFlags::MS_PRIVATE)?,
            Propagation::HostToContainer => propagate(&target, MsFlags::MS_SLAVE)?,
            Propagation::Bidirectional => (),
        }
        if wanted.is_read_only {
            make_read_only(&target)?;
        }
    }
    if container.is_read_only {
        make_read_only(root)?;
    }
    // The old root lies on top of the new one for a moment; by this it is still known.
    let old = fs::File::open("/").context("open the node's root")?;
    chdir(root).context("enter the container's root")?;
    pivot_root(".", ".").context("make it the root")?;
    fchdir(&old).context("enter the node's root")?;
    // Leaving what is shared must not unmount it on the node.
    propagate(Path::new("."), MsFlags::MS_SLAVE)?;
    umount2(".", MntFlags::MNT_DETACH).context("leave the node's root")?;
    chdir("/").context("enter the root")
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .with_context(|| format!("mount {} on {}", source.display(), target.display()))
}

fn propagate(target: &Path, how: MsFlags) -> Result<()> {
    mount(
        None::<&str>,
        target,
        None::<&str>,
        how | MsFlags::MS_REC,
        None::<&str>,
    )
    .with_context(|| format!("set how mounts below {} propagate", target.display()))
}

fn make_read_only(target: &Path) -> Result<()> {
    mount(
        None::<&str>,
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        None::<&str>,
    )
    .with_context(|| format!("make {} read-only", target.display()))
}

/// Takes all others from the set that a program of root's starts with.
fn keep_capabilities(names: &[String]) -> Result<()> {
    let mut kept = CapabilitySet::empty();
    for name in names {
        let one = CapabilitySet::from_name(name);
        kept |= one.with_context(|| format!("there is no capability {name}"))?;
    }
    for one in CapabilitySet::all()
        .iter()
        .filter(|one| !kept.contains(*one))
    {
        match remove_capability_from_bounding_set(one) {
            // Older kernels know fewer.
            Ok(()) | Err(rustix::io::Errno::INVAL) => (),
            Err(error) => return Err(error).with_context(|| format!("give up {one:?}")),
        }
    }
    Ok(())
}
