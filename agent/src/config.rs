//! Flags and environment → one validated [`Config`].
//!
//! Every flag has a default that fits a Kubernetes node and can be given as an environment
//! variable instead. What is wrong is said with the flag's name and what to do about it.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnetwork::IpNetwork;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use weir_ebpf::tables::capacity;

use crate::{
    attach::TcChoice,
    compile::{PolicyOptions, UnknownPods},
    fast_path,
    kube_proxy::CleanUp,
    model::parse_network,
    sources::{
        api::{Access, server::parse_url},
        node::node_ports::NodePortAddresses,
    },
};

/// Where an agent keeps what belongs to it on a node. Several agents may share a kernel (nodes
/// that are containers): each has directories of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct Paths {
    /// The BPF file system, where programs and tables outlive the agent
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_BPFFS",
        default_value = "/sys/fs/bpf"
    )]
    pub bpffs: PathBuf,

    /// Where the agent keeps its lock and its status
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_RUN_DIR",
        default_value = "/run/weir"
    )]
    pub run_dir: PathBuf,
}

/// Where a node has what an agent looks at.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// Root of the node's cgroup v2 tree, or of a tree that has it at `unified` [default: where
    /// cgroup2 is mounted]
    #[arg(long, value_name = "DIR", env = "WEIR_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,

    /// Where the container runtime keeps the pods' network namespaces
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_NETNS_DIR",
        default_value = "/run/netns"
    )]
    pub netns_dir: PathBuf,

    /// Where libcni keeps its records of pods' interfaces; it may come later, or never
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_CNI_RESULTS_DIR",
        default_value = "/var/lib/cni/results"
    )]
    pub cni_results_dir: PathBuf,
}

