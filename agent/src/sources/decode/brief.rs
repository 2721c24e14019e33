//! What the model reads of the kinds of which there are many; everything else is passed over.
//!
//! A node hears of every pod and every endpoint of the cluster, and most of each object's text is of
//! no use to it: most of the time and memory of reading it went with the rest. Where these forms
//! cannot read an object, the complete ones of the API say why.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::Resource;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::model::{EndpointForm, Object, PortForm, SliceForm};

/// What a watch tells of an object of which there is such a form.
#[derive(serde::Deserialize)]
#[serde(bound(deserialize = "B: Deserialize<'de>"))]
pub(super) struct Event<'a, B> {
    #[serde(borrow, rename = "type")]
    pub happened: Cow<'a, str>,
    pub object: B,
}

/// A form that is shorter than the API's own.
pub(super) trait Brief<'a>: Deserialize<'a> {
    /// The API's own form of the same.
    type Api: Resource;

    /// The object's version.
    fn version(&self) -> Option<&str>;

    /// What was read, and nothing else, as the model's object; `None`: it says that it is of another
    /// kind, or something is wrong with it.
    fn into_object(self) -> Option<Object>;
}

/// A text that is borrowed where it has nothing escaped.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What an object says of its kind. Those of lists say nothing.
type Said<'a> = Option<Text<'a>>;

fn is<T: Resource>(api_version: &Said<'_>, kind: &Said<'_>) -> bool {
    let agrees = |said: &Said<'_>, wanted| said.as_ref().is_none_or(|said| said.0 == wanted);
    agrees(api_version, T::API_VERSION) && agrees(kind, T::KIND)
}

fn text<'a>(said: &'a Said<'_>) -> Option<&'a str> {
    said.as_ref().map(|text| &*text.0)
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        let Metadata {
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            labels,
            annotations,
        } = metadata;
        Self {
            name,
            namespace,
            uid,
            resource_version,
            creation_timestamp,
            deletion_timestamp,
            labels,
            annotations,
            ..Self::default()
        }
    }
}

/// A Pod.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pod<'a> {
    #[serde(borrow)]
    api_version: Said<'a>,
    #[serde(borrow)]
    kind: Said<'a>,
    metadata: Metadata,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<core::ContainerPort>>,
}

#[derive(serde::Deserialize)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<core::PodIP>>,
}

impl<'a> Brief<'a> for Pod<'a> {
    type Api = core::Pod;

    fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    fn into_object(self) -> Option<Object> {
        let containers = |containers: Vec<Container>| -> Vec<core::Container> {
            let containers = containers.into_iter().map(|container| core::Container {
                restart_policy: container.restart_policy,
                ports: container.ports,
                ..core::Container::default()
            });
            containers.collect()
        };
        let pod = is::<Self::Api>(&self.api_version, &self.kind).then(|| core::Pod {
            metadata: self.metadata.into(),
            spec: self.spec.map(|spec| core::PodSpec {
                node_name: spec.node_name,
                host_network: spec.host_network,
                containers: spec.containers.map(containers).unwrap_or_default(),
                init_containers: spec.init_containers.map(containers),
                ..core::PodSpec::default()
            }),
            status: self.status.map(|status| core::PodStatus {
                phase: status.phase,
                pod_ip: status.pod_ip,
                pod_ips: status.pod_ips,
                ..core::PodStatus::default()
            }),
        });
        Object::try_from(pod?).ok()
    }
}

/// A Service.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service<'a> {
    #[serde(borrow)]
    api_version: Said<'a>,
    #[serde(borrow)]
    kind: Said<'a>,
    metadata: Metadata,
    spec: Option<core::ServiceSpec>,
    status: Option<core::ServiceStatus>,
}

impl<'a> Brief<'a> for Service<'a> {
    type Api = core::Service;

    fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    fn into_object(self) -> Option<Object> {
        let is_one = is::<Self::Api>(&self.api_version, &self.kind);
        let service = is_one.then(|| core::Service {
            metadata: self.metadata.into(),
            spec: self.spec,
            status: self.status,
        });
        Object::try_from(service?).ok()
    }
}

