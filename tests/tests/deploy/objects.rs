//! Manifests as values: read, found, compared, and held against the API's types.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The directory `deploy`.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the workspace")
        .join("deploy")
}

/// A file of `deploy`.
pub fn text(path: &str) -> Result<String> {
    let path = deploy().join(path);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// The objects of a file of `deploy`.
pub fn file(path: &str) -> Result<Vec<Value>> {
    parse(&text(path)?).with_context(|| format!("read {path}"))
}

/// The objects of a text, in the order of their kinds and names.
pub fn parse(yaml: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    let mut objects: Vec<Value> = documents.into_iter().filter(|it| !it.is_null()).collect();
    objects.sort_by_key(name);
    Ok(objects)
}

/// `ConfigMap weir`
pub fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

/// The only object of a kind.
pub fn only<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    let mut found = objects.iter().filter(|it| it["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        (None, _) => anyhow::bail!("there is no {kind}"),
        (Some(_), Some(_)) => anyhow::bail!("there are several of kind {kind}"),
    }
}

/// Fails where the API's type does not have a field of the object, or has it otherwise.
pub fn check_type(object: &Value) -> Result<()> {
    match object["kind"].as_str().unwrap_or_default() {
        "ServiceAccount" => check_as::<core::ServiceAccount>(object),
        "ConfigMap" => check_as::<core::ConfigMap>(object),
        "ClusterRole" => check_as::<rbac::ClusterRole>(object),
        "ClusterRoleBinding" => check_as::<rbac::ClusterRoleBinding>(object),
        "DaemonSet" => check_as::<apps::DaemonSet>(object),
        // The Prometheus operator's, of which there are no types here.
        "PodMonitor" | "PrometheusRule" => Ok(()),
        other => anyhow::bail!("nobody knows the type of {other}"),
    }
    .with_context(|| name(object))
}

fn check_as<T: DeserializeOwned>(object: &Value) -> Result<()> {
    let mut unknown = Vec::new();
    let _: T = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()))?;
    ensure!(unknown.is_empty(), "the API does not have {unknown:?}");
    Ok(())
}

/// Fails with the first difference between two lists of objects.
pub fn expect_equal(left: &[Value], right: &[Value]) -> Result<()> {
    let names = |objects: &[Value]| objects.iter().map(name).collect::<Vec<_>>();
    ensure!(
        names(left) == names(right),
        "{:?} against {:?}",
        names(left),
        names(right)
    );
    for (one, other) in left.iter().zip(right) {
        ensure!(
            one == other,
            "{} differs: {}",
            name(one),
            difference("", one, other)
        );
    }
    Ok(())
}

/// Where two values differ first.
fn difference(path: &str, one: &Value, other: &Value) -> String {
    if let (Value::Object(a), Value::Object(b)) = (one, other) {
        let keys = a.keys().chain(b.keys());
        let different = keys.into_iter().find(|key| a.get(*key) != b.get(*key));
        if let Some(key) = different {
            let nothing = &Value::Null;
            let (a, b) = (a.get(key).unwrap_or(nothing), b.get(key).unwrap_or(nothing));
            return difference(&format!("{path}.{key}"), a, b);
        }
    }
    if let (Value::Array(a), Value::Array(b)) = (one, other)
        && a.len() == b.len()
        && let Some(index) = (0..a.len()).find(|&index| a[index] != b[index])
    {
        return difference(&format!("{path}[{index}]"), &a[index], &b[index]);
    }
    format!("{path} is {one} against {other}")
}

#[test]
fn a_field_that_the_api_does_not_have_is_found() {
    let mut object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": "c"},
    });
    check_type(&object).unwrap();
    object["dota"] = serde_json::json!({});
    let error = format!("{:#}", check_type(&object).unwrap_err());
    assert!(error.contains("dota"), "{error}");
}
