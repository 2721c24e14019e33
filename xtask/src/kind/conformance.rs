//! The upstream tests of the network, from the image that Kubernetes publishes with each release.
//!
//! They run as a pod on the control plane, which writes its report to that node's disk: from there
//! it is read when the pod has ended.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{CLUSTER, json, kubectl};
use crate::{process, progress::Step};

/// Its version is the cluster's.
const IMAGE: &str = "registry.k8s.io/conformance";
const NAMESPACE: &str = "conformance";
/// On the node, and in the pod.
const RESULTS: &str = "/var/lib/conformance-results";

/// Services, their ways in and their names, and network policies.
const FOCUS: &str = r"\[sig-network\]";

/// What is left out: what breaks the cluster, is slow, or is behind a gate that the cluster has not
/// opened; what needs a cloud, a controller of Ingress, another network than the nodes', or more of
/// the machine than services do; and what is of kube-proxy itself, not of services.
///
/// The words are those of `test/e2e/feature/feature.go` and of the tests' names: `Ingress` alone would
/// leave out policies, too ("should work with Ingress, Egress specified together").
const SKIPPED: &[&str] = &[
    "[Disruptive]",
    "[Flaky]",
    "[Slow]",
    "[Alpha]",
    "[Feature:Example]",
    "[Feature:Ingress]",
    "[Feature:KubeDNSAutoscaler]",
    "[Feature:Networking-DNS]",
    "[Feature:Networking-IPv6]",
    "[Feature:Networking-Performance]",
    "[Feature:OffByDefault]",
    "[Feature:PerformanceDNS]",
    "[Feature:SCTPConnectivity]",
    "[Feature:Windows]",
    "KubeProxy",
    "LoadBalancer",
    "Load Balancer",
    "load balancer",
    "Loadbalancing",
];
/// How many tests run at a time.
const AT_A_TIME: &str = "--procs=4";

/// Runs them to their end and gives the report.
pub fn run(containers: &str, focus: Option<&str>) -> Result<String> {
    let version = json(kubectl().args(["version", "--output", "json"]))?;
    let version = version["serverVersion"]["gitVersion"]
        .as_str()
        .context("the API server's version")?
        .to_owned();
    let node = format!("{CLUSTER}-control-plane");
    remove()?;
    let report = format!("{RESULTS}/junit_01.xml");
    let on_node = |program: &[&str]| {
        process::output(Command::new(containers).args(["exec", &node]).args(program))
    };
    on_node(&["rm", "--force", &report])?;
    apply(&objects(&version, &node, focus.unwrap_or(FOCUS)))?;
    let ended = wait();
    // What there is of a report is worth reading even if the run ended badly.
    let report = on_node(&["cat", &report]);
    ended?;
    remove()?;
    report.with_context(|| format!("read the report of the tests on {node}"))
}

/// [`SKIPPED`] as a regular expression.
fn skip() -> String {
    SKIPPED.join("|").replace('[', r"\[").replace(']', r"\]")
}

/// The pod, and the rights that tests of a whole cluster need.
fn objects(version: &str, node: &str, focus: &str) -> Value {
    let variables = json!([
        {"name": "E2E_FOCUS", "value": focus},
        {"name": "E2E_SKIP", "value": skip()},
        {"name": "E2E_PROVIDER", "value": "skeleton"},
        {"name": "E2E_EXTRA_GINKGO_ARGS", "value": AT_A_TIME},
        {"name": "RESULTS_DIR", "value": RESULTS},
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": NAMESPACE, "namespace": NAMESPACE},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAMESPACE},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{
                "kind": "ServiceAccount",
                "name": NAMESPACE,
                "namespace": NAMESPACE,
            }],
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": NAMESPACE, "namespace": NAMESPACE},
            "spec": {
                "serviceAccountName": NAMESPACE,
                "restartPolicy": "Never",
                "nodeName": node,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": "conformance",
                    "image": format!("{IMAGE}:{version}"),
                    "env": variables,
                    "volumeMounts": [{"name": "results", "mountPath": RESULTS}],
                }],
                "volumes": [{
                    "name": "results",
                    "hostPath": {"path": RESULTS, "type": "DirectoryOrCreate"},
                }],
            },
        },
    ]})
}

fn apply(objects: &Value) -> Result<()> {
    let file = std::env::temp_dir().join(format!("weir-kind-{}.json", std::process::id()));
    std::fs::write(&file, objects.to_string())
        .with_context(|| format!("write {}", file.display()))?;
    let applied = process::output(kubectl().args(["apply", "--filename"]).arg(&file));
    std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    applied.map(|_| ())
}

/// Takes away what a run has made.
fn remove() -> Result<()> {
    for kind in ["namespace", "clusterrolebinding"] {
        process::output(kubectl().args(["delete", kind, NAMESPACE, "--ignore-not-found"]))?;
    }
    Ok(())
}

/// Waits for the pod to end. Failing tests are its report's to tell.
fn wait() -> Result<()> {
    let mut step = Step::start("run the upstream tests");
    loop {
        let pod = json(kubectl().args([
            "--namespace",
            NAMESPACE,
            "get",
            "pod",
            NAMESPACE,
            "--output",
            "json",
        ]))?;
        match pod["status"]["phase"].as_str() {
            Some("Succeeded" | "Failed") => {
                step.done();
                return Ok(());
            }
            Some("Pending" | "Running") | None => (),
            Some(other) => {
                step.failed();
                bail!("the pod of the tests is {other}");
            }
        }
        let log = process::output(kubectl().args([
            "--namespace",
            NAMESPACE,
            "logs",
            "--tail=1",
            NAMESPACE,
        ]));
        // There is none before its image was pulled.
        step.note(log.as_deref().unwrap_or("the image is pulled"));
        thread::sleep(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_service_proxys_is_left_out_and_the_rest_is_not() {
        let is_skipped = |name: &str| SKIPPED.iter().any(|word| name.contains(word));
        for name in [
            "[sig-network] KubeProxy should set TCP CLOSE_WAIT timeout [Privileged]",
            "[sig-network] IngressClass [Feature:Ingress] should set default value on new",
            "[sig-network] LoadBalancers [Feature:LoadBalancer] should only target nodes",
            "[sig-network] Pods [FeatureGate:X] [Beta] [Feature:OffByDefault] should do it",
        ] {
            assert!(is_skipped(name), "{name}");
        }
        for name in [
            "[sig-network] Netpol NetworkPolicy between server and client should work with \
             Ingress, Egress specified together [Feature:NetworkPolicy]",
            "[sig-network] Services should be rejected when no endpoints exist",
            "[sig-network] Networking should check kube-proxy urls",
            "[sig-network] [Feature:IPv6DualStack] Granular Checks: Services should function for \
             pod-Service: http",
            "[sig-network] [Feature:Traffic Distribution] should route traffic to an endpoint",
        ] {
            assert!(!is_skipped(name), "{name}");
        }
        assert!(skip().starts_with(r"\[Disruptive\]|"), "{}", skip());
    }
}
