//! Where the API server may be.
//!
//! A pod is told the service's cluster IP, which works only where a service proxy does already:
//! a kube-proxy, or the tables of an earlier agent. Where none does, the node itself knows: the
//! kubelet's own configuration names an address that needs none.

use std::{fmt, net::IpAddr};

use serde::Deserialize;

/// An address to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As in `https://10.240.0.10:6443`.
    pub url: String,
    /// Who says so.
    pub origin: Origin,
}

/// Who says where the API server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--api-server`
    Flag,
    /// `--kubeconfig`
    Kubeconfig,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`
    Environment,
    /// This kubeconfig of the kubelet.
    Kubelet(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("--api-server"),
            Self::Kubeconfig => f.write_str("the kubeconfig"),
            Self::Environment => f.write_str("the pod's environment"),
            Self::Kubelet(file) => f.write_str(file),
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.url, self.origin)
    }
}

/// What a pod may know, in the order in which it is tried. An address that was given is the only
/// one.
#[must_use]
pub fn in_cluster(
    given: Option<&str>,
    environment: (Option<&str>, Option<&str>),
    kubelets: &[(String, String)],
) -> Vec<Candidate> {
    if let Some(url) = given {
        return vec![Candidate {
            url: url.to_owned(),
            origin: Origin::Flag,
        }];
    }
    let (host, port) = environment;
    let environment = host.filter(|host| !host.is_empty()).map(|host| Candidate {
        url: https(host, port.filter(|port| !port.is_empty()).unwrap_or("443")),
        origin: Origin::Environment,
    });
    let kubelets = kubelets.iter().filter_map(|(file, text)| {
        Some(Candidate {
            url: server_of(text)?,
            origin: Origin::Kubelet(file.clone()),
        })
    });
    let mut candidates: Vec<Candidate> = Vec::new();
    for candidate in environment.into_iter().chain(kubelets) {
        if candidates.iter().all(|other| other.url != candidate.url) {
            candidates.push(candidate);
        }
    }
    candidates
}

fn https(host: &str, port: &str) -> String {
    match host.parse() {
        Ok(IpAddr::V6(v6)) => format!("https://[{v6}]:{port}"),
        Ok(IpAddr::V4(_)) | Err(_) => format!("https://{host}:{port}"),
    }
}

/// The server of a kubeconfig's current context. Whatever else is in it, credentials above all, is
/// not even looked at.
fn server_of(kubeconfig: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Kubeconfig {
        #[serde(default)]
        clusters: Vec<Cluster>,
        #[serde(default)]
        contexts: Vec<Context>,
        current_context: Option<String>,
    }
    #[derive(Deserialize)]
    struct Cluster {
        name: String,
        cluster: Server,
    }
    #[derive(Deserialize)]
    struct Server {
        server: Option<String>,
    }
    #[derive(Deserialize)]
    struct Context {
        name: String,
        context: ClusterName,
    }
    #[derive(Deserialize)]
    struct ClusterName {
        cluster: String,
    }
    let config: Kubeconfig = serde_saphyr::from_str(kubeconfig).ok()?;
    let current = config
        .contexts
        .iter()
        .find(|context| Some(&context.name) == config.current_context.as_ref());
    let cluster = match current {
        Some(context) => config
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.context.cluster)?,
        None => config.clusters.first()?,
    };
    cluster.cluster.server.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: &str = "
apiVersion: v1
kind: Config
clusters:
- name: other
  cluster: {server: 'https://nowhere:1'}
- name: default
  cluster: {certificate-authority-data: x, server: 'https://10.240.0.10:6443'}
contexts:
- name: node
  context: {cluster: default, user: node}
current-context: node
users:
- name: node
  user: {client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem}
";

    fn kubelet(text: &str) -> Vec<(String, String)> {
        vec![("/etc/kubernetes/kubelet.conf".to_owned(), text.to_owned())]
    }

    fn urls(candidates: &[Candidate]) -> Vec<&str> {
        candidates.iter().map(|it| it.url.as_str()).collect()
    }

    #[test]
    fn the_pods_environment_comes_before_the_kubelets_server() {
        let candidates = in_cluster(None, (Some("10.32.0.1"), Some("443")), &kubelet(KUBELET));
        assert_eq!(
            urls(&candidates),
            ["https://10.32.0.1:443", "https://10.240.0.10:6443"]
        );
        assert_eq!(
            candidates[1].to_string(),
            "https://10.240.0.10:6443 (from /etc/kubernetes/kubelet.conf)"
        );
        let alone = in_cluster(None, (None, None), &kubelet(KUBELET));
        assert_eq!(urls(&alone), ["https://10.240.0.10:6443"]);
    }

    #[test]
    fn an_address_that_is_given_is_the_only_one() {
        let candidates = in_cluster(
            Some("https://api.example:6443"),
            (Some("10.32.0.1"), Some("443")),
            &kubelet(KUBELET),
        );
        assert_eq!(urls(&candidates), ["https://api.example:6443"]);
    }

    #[test]
    fn the_same_address_is_tried_once_and_what_cannot_be_read_not_at_all() {
        let environment = (Some("10.240.0.10"), Some("6443"));
        let same = in_cluster(None, environment, &kubelet(KUBELET));
        assert_eq!(urls(&same), ["https://10.240.0.10:6443"]);
        for text in ["", "{", "clusters: 1", "clusters: []", "kind: Config"] {
            assert_eq!(in_cluster(None, (Some(""), None), &kubelet(text)), []);
        }
    }

    #[test]
    fn addresses_of_version_6_stand_in_brackets() {
        let candidates = in_cluster(None, (Some("fd00:10:32::1"), None), &[]);
        assert_eq!(urls(&candidates), ["https://[fd00:10:32::1]:443"]);
    }
}
