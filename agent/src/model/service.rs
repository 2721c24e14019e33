//! Services.
//!
//! What is wrong with a service as a whole refuses it. What is wrong with one of its further
//! addresses does not take the others away: it is left out, and said so ([`Service::ignored`]).

mod addresses;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;

use super::metadata::{Metadata, validate_label};
use super::{Family, Invalid, Kind, NotOurs, Object, ObjectRef, Protocol, ServiceRef, port};

pub use addresses::SourceRanges;

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
    /// `spec.type`
    pub service_type: ServiceType,
    /// At least one, none twice.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ipFamilies`; those of the cluster IPs where it is not given.
    pub families: Vec<Family>,
    /// No two with the same name, no two with the same number and protocol.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`, none twice.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` at which the node, and not the load balancer itself,
    /// is to answer; none twice.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may reach the load balancer IPs.
    pub source_ranges: SourceRanges,
    /// `spec.sessionAffinity`
    pub affinity: Affinity,
    /// `spec.internalTrafficPolicy`
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`; Cluster where nothing outside the cluster can reach it.
    pub external_traffic_policy: TrafficPolicy,
    /// Where a load balancer asks whether this node has endpoints of it: only of a load balancer
    /// whose external traffic policy is Local.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Fields that are not in force, though the rest of it is.
    pub ignored: Vec<Invalid>,
}

impl Service {
    /// Its cluster IPs of this family, if it is of this family: without one nothing of it is
    /// served in that family.
    pub fn cluster_ips_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let is_served = self.families.contains(&family);
        self.cluster_ips
            .iter()
            .copied()
            .filter(move |addr| is_served && Family::of(addr) == family)
    }
}

/// From where a service can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// From the cluster.
    ClusterIp,
    /// Also at a port of each node.
    NodePort,
    /// Also by a load balancer.
    LoadBalancer,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// A DNS label, or empty in a service of one port. Endpoints are found by it.
    pub name: String,
    /// The port at the cluster IP.
    pub port: NonZeroU16,
    /// The port at the nodes' own addresses.
    pub node_port: Option<NonZeroU16>,
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
        let id = ServiceRef { namespace, name };
        let status = service.status.unwrap_or_default();
        read(id, metadata.created, &spec, &status).map(Self::Service)
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
    status: &api::ServiceStatus,
) -> Result<Service, Invalid> {
    let in_spec = |invalid: Invalid| invalid.within("spec");
    let service_type = read_type(spec).map_err(in_spec)?;
    let cluster_ips = addresses::read_cluster_ips(spec).map_err(in_spec)?;
    let mut ignored = Vec::new();
    let mut service = Service {
        id,
        created,
        service_type,
        families: addresses::read_families(spec, &cluster_ips).map_err(in_spec)?,
        cluster_ips,
        ports: read_ports(spec, service_type, &mut ignored).map_err(in_spec)?,
        external_ips: addresses::read_external_ips(spec, &mut ignored),
        load_balancer_ips: addresses::read_load_balancer_ips(status, &mut ignored),
        source_ranges: SourceRanges::read(spec, &mut ignored),
        affinity: read_affinity(spec).map_err(in_spec)?,
        internal_traffic_policy: read_policy(
            "internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
        )
        .map_err(in_spec)?,
        external_traffic_policy: read_policy(
            "externalTrafficPolicy",
            spec.external_traffic_policy.as_deref(),
        )
        .map_err(in_spec)?,
        health_check_node_port: None,
        ignored: Vec::new(),
    };
    let is_external = match service_type {
        ServiceType::ClusterIp => spec.external_ips.iter().flatten().next().is_some(),
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
    };
    if !is_external {
        service.external_traffic_policy = TrafficPolicy::Cluster;
    }
    if service_type == ServiceType::LoadBalancer
        && service.external_traffic_policy == TrafficPolicy::Local
    {
        service.health_check_node_port = read_optional_port(
            "spec.healthCheckNodePort",
            spec.health_check_node_port,
            &mut ignored,
        );
    }
    service.ignored = ignored;
    Ok(service)
}

fn read_type(spec: &api::ServiceSpec) -> Result<ServiceType, Invalid> {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => Ok(ServiceType::ClusterIp),
        Some("NodePort") => Ok(ServiceType::NodePort),
        Some("LoadBalancer") => Ok(ServiceType::LoadBalancer),
        Some(other) => Err(Invalid::new(
            "type",
            format!("{other:?} is not ClusterIP, NodePort, LoadBalancer or ExternalName"),
        )),
    }
}

/// A field that is left out of a service of which the rest is in force.
fn ignore(ignored: &mut Vec<Invalid>, invalid: Invalid) {
    let message = format!(
        "{}; it is left out, the rest of the service is served",
        invalid.message
    );
    ignored.push(Invalid { message, ..invalid });
}

/// A port that may be missing, as zero or altogether.
fn read_optional_port(
    field: &str,
    number: Option<i32>,
    ignored: &mut Vec<Invalid>,
) -> Option<NonZeroU16> {
    let number = number.filter(|number| *number != 0)?;
    match port::parse_number(number) {
        Ok(number) => Some(number),
        Err(message) => {
            ignore(ignored, Invalid::new(field, message));
            None
        }
    }
}

fn read_ports(
    spec: &api::ServiceSpec,
    service_type: ServiceType,
    ignored: &mut Vec<Invalid>,
) -> Result<Vec<ServicePort>, Invalid> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut read = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let node_port = read_node_port(port, service_type);
        let mut port = read_port(port).map_err(|invalid| invalid.at(index).within("ports"))?;
        match node_port {
            Ok(number) => port.node_port = number,
            Err(invalid) => ignore(ignored, invalid.at(index).within("spec.ports")),
        }
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
        node_port: None,
        protocol: Protocol::parse(port.protocol.as_deref())
            .map_err(|message| Invalid::new("protocol", message))?,
    })
}

fn read_node_port(
    port: &api::ServicePort,
    service_type: ServiceType,
) -> Result<Option<NonZeroU16>, Invalid> {
    let Some(number) = port.node_port.filter(|number| *number != 0) else {
        return Ok(None);
    };
    let invalid = |message: String| Invalid::new("nodePort", message);
    match service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => {
            port::parse_number(number).map(Some).map_err(invalid)
        }
        ServiceType::ClusterIp => Err(invalid(
            "is for services of type NodePort or LoadBalancer".to_owned(),
        )),
    }
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
mod tests;
