//! The pods of a DaemonSet, as a kubelet reads them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A container of a pod, with all that its environment holds.
#[derive(Debug)]
pub struct Declared<'a> {
    pub name: &'a str,
    pub value: &'a Value,
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
}

/// A pod's containers, in the order in which they start; `node` is the name of its node.
pub fn containers<'a>(
    daemon_set: &'a Value,
    config_map: &Value,
    node: &str,
) -> Result<Vec<Declared<'a>>> {
    let pod = &daemon_set["spec"]["template"]["spec"];
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
    lists
        .into_iter()
        .flatten()
        .flatten()
        .map(|value| declared(value, config_map, node))
        .collect()
}

fn declared<'a>(value: &'a Value, config_map: &Value, node: &str) -> Result<Declared<'a>> {
    let mut environment = BTreeMap::new();
    for from in value["envFrom"].as_array().into_iter().flatten() {
        let name = &from["configMapRef"]["name"];
        if name != &config_map["metadata"]["name"] {
            bail!("there is no ConfigMap {name}");
        }
        for (name, value) in config_map["data"].as_object().context("a map of data")? {
            let value = value.as_str().context("data are strings")?;
            environment.insert(name.clone(), value.to_owned());
        }
    }
    // What is named here wins.
    for variable in value["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable's name")?;
        let value = match variable["value"].as_str() {
            Some(value) => value,
            None if variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName" => node,
            None => bail!("nobody knows the value of {name}"),
        };
        environment.insert(name.to_owned(), value.to_owned());
    }
    let arguments = value["args"].as_array().into_iter().flatten();
    Ok(Declared {
        name: value["name"].as_str().context("a container's name")?,
        value,
        arguments: arguments
            .map(|it| Ok(it.as_str().context("arguments are strings")?.to_owned()))
            .collect::<Result<_>>()?,
        environment,
    })
}
