//! The cluster that is measured: one service that is used, others beside it, and policies that
//! select the pods.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::bed::NodePlan;
use crate::bed::manifests;

/// Where the pod serves.
pub const TARGET_PORT: u16 = 8080;
/// Where services are reached.
pub const SERVICE_PORT: u16 = 80;
/// The node port of the service that is used. Others have none.
pub const NODE_PORT: u16 = 30_080;
/// Both transports that a service has.
pub const TRANSPORTS: [&str; 2] = ["TCP", "UDP"];
/// The namespace of all objects.
const NAMESPACE: &str = "default";

/// A cluster, by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Services, at least one. The first, which is used, has one endpoint, both transports and a node
    /// port; each other one two endpoints on other nodes, and TCP alone.
    pub services: u32,
    /// Policies that select all pods, for both directions. One of them lets pass what is measured.
    pub policies: u32,
    /// The pod behind the first service.
    pub server: Ipv4Addr,
    /// The pod that asks.
    pub client: Ipv4Addr,
    /// The pod that asks by sockets that no program sees.
    pub unseen: Ipv4Addr,
    /// The host that asks.
    pub host: Ipv4Addr,
}

/// A service as kube-proxy's rules have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its cluster IP.
    pub ip: Ipv4Addr,
    /// Its node port.
    pub node_port: Option<u16>,
    /// Its transports, a port each.
    pub transports: &'static [&'static str],
    /// Who serves it.
    pub endpoints: Vec<Ipv4Addr>,
    /// Are they pods of the node that is measured?
    pub is_here: bool,
}

impl Cluster {
    /// Its services, the one that is used first.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        let server = self.server;
        (0..self.services).map(move |number| Service {
            name: format!("service-{number}"),
            ip: service_ip(number),
            node_port: (number == 0).then_some(NODE_PORT),
            transports: match number {
                0 => &TRANSPORTS,
                _ => &TRANSPORTS[..1],
            },
            is_here: number == 0,
            endpoints: match number {
                0 => vec![server],
                _ => vec![elsewhere(2 * number), elsewhere(2 * number + 1)],
            },
        })
    }

    /// Where a pod reaches the service that is used.
    #[must_use]
    pub fn cluster_ip(&self) -> SocketAddr {
        (service_ip(0), SERVICE_PORT).into()
    }

    /// Where the pod behind it is reached.
    #[must_use]
    pub fn backend(&self) -> SocketAddr {
        (self.server, TARGET_PORT).into()
    }

    /// All objects, in files that an agent watches.
    #[must_use]
    pub fn objects(&self, node: &NodePlan) -> Vec<(&'static str, Vec<Value>)> {
        let services = self
            .services()
            .flat_map(|service| [object(&service), slice(&service, &node.name)]);
        let pods = [
            ("server", self.server),
            ("client", self.client),
            ("unseen", self.unseen),
        ];
        vec![
            ("node.yaml", vec![manifests::node(node)]),
            ("services.yaml", services.collect()),
            (
                "pods.yaml",
                pods.map(|(name, addr)| pod(name, addr, &node.name)).into(),
            ),
            (
                "policies.yaml",
                (0..self.policies)
                    .map(|number| self.policy(number))
                    .collect(),
            ),
        ]
    }

    /// The policy of this number: the first one lets pass what is measured, others something else.
    fn policy(&self, number: u32) -> Value {
        let pods = |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}});
        let (peers, port) = match number {
            0 => (
                json!([
                    pods("server"),
                    pods("client"),
                    pods("unseen"),
                    {"ipBlock": {"cidr": format!("{}/32", self.host)}},
                ]),
                TARGET_PORT,
            ),
            _ => (
                json!([pods(&format!("other-{number}")), {"ipBlock": {"cidr": block(number)}}]),
                9_000 + u16::try_from(number % 1_000).unwrap_or_default(),
            ),
        };
        let ports = TRANSPORTS.map(|protocol| json!({"protocol": protocol, "port": port}));
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": NAMESPACE},
            "spec": {
                "podSelector": {"matchLabels": {"measured": "yes"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": peers, "ports": ports}],
                "egress": [{"to": peers, "ports": ports}],
            },
        })
    }
}

/// Services are in 10.32.0.0/16.
fn service_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 32, 0, 10)) + number)
}

/// Pods that are told of, on other nodes: in the half of the pods' range that this node has not.
fn elsewhere(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 128, 10)) + number)
}

/// Networks that nobody is in.
fn block(number: u32) -> String {
    format!("198.18.{}.{}/32", number / 256, number % 256)
}

fn object(service: &Service) -> Value {
    let ports = service.transports.iter().map(|protocol| {
        let mut port = json!({
            "name": protocol.to_lowercase(),
            "protocol": protocol,
            "port": SERVICE_PORT,
            "targetPort": TARGET_PORT,
        });
        if let Some(number) = service.node_port {
            port["nodePort"] = json!(number);
        }
        port
    });
    let kind = match service.node_port {
        Some(_) => "NodePort",
        None => "ClusterIP",
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": NAMESPACE},
        "spec": {
            "type": kind,
            "clusterIP": service.ip,
            "clusterIPs": [service.ip],
            "ipFamilies": ["IPv4"],
            "ports": ports.collect::<Vec<_>>(),
        },
    })
}

fn slice(service: &Service, node: &str) -> Value {
    let endpoints = service.endpoints.iter().map(|addr| {
        let on = if service.is_here { node } else { "elsewhere" };
        json!({
            "addresses": [addr],
            "nodeName": on,
            "conditions": {"ready": true, "serving": true, "terminating": false},
        })
    });
    let ports = service.transports.iter().map(|protocol| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": TARGET_PORT})
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-v4", service.name),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": "IPv4",
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn pod(name: &str, addr: Ipv4Addr, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": uid(name),
            "labels": {"app": name, "measured": "yes"},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "load", "image": "none", "ports": []}],
        },
        "status": {"phase": "Running", "podIP": addr, "podIPs": [{"ip": IpAddr::from(addr)}]},
    })
}

/// The identity by which the runtime's record and the API name the same pod.
#[must_use]
pub fn uid(pod: &str) -> String {
    format!("uid-of-{pod}")
}

/// The namespace of the pods.
#[must_use]
pub const fn namespace() -> &'static str {
    NAMESPACE
}
