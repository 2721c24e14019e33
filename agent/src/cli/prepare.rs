//! `weir prepare`: what has to be done on a node before an agent without rights of that kind starts.
//!
//! The init container of the DaemonSet. It is privileged and ends at once, so that the agent, which
//! stays, is neither: it may not mount, and sees nothing of the kubelet's credentials. Doing it
//! again changes nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use kube::config::{Cluster, Context, Kubeconfig, NamedCluster, NamedContext};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::output;
use crate::config::{Paths, prepared_kubeconfig};

/// Where distributions have the kubelet's own configuration, by which it finds the API server.
const KUBELET_KUBECONFIGS: [&str; 9] = [
    // kubeadm, kind, kubespray
    "etc/kubernetes/kubelet.conf",
    // EKS, GKE, AKS, kOps
    "var/lib/kubelet/kubeconfig",
    // Bottlerocket
    "etc/kubernetes/kubelet/kubeconfig",
    // OpenShift
    "etc/kubernetes/kubeconfig",
    // Talos
    "etc/kubernetes/kubeconfig-kubelet",
    "var/lib/rancher/k3s/agent/kubelet.kubeconfig",
    "var/lib/rancher/rke2/agent/kubelet.kubeconfig",
    "var/lib/k0s/kubelet.conf",
    // MicroK8s
    "var/snap/microk8s/current/credentials/kubelet.config",
];

/// What `weir prepare` can be told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    paths: Paths,

    /// Where the node's own root directory is, to look for the kubelet's configuration in it: of
    /// that, the API server's address is kept in the run directory [default: not looked for]
    #[arg(long, value_name = "DIR", env = "WEIR_HOST_ROOT")]
    host_root: Option<PathBuf>,
}

/// Mounts the BPF file system where it is not, and keeps the API server's address.
pub fn prepare(arguments: &Arguments) -> Result<ExitCode> {
    let bpffs = arguments.paths.bpffs.display();
    output::line(&match mount_bpffs(&arguments.paths.bpffs)? {
        Mounted::Now => format!("mounted a BPF file system on {bpffs}"),
        Mounted::Before => format!("{bpffs} is a BPF file system"),
    });
    if let Some(root) = &arguments.host_root {
        output::line(&match keep_api_server(root, &arguments.paths.run_dir)? {
            Some((server, from)) => format!("the API server is at {server}, says {from}"),
            None => format!(
                "no configuration of a kubelet was found below {}: where no kube-proxy runs, the \
                 agent has to be told the API server's address (--api-server)",
                root.display()
            ),
        });
    }
    Ok(ExitCode::SUCCESS)
}

enum Mounted {
    Before,
    Now,
}

fn mount_bpffs(directory: &Path) -> Result<Mounted> {
    let shown = directory.display();
    let what = statfs(directory).with_context(|| {
        format!("look at --bpffs {shown} (a kernel with CONFIG_BPF_SYSCALL has /sys/fs/bpf)")
    })?;
    if what.filesystem_type() == BPF_FS_MAGIC {
        return Ok(Mounted::Before);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("bpf"),
        directory,
        Some("bpf"),
        flags,
        Some("mode=0700"),
    )
    .with_context(|| format!("mount a BPF file system on {shown} (this needs CAP_SYS_ADMIN)"))?;
    Ok(Mounted::Now)
}

/// Writes where the kubelet finds the API server, and only that, to the run directory; without a
/// kubelet's configuration nothing is there. Gives the address and the file that has it.
fn keep_api_server(root: &Path, run_dir: &Path) -> Result<Option<(String, String)>> {
    let found = KUBELET_KUBECONFIGS.iter().find_map(|path| {
        let text = fs::read_to_string(root.join(path)).ok()?;
        Some((server(&text)?, format!("/{path}")))
    });
    let file = prepared_kubeconfig(run_dir);
    match &found {
        Some((server, _)) => {
            fs::create_dir_all(run_dir)
                .with_context(|| format!("create --run-dir {}", run_dir.display()))?;
            let text = serde_json::to_vec_pretty(&pointing_to(server))
                .context("write a kubeconfig as JSON")?;
            // An agent that reads it meanwhile reads the old one or the new one.
            let new = file.with_extension("new");
            fs::write(&new, text)
                .and_then(|()| fs::rename(&new, &file))
                .with_context(|| format!("write {}", file.display()))?;
        }
        None => match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", file.display()));
            }
            _ => (),
        },
    }
    Ok(found)
}