/// What `weir agent` can be told.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArguments {
    /// Directory of Kubernetes manifests (*.yaml, *.yml, *.json), watched for changes; instead of
    /// the API server, unless that is named with --kubeconfig or --api-server
    #[arg(long, value_name = "DIR", env = "WEIR_MANIFESTS")]
    pub manifests: Option<PathBuf>,

    /// How to reach the API server, as kubectl's [default: $KUBECONFIG; in a pod its service
    /// account]
    #[arg(long, value_name = "FILE", env = "WEIR_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// The API server's address, as in https://10.240.0.10:6443, whatever others say [default: the
    /// kubeconfig's; in a pod the first that answers: that of the `kubernetes` service, which works
    /// where a service proxy does already, then the kubelet's]
    #[arg(long, value_name = "URL", env = "WEIR_API_SERVER")]
    pub api_server: Option<String>,

    /// Kubeconfigs of the kubelet: only the server's address is read, and those that do not exist
    /// are passed over
    #[arg(
        long,
        value_name = "FILES",
        env = "WEIR_KUBELET_KUBECONFIG",
        default_value = "/etc/kubernetes/kubelet.conf,/var/lib/kubelet/kubeconfig",
        value_delimiter = ','
    )]
    pub kubelet_kubeconfig: Vec<PathBuf>,

    /// Where a pod has its service account's token and the API server's certificate authority
    #[arg(
        long,
        value_name = "DIR",
        env = "WEIR_SERVICE_ACCOUNT_DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    pub service_account_dir: PathBuf,

    /// How long a watch lasts before it is begun anew; a connection that hangs without being
    /// broken is noticed by then
    #[arg(long, value_name = "SECONDS", env = "WEIR_WATCH_SECONDS", default_value_t = 240,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub watch_seconds: u32,

    /// This node's name, as in its Node object [default: the host's name]
    #[arg(long, value_name = "NAME", env = "WEIR_NODE_NAME")]
    pub node_name: Option<String>,

    /// Where the node has what the agent looks at.
    #[command(flatten)]
    pub places: Places,

    /// What an interface may do whose pod is not known
    #[arg(
        long,
        value_name = "WHAT",
        env = "WEIR_UNKNOWN_PODS",
        default_value = "auto"
    )]
    pub unknown_pods: UnknownPodsChoice,

    /// Whether packets of a pod are dropped whose source address is not the pod's
    #[arg(
        long,
        value_name = "ON|OFF",
        env = "WEIR_SOURCE_CHECK",
        default_value = "on"
    )]
    pub source_check: Switch,

    /// What becomes of open connections when a policy changes
    #[arg(
        long,
        value_name = "WHAT",
        env = "WEIR_ESTABLISHED",
        default_value = "rejudge"
    )]
    pub established: Established,

    /// Whether packets from and for this node's pods are handed over past the node's IP layer, and
    /// past its own rules for what it forwards: automatically where it has none
    #[arg(
        long,
        value_name = "WHEN",
        env = "WEIR_FAST_PATH",
        default_value = "auto"
    )]
    pub fast_path: fast_path::Choice,

    /// Where the agent keeps what outlives it, and what it says of itself.
    #[command(flatten)]
    pub paths: Paths,

    /// At which of its addresses the node serves node ports: `primary` (the Node object's first
    /// of each family), or blocks such as 10.240.0.0/24,fd00:10:240::/64 (a family of which none
    /// is given is not restricted) [default: all but loopback ones]
    #[arg(
        long,
        value_name = "BLOCKS",
        env = "WEIR_NODEPORT_ADDRESSES",
        value_delimiter = ','
    )]
    pub nodeport_addresses: Vec<String>,

    /// The cluster's range of node ports, as the API server has it: masqueraded flows leave it alone
    #[arg(
        long,
        value_name = "FIRST-LAST",
        env = "WEIR_SERVICE_NODE_PORT_RANGE",
        default_value = "30000-32767",
        value_parser = port_range
    )]
    pub service_node_port_range: RangeInclusive<u16>,

    /// Ranges that cluster IPs are taken from, as ADDRESS/LENGTH, beside those of ServiceCIDR objects
    #[arg(long, value_name = "CIDRS", env = "WEIR_SERVICE_CIDR", value_delimiter = ',',
          value_parser = parse_network)]
    pub service_cidr: Vec<IpNetwork>,

    /// How programs are attached to interfaces: TCX from Linux 6.6, clsact below
    #[arg(long, value_name = "WAY", env = "WEIR_TC", default_value = "auto")]
    pub tc: TcAttach,

    /// Entries of the table of service addresses (address × port × protocol)
    #[arg(long, value_name = "N", env = "WEIR_MAX_FRONTENDS", default_value_t = capacity::FRONTENDS,
          value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_frontends: u32,

    /// Entries of the table of backends (service port × endpoint)
    #[arg(long, value_name = "N", env = "WEIR_MAX_BACKENDS", default_value_t = capacity::BACKENDS,
          value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub max_backends: u32,

    /// Entries of the flow table: two for each translated flow; the least recently used goes
    #[arg(long, value_name = "N", env = "WEIR_MAX_FLOWS", default_value_t = capacity::FLOWS,
          value_parser = clap::value_parser!(u32).range(128..=16_777_216))]
    pub max_flows: u32,

    /// Seconds within which each table is compared with what the kernel holds, even if nothing
    /// changed; pins, links and interfaces are looked at ten times as often
    #[arg(long, value_name = "SECONDS", env = "WEIR_RESYNC_SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub resync_seconds: u64,

    /// Where /healthz and /livez answer; 0.0.0.0 and :: mean every address of both families;
    /// empty: nowhere
    #[arg(long, value_name = "ADDRESS[:PORT]", env = "WEIR_HEALTHZ_BIND_ADDRESS",
          default_value = "0.0.0.0:10256", value_parser = healthz_address)]
    pub healthz_bind_address: BindAddress,

    /// Where /metrics, /proxyMode and /configz answer; empty: nowhere
    #[arg(long, value_name = "ADDRESS[:PORT]", env = "WEIR_METRICS_BIND_ADDRESS",
          default_value = "127.0.0.1:10249", value_parser = metrics_address)]
    pub metrics_bind_address: BindAddress,

    /// Whether rules that a kube-proxy has left are removed, once the tables are complete
    #[arg(
        long,
        value_name = "WHEN",
        env = "WEIR_CLEANUP_KUBE_PROXY",
        default_value = "auto"
    )]
    pub cleanup_kube_proxy: CleanUp,

    /// All flags by their names, as they were given or are by default: for /configz.
    #[arg(skip)]
    pub flags: BTreeMap<String, String>,
}

/// Where a server listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(pub Option<SocketAddr>);

/// Which kernel interface holds the programs at a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TcAttach {
    /// TCX where the kernel has it, else clsact
    Auto,
    /// TCX links (Linux 6.6)
    Tcx,
    /// Filters of a clsact queueing discipline
    Clsact,
}

