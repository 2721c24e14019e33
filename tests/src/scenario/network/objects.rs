//! A scenario's objects as the one file of manifests that agents watch.
//!
//! One file, replaced as a whole: an agent sees all of a step or nothing. A *marker* goes with
//! each version: a service port that has to be left out of the tables, and is therefore named by
//! the very synchronisation that took the version in.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use weir_agent::model::{DEFAULT_NAMESPACE, ObjectRef};

use super::super::format::Given;
use super::super::world::parse_reference;
use crate::bed::manifests::Manifests;

const FILE: &str = "scenario.yaml";

/// Objects by what they are called, and how often they were written.
#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<ObjectRef, Value>,
    version: u32,
}

impl Objects {
    /// Objects appear or change.
    pub(super) fn apply(&mut self, given: &[Given], directory: &Path) -> Result<()> {
        for given in given {
            for object in read(given, directory)? {
                self.objects.insert(reference(&object)?, object);
            }
        }
        Ok(())
    }

    /// Objects disappear.
    pub(super) fn delete(&mut self, references: &[String]) -> Result<()> {
        for text in references {
            let removed = self.objects.remove(&parse_reference(text)?);
            ensure!(removed.is_some(), "there is no {text} to delete");
        }
        Ok(())
    }

    /// Writes the file anew, with the next marker.
    pub(super) fn write(&mut self, manifests: &Manifests) -> Result<()> {
        self.version += 1;
        let marker = [self.marker_service(), self.marker_slice()];
        let objects: Vec<Value> = self.objects.values().cloned().chain(marker).collect();
        manifests.put(FILE, &objects)?;
        Ok(())
    }

    /// What is left out of the tables that the last version led to.
    pub(super) fn marker(&self) -> String {
        format!("Service marker/{}", self.marker_name())
    }

    fn marker_name(&self) -> String {
        format!("version-{}", self.version)
    }

    fn marker_service(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.marker_name(), "namespace": "marker" },
            // No scenario's: the last of the services' addresses.
            "spec": { "clusterIP": "10.32.0.254", "ports": [{ "port": 9, "protocol": "SCTP" }] },
        })
    }

    /// SCTP ports are not translated: the endpoint is left out.
    fn marker_slice(&self) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.marker_name(),
                "namespace": "marker",
                "labels": { "kubernetes.io/service-name": self.marker_name() },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "", "port": 10, "protocol": "SCTP" }],
            "endpoints": [{ "addresses": ["10.200.0.254"] }],
        })
    }
}

/// The objects as the manifest has them.
fn read(given: &Given, directory: &Path) -> Result<Vec<Value>> {
    match given {
        Given::Inline(object) => Ok(vec![Value::Object(object.clone())]),
        Given::File(path) => {
            let path = directory.join(path);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read the manifest {}", path.display()))?;
            serde_saphyr::from_multiple(&text).with_context(|| format!("in {}", path.display()))
        }
    }
}

fn reference(object: &Value) -> Result<ObjectRef> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&object["kind"]).context("an object has a kind")?;
    let metadata = &object["metadata"];
    let name = text(&metadata["name"]).with_context(|| format!("a {kind} has no name"))?;
    let namespace = text(&metadata["namespace"]).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    parse_reference(&format!("{kind} {namespace}/{name}"))
        .or_else(|_| parse_reference(&format!("{kind} {name}")))
}
