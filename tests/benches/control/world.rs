//! The objects of a large cluster, as an API server gives them: with all that a real object carries
//! and a node has no use for.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use weir_tests::bed::{NodePlan, plan};

/// Services of one namespace are in the same one as their pods and policies.
pub const NAMESPACES: usize = 50;
/// The first pods are those that the probe needs: nobody else has their addresses.
const PROBES: usize = 3;
/// Endpoints of each service.
pub const ENDPOINTS: usize = 2;
/// Where pods listen.
pub const TARGET_PORT: u16 = 8080;
/// The service that the probe asks.
pub const PROBED: &str = "probed";
/// Its cluster IP, beside those of all others.
pub const PROBED_ADDR: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 10);
/// A service that comes and goes.
pub const PASSING_ADDR: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 11);
/// Where both are served.
pub const PROBED_PORT: u16 = 53;

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub services: usize,
    pub pods: usize,
    /// Of these, on the node that is looked at.
    pub local_pods: usize,
    pub policies: usize,
}

impl Size {
    /// A cluster of this many services and what goes with them.
    pub fn of(services: usize) -> Self {
        Self {
            services,
            pods: (services / 2).max(3),
            local_pods: (services / 2).clamp(3, 110),
            policies: services / 20,
        }
    }
}

/// The address of a pod; the first ones are of the first node.
pub fn pod_addr(number: usize, size: Size) -> Ipv4Addr {
    let (first, number) = match number.checked_sub(size.local_pods) {
        None => (NodePlan::new(0).pods_v4.network(), number),
        Some(number) => (NodePlan::new(1).pods_v4.network(), number),
    };
    Ipv4Addr::from(u32::from(first) + 2 + u32::try_from(number).unwrap_or_default())
}

/// The node of a pod: the first, or one of those with as many pods as a node has.
pub fn pod_node(number: usize, size: Size) -> String {
    match number.checked_sub(size.local_pods) {
        None => NodePlan::new(0).name,
        Some(number) => format!("other-{}", number / 110),
    }
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

/// Everything but the nodes and what the probe needs.
pub fn objects(size: Size) -> impl Iterator<Item = Value> {
    let namespaces = (0..NAMESPACES).map(|number| {
        let name = namespace(number);
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name,
            "labels": {"kubernetes.io/metadata.name": name, "tier": format!("tier-{}", number % 5)},
        }})
    });
    namespaces
        .chain((PROBES..size.pods).map(move |number| pod(number, size)))
        .chain((0..size.services).map(service))
        .chain((0..size.services).map(move |number| slice(number, size, number)))
        .chain((0..size.policies).map(policy))
}

fn service(number: usize) -> Value {
    let offset = u32::try_from(number).unwrap_or_default();
    let addr = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 32, 1, 0)) + offset);
    let app = format!("app-{number}");
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": app, "namespace": namespace(number),
            "labels": {"app.kubernetes.io/name": app, "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {"meta.helm.sh/release-name": app},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": addr, "clusterIPs": [addr],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": app},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": TARGET_PORT}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The endpoints of a service, which begin with the pod that `turn` names.
pub fn slice(number: usize, size: Size, turn: usize) -> Value {
    let app = format!("app-{number}");
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|index| endpoint((turn * ENDPOINTS + index) % size.pods, size, number))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{app}-x7k2p"), "generateName": format!("{app}-"),
            "namespace": namespace(number),
            "labels": {
                "kubernetes.io/service-name": app,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": app, "controller": true,
                "blockOwnerDeletion": true, "uid": "6d1ff0d4-0b0a-4d5e-9e0d-000000000000",
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": TARGET_PORT, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn endpoint(pod: usize, size: Size, service: usize) -> Value {
    json!({
        "addresses": [pod_addr(pod, size)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": pod_node(pod, size),
        "zone": format!("zone-{}", pod % 3),
        "targetRef": {
            "kind": "Pod", "name": format!("pod-{pod}"), "namespace": namespace(service),
            "uid": "0c1a6d0e-3c52-4a8c-8f7d-000000000000",
        },
    })
}

/// The probed service, whose only endpoint is this address.
pub fn probed(addr: Ipv4Addr) -> Value {
    alone(PROBED, addr)
}

/// A slice with one endpoint.
pub fn alone(service: &str, addr: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-x7k2p"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns", "port": TARGET_PORT, "protocol": "UDP"}],
        "endpoints": [{
            "addresses": [addr], "nodeName": NodePlan::new(0).name,
            "conditions": {"ready": true, "serving": true, "terminating": false},
        }],
    })
}

