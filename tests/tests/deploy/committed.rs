//! What is committed under `deploy/`, held against the API's types and the agent.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use serde_json::{Value, json};
use weir_agent::cli::Cli;
use weir_agent::sources::api::{RESOURCES, VERBS, announce::EVENTS};

use crate::agent::flags_by_variable;
use crate::objects::{check_type, file, only, text};
use crate::pod::containers;

const FILES: [&str; 8] = [
    "base/clusterrole.yaml",
    "base/clusterrolebinding.yaml",
    "base/daemonset.yaml",
    "base/serviceaccount.yaml",
    "cleanup/daemonset.yaml",
    "components/monitoring/dashboard.yaml",
    "components/monitoring/podmonitor.yaml",
    "components/monitoring/prometheusrule.yaml",
];

/// The ConfigMap that kustomize makes of `settings.env`.
fn config_map() -> Result<Value> {
    let data: BTreeMap<String, String> = text("base/settings.env")?
        .lines()
        .map(|line| {
            let (name, value) = line.split_once('=').context("a line is NAME=value")?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect::<Result<_>>()?;
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "weir"}, "data": data,
    }))
}

#[test]
fn every_field_of_every_object_is_the_apis() {
    for path in FILES {
        let objects = file(path).unwrap();
        assert!(!objects.is_empty(), "{path} is empty");
        for object in objects {
            check_type(&object).unwrap();
        }
    }
    check_type(&config_map().unwrap()).unwrap();
}

#[test]
fn every_container_starts_a_command_that_the_binary_has_with_variables_that_it_reads() {
    let config_map = config_map().unwrap();
    let agent = flags_by_variable("agent").unwrap();
    let mut commands = BTreeSet::new();
    for path in ["base/daemonset.yaml", "cleanup/daemonset.yaml"] {
        let objects = file(path).unwrap();
        let daemon_set = only(&objects, "DaemonSet").unwrap();
        for container in containers(daemon_set, &config_map, "worker-0").unwrap() {
            let command = &container.arguments[0];
            let flags = flags_by_variable(command).unwrap();
            let mut line = vec!["weir".to_owned()];
            line.extend(container.arguments.iter().cloned());
            for (variable, value) in &container.environment {
                assert!(
                    agent.contains_key(variable),
                    "{path}, {}: nobody reads {variable}",
                    container.name
                );
                // As clap reads it from the environment, where the command has such a flag.
                let flag = flags.get(variable);
                line.extend(flag.map(|flag| format!("--{flag}={value}")));
            }
            if let Err(error) = Cli::try_parse_from(&line) {
                panic!("{path}, {}: {line:?}: {error}", container.name);
            }
            commands.insert(command.clone());
        }
    }
    let expected = ["agent", "cleanup", "doctor", "prepare"].map(str::to_owned);
    assert_eq!(commands, BTreeSet::from(expected));
}

/// Set by the DaemonSet, or of no use in a cluster.
const NO_SETTINGS: [&str; 10] = [
    "bpffs",
    "cgroup-root",
    "cni-results-dir",
    "kubeconfig",
    "kubelet-kubeconfig",
    "manifests",
    "netns-dir",
    "node-name",
    "run-dir",
    "service-account-dir",
];

#[test]
fn the_charts_settings_are_the_agents_flags() {
    let schema: Value = serde_json::from_str(&text("chart/values.schema.json").unwrap()).unwrap();
    let settings = schema["properties"]["settings"]["properties"]
        .as_object()
        .expect("settings have properties");
    let settings: BTreeSet<&str> = settings.keys().map(String::as_str).collect();
    let flags = flags_by_variable("agent").unwrap();
    for (variable, flag) in &flags {
        // As the chart makes the variable of a setting.
        let made = format!("WEIR_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(variable, &made, "--{flag}");
    }
    let expected: BTreeSet<&str> = flags
        .values()
        .map(String::as_str)
        .filter(|flag| !NO_SETTINGS.contains(flag))
        .collect();
    assert_eq!(settings, expected);
}

#[test]
fn the_role_allows_what_the_agent_asks_and_nothing_else() {
    let objects = file("base/clusterrole.yaml").unwrap();
    let role = only(&objects, "ClusterRole").unwrap();
    let granted = granted(role).unwrap();
    let mut asked: BTreeSet<(String, String, String)> = RESOURCES
        .iter()
        .flat_map(|resource| {
            VERBS.map(|verb| {
                (
                    resource.group.to_owned(),
                    resource.plural.to_owned(),
                    verb.to_owned(),
                )
            })
        })
        .collect();
    let (group, plural, verbs) = EVENTS;
    asked.extend(verbs.map(|verb| (group.to_owned(), plural.to_owned(), verb.to_owned())));
    assert_eq!(granted, asked);
}

/// Group, resource and verb of all that a role grants.
fn granted(role: &Value) -> Result<BTreeSet<(String, String, String)>> {
    let strings = |value: &Value| -> Result<Vec<String>> {
        let list = value.as_array().context("a list")?.iter();
        list.map(|it| Ok(it.as_str().context("a string")?.to_owned()))
            .collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().context("a list of rules")? {
        for group in strings(&rule["apiGroups"])? {
            for resource in strings(&rule["resources"])? {
                for verb in strings(&rule["verbs"])? {
                    let one = (group.clone(), resource.clone(), verb);
                    ensure!(granted.insert(one), "{group}/{resource} is granted twice");
                }
            }
        }
    }
    Ok(granted)
}

#[test]
fn the_binding_gives_the_role_to_the_account_of_the_pods() {
    let account = file("base/serviceaccount.yaml").unwrap();
    let account = &only(&account, "ServiceAccount").unwrap()["metadata"];
    let binding = file("base/clusterrolebinding.yaml").unwrap();
    let binding = only(&binding, "ClusterRoleBinding").unwrap();
    let role = file("base/clusterrole.yaml").unwrap();
    assert_eq!(binding["roleRef"]["name"], role[0]["metadata"]["name"]);
    let expected = json!([{
        "kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"],
    }]);
    assert_eq!(binding["subjects"], expected);
    let set = file("base/daemonset.yaml").unwrap();
    assert_eq!(
        set[0]["spec"]["template"]["spec"]["serviceAccountName"],
        account["name"]
    );
}

#[test]
fn the_agent_is_not_privileged_and_the_one_that_is_ends() {
    let objects = file("base/daemonset.yaml").unwrap();
    let pod = &objects[0]["spec"]["template"]["spec"];
    for container in pod["containers"].as_array().unwrap() {
        let rights = &container["securityContext"];
        assert_eq!(rights["privileged"], Value::Null);
        assert_eq!(rights["allowPrivilegeEscalation"], false);
        assert_eq!(rights["readOnlyRootFilesystem"], true);
        assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]));
    }
    let privileged = pod["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["securityContext"]["privileged"] == true);
    let names: Vec<&Value> = privileged.map(|it| &it["name"]).collect();
    assert_eq!(names, ["prepare"]);
    // The node's whole disk is in reach of that one alone.
    for container in pod["containers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().all(|it| it["name"] != "root"));
    }
}

#[test]
fn the_versions_are_one() {
    let chart = text("chart/Chart.yaml").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for field in ["version", "appVersion"] {
        assert!(
            chart.contains(&format!("\n{field}: {version}\n")),
            "{field} of Chart.yaml is not {version}"
        );
    }
}
