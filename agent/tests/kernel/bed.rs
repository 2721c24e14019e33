//! A place of its own for each test: a network namespace, a mount namespace with a BPF file
//! system, a cgroup v2 directory. All of it goes with the test, also when it fails.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use futures_util::TryStreamExt as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};
use tempfile::TempDir;
use weir_agent::attach::{Dataplane, Options, TcChoice, default_capacities};

/// What a test finds around it.
pub struct Bed {
    directory: TempDir,
    cgroup: PathBuf,
    object: Vec<u8>,
}

/// Runs a test in a bed of its own.
pub fn run(test: impl FnOnce(&Bed) + Send + 'static) {
    // A thread, because namespaces belong to threads and libtest may use one for all tests.
    let outcome = thread::spawn(|| {
        let bed = Bed::make();
        test(&bed);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// The same, inside an asynchronous runtime on the bed's own thread.
pub fn run_async<F: Future<Output = ()>>(test: impl FnOnce(Bed) -> F + Send + 'static) {
    let outcome = thread::spawn(|| {
        let bed = Bed::make();
        runtime().block_on(test(bed));
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Waits until a condition holds.
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    eventually_or(what, condition, String::new);
}

/// The same; where it never holds, what is to be said then is said.
pub fn eventually_or(
    what: &str,
    mut condition: impl FnMut() -> bool,
    otherwise: impl FnOnce() -> String,
) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        if Instant::now() >= deadline {
            panic!("never came true: {what}\n{}", otherwise());
        }
        thread::sleep(Duration::from_millis(2));
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Bed {
    fn make() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test needs root: cargo xtask test program"
        );
        let object = std::env::var_os("WEIR_EBPF_OBJECT")
            .expect("WEIR_EBPF_OBJECT names the BPF object: cargo xtask test program");
        let object = fs::read(&object).expect("WEIR_EBPF_OBJECT can be read");

        let directory = tempfile::Builder::new()
            .prefix("weir-kernel-")
            .tempdir()
            .unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_mount().join(format!("weir-kernel-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let bed = Self {
            directory,
            cgroup,
            object,
        };

        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        for name in ["bpf", "netns", "run"] {
            fs::create_dir(bed.path(name)).unwrap();
        }
        mount(
            Some("bpf"),
            &bed.bpffs(),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        runtime().block_on(async {
            let network = Network::open();
            network.up("lo").await;
        });
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the BPF file system is mounted.
    pub fn bpffs(&self) -> PathBuf {
        self.path("bpf")
    }

    /// Where pods' network namespaces have their files.
    pub fn netns_dir(&self) -> PathBuf {
        self.path("netns")
    }

    /// The agent's own directory.
    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The root of this node's cgroups.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Makes the tables as an agent does, with its defaults. Programs come with the first hook that
    /// needs them: the verifier takes longer than most of these tests.
    pub fn load(&self) -> Dataplane {
        self.try_load(|_| {}).unwrap()
    }

    /// The same with other options.
    pub fn try_load(
        &self,
        change: impl FnOnce(&mut Options<'_>),
    ) -> Result<Dataplane, anyhow::Error> {
        let bpffs = self.bpffs();
        let mut options = Options {
            object: &self.object,
            bpffs: &bpffs,
            capacities: default_capacities(),
            tc: TcChoice::Auto,
            log_level: 0,
            at_once: BTreeSet::new(),
        };
        change(&mut options);
        Dataplane::load(&options)
    }

    /// Runs a command in this node's network namespace and cgroup.
    pub fn shell(&self, script: &str) -> Child {
        Command::new("bash")
            .arg("-c")
            .arg(format!("echo $$ > \"$0/cgroup.procs\"; {script}"))
            .arg(&self.cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash is there")
    }

    /// What is below a directory of the BPF file system, by path.
    pub fn pinned(&self) -> BTreeSet<String> {
        fn walk(directory: &Path, root: &Path, found: &mut BTreeSet<String>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                // The kernel's own.
                if path
                    .extension()
                    .is_some_and(|extension| extension == "debug")
                {
                    continue;
                }
                found.insert(path.strip_prefix(root).unwrap().display().to_string());
                if path.is_dir() {
                    walk(&path, root, found);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.bpffs(), &self.bpffs(), &mut found);
        found
    }

    /// Makes a network namespace, bound to a file as a container runtime does.
    pub fn make_namespace(&self, name: &str) {
        let file = self.netns_dir().join(name);
        File::create(&file).unwrap();
        self.bind_namespace(name);
    }

    /// The second half of that.
    pub fn bind_namespace(&self, name: &str) {
        let file = self.netns_dir().join(name);
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            mount(
                Some("/proc/thread-self/ns/net"),
                &file,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        })
        .join()
        .unwrap();
    }

    /// Does something inside a network namespace, on a thread of its own.
    pub fn inside<F: Future<Output = ()>>(
        &self,
        namespace: &str,
        work: impl FnOnce(Network) -> F + Send,
    ) {
        let file = File::open(self.netns_dir().join(namespace)).unwrap();
        thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                runtime().block_on(async { work(Network::open()).await });
            });
            entered.join().unwrap();
        });
    }

    /// Removes it again.
    pub fn remove_namespace(&self, name: &str) {
        let file = self.netns_dir().join(name);
        umount2(&file, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(&file).unwrap();
    }

    /// A pod: a namespace, and a pair of interfaces of which one end is in it. Gives back the
    /// index of the end on the node.
    pub async fn make_pod(&self, network: &Network, namespace: &str, interface: &str) -> u32 {
        self.make_namespace(namespace);
        let index = network.veth(interface).await;
        let file = File::open(self.netns_dir().join(namespace)).unwrap();
        network.move_peer(interface, &file).await;
        index
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The mounts would go with the thread's namespace, but later than the directory.
        for entry in fs::read_dir(self.netns_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            let _unmounted = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
        let _unmounted = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
        let _killed = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::remove_dir(&self.cgroup).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let directory = fields.next()?;
        (fields.next()? == "cgroup2").then_some(directory)
    });
    PathBuf::from(mount.expect("cgroup v2 is mounted"))
}

/// Interfaces of the bed's network namespace.
pub struct Network {
    handle: Handle,
}

impl Network {
    /// Inside a runtime on the bed's thread.
    pub fn open() -> Self {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        Self { handle }
    }

    /// Makes a pair of interfaces, `name` and `name` with a `p` behind it.
    pub async fn veth(&self, name: &str) -> u32 {
        self.handle
            .link()
            .add(LinkVeth::new(name, &format!("{name}p")).build())
            .execute()
            .await
            .unwrap();
        index(name)
    }

    /// Removes one, and its peer with it.
    pub async fn remove(&self, index: u32) {
        self.handle.link().del(index).execute().await.unwrap();
    }

    /// Sets one up.
    pub async fn up(&self, name: &str) {
        self.handle
            .link()
            .set(LinkUnspec::new_with_name(name).up().build())
            .execute()
            .await
            .unwrap();
    }

    /// Gives one an address.
    pub async fn add_address(&self, index: u32, address: &str, prefix: u8) {
        self.handle
            .address()
            .add(index, address.parse().unwrap(), prefix)
            .execute()
            .await
            .unwrap();
    }

    /// Takes it away again.
    pub async fn remove_address(&self, index: u32, address: &str, prefix: u8) {
        let addr = address.parse().unwrap();
        let mut found = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_prefix_length_filter(prefix)
            .set_address_filter(addr)
            .execute();
        let message = found.try_next().await.unwrap().unwrap();
        self.handle.address().del(message).execute().await.unwrap();
    }

    /// Makes a bridge.
    pub async fn bridge(&self, name: &str) -> u32 {
        self.handle
            .link()
            .add(LinkBridge::new(name).build())
            .execute()
            .await
            .unwrap();
        index(name)
    }

    /// Makes an interface a port of another one; 0: of none.
    pub async fn set_master(&self, port: u32, master: u32) {
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(port).controller(master).build())
            .execute()
            .await
            .unwrap();
    }

    /// Moves the end whose name has a `p` behind it.
    pub async fn move_peer(&self, name: &str, namespace: &File) {
        self.handle
            .link()
            .set(
                LinkUnspec::new_with_name(&format!("{name}p"))
                    .setns_by_fd(namespace.as_raw_fd())
                    .build(),
            )
            .execute()
            .await
            .unwrap();
    }
}

/// The index of an interface.
pub fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// The names of the programs that the kernel runs at an interface by TCX, ingress first.
pub fn tcx_programs(interface: &str) -> Vec<String> {
    try_tcx_programs(interface).unwrap()
}

/// The same while programs come and go: one may be gone before it is asked for its name.
pub fn try_tcx_programs(interface: &str) -> Result<Vec<String>, ProgramError> {
    let mut names = Vec::new();
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) = SchedClassifier::query_tcx(interface, direction)?;
        names.extend(
            programs
                .iter()
                .map(|program| program.name_as_str().unwrap_or_default().to_owned()),
        );
    }
    Ok(names)
}

/// Makes pairs of interfaces from a test that is not asynchronous.
pub fn veths(names: &[&str]) -> Vec<u32> {
    runtime().block_on(async {
        let network = Network::open();
        let mut indices = Vec::new();
        for name in names {
            indices.push(network.veth(name).await);
        }
        indices
    })
}

/// Removes an interface from a test that is not asynchronous.
pub fn remove_interface(index: u32) {
    runtime().block_on(async { Network::open().remove(index).await });
}