/// What an interface may do whose pod is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UnknownPodsChoice {
    /// Nothing while any policy may concern the node's pods, else everything
    Auto,
    /// Nothing
    Deny,
    /// Everything
    Allow,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// It is done
    On,
    /// It is left
    Off,
}

/// What becomes of open connections when a policy changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Established {
    /// They are judged again, and end where the policy forbids them
    Rejudge,
    /// They go on
    Keep,
}

/// What an agent runs with: every path exists, every name is known.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of manifests, if objects come from one.
    pub manifests: Option<PathBuf>,
    /// The way to the API server, if objects come from there: from one of the two they do.
    pub api_server: Option<Access>,
    /// This node's name.
    pub node_name: String,
    /// Root of the node's cgroup v2 tree.
    pub cgroup_root: PathBuf,
    /// Directory of network namespaces.
    pub netns_dir: PathBuf,
    /// Directory of libcni's records.
    pub cni_results_dir: PathBuf,
    /// How policies are kept.
    pub policy: PolicyOptions,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// Lock and status.
    pub run_dir: PathBuf,
    /// At which addresses node ports are served.
    pub nodeport_addresses: NodePortAddresses,
    /// The cluster's range of node ports.
    pub service_node_ports: RangeInclusive<u16>,
    /// Ranges of cluster IPs.
    pub service_cidrs: Vec<IpNetwork>,
    /// How to attach to interfaces.
    pub tc: TcAttach,
    /// `FRONTENDS`
    pub max_frontends: u32,
    /// `BACKENDS`, `SERVING`
    pub max_backends: u32,
    /// `FLOWS`
    pub max_flows: u32,
    /// At the latest after this, everything is compared.
    pub resync: Duration,
    /// `/healthz`, `/livez`
    pub healthz_bind_address: Option<SocketAddr>,
    /// `/metrics`, `/proxyMode`, `/configz`
    pub metrics_bind_address: Option<SocketAddr>,
    /// Whether what kube-proxy has left is removed.
    pub cleanup_kube_proxy: CleanUp,
    /// Whether packets of pods are handed over.
    pub fast_path: fast_path::Choice,
    /// All flags by their names, with the values that are in force.
    pub flags: BTreeMap<String, String>,
}

impl Config {
    /// Held by the agent of this run directory.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        lock_file(&self.run_dir)
    }
}

/// Held by the agent of a run directory.
#[must_use]
pub fn lock_file(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.lock")
}

/// Where `weir prepare` keeps the API server's address, as a kubeconfig without credentials.
#[must_use]
pub fn prepared_kubeconfig(run_dir: &Path) -> PathBuf {
    run_dir.join("kubelet.conf")
}

impl From<TcAttach> for TcChoice {
    fn from(attach: TcAttach) -> Self {
        match attach {
            TcAttach::Auto => Self::Auto,
            TcAttach::Tcx => Self::Tcx,
            TcAttach::Clsact => Self::Clsact,
        }
    }
}

impl From<UnknownPodsChoice> for UnknownPods {
    fn from(choice: UnknownPodsChoice) -> Self {
        match choice {
            UnknownPodsChoice::Auto => Self::Auto,
            UnknownPodsChoice::Deny => Self::Deny,
            UnknownPodsChoice::Allow => Self::Allow,
        }
    }
}

impl Places {
    /// The root of the node's cgroup v2 tree: as given, or where it is mounted.
    ///
    /// # Errors
    /// There is none.
    pub fn cgroup_root(&self) -> Result<PathBuf> {
        let cgroup_root = match &self.cgroup_root {
            Some(root) => version_2_of(root.clone()),
            None => cgroup2_mount(&fs::read_to_string("/proc/mounts").context("read /proc/mounts")?)
                .context(
                    "no cgroup2 file system is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) \
                     or name it with --cgroup-root",
                )?,
        };
        if !cgroup_root.join("cgroup.procs").exists() {
            bail!(
                "--cgroup-root {}: not a cgroup v2 directory (it has no cgroup.procs)",
                cgroup_root.display()
            );
        }
        Ok(cgroup_root)
    }
}

