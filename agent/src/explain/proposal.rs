//! What would change if manifests were applied.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Scene;
use super::changes::{Comparison, compare};
use crate::model::{Change, Event, Kind, ObjectRef, SourceId};
use crate::sources::manifests::parse::parse;

/// Sorts before every source that there is: what it says is believed.
const PROPOSED: SourceId = SourceId("");

/// Manifests that somebody thinks of applying, and policies that they think of removing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proposal {
    /// The files.
    #[serde(default)]
    pub files: Vec<File>,
    /// Policies that would be gone, `NAMESPACE/NAME`.
    #[serde(default)]
    pub without: Vec<String>,
}

/// A file of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// Its name, for problems; `.json` says how to read it.
    pub name: String,
    /// What it holds.
    pub text: String,
}

/// What would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tested {
    /// What is wrong in the files. A policy that cannot be read isolates, and allows nothing.
    pub problems: Vec<String>,
    /// The objects that were applied or removed.
    pub objects: Vec<String>,
    /// Which pairs change their verdict.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// Compares a cluster with what a proposal would make of it.
///
/// # Errors
/// Names the policy that cannot be removed, as there is none.
pub fn test(scene: &Scene, proposal: &Proposal) -> Result<Tested, String> {
    let mut cluster = scene.cluster().clone();
    let mut problems = Vec::new();
    let mut objects = BTreeSet::new();
    let mut changes = vec![Change::Reset];
    for File { name, text } in &proposal.files {
        let parsed = parse(name, text);
        problems.extend(parsed.problems.iter().map(ToString::to_string));
        for (object, _) in parsed.objects {
            objects.insert(object.reference().to_string());
            changes.push(Change::apply(object));
        }
    }
    for text in &proposal.without {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        let reference = ObjectRef::new(Kind::NetworkPolicy, namespace, name);
        if cluster.get(&reference).is_none() {
            return Err(format!("no NetworkPolicy {namespace}/{name} is known"));
        }
        objects.insert(format!("without {reference}"));
        cluster = cluster.without(&reference);
    }
    changes.push(Change::Ready);
    cluster.apply(Event {
        source: PROPOSED,
        changes,
    });
    Ok(Tested {
        problems,
        objects: objects.into_iter().collect(),
        comparison: compare(scene, &Scene::new(cluster)),
    })
}
