//! The cluster in which they are timed.

use serde_json::{Value, json};

/// Two services that have each other's cluster IP as endpoint, one with a node port, and two pods.
pub fn objects() -> Vec<Value> {
    let ports = |tcp: u16, udp: u16| {
        json!([
            {"name": "tcp", "protocol": "TCP", "port": tcp},
            {"name": "udp", "protocol": "UDP", "port": udp},
        ])
    };
    let service = |name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports(80, 53)},
        })
    };
    let slice = |service: &str, endpoint: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-v4"), "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4", "ports": ports(80, 53),
            "endpoints": [{"addresses": [endpoint], "nodeName": "worker-0"}],
        })
    };
    let pod = |name: &str, ip: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": "worker-0", "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
        })
    };
    let mut objects = vec![
        service("there", "10.32.0.10"),
        slice("there", "10.32.0.11"),
        service("back", "10.32.0.11"),
        slice("back", "10.32.0.10"),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "node-port", "namespace": "default"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.32.0.12", "clusterIPs": ["10.32.0.12"],
                "ports": [{"name": "udp", "protocol": "UDP", "port": 53, "nodePort": 30_053}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "node-port-v4", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "node-port"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "udp", "protocol": "UDP", "port": 53}],
            "endpoints": [{"addresses": ["10.200.0.2"], "nodeName": "worker-0"}],
        }),
        pod("free", "10.200.0.2"),
        pod("judged", "10.200.0.3"),
    ];
    for number in 0..10 {
        // One of them lets everybody pass at the ports in use.
        let (peers, port) = match number {
            0 => (json!({"cidr": "10.0.0.0/8"}), 53),
            _ => (
                json!({"cidr": format!("198.18.{number}.0/24")}),
                9_000 + number,
            ),
        };
        let rule = json!({"ports": [{"protocol": "UDP", "port": port}]});
        let (mut ingress, mut egress) = (rule.clone(), rule);
        ingress["from"] = json!([{"ipBlock": peers}]);
        egress["to"] = json!([{"ipBlock": peers}]);
        objects.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("policy-{number}"), "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "judged"}},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [ingress], "egress": [egress],
            },
        }));
    }
    objects
}