impl AgentArguments {
    /// Fills in what was not given and checks what was.
    ///
    /// # Errors
    /// Names the flag and what to do.
    pub fn validate(self) -> Result<Config> {
        if let Some(manifests) = &self.manifests
            && !manifests.is_dir()
        {
            bail!(
                "--manifests {}: not a directory; create it, or name the one that holds the manifests",
                manifests.display()
            );
        }
        let api_server = access(
            Access {
                kubeconfig: self.kubeconfig,
                api_server: self.api_server,
                service_account_dir: self.service_account_dir,
                kubelet_kubeconfigs: self.kubelet_kubeconfig,
                environment: (
                    env::var("KUBERNETES_SERVICE_HOST").ok(),
                    env::var("KUBERNETES_SERVICE_PORT").ok(),
                ),
                watch_seconds: self.watch_seconds,
            },
            self.manifests.is_some(),
            env::var_os("KUBECONFIG").map(PathBuf::from),
        )?;
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        let cgroup_root = self.places.cgroup_root()?;
        let nodeport_addresses = NodePortAddresses::parse(&self.nodeport_addresses)
            .map_err(|error| anyhow!("--nodeport-addresses: {error}"))?;
        let mut flags = self.flags;
        flags.insert("node-name".to_owned(), node_name.clone());
        flags.insert("cgroup-root".to_owned(), cgroup_root.display().to_string());
        Ok(Config {
            manifests: self.manifests,
            api_server,
            node_name,
            cgroup_root,
            netns_dir: self.places.netns_dir,
            cni_results_dir: self.places.cni_results_dir,
            policy: PolicyOptions {
                unknown_pods: self.unknown_pods.into(),
                source_check: self.source_check == Switch::On,
                keep_established: self.established == Established::Keep,
                fast_path: self.fast_path != fast_path::Choice::Off,
            },
            bpffs: self.paths.bpffs,
            run_dir: self.paths.run_dir,
            nodeport_addresses,
            service_node_ports: self.service_node_port_range,
            service_cidrs: self.service_cidr,
            tc: self.tc,
            max_frontends: self.max_frontends,
            max_backends: self.max_backends,
            max_flows: self.max_flows,
            resync: Duration::from_secs(self.resync_seconds),
            healthz_bind_address: self.healthz_bind_address.0,
            metrics_bind_address: self.metrics_bind_address.0,
            cleanup_kube_proxy: self.cleanup_kube_proxy,
            fast_path: self.fast_path,
            flags,
        })
    }
}

/// The way to the API server, if objects come from there. Directories of manifests stand alone,
/// unless an API server is named beside them.
fn access(
    given: Access,
    has_manifests: bool,
    usual_kubeconfig: Option<PathBuf>,
) -> Result<Option<Access>> {
    let is_named = given.kubeconfig.is_some() || given.api_server.is_some();
    if has_manifests && !is_named {
        return Ok(None);
    }
    if let Some(url) = &given.api_server {
        parse_url(url).context("--api-server")?;
    }
    let token = given.service_account_dir.join("token");
    let usual_kubeconfig = usual_kubeconfig.filter(|file| !file.as_os_str().is_empty());
    let access = Access {
        kubeconfig: given
            .kubeconfig
            .clone()
            .or_else(|| usual_kubeconfig.filter(|_| !has_manifests)),
        ..given
    };
    if let Some(file) = &access.kubeconfig
        && !file.is_file()
    {
        bail!("--kubeconfig {}: not a file", file.display());
    }
    if let (None, Some(url), false) = (&access.kubeconfig, &access.api_server, token.is_file()) {
        bail!(
            "--api-server {url}: no credentials: {} is not there; name a --kubeconfig or the \
             --service-account-dir",
            token.display()
        );
    }
    if access.kubeconfig.is_none() && !token.is_file() {
        bail!(
            "nothing says where objects come from: name a --kubeconfig or a directory of \
             --manifests, or run in a pod with a service account ({} is not there)",
            token.display()
        );
    }
    Ok(Some(access))
}

/// As the API server's flag of the same name has it.
fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let numbers = text.split_once('-').and_then(|(first, last)| {
        let first: u16 = first.trim().parse().ok()?;
        let last: u16 = last.trim().parse().ok()?;
        (0 < first && first <= last).then_some(first..=last)
    });
    numbers.ok_or_else(|| "say the first and the last port, as in 30000-32767".to_owned())
}

fn healthz_address(text: &str) -> Result<BindAddress, String> {
    bind_address(text, 10256)
}

fn metrics_address(text: &str) -> Result<BindAddress, String> {
    bind_address(text, 10249)
}

