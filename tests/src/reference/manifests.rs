//! A [`World`] in the API's words.

use serde_json::{Map, Value, json};

use super::world::{
    Affinity, Endpoint, Ingress, IpMode, Node, Service, ServiceKind, ServicePort, ServiceType,
    Slice, World,
};

/// The world's objects.
#[must_use]
pub fn objects(world: &World) -> Vec<Value> {
    let services = world.services.iter().enumerate();
    let slices = world.slices.iter().enumerate();
    let cidrs = world.service_cidrs.iter().enumerate();
    [node(&world.node)]
        .into_iter()
        .chain(cidrs.map(|(index, cidr)| {
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": {"name": format!("cidr-{index}")},
                "spec": {"cidrs": [cidr.to_string()]},
            })
        }))
        .chain(services.map(|(age, it)| service(age, it)))
        .chain(slices.map(|(index, it)| slice(index, it)))
        .collect()
}

fn node(node: &Node) -> Value {
    let mut labels = Map::new();
    if let Some(zone) = &node.zone {
        labels.insert("topology.kubernetes.io/zone".to_owned(), json!(zone));
    }
    let known_by = [false, true]
        .into_iter()
        .filter_map(|is_v6| node.address(is_v6))
        .map(|addr| json!({"type": "InternalIP", "address": addr}));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": {"addresses": known_by.collect::<Vec<_>>()},
    })
}

fn service(age: usize, service: &Service) -> Value {
    let mut labels = Map::new();
    if service.kind == ServiceKind::OfOtherProxy {
        labels.insert(
            "service.kubernetes.io/service-proxy-name".to_owned(),
            json!("other"),
        );
    }
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": service.name,
            "namespace": "default",
            "labels": labels,
            "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"),
        },
        "spec": service_spec(service),
    });
    if !service.ingress.is_empty() {
        let ingress: Vec<_> = service.ingress.iter().map(ingress).collect();
        object["status"] = json!({"loadBalancer": {"ingress": ingress}});
    }
    object
}

fn service_spec(service: &Service) -> Value {
    let ports: Vec<_> = service.ports.iter().map(|it| port(service, it)).collect();
    let type_name = match (service.kind, service.service_type) {
        (ServiceKind::ExternalName, _) => "ExternalName",
        (_, ServiceType::ClusterIp) => "ClusterIP",
        (_, ServiceType::NodePort) => "NodePort",
        (_, ServiceType::LoadBalancer) => "LoadBalancer",
    };
    let mut spec = json!({"type": type_name, "ports": ports});
    match service.kind {
        ServiceKind::Ordinary | ServiceKind::OfOtherProxy => {
            let families = service.cluster_ips.iter().map(|addr| match addr.is_ipv6() {
                true => "IPv6",
                false => "IPv4",
            });
            spec["clusterIP"] = json!(service.cluster_ips[0]);
            spec["ipFamilies"] = json!(families.collect::<Vec<_>>());
            spec["clusterIPs"] = json!(service.cluster_ips);
        }
        ServiceKind::Headless => {
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
        }
        ServiceKind::ExternalName => spec["externalName"] = json!("example.com"),
    }
    if !service.external_ips.is_empty() {
        spec["externalIPs"] = json!(service.external_ips);
    }
    if !service.source_ranges.is_empty() {
        // "Validation mistakenly allows whitespace padding."
        let ranges = service.source_ranges.iter().enumerate();
        let ranges = ranges.map(|(index, range)| match index {
            0 => range.to_string(),
            _ => format!(" {range} "),
        });
        spec["loadBalancerSourceRanges"] = json!(ranges.collect::<Vec<_>>());
    }
    if service.internal_is_local {
        spec["internalTrafficPolicy"] = json!("Local");
    }
    if service.external_is_local {
        spec["externalTrafficPolicy"] = json!("Local");
    }
    if let Some(Affinity { timeout_seconds }) = service.affinity {
        spec["sessionAffinity"] = json!("ClientIP");
        if let Some(timeout) = timeout_seconds {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": timeout}});
        }
    }
    spec
}

fn port(service: &Service, port: &ServicePort) -> Value {
    let mut value = json!({"protocol": port.protocol, "port": port.port});
    if !port.name.is_empty() {
        value["name"] = json!(port.name);
    }
    match (service.service_type, port.node_port) {
        (ServiceType::NodePort | ServiceType::LoadBalancer, Some(number)) => {
            value["nodePort"] = json!(number);
        }
        (ServiceType::ClusterIp, _) | (_, None) => {}
    }
    value
}

fn ingress(ingress: &Ingress) -> Value {
    let mut value = json!({"ip": ingress.ip});
    match ingress.mode {
        Some(IpMode::Vip) => value["ipMode"] = json!("VIP"),
        Some(IpMode::Proxy) => value["ipMode"] = json!("Proxy"),
        None => {}
    }
    value
}

fn slice(index: usize, slice: &Slice) -> Value {
    let mut labels = Map::new();
    labels.insert(
        "kubernetes.io/service-name".to_owned(),
        json!(slice.service),
    );
    if slice.is_headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
    }
    let ports = slice.ports.iter().map(|port| {
        let mut value = json!({"name": port.name, "protocol": port.protocol});
        if let Some(number) = port.port {
            value["port"] = json!(number);
        }
        value
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": format!("slice-{index}"), "namespace": "default", "labels": labels},
        "addressType": if slice.is_v6 { "IPv6" } else { "IPv4" },
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut value = json!({"addresses": endpoint.addresses});
    let conditions: Map<String, Value> = [
        ("ready", endpoint.ready),
        ("serving", endpoint.serving),
        ("terminating", endpoint.terminating),
    ]
    .into_iter()
    .filter_map(|(name, condition)| Some((name.to_owned(), json!(condition?))))
    .collect();
    if !conditions.is_empty() {
        value["conditions"] = Value::Object(conditions);
    }
    if let Some(node) = &endpoint.node {
        value["nodeName"] = json!(node);
    }
    let hints: Map<String, Value> = [
        ("forNodes", &endpoint.for_nodes),
        ("forZones", &endpoint.for_zones),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(kind, names)| {
        let names: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
        (kind.to_owned(), json!(names))
    })
    .collect();
    if !hints.is_empty() {
        value["hints"] = Value::Object(hints);
    }
    value
}