/// The API server's address in a kubeconfig: of the current context's cluster, or of the only one.
fn server(kubeconfig: &str) -> Option<String> {
    let config = Kubeconfig::from_yaml(kubeconfig).ok()?;
    let current = config.current_context.as_ref().and_then(|name| {
        let context = config.contexts.iter().find(|it| &it.name == name)?;
        Some(&context.context.as_ref()?.cluster)
    });
    let cluster = match (current, config.clusters.as_slice()) {
        (Some(name), clusters) => clusters.iter().find(|it| &it.name == name)?,
        (None, [only]) => only,
        (None, _) => return None,
    };
    cluster.cluster.as_ref()?.server.clone()
}

/// A kubeconfig with nothing but an address.
fn pointing_to(server: &str) -> Kubeconfig {
    let name = "kubelet".to_owned();
    Kubeconfig {
        clusters: vec![NamedCluster {
            name: name.clone(),
            cluster: Some(Cluster {
                server: Some(server.to_owned()),
                ..Cluster::default()
            }),
            ..NamedCluster::default()
        }],
        contexts: vec![NamedContext {
            name: name.clone(),
            context: Some(Context {
                cluster: name.clone(),
                ..Context::default()
            }),
            ..NamedContext::default()
        }],
        current_context: Some(name),
        ..Kubeconfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: &str = "
apiVersion: v1
kind: Config
clusters:
- {name: other, cluster: {server: 'https://other:6443'}}
- {name: kind, cluster: {server: 'https://kind-control-plane:6443', certificate-authority-data: QQ==}}
contexts:
- {name: system:node:worker@kind, context: {cluster: kind, user: worker}}
current-context: system:node:worker@kind
users:
- {name: worker, user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem}}
";

    #[test]
    fn the_kubelets_api_server_is_that_of_its_current_context() {
        let expected = Some("https://kind-control-plane:6443".to_owned());
        assert_eq!(server(KUBELET), expected);
        let only = "clusters: [{name: a, cluster: {server: 'https://a'}}]";
        assert_eq!(server(only), Some("https://a".to_owned()));
        for text in [
            "",
            "clusters: []",
            "clusters: [{name: a, cluster: {server: 'https://a'}}]\ncurrent-context: b\ncontexts: [{name: b, context: {cluster: c}}]",
            "clusters: 7",
        ] {
            assert_eq!(server(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_address_is_kept_of_the_kubelets_configuration() {
        let node = tempfile::tempdir().unwrap();
        let (root, run) = (node.path().join("root"), node.path().join("run"));
        fs::create_dir_all(root.join("etc/kubernetes")).unwrap();
        assert_eq!(keep_api_server(&root, &run).unwrap(), None);
        fs::write(root.join("etc/kubernetes/kubelet.conf"), KUBELET).unwrap();
        let (address, from) = keep_api_server(&root, &run).unwrap().unwrap();
        assert_eq!(
            (address.as_str(), from.as_str()),
            (
                "https://kind-control-plane:6443",
                "/etc/kubernetes/kubelet.conf"
            )
        );
        let kept = fs::read_to_string(prepared_kubeconfig(&run)).unwrap();
        assert_eq!(server(&kept).as_deref(), Some(address.as_str()), "{kept}");
        for secret in ["QQ==", "client-certificate", "worker"] {
            assert!(!kept.contains(secret), "{secret} is in {kept}");
        }
        fs::remove_file(root.join("etc/kubernetes/kubelet.conf")).unwrap();
        keep_api_server(&root, &run).unwrap();
        assert!(
            !prepared_kubeconfig(&run).exists(),
            "an address that nobody says any more"
        );
    }

    #[test]
    fn a_missing_directory_is_named_with_what_is_missing() {
        let error = mount_bpffs(Path::new("/no/such/bpffs"))
            .err()
            .expect("it is not there");
        assert!(format!("{error:#}").contains("/no/such/bpffs"), "{error:#}");
    }
}
