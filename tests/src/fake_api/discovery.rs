//! What the server says of itself: its version and the kinds that it has.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::faults::{Faults, Refusal};
use super::resource::Resource;

/// The answer to a path of discovery; `None` where the path is not one.
pub(super) fn answer(path: &str, faults: &Faults) -> Option<Value> {
    let is_known = |it: &Resource| faults.refused.get(it) != Some(&Refusal::Unknown);
    let known: Vec<Resource> = Resource::ALL.into_iter().filter(is_known).collect();
    let groups = known.iter().map(|it| it.group());
    let groups: BTreeSet<&str> = groups.filter(|group| !group.is_empty()).collect();
    match path.trim_end_matches('/') {
        "/version" => Some(json!({
            "major": "1",
            "minor": "34",
            "gitVersion": "v1.34.0",
            "gitCommit": "0000000000000000000000000000000000000000",
            "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z",
            "goVersion": "go1.24",
            "compiler": "gc",
            "platform": "linux/amd64",
        })),
        "/livez" | "/readyz" | "/healthz" => Some(json!("ok")),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups.iter().map(|it| group(it)).collect::<Vec<_>>(),
        })),
        "/api/v1" => Some(resources("", &known)),
        path => {
            let rest = path.strip_prefix("/apis/")?;
            let (name, is_list) = match rest.strip_suffix("/v1") {
                Some(name) => (name, true),
                None => (rest, false),
            };
            let name = *groups.get(name)?;
            Some(if is_list {
                resources(name, &known)
            } else {
                let mut group = group(name);
                group["kind"] = json!("APIGroup");
                group["apiVersion"] = json!("v1");
                group
            })
        }
    }
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str, known: &[Resource]) -> Value {
    let version = match group {
        "" => "v1".to_owned(),
        group => format!("{group}/v1"),
    };
    let of_group = known.iter().filter(|it| it.group() == group);
    let resources = of_group.map(|it| {
        json!({
            "name": it.plural(),
            "singularName": it.kind().to_lowercase(),
            "namespaced": it.is_namespaced(),
            "kind": it.kind(),
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        })
    });
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": resources.collect::<Vec<_>>(),
    })
}
