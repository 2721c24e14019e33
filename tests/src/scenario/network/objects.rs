//! A scenario's objects as the one file of manifests that agents watch.
//!
//! One file, replaced as a whole: an agent sees all of a step or nothing. A [`Marker`] goes with
//! each version.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weir_agent::model::{DEFAULT_NAMESPACE, ObjectRef};

use crate::bed::manifests::Manifests;
use crate::bed::marker::Marker;
use crate::scenario::format::Given;
use crate::scenario::world::parse_reference;

const FILE: &str = "scenario.yaml";

/// Objects by what they are called, and how often they were written.
#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<ObjectRef, Value>,
    marker: Marker,
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
        self.marker.advance();
        let objects = self.objects.values().cloned();
        let objects: Vec<Value> = objects.chain(self.marker.objects()).collect();
        manifests.put(FILE, &objects)?;
        Ok(())
    }

    /// That of the version written last.
    pub(super) fn marker(&self) -> Marker {
        self.marker
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

#[cfg(test)]
mod tests {
    use weir_agent::model::Object;

    use super::*;
    use crate::scenario::world::read_objects;

    /// What an agent reads of a file of these objects.
    fn as_read(objects: &[Value]) -> Vec<Object> {
        let given: Vec<Given> = objects
            .iter()
            .map(|object| Given::Inline(object.as_object().unwrap().clone()))
            .collect();
        read_objects(&given, Path::new(".")).unwrap()
    }

    #[test]
    fn agents_are_given_what_the_other_executors_read() {
        for file in crate::scenario::all().unwrap() {
            let given = file.scenario.unwrap().given;
            let expected = read_objects(&given, &file.directory).unwrap();
            let written: Vec<Value> = given
                .iter()
                .flat_map(|given| read(given, &file.directory).unwrap())
                .collect();
            assert_eq!(as_read(&written), expected, "{}", file.name);
        }
    }
}
