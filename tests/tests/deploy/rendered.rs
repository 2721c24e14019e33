//! The chart by Helm against the kustomizations by kubectl: one truth.
//!
//! Each ConfigMap of settings restarts the agents when it changes in its own way: Helm's by a
//! checksum among the template's annotations, kustomize's by a hash in its name. Both are there,
//! and are taken away before the rest is compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::objects::{check_type, deploy, expect_equal, name, only, parse};
use crate::pod::containers;

const CHECKSUM: &str = "checksum/config";

/// A program that `cargo xtask test deploy` names.
fn tool(variable: &str) -> Result<Command> {
    let path = std::env::var_os(variable).with_context(|| {
        format!("{variable} is not set; run these tests by: cargo xtask test deploy")
    })?;
    Ok(Command::new(path))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// The chart's objects with these values.
fn helm(values: &[&str]) -> Result<Vec<Value>> {
    // Helm keeps files of its own; not in the home directory of whoever tests.
    let home = TempDir::new()?;
    let mut command = tool("WEIR_HELM")?;
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.path());
    }
    command
        .args(["template", "weir"])
        .arg(deploy().join("chart"))
        .args(["--namespace", "kube-system"]);
    for value in values {
        command.args(["--set", value]);
    }
    parse(&output(&mut command)?)
}

/// The objects of a kustomization.
pub fn kustomize(directory: &Path) -> Result<Vec<Value>> {
    parse(&output(
        tool("WEIR_KUBECTL")?.arg("kustomize").arg(directory),
    )?)
}

/// A kustomization over those of `deploy/`, as a user would write it: `{deploy}` is where they are.
struct Overlay(TempDir);

impl Overlay {
    fn new(text: &str) -> Result<Self> {
        let directory = TempDir::new()?;
        let up = "../".repeat(directory.path().canonicalize()?.components().count() - 1);
        let deploy = deploy().canonicalize()?;
        let deploy = PathBuf::from(up).join(deploy.strip_prefix("/")?);
        let deploy = deploy.to_str().context("the workspace's path is UTF-8")?;
        fs::write(
            directory.path().join("kustomization.yaml"),
            text.replace("{deploy}", deploy),
        )?;
        Ok(Self(directory))
    }

    fn objects(&self) -> Result<Vec<Value>> {
        kustomize(self.0.path())
    }
}

/// Takes Helm's checksum away, which has to be there.
fn without_checksum(mut objects: Vec<Value>) -> Result<Vec<Value>> {
    for object in &mut objects {
        if object["kind"] == "DaemonSet" {
            let annotations = object["spec"]["template"]["metadata"]["annotations"]
                .as_object_mut()
                .context("the template has annotations")?;
            annotations
                .remove(CHECKSUM)
                .context("the template has a checksum of its settings")?;
        }
    }
    Ok(objects)
}

/// Takes kustomize's hash away, which has to be there, from the ConfigMap and whoever names it; and
/// the checksum that its base was rendered with.
fn without_hash(objects: Vec<Value>) -> Result<Vec<Value>> {
    let hashed = only(&settings(&objects), "ConfigMap")?["metadata"]["name"]
        .as_str()
        .context("a ConfigMap has a name")?
        .to_owned();
    ensure!(hashed.starts_with("weir-"), "{hashed} has no hash");
    let text = serde_json::to_string(&objects)?;
    let named = format!("\"{hashed}\"");
    ensure!(text.matches(&named).count() >= 2, "nobody names {hashed}");
    let mut objects: Vec<Value> = serde_json::from_str(&text.replace(&named, "\"weir\""))?;
    objects.sort_by_key(name);
    without_checksum(objects)
}

