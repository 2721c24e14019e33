//! A [`World`] in the API's words.

use serde_json::{Map, Value, json};

use super::{Endpoint, Service, ServiceKind, Slice, World};

/// The world's objects.
#[must_use]
pub fn objects(world: &World) -> Vec<Value> {
    let mut labels = Map::new();
    if let Some(zone) = &world.zone {
        labels.insert("topology.kubernetes.io/zone".to_owned(), json!(zone));
    }
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": world.node, "labels": labels},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.240.0.10"}]},
    });
    let services = world.services.iter().enumerate();
    let slices = world.slices.iter().enumerate();
    [node]
        .into_iter()
        .chain(services.map(|(age, it)| service(age, it)))
        .chain(slices.map(|(index, it)| slice(index, it)))
        .collect()
}

fn service(age: usize, service: &Service) -> Value {
    let Service {
        name,
        kind,
        cluster_ips,
        ports,
        is_local,
    } = service;
    let mut labels = Map::new();
    if *kind == ServiceKind::OfOtherProxy {
        labels.insert(
            "service.kubernetes.io/service-proxy-name".to_owned(),
            json!("other"),
        );
    }
    let ports = ports
        .iter()
        .map(|port| json!({"name": port.name, "protocol": port.protocol, "port": port.port}));
    let mut spec = json!({"ports": ports.collect::<Vec<_>>()});
    if *kind == ServiceKind::Headless {
        spec["clusterIP"] = json!("None");
    } else {
        spec["clusterIP"] = json!(cluster_ips[0]);
        spec["clusterIPs"] = json!(cluster_ips);
    }
    if *is_local {
        spec["internalTrafficPolicy"] = json!("Local");
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": labels,
            "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z"),
        },
        "spec": spec,
    })
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
    let Endpoint {
        addresses,
        ready,
        serving,
        terminating,
        node,
        for_nodes,
        for_zones,
    } = endpoint;
    let mut value = json!({"addresses": addresses});
    let conditions: Map<String, Value> = [
        ("ready", ready),
        ("serving", serving),
        ("terminating", terminating),
    ]
    .into_iter()
    .filter_map(|(name, condition)| Some((name.to_owned(), json!((*condition)?))))
    .collect();
    if !conditions.is_empty() {
        value["conditions"] = Value::Object(conditions);
    }
    if let Some(node) = node {
        value["nodeName"] = json!(node);
    }
    let hints: Map<String, Value> = [("forNodes", for_nodes), ("forZones", for_zones)]
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
