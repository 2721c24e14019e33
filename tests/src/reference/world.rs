//! What a cluster says about its services, in plain values: the fields of the API that decide
//! what becomes of a connection, and the node that is asked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// What the cluster says, and the node that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The node.
    pub node: Node,
    /// `spec.cidrs` of all `ServiceCIDR` objects.
    pub service_cidrs: Vec<IpNetwork>,
    /// All services of one namespace.
    pub services: Vec<Service>,
    /// Their slices.
    pub slices: Vec<Slice>,
}

/// The node whose proxy is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Its own addresses, the first of each family that by which it is known.
    pub addresses: Vec<IpAddr>,
    /// Those of them at which node ports are served.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Those of them that the interface has by which packets leave the node.
    pub uplink_addresses: Vec<IpAddr>,
}

impl Node {
    /// The address by which the node is known in a family.
    #[must_use]
    pub fn address(&self, is_v6: bool) -> Option<IpAddr> {
        let mut all = self.addresses.iter();
        all.find(|addr| addr.is_ipv6() == is_v6).copied()
    }

    /// The address that a masqueraded packet gets as it leaves the node: that of the interface, so
    /// that the answer comes back the same way.
    #[must_use]
    pub fn address_beyond(&self, is_v6: bool) -> Option<IpAddr> {
        let mut all = self.uplink_addresses.iter();
        all.find(|addr| addr.is_ipv6() == is_v6)
            .copied()
            .or_else(|| self.address(is_v6))
    }
}

/// A service. Its age is its place in [`World::services`]: older ones come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Whether it is to be served at all.
    pub kind: ServiceKind,
    /// `spec.type`
    pub service_type: ServiceType,
    /// `spec.clusterIPs`
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`
    pub source_ranges: Vec<IpNetwork>,
    /// `spec.internalTrafficPolicy: Local`
    pub internal_is_local: bool,
    /// `spec.externalTrafficPolicy: Local`
    pub external_is_local: bool,
    /// `spec.sessionAffinity: ClientIP`
    pub affinity: Option<Affinity>,
}

/// Whether a service is a proxy's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// It is.
    Ordinary,
    /// Labelled `service.kubernetes.io/service-proxy-name`.
    OfOtherProxy,
    /// `clusterIP: None`
    Headless,
    /// `type: ExternalName`
    ExternalName,
}

/// `spec.type`, but for `ExternalName`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// `ClusterIP`
    ClusterIp,
    /// `NodePort`
    NodePort,
    /// `LoadBalancer`
    LoadBalancer,
}

/// `spec.ports[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the service has one.
    pub name: String,
    /// TCP, UDP, SCTP.
    pub protocol: &'static str,
    /// The port.
    pub port: u16,
    /// `nodePort`; of the types that have one.
    pub node_port: Option<u16>,
}

/// `status.loadBalancer.ingress[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `ip`
    pub ip: IpAddr,
    /// `ipMode`
    pub mode: Option<IpMode>,
}

/// `ipMode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpMode {
    /// `VIP`, as where nothing is said: packets reach the node with this address.
    Vip,
    /// `Proxy`: the load balancer opens a connection of its own.
    Proxy,
}

/// `spec.sessionAffinity: ClientIP`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// `spec.sessionAffinityConfig.clientIP.timeoutSeconds`
    pub timeout_seconds: Option<u32>,
}

/// An `EndpointSlice`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Label `kubernetes.io/service-name`
    pub service: String,
    /// Label `service.kubernetes.io/headless`
    pub is_headless: bool,
    /// `addressType: IPv6`
    pub is_v6: bool,
    /// `ports`
    pub ports: Vec<SlicePort>,
    /// `endpoints`
    pub endpoints: Vec<Endpoint>,
}

/// `ports[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Of the service port.
    pub name: String,
    /// Of the service port.
    pub protocol: &'static str,
    /// `None`: not given.
    pub port: Option<u16>,
}

/// `endpoints[]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses`, at least one.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`
    pub ready: Option<bool>,
    /// `conditions.serving`
    pub serving: Option<bool>,
    /// `conditions.terminating`
    pub terminating: Option<bool>,
    /// `nodeName`
    pub node: Option<String>,
    /// `hints.forNodes`
    pub for_nodes: Vec<String>,
    /// `hints.forZones`
    pub for_zones: Vec<String>,
}
