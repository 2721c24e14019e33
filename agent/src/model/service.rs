//! Services.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;

use super::metadata::{Metadata, validate_label};
use super::{Family, Invalid, Kind, NotOurs, Object, ObjectRef, Protocol, ServiceRef};
use super::{address, port};

/// Names the proxy that serves a service; ours are those without it.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not given, and its bounds.
const AFFINITY_DEFAULT_SECONDS: i32 = 10_800;
const AFFINITY_MAX_SECONDS: i32 = 86_400;

/// A service with cluster IPs that Weir serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name, each a DNS label.
    pub id: ServiceRef,
    /// When it was created; a manifest does not say.
    pub created: Option<Timestamp>,
    /// At least one, none twice.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ipFamilies`; those of the cluster IPs where it is not given.
    pub families: Vec<Family>,
    /// No two with the same name, no two with the same number and protocol.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity`
    pub affinity: Affinity,
    /// `spec.internalTrafficPolicy`
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`
    pub external_traffic_policy: TrafficPolicy,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// A DNS label, or empty in a service of one port. Endpoints are found by it.
    pub name: String,
    /// The port at the cluster IP.
    pub port: NonZeroU16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Does a client keep its endpoint?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Each connection chooses anew.
    None,
    /// A client address keeps its endpoint until it has been silent for this long.
    ClientIp(Duration),
}

/// Which endpoints may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of the cluster's.
    Cluster,
    /// This node's.
    Local,
}

impl TryFrom<api::Service> for Object {
    type Error = Invalid;

    fn try_from(service: api::Service) -> Result<Self, Invalid> {
        let metadata = Metadata::read(Kind::Service, service.metadata)?;
        let spec = service.spec.unwrap_or_default();
        if let Some(not_ours) = not_ours(&metadata, &spec) {
            return Ok(Self::NotOurs(metadata.reference, not_ours));
        }
        let ObjectRef {
            kind: _,
            namespace,
            name,
        } = metadata.reference;
        read(ServiceRef { namespace, name }, metadata.created, &spec)
            .map(Self::Service)
            .map_err(|invalid| invalid.within("spec"))
    }
}

/// Who else looks after this service, before anything else is asked of it.
fn not_ours(metadata: &Metadata, spec: &api::ServiceSpec) -> Option<NotOurs> {
    if let Some(proxy) = metadata.labels.get(PROXY_NAME_LABEL) {
        return Some(NotOurs::OtherProxy(proxy.clone()));
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(NotOurs::ExternalName);
    }
    let first = spec.cluster_ips.iter().flatten().next();
    [spec.cluster_ip.as_ref(), first]
        .into_iter()
        .flatten()
        .any(|addr| addr == "None")
        .then_some(NotOurs::Headless)
}

fn read(
    id: ServiceRef,
    created: Option<Timestamp>,
    spec: &api::ServiceSpec,
) -> Result<Service, Invalid> {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some(other) => {
            return Err(Invalid::new(
                "type",
                format!("{other:?} is not ClusterIP, NodePort, LoadBalancer or ExternalName"),
            ));
        }
    }
    let cluster_ips = read_cluster_ips(spec)?;
    Ok(Service {
        id,
        created,
        families: read_families(spec, &cluster_ips)?,
        cluster_ips,
        ports: read_ports(spec.ports.as_deref().unwrap_or_default())?,
        affinity: read_affinity(spec)?,
        internal_traffic_policy: read_policy(
            "internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
        )?,
        external_traffic_policy: read_policy(
            "externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
        )?,
    })
}

fn read_cluster_ips(spec: &api::ServiceSpec) -> Result<Vec<IpAddr>, Invalid> {
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first
    {
        return Err(Invalid::new(
            "",
            format!("{first} is not spec.clusterIP, which is {single}"),
        )
        .at(0)
        .within("clusterIPs"));
    }
    let mut addrs = Vec::new();
    for (index, text) in several.iter().enumerate() {
        let addr = address::parse_unicast(text)
            .map_err(|message| Invalid::new("", message).at(index).within("clusterIPs"))?;
        if !addrs.contains(&addr) {
            addrs.push(addr);
        }
    }
    if addrs.is_empty() {
        let Some(text) = single else {
            return Err(Invalid::new(
                "clusterIP",
                "is missing; only an API server gives addresses to services, so write one",
            ));
        };
        addrs.push(
            address::parse_unicast(text).map_err(|message| Invalid::new("clusterIP", message))?,
        );
    }
    Ok(addrs)
}

fn read_families(spec: &api::ServiceSpec, cluster_ips: &[IpAddr]) -> Result<Vec<Family>, Invalid> {
    match spec.ip_families.as_deref() {
        None | Some([]) => Ok(cluster_ips.iter().map(Family::of).collect()),
        Some(families) => families
            .iter()
            .enumerate()
            .map(|(index, text)| {
                Family::parse(text)
                    .map_err(|message| Invalid::new("", message).at(index).within("ipFamilies"))
            })
            .collect(),
    }
}

fn read_ports(ports: &[api::ServicePort]) -> Result<Vec<ServicePort>, Invalid> {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut read = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let port = read_port(port).map_err(|invalid| invalid.at(index).within("ports"))?;
        let twice = |field: &str, message: String| {
            Err(Invalid::new(field, message).at(index).within("ports"))
        };
        if !numbers.insert((port.port, port.protocol)) {
            let (number, protocol) = (port.port, port.protocol);
            return twice(
                "port",
                format!("{number}/{protocol} is another port of this service already"),
            );
        }
        if port.name.is_empty() && ports.len() > 1 {
            return twice(
                "name",
                "is missing; a service of several ports names each".to_owned(),
            );
        }
        if !names.insert(port.name.clone()) {
            let name = port.name;
            return twice(
                "name",
                format!("{name:?} is another port of this service already"),
            );
        }
        read.push(port);
    }
    Ok(read)
}

fn read_port(port: &api::ServicePort) -> Result<ServicePort, Invalid> {
    let name = port.name.clone().unwrap_or_default();
    if !name.is_empty() {
        validate_label(&name).map_err(|message| Invalid::new("name", message))?;
    }
    Ok(ServicePort {
        name,
        port: port::parse_number(port.port).map_err(|message| Invalid::new("port", message))?,
        protocol: Protocol::parse(port.protocol.as_deref())
            .map_err(|message| Invalid::new("protocol", message))?,
    })
}

fn read_affinity(spec: &api::ServiceSpec) -> Result<Affinity, Invalid> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => Ok(Affinity::None),
        Some("ClientIP") => {
            let seconds = spec
                .session_affinity_config
                .as_ref()
                .and_then(|config| config.client_ip.as_ref())
                .and_then(|client_ip| client_ip.timeout_seconds)
                .unwrap_or(AFFINITY_DEFAULT_SECONDS);
            u64::try_from(seconds)
                .ok()
                .filter(|_| (1..=AFFINITY_MAX_SECONDS).contains(&seconds))
                .map(|seconds| Affinity::ClientIp(Duration::from_secs(seconds)))
                .ok_or_else(|| {
                    Invalid::new(
                        "sessionAffinityConfig.clientIP.timeoutSeconds",
                        format!("{seconds} is not a timeout (1-{AFFINITY_MAX_SECONDS})"),
                    )
                })
        }
        Some(other) => Err(Invalid::new(
            "sessionAffinity",
            format!("{other:?} is neither None nor ClientIP"),
        )),
    }
}

fn read_policy(field: &str, text: Option<&str>) -> Result<TrafficPolicy, Invalid> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(Invalid::new(
            field,
            format!("{other:?} is neither Cluster nor Local"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut spec: serde_json::Value, labels: serde_json::Value) -> Result<Object, Invalid> {
        if spec.get("clusterIP").is_none() && spec.get("clusterIPs").is_none() {
            spec["clusterIP"] = json!("10.32.0.140");
        }
        let service: api::Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web", "labels": labels},
            "spec": spec,
        }))
        .unwrap();
        service.try_into()
    }

    fn service(spec: serde_json::Value) -> Service {
        match read(spec, json!({})) {
            Ok(Object::Service(service)) => service,
            other => panic!("not a service of ours: {other:?}"),
        }
    }

    #[test]
    fn what_is_not_given_has_the_documented_default() {
        let service = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(service.id.to_string(), "default/web");
        assert_eq!(
            service.cluster_ips,
            ["10.32.0.140".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(service.families, [Family::V4]);
        assert_eq!(service.ports[0].protocol, Protocol::Tcp);
        assert_eq!(service.ports[0].name, "");
        assert_eq!(service.affinity, Affinity::None);
        assert_eq!(service.internal_traffic_policy, TrafficPolicy::Cluster);
        assert_eq!(service.external_traffic_policy, TrafficPolicy::Cluster);
    }

    #[test]
    fn what_is_given_is_kept() {
        let service = service(json!({
            "clusterIP": "10.32.0.140",
            "clusterIPs": ["10.32.0.140", "fd00:10:32::8c"],
            "ipFamilies": ["IPv4", "IPv6"],
            "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        }));
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(service.families, [Family::V4, Family::V6]);
        assert_eq!(
            service.affinity,
            Affinity::ClientIp(Duration::from_secs(10_800))
        );
        assert_eq!(service.internal_traffic_policy, TrafficPolicy::Local);
        assert_eq!(service.external_traffic_policy, TrafficPolicy::Local);
        assert_eq!(service.ports.len(), 2);
    }

    #[test]
    fn services_of_others_are_no_error() {
        for (spec, labels, expected) in [
            (json!({"clusterIP": "None"}), json!({}), NotOurs::Headless),
            (
                json!({"clusterIPs": ["None"]}),
                json!({}),
                NotOurs::Headless,
            ),
            (
                json!({"type": "ExternalName", "externalName": "example.com"}),
                json!({}),
                NotOurs::ExternalName,
            ),
            (
                json!({"ports": [{"port": 70000}]}),
                json!({PROXY_NAME_LABEL: "other"}),
                NotOurs::OtherProxy("other".to_owned()),
            ),
        ] {
            match read(spec.clone(), labels) {
                Ok(Object::NotOurs(reference, not_ours)) => {
                    assert_eq!(reference.to_string(), "Service default/web");
                    assert_eq!(not_ours, expected);
                }
                other => panic!("{spec}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        for (spec, expected) in [
            (
                json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 70000}]}),
                "spec.ports[1].port: 70000 is not a port (1-65535)",
            ),
            (
                json!({"ports": [{"protocol": "TCP"}]}),
                "spec.ports[0].port: 0 is not a port (1-65535)",
            ),
            (
                json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
                "spec.ports[0].protocol: \"ICMP\" is not TCP, UDP or SCTP",
            ),
            (
                json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
                "spec.ports[1].port: 80/TCP is another port of this service already",
            ),
            (
                json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
                "spec.ports[1].name: \"a\" is another port of this service already",
            ),
            (
                json!({"ports": [{"name": "a", "port": 80}, {"port": 81}]}),
                "spec.ports[1].name: is missing; a service of several ports names each",
            ),
            (
                json!({"clusterIP": "10.32.0.1400"}),
                "spec.clusterIP: \"10.32.0.1400\" is not an IP address",
            ),
            (
                json!({"clusterIPs": ["10.32.0.140", "127.0.0.1"]}),
                "spec.clusterIPs[1]: 127.0.0.1 is a loopback address",
            ),
            (
                json!({"clusterIP": "10.32.0.140", "clusterIPs": ["10.32.0.141"]}),
                "spec.clusterIPs[0]: 10.32.0.141 is not spec.clusterIP, which is 10.32.0.140",
            ),
            (
                json!({"clusterIP": ""}),
                "spec.clusterIP: is missing; only an API server gives addresses to services, so write one",
            ),
            (
                json!({"sessionAffinity": "ClientIP",
                       "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not a timeout (1-86400)",
            ),
            (
                json!({"internalTrafficPolicy": "local"}),
                "spec.internalTrafficPolicy: \"local\" is neither Cluster nor Local",
            ),
            (
                json!({"ipFamilies": ["IPv5"]}),
                "spec.ipFamilies[0]: \"IPv5\" is neither IPv4 nor IPv6",
            ),
            (
                json!({"type": "Headless"}),
                "spec.type: \"Headless\" is not ClusterIP, NodePort, LoadBalancer or ExternalName",
            ),
        ] {
            let invalid = read(spec.clone(), json!({})).unwrap_err();
            assert_eq!(invalid.to_string(), expected, "{spec}");
        }
    }
}