/// The ConfigMap of settings alone.
fn settings(objects: &[Value]) -> Vec<Value> {
    let is_settings =
        |it: &&Value| it["kind"] == "ConfigMap" && it["metadata"]["name"] != "weir-dashboard";
    objects.iter().filter(is_settings).cloned().collect()
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn kustomize_and_helm_give_the_same_objects() {
    let chart = without_checksum(helm(&[]).unwrap()).unwrap();
    let kustomized = without_hash(kustomize(&deploy()).unwrap()).unwrap();
    expect_equal(&chart, &kustomized).expect("cargo xtask deploy render");
    assert_eq!(chart.len(), 5);
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn the_monitoring_component_is_the_charts_monitoring_options() {
    let values = [
        "podMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "dashboard.enabled=true",
    ];
    let chart = without_checksum(helm(&values).unwrap()).unwrap();
    let overlay = Overlay::new(
        "resources: ['{deploy}/base']\ncomponents: ['{deploy}/components/monitoring']\n",
    )
    .unwrap();
    let kustomized = without_hash(overlay.objects().unwrap()).unwrap();
    expect_equal(&chart, &kustomized).expect("cargo xtask deploy render");
    let monitor = only(&chart, "PodMonitor").unwrap();
    let set = only(&chart, "DaemonSet").unwrap();
    let port = &set["spec"]["template"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(
        monitor["spec"]["podMetricsEndpoints"][0]["port"],
        port["name"]
    );
    let settings = &settings(&chart)[0]["data"];
    assert_eq!(settings["WEIR_METRICS_BIND_ADDRESS"], "0.0.0.0:10249");
    assert_eq!(port["containerPort"], 10249);
    let board = chart
        .iter()
        .find(|it| it["metadata"]["name"] == "weir-dashboard")
        .and_then(|it| it["data"]["weir.json"].as_str())
        .unwrap();
    let board: Value = serde_json::from_str(board).expect("the dashboard is JSON in its ConfigMap");
    assert_eq!(board["uid"], "weir");
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn cleaning_up_replaces_the_agents_in_their_own_daemon_set() {
    let chart = without_checksum(helm(&["cleanup.enabled=true"]).unwrap()).unwrap();
    let set = only(&chart, "DaemonSet").unwrap();
    let kustomized = without_checksum(kustomize(&deploy().join("cleanup")).unwrap()).unwrap();
    expect_equal(std::slice::from_ref(set), &kustomized).expect("cargo xtask deploy render");
    // It takes the agents' place, node by node.
    let agents = helm(&[]).unwrap();
    let agents = only(&agents, "DaemonSet").unwrap();
    for field in ["name", "namespace"] {
        assert_eq!(set["metadata"][field], agents["metadata"][field]);
    }
    assert_eq!(set["spec"]["selector"], agents["spec"]["selector"]);
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn other_settings_restart_the_agents() {
    let checksum = |values: &[&str]| {
        let objects = helm(values).unwrap();
        let set = only(&objects, "DaemonSet").unwrap();
        set["spec"]["template"]["metadata"]["annotations"][CHECKSUM]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(checksum(&[]), checksum(&["image.tag=v9"]));
    assert_ne!(checksum(&[]), checksum(&["settings.unknown-pods=deny"]));
    let overlay = Overlay::new(
        "resources: ['{deploy}/base']\n\
         configMapGenerator: [{name: weir, namespace: kube-system, behavior: merge, \
         literals: [WEIR_UNKNOWN_PODS=deny]}]\n",
    )
    .unwrap();
    let changed = overlay.objects().unwrap();
    let usual = kustomize(&deploy()).unwrap();
    let (changed_map, usual_map) = (settings(&changed), settings(&usual));
    assert_ne!(
        changed_map[0]["metadata"]["name"], usual_map[0]["metadata"]["name"],
        "the hash"
    );
    let set = only(&changed, "DaemonSet").unwrap();
    let agent = containers(set, &changed_map[0], "worker-0").unwrap().pop();
    assert_eq!(
        agent.unwrap().environment["WEIR_UNKNOWN_PODS"],
        "deny",
        "the agents read it"
    );
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn every_option_gives_objects_of_the_api() {
    for values in [
        &["prepare.enabled=false", "doctor.enabled=false"][..],
        &[
            "apiServer=https://10.240.0.10:6443",
            "settings.log=debug",
            "settings.max-flows=4096",
            "nodeSelector.pool=workers",
            "podLabels.team=network",
            "podAnnotations.a=b",
            "imagePullSecrets[0].name=pull",
            "image.repository=localhost/weir",
            "image.tag=dev",
        ],
        &["settings.healthz-bind-address="],
        &["seccompProfile=null", "seLinuxOptions=null"],
    ] {
        let objects = helm(values).unwrap();
        for object in &objects {
            check_type(object).unwrap_or_else(|error| panic!("{values:?}: {error:#}"));
        }
        let set = only(&objects, "DaemonSet").unwrap();
        let pod = &set["spec"]["template"]["spec"];
        let agent = &pod["containers"][0];
        match values[0] {
            "prepare.enabled=false" => {
                assert_eq!(pod["initContainers"], Value::Null);
                assert!(!pod.to_string().contains(r#""path":"/""#), "{pod}");
            }
            "settings.healthz-bind-address=" => assert_eq!(agent["livenessProbe"], Value::Null),
            "seccompProfile=null" => {
                assert_eq!(agent["securityContext"]["seccompProfile"], Value::Null);
            }
            _ => {
                let map = &settings(&objects)[0]["data"];
                assert_eq!(map["WEIR_API_SERVER"], "https://10.240.0.10:6443");
                assert_eq!(map["WEIR_MAX_FLOWS"], "4096");
                assert_eq!(agent["image"], "localhost/weir:dev");
            }
        }
    }
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn probes_ask_where_the_agent_answers() {
    for (address, host, port) in [
        ("0.0.0.0:10256", Value::Null, 10256),
        ("127.0.0.1:4444", "127.0.0.1".into(), 4444),
        ("10.0.0.1", "10.0.0.1".into(), 10256),
        ("[::1]:99", "::1".into(), 99),
        ("::", Value::Null, 10256),
    ] {
        let objects = helm(&[&format!("settings.healthz-bind-address={address}")]).unwrap();
        let set = only(&objects, "DaemonSet").unwrap();
        let agent = &set["spec"]["template"]["spec"]["containers"][0];
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let asked = &agent[probe]["httpGet"];
            assert_eq!(asked["host"], host, "{address}: {probe}");
            assert_eq!(asked["port"], port, "{address}: {probe}");
        }
    }
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn values_that_mean_nothing_are_refused() -> Result<()> {
    for value in [
        "settings.unknown-pod=deny",
        "prepare.enable=false",
        "host.runDir=run/weir",
        "apiServer=10.0.0.1",
    ] {
        match helm(&[value]) {
            Err(error) if format!("{error:#}").contains("values don't meet") => (),
            Err(error) => bail!("{value}: {error:#}"),
            Ok(_) => bail!("{value} was taken"),
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs helm and kubectl: cargo xtask test deploy"]
fn kinds_cluster_gets_the_image_that_is_loaded_into_it() {
    let objects = kustomize(&deploy().join("kind")).unwrap();
    let set = only(&objects, "DaemonSet").unwrap();
    let pod = &set["spec"]["template"]["spec"];
    for list in ["initContainers", "containers"] {
        for container in pod[list].as_array().unwrap() {
            assert_eq!(container["image"], "localhost/weir:dev");
            // Never asked of a registry where it is on the node.
            assert_eq!(container["imagePullPolicy"], "IfNotPresent");
        }
    }
}
