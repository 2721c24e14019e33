//! The policies of the cluster, and the pods of this node that each isolates.

use serde::{Deserialize, Serialize};

use crate::explain::Snapshot;
use crate::model::{Direction, PolicyRef};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRow {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// The pods that it selects, as kubectl writes selectors; empty: all of its namespace.
    pub selector: String,
    /// `ingress`, `egress`
    pub directions: Vec<String>,
    /// Its rules of both directions.
    pub rules: usize,
    /// The pods of this node that it isolates.
    pub pods: Vec<String>,
    /// What is wrong with it: then it allows nothing.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub problems: Vec<String>,
}

/// All policies, by namespace and name.
#[must_use]
pub fn policies(now: &Snapshot) -> Vec<PolicyRow> {
    let all = now.scene.cluster().network_policies();
    all.map(|policy| PolicyRow {
        namespace: policy.id.namespace.clone(),
        name: policy.id.name.clone(),
        selector: crate::explain::wording::selector_text(&policy.pod_selector),
        directions: [Direction::Ingress, Direction::Egress]
            .into_iter()
            .filter(|direction| policy.isolates(*direction))
            .map(|direction| direction.to_string())
            .collect(),
        rules: [Direction::Ingress, Direction::Egress]
            .into_iter()
            .map(|direction| policy.rules(direction).len())
            .sum(),
        pods: isolated_pods(now, &policy.id),
        problems: policy.problems().iter().map(ToString::to_string).collect(),
    })
    .collect()
}

fn isolated_pods(now: &Snapshot, policy: &PolicyRef) -> Vec<String> {
    let reports = now.desired.pods.values();
    let isolated =
        reports.filter(|report| report.egress.contains(policy) || report.ingress.contains(policy));
    let pods = isolated.filter_map(|report| report.pod.as_ref());
    let mut pods: Vec<_> = pods.map(ToString::to_string).collect();
    pods.sort_unstable();
    pods.dedup();
    pods
}