/// As kube-proxy's flags: an address with a port or, for the usual port, without.
fn bind_address(text: &str, usual_port: u16) -> Result<BindAddress, String> {
    if text.is_empty() {
        return Ok(BindAddress(None));
    }
    let address = text
        .parse()
        .or_else(|_| text.parse().map(|addr: IpAddr| (addr, usual_port).into()));
    match address {
        Ok(address) => Ok(BindAddress(Some(address))),
        Err(_) => Err(
            "is not an address and port, as in 127.0.0.1:10249 or [::1]:10249; empty switches it off"
                .to_owned(),
        ),
    }
}

/// The kubelet's default node name: the host's name in lower case.
fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host's name")?;
    Ok(name.to_string_lossy().trim().to_lowercase())
}

/// The cgroup v2 tree of a machine whose trees are mounted at `root`: that itself, or, beside trees
/// of version 1, `unified` in it, where systemd has it.
fn version_2_of(root: PathBuf) -> PathBuf {
    let is_version_2 = |directory: &Path| {
        statfs(directory).is_ok_and(|it| it.filesystem_type() == CGROUP2_SUPER_MAGIC)
    };
    let unified = root.join("unified");
    if !is_version_2(&root) && is_version_2(&unified) {
        unified
    } else {
        root
    }
}

/// The first cgroup2 mount point in the text of `/proc/mounts`.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(target).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_addresses_are_written_as_for_kube_proxy() {
        for (text, expected) in [
            ("", None),
            ("0.0.0.0:10256", Some("0.0.0.0:10256")),
            ("[::]:1", Some("[::]:1")),
            ("127.0.0.1", Some("127.0.0.1:10249")),
            ("::1", Some("[::1]:10249")),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(metrics_address(text), Ok(BindAddress(expected)), "{text}");
        }
        for text in ["localhost:10249", ":10249", "127.0.0.1:70000"] {
            assert!(metrics_address(text).is_err(), "{text}");
        }
    }

    fn given(kubeconfig: Option<&Path>, api_server: Option<&str>, account: &Path) -> Access {
        Access {
            kubeconfig: kubeconfig.map(Path::to_owned),
            api_server: api_server.map(str::to_owned),
            service_account_dir: account.to_owned(),
            kubelet_kubeconfigs: Vec::new(),
            environment: (None, None),
            watch_seconds: 240,
        }
    }

    #[test]
    fn objects_come_from_the_api_server_unless_there_are_manifests() {
        let directory = tempfile::tempdir().unwrap();
        let account = directory.path();
        let kubeconfig = account.join("kubeconfig");
        fs::write(&kubeconfig, "").unwrap();
        let nowhere = access(given(None, None, account), false, None).unwrap_err();
        assert!(nowhere.to_string().contains("--manifests"), "{nowhere}");
        assert_eq!(
            access(given(None, None, account), true, None).unwrap(),
            None
        );

        fs::write(account.join("token"), "secret").unwrap();
        let pod = access(given(None, None, account), false, None).unwrap();
        assert_eq!(pod, Some(given(None, None, account)));
        let beside = access(given(None, None, account), true, Some(kubeconfig.clone())).unwrap();
        assert_eq!(beside, None, "a usual kubeconfig is not one that was named");

        for has_manifests in [false, true] {
            let named = given(Some(&kubeconfig), None, account);
            assert_eq!(
                access(named.clone(), has_manifests, None).unwrap(),
                Some(named)
            );
            let addressed = given(None, Some("https://10.240.0.10:6443"), account);
            let found = access(addressed.clone(), has_manifests, None).unwrap();
            assert_eq!(found, Some(addressed));
        }
        let usual = access(given(None, None, account), false, Some(kubeconfig.clone())).unwrap();
        assert_eq!(usual.unwrap().kubeconfig, Some(kubeconfig));
        let nonsense = given(None, Some("10.240.0.10:6443"), account);
        assert!(access(nonsense, false, None).is_err(), "no URL");
        let missing = given(Some(&account.join("missing")), None, account);
        assert!(access(missing, false, None).is_err());
    }

    #[test]
    fn the_cgroup2_mount_is_found_beside_version_1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("tmpfs / tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn a_range_of_node_ports_is_two_ports() {
        assert_eq!(port_range("30000-32767"), Ok(30_000..=32_767));
        assert_eq!(port_range("30000 - 30000"), Ok(30_000..=30_000));
        for text in ["30000", "32767-30000", "0-100", "30000-70000", "a-b", ""] {
            let error = port_range(text).unwrap_err();
            assert!(error.contains("30000-32767"), "{text}: {error}");
        }
    }
}
