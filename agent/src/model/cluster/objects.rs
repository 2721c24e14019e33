//! The objects in force, by kind.

use super::super::{
    EndpointSlice, Endpoints, Kind, Namespace, NetworkPolicy, Node, Object, ObjectRef, Pod,
    Service, ServiceCidr, ServiceRef,
};
use super::Cluster;

impl Cluster {
    /// All services that Weir serves, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.objects(Kind::Service).filter_map(|object| {
            let Object::Service(service) = object else {
                return None;
            };
            Some(service)
        })
    }

    /// The service of this name, if Weir serves it.
    #[must_use]
    pub fn service(&self, id: &ServiceRef) -> Option<&Service> {
        match self.get(&id.reference())? {
            Object::Service(service) => Some(service),
            _ => None,
        }
    }

    /// Has a service of this name core Endpoints?
    #[must_use]
    pub fn has_endpoints(&self, id: &ServiceRef) -> bool {
        self.get(&ObjectRef::new(Kind::Endpoints, &id.namespace, &id.name))
            .is_some()
    }

    /// All slices that have a service, by namespace and name.
    pub fn endpoint_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.objects(Kind::EndpointSlice).filter_map(|object| {
            let Object::EndpointSlice(slice) = object else {
                return None;
            };
            Some(slice)
        })
    }

    /// All core Endpoints, by namespace and name.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoints> {
        self.objects(Kind::Endpoints).filter_map(|object| {
            let Object::Endpoints(endpoints) = object else {
                return None;
            };
            Some(endpoints)
        })
    }

    /// All ranges of cluster IPs, by name.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &ServiceCidr> {
        self.objects(Kind::ServiceCidr).filter_map(|object| {
            let Object::ServiceCidr(service_cidr) = object else {
                return None;
            };
            Some(service_cidr)
        })
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.objects(Kind::Namespace).filter_map(as_namespace)
    }

    /// All pods, completed and of the host network too, by namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.objects(Kind::Pod).filter_map(as_pod)
    }

    /// All policies, those that cannot be read too, by namespace and name.
    pub fn network_policies(&self) -> impl Iterator<Item = &NetworkPolicy> {
        self.objects(Kind::NetworkPolicy).filter_map(|object| {
            let Object::NetworkPolicy(policy) = object else {
                return None;
            };
            Some(policy)
        })
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.objects(Kind::Node).filter_map(|object| {
            let Object::Node(node) = object else {
                return None;
            };
            Some(node)
        })
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        let Object::Node(node) = self.get(&ObjectRef::new(Kind::Node, "", name))? else {
            return None;
        };
        Some(node)
    }

    /// The namespace of this name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.get(&ObjectRef::new(Kind::Namespace, "", name))
            .and_then(as_namespace)
    }

    /// The pod of this namespace and name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.get(&ObjectRef::new(Kind::Pod, namespace, name))
            .and_then(as_pod)
    }
}

const fn as_namespace(object: &Object) -> Option<&Namespace> {
    let Object::Namespace(namespace) = object else {
        return None;
    };
    Some(namespace)
}

const fn as_pod(object: &Object) -> Option<&Pod> {
    let Object::Pod(pod) = object else {
        return None;
    };
    Some(pod)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1 as core, networking::v1 as networking};
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::super::{Change, Changed, Event, SourceId};
    use super::*;

    /// One of six objects of three kinds, in a version; version 2 of a policy cannot be read.
    fn object(number: u8, version: u8) -> Object {
        let labels = json!({"version": version.to_string()});
        let name = format!("o-{}", number / 3);
        let metadata = json!({"name": name, "labels": labels});
        match number % 3 {
            0 => serde_json::from_value::<core::Namespace>(json!({"metadata": metadata}))
                .unwrap()
                .try_into(),
            1 => serde_json::from_value::<core::Pod>(json!({
                "metadata": metadata,
                "status": {"podIPs": [{"ip": format!("10.200.0.{}", version + 1)}]},
            }))
            .unwrap()
            .try_into(),
            _ => serde_json::from_value::<networking::NetworkPolicy>(json!({
                "metadata": metadata,
                "spec": {"podSelector": {"matchLabels": labels},
                         "ingress": [{"ports": [{"port": 80, "endPort": 81 - version}]}]},
            }))
            .unwrap()
            .try_into(),
        }
        .unwrap()
    }

    fn change(&(number, version): &(u8, Option<u8>)) -> Change {
        match version {
            Some(version) => Change::apply(object(number, version)),
            None => Change::Delete(object(number, 0).reference()),
        }
    }

    fn apply(cluster: &mut Cluster, change: Change) -> Changed {
        cluster.apply(Event {
            source: SourceId::MANIFESTS,
            changes: vec![change],
        })
    }

    #[test]
    fn each_kind_is_listed_and_found() {
        let cluster = Cluster::from_objects((0..6).map(|number| object(number, 0)));
        let names: Vec<_> = cluster.namespaces().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["o-0", "o-1"]);
        let pods: Vec<_> = cluster.pods().map(|pod| pod.id.to_string()).collect();
        assert_eq!(pods, ["default/o-0", "default/o-1"]);
        let policies: Vec<_> = cluster
            .network_policies()
            .map(|policy| policy.id.to_string())
            .collect();
        assert_eq!(policies, ["default/o-0", "default/o-1"]);
        assert!(cluster.namespace("o-1").is_some() && cluster.namespace("o-2").is_none());
        assert!(cluster.pod("default", "o-1").is_some() && cluster.pod("o-1", "o-1").is_none());
    }

    #[test]
    fn a_policy_that_can_no_longer_be_read_takes_the_place_of_the_one_that_could() {
        let mut cluster = Cluster::from_objects([object(2, 0)]);
        let changed = apply(&mut cluster, Change::apply(object(2, 2)));
        assert_eq!(changed, Changed::Objects([object(2, 0).reference()].into()));
        let policy = cluster.network_policies().next().unwrap();
        assert_eq!(policy.problems().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_order_of_namespaces_pods_and_policies_does_not_matter(
            changes in proptest::collection::vec((0_u8..6, proptest::option::of(0_u8..3)), 0..20),
        ) {
            let mut in_order = Cluster::from_objects([]);
            for one in &changes {
                apply(&mut in_order, change(one));
            }
            // By object, in the reverse order of objects; each object's own order stays.
            let mut regrouped = Cluster::from_objects([]);
            for number in (0..6).rev() {
                for one in changes.iter().filter(|(about, _)| *about == number) {
                    apply(&mut regrouped, change(one));
                    let again = apply(&mut regrouped, change(one));
                    prop_assert_eq!(again, Changed::Nothing);
                }
            }
            prop_assert_eq!(&in_order, &regrouped);
            // A list of the last versions alone.
            let last = (0..6).filter_map(|number| {
                let (_, version) = changes.iter().rev().find(|(about, _)| *about == number)?;
                Some(object(number, (*version)?))
            });
            prop_assert_eq!(&in_order, &Cluster::from_objects(last));
        }
    }
}