/// An `EndpointSlice`: of these there are the most changes. Nothing is copied before the model does.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice<'a> {
    #[serde(borrow)]
    api_version: Said<'a>,
    #[serde(borrow)]
    kind: Said<'a>,
    #[serde(borrow)]
    metadata: SliceMetadata<'a>,
    #[serde(borrow)]
    address_type: Text<'a>,
    #[serde(borrow)]
    ports: Option<Vec<Port<'a>>>,
    #[serde(borrow)]
    endpoints: Option<Vec<Endpoint<'a>>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceMetadata<'a> {
    #[serde(borrow)]
    name: Said<'a>,
    #[serde(borrow)]
    namespace: Said<'a>,
    #[serde(borrow)]
    resource_version: Said<'a>,
    #[serde(borrow)]
    labels: Option<Pairs<'a>>,
    #[serde(borrow)]
    annotations: Option<Pairs<'a>>,
}

#[derive(serde::Deserialize)]
struct Port<'a> {
    #[serde(borrow)]
    name: Said<'a>,
    port: Option<i32>,
    #[serde(borrow)]
    protocol: Said<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(borrow)]
    addresses: Vec<Text<'a>>,
    conditions: Option<discovery::EndpointConditions>,
    hints: Option<discovery::EndpointHints>,
    #[serde(borrow)]
    node_name: Said<'a>,
    #[serde(borrow)]
    zone: Said<'a>,
}

impl<'a> Brief<'a> for EndpointSlice<'a> {
    type Api = discovery::EndpointSlice;

    fn version(&self) -> Option<&str> {
        text(&self.metadata.resource_version)
    }

    fn into_object(self) -> Option<Object> {
        if !is::<Self::Api>(&self.api_version, &self.kind) {
            return None;
        }
        let metadata = &self.metadata;
        let ports = self.ports.as_deref().unwrap_or_default().iter();
        let endpoints = self.endpoints.as_deref().unwrap_or_default().iter();
        let form = SliceForm {
            name: text(&metadata.name),
            namespace: text(&metadata.namespace),
            label: |key: &str| metadata.labels.as_ref()?.value(key),
            annotation: |key: &str| metadata.annotations.as_ref()?.value(key),
            address_type: &self.address_type.0,
            ports: ports.map(|port| PortForm {
                name: text(&port.name),
                port: port.port,
                protocol: text(&port.protocol),
            }),
            endpoints: endpoints.map(|endpoint| EndpointForm {
                address: endpoint.addresses.first().map(|text| &*text.0),
                node: text(&endpoint.node_name),
                zone: text(&endpoint.zone),
                conditions: endpoint.conditions.as_ref(),
                hints: endpoint.hints.as_ref(),
            }),
        };
        form.read().ok()
    }
}

/// Labels or annotations, of which few are looked for.
struct Pairs<'a>(Vec<(Text<'a>, Text<'a>)>);