/// A service of UDP, without its endpoints.
pub fn udp_service(name: &str, addr: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": addr, "clusterIPs": [addr], "ipFamilies": ["IPv4"],
            "ports": [{"name": "dns", "port": PROBED_PORT, "protocol": "UDP"}],
        },
    })
}

/// Whoever asks the probed pods has to be called so.
pub fn admission() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "probed", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"role": "server"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}],
        },
    })
}

/// A pod of the probe.
pub fn probe_pod(name: &str, addr: Ipv4Addr, role: &str) -> Value {
    let mut pod = pod_at(name, "default", addr, &NodePlan::new(0).name);
    pod["metadata"]["labels"]["role"] = json!(role);
    pod
}

fn pod(number: usize, size: Size) -> Value {
    let (addr, node) = (pod_addr(number, size), pod_node(number, size));
    let mut pod = pod_at(&format!("pod-{number}"), &namespace(number), addr, &node);
    pod["metadata"]["labels"]["app.kubernetes.io/name"] = json!(format!("app-{}", number / 2));
    pod["metadata"]["labels"]["group"] = json!(format!("group-{}", number / NAMESPACES % 10));
    pod
}

fn pod_at(name: &str, namespace: &str, addr: Ipv4Addr, node: &str) -> Value {
    let variables: Vec<Value> = (0..12)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": "some value of it"}))
        .collect();
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(|condition| {
        json!({"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "generateName": format!("{name}-"),
            "labels": {"pod-template-hash": "6d4cf56db6", "tier": "backend"},
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "app-6d4cf56db6",
                "controller": true, "uid": "9f1ff0d4-0b0a-4d5e-9e0d-000000000000",
            }],
        },
        "spec": {
            "nodeName": node, "serviceAccountName": "default", "restartPolicy": "Always",
            "containers": [{
                "name": "main", "image": "registry.example/team/app:1.2.3", "env": variables,
                "ports": [{"name": "http", "containerPort": TARGET_PORT, "protocol": "TCP"}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"},
                },
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": TARGET_PORT}},
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": TARGET_PORT}},
                "volumeMounts": [{
                    "name": "token", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                }],
            }],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 300},
            ],
            "volumes": [{"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            ]}}],
        },
        "status": {
            "phase": "Running", "podIP": addr, "podIPs": [{"ip": addr}], "hostIP": "10.240.0.11",
            "qosClass": "Burstable", "startTime": "2026-01-01T00:00:00Z", "conditions": conditions,
            "containerStatuses": [{
                "name": "main", "ready": true, "restartCount": 0, "started": true,
                "image": "registry.example/team/app:1.2.3",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        },
    })
}

/// Ten in each namespace: one group of pods, its clients by label, namespace and block.
fn policy(number: usize) -> Value {
    let group = number / NAMESPACES;
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy-{group}"), "namespace": namespace(number)},
        "spec": {
            "podSelector": {"matchLabels": {"group": format!("group-{group}")}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [
                    {"podSelector": {"matchLabels": {"group": format!("group-{}", (group + 1) % 10)}}},
                    {"namespaceSelector": {"matchLabels": {"tier": format!("tier-{}", number % 5)}}},
                ],
                "ports": [{"port": "http"}, {"port": 9090}],
            }],
            "egress": [
                {"to": [{"podSelector": {}}]},
                {"to": [{"ipBlock": {
                    "cidr": format!("172.16.{}.0/24", number % 256),
                    "except": [format!("172.16.{}.128/25", number % 256)],
                }}]},
                {"to": [{"namespaceSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}]},
            ],
        },
    })
}

/// The Node object of the node.
pub fn node() -> Value {
    weir_tests::bed::manifests::node(&NodePlan::new(0))
}

/// Where the API server is.
pub const HOST: Ipv4Addr = plan::host(100);
