//! Policies that select no pod.
//!
//! That is no fault: their pods may come later. But it is also what a misspelt label looks like,
//! so it is said. For each policy one pod that it selects is remembered, and another is looked
//! for only when that one goes: the work follows the change.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Cluster, FieldPath, Kind, NetworkPolicy, ObjectRef, Pod, PodRef, PolicyRef, Problem,
};

/// The policies, each with a pod that it selects, if there is one.
#[derive(Debug, Default)]
pub struct Idle(BTreeMap<PolicyRef, Option<PodRef>>);

impl Idle {
    /// May these changes make a difference?
    #[must_use]
    pub fn concerns(changed: &BTreeSet<ObjectRef>) -> bool {
        let kinds = [Kind::Pod, Kind::NetworkPolicy];
        changed.iter().any(|object| kinds.contains(&object.kind))
    }

    /// Takes in that these objects have changed, or are gone.
    pub fn update(&mut self, changed: &BTreeSet<ObjectRef>, cluster: &Cluster) {
        let of = |kind| changed.iter().filter(move |object| object.kind == kind);
        let pods: BTreeSet<PodRef> = of(Kind::Pod)
            .map(|object| PodRef {
                namespace: object.namespace.clone(),
                name: object.name.clone(),
            })
            .collect();
        let namespaces: BTreeSet<&str> = pods.iter().map(|pod| pod.namespace.as_str()).collect();
        for object in of(Kind::NetworkPolicy) {
            self.0.remove(&PolicyRef {
                namespace: object.namespace.clone(),
                name: object.name.clone(),
            });
        }
        for policy in cluster.network_policies() {
            let known = match self.0.get(&policy.id) {
                Some(Some(pod)) if !pods.contains(pod) => continue,
                Some(None) if !namespaces.contains(policy.id.namespace.as_str()) => continue,
                known => known,
            };
            let selected = match known {
                // Of the pods there were it selects none.
                Some(None) => pods
                    .iter()
                    .filter_map(|pod| cluster.pod(&pod.namespace, &pod.name))
                    .find(|pod| selects(policy, pod)),
                Some(Some(_)) | None => cluster.pods().find(|pod| selects(policy, pod)),
            };
            let selected = selected.map(|pod| pod.id.clone());
            self.0.insert(policy.id.clone(), selected);
        }
    }

    /// What there is to say.
    pub fn remarks(&self) -> impl Iterator<Item = Problem> {
        let idle = self.0.iter().filter(|(_, selected)| selected.is_none());
        idle.map(|(policy, _)| Problem {
            field: Some(FieldPath::keys("spec.podSelector")),
            ..Problem::new(format!(
                "selects no pod of namespace {} now",
                policy.namespace
            ))
            .about(ObjectRef::new(
                Kind::NetworkPolicy,
                &policy.namespace,
                &policy.name,
            ))
        })
    }

    /// How many policies there are.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.0.len()
    }
}

/// A pod of the host's network is not isolated, nor one that has ended.
fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    policy.id.namespace == pod.id.namespace
        && !pod.is_host_network
        && !pod.is_completed
        && policy.pod_selector.selects(&pod.labels)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::{Change, Changed, Event, Object, SourceId};

    fn pod(name: &str, app: &str, is_host_network: bool) -> Object {
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
            "spec": {"containers": [], "hostNetwork": is_host_network},
        }))
        .unwrap();
        pod.try_into().unwrap()
    }

    fn policy(name: &str, app: &str) -> Object {
        let policy: networking::NetworkPolicy = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"podSelector": {"matchLabels": {"app": app}}},
        }))
        .unwrap();
        policy.try_into().unwrap()
    }

    fn remarks(idle: &Idle) -> Vec<String> {
        idle.remarks().map(|remark| remark.to_string()).collect()
    }

    #[test]
    fn a_policy_that_selects_no_pod_is_named_with_its_selector() {
        let objects = [
            policy("a", "cart"),
            policy("b", "crat"),
            policy("c", "host"),
            pod("cart-1", "cart", false),
            pod("host-1", "host", true),
        ];
        let changed = objects.iter().map(Object::reference).collect();
        let mut idle = Idle::default();
        idle.update(&changed, &Cluster::from_objects(objects));
        let text = |name| {
            format!(
                "spec.podSelector: selects no pod of namespace shop now (NetworkPolicy shop/{name})"
            )
        };
        assert_eq!(remarks(&idle), [text("b"), text("c")]);
        assert_eq!(idle.policies(), 3);
    }

    /// Pods 0..3 and policies 3..6, of one of two apps, or gone.
    fn change((number, app): (u8, Option<bool>)) -> Change {
        let app_name = if app == Some(true) { "cart" } else { "db" };
        let object = match number {
            0..3 => pod(&format!("p{number}"), app_name, false),
            _ => policy(&format!("n{number}"), app_name),
        };
        match app {
            Some(_) => Change::apply(object),
            None => Change::Delete(object.reference()),
        }
    }

    proptest! {
        #[test]
        fn change_by_change_is_as_good_as_all_at_once(
            changes in prop::collection::vec((0..6_u8, any::<Option<bool>>()), 0..30),
        ) {
            let mut cluster = Cluster::from_objects([]);
            let mut idle = Idle::default();
            let mut all = BTreeSet::new();
            for one in changes {
                let event = Event {
                    source: SourceId::MANIFESTS,
                    changes: vec![change(one)],
                };
                if let Changed::Objects(changed) = cluster.apply(event) {
                    all.extend(changed.clone());
                    idle.update(&changed, &cluster);
                }
                let mut afresh = Idle::default();
                afresh.update(&all, &cluster);
                prop_assert_eq!(remarks(&idle), remarks(&afresh));
                prop_assert_eq!(idle.policies(), cluster.network_policies().count());
            }
        }
    }
}