impl Pairs<'_> {
    /// Of a key that is there twice the last value counts, as in any map.
    fn value(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.iter().rev();
        pairs.find_map(|(own, value)| (own.0 == key).then_some(&*value.0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each<'a>(PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for Each<'a> {
            type Value = Pairs<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by key")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs<'a>, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Each(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Invalid;

    /// What is read in brief, and what is read in full.
    fn both<'a, B>(text: &'a str) -> (Option<Object>, Option<Object>)
    where
        B: Brief<'a>,
        B::Api: DeserializeOwned,
        Object: TryFrom<B::Api, Error = Invalid>,
    {
        let brief = serde_json::from_str::<B>(text).ok();
        let full: Option<B::Api> = serde_json::from_str(text).ok();
        let object = |api: B::Api| Object::try_from(api).ok();
        (brief.and_then(Brief::into_object), full.and_then(object))
    }

    fn assert_read_alike<'a, B>(text: &'a str)
    where
        B: Brief<'a>,
        B::Api: DeserializeOwned,
        Object: TryFrom<B::Api, Error = Invalid>,
    {
        let (brief, full) = both::<B>(text);
        assert!(full.is_some(), "{text}");
        assert_eq!(brief, full, "{text}");
    }

    fn metadata() -> Value {
        json!({
            "name": "a", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "a", "kubernetes.io/service-name": "web"},
            "annotations": {
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:01Z",
                "quoted": "a \"b\" \u{e4}",
            },
            "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {}}}],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "a", "uid": "u"}],
        })
    }

    #[test]
    fn a_pod_in_brief_is_the_pod() {
        let ports = |name: &str| json!([{"name": name, "containerPort": 80, "protocol": "UDP"}, {"containerPort": 81}]);
        let container = |name: &str| json!({"name": name, "image": "i", "ports": ports(name)});
        let sidecar = json!({"name": "s", "restartPolicy": "Always", "ports": ports("s")});
        let specs = [
            json!({"containers": [container("a"), container("b")], "nodeName": "worker-0"}),
            json!({"containers": null, "initContainers": [container("i"), sidecar]}),
            json!({"containers": [], "hostNetwork": true, "nodeName": ""}),
            json!(null),
        ];
        let statuses = [
            json!({"phase": "Running", "podIP": "10.200.0.2",
                   "podIPs": [{"ip": "10.200.0.2"}, {"ip": "fd00:10:200::2"}]}),
            json!({"phase": "Failed", "podIP": "10.200.0.2", "podIPs": null}),
            json!({}),
            json!(null),
        ];
        for (spec, status) in specs
            .iter()
            .flat_map(|spec| statuses.iter().map(move |it| (spec, it)))
        {
            for deleted in [json!(null), json!("2026-01-02T00:00:00Z")] {
                let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata(),
                                     "spec": spec, "status": status});
                pod["metadata"]["deletionTimestamp"] = deleted;
                assert_read_alike::<Pod<'_>>(&pod.to_string());
            }
        }
    }

    #[test]
    fn a_slice_in_brief_is_the_slice() {
        let endpoints = json!([
            {"addresses": ["10.200.0.2"], "nodeName": "worker-0", "zone": "a", "hostname": "h",
             "conditions": {"ready": true, "serving": null, "terminating": false},
             "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "worker-0"}]},
             "targetRef": {"kind": "Pod", "name": "a", "namespace": "shop", "uid": "u"}},
            {"addresses": ["10.200.0.3"], "conditions": null, "deprecatedTopology": {"a": "b"}},
        ]);
        for (endpoints, ports) in [
            (
                endpoints.clone(),
                json!([{"name": "http", "port": 80}, {"port": null}]),
            ),
            (endpoints, json!(null)),
            (json!([]), json!([])),
            (
                json!(null),
                json!([{"name": null, "port": 53, "protocol": "UDP"}]),
            ),
        ] {
            let slice = json!({"metadata": metadata(), "addressType": "IPv4",
                               "endpoints": endpoints, "ports": ports});
            assert_read_alike::<EndpointSlice<'_>>(&slice.to_string());
        }
    }

    #[test]
    fn a_service_in_brief_is_the_service() {
        for spec in [
            json!({"clusterIP": "10.32.0.140", "clusterIPs": ["10.32.0.140"],
                   "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                   "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30_080},
                             {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53}],
                   "sessionAffinity": "ClientIP", "selector": {"app": "a"},
                   "healthCheckNodePort": 30_081, "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            json!({"clusterIP": "None"}),
        ] {
            let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}});
            let service = json!({"kind": "Service", "metadata": metadata(), "spec": spec,
                                 "status": status});
            assert_read_alike::<Service<'_>>(&service.to_string());
        }
    }

    #[test]
    fn an_object_of_another_kind_is_left_to_those_who_say_what_is_wrong() {
        let text = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata()}).to_string();
        assert_eq!(both::<Pod<'_>>(&text), (None, None));
        assert_eq!(both::<Service<'_>>(&text), (None, None));
    }
}
