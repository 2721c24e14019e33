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
        "type": "NodePort",
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

fn with_status(spec: serde_json::Value, ingress: serde_json::Value) -> Service {
    let mut spec = spec;
    spec["clusterIP"] = json!("10.32.0.140");
    let service: api::Service = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
    .unwrap();
    match Object::try_from(service) {
        Ok(Object::Service(service)) => service,
        other => panic!("not a service of ours: {other:?}"),
    }
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

#[test]
fn a_load_balancer_has_addresses_of_every_kind() {
    let service = with_status(
        json!({
            "type": "LoadBalancer",
            "externalIPs": ["203.0.113.7", "2001:db8::7", "203.0.113.7"],
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 32000,
            "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 0}],
        }),
        json!([
            {"ip": "203.0.113.8"},
            {"ip": "203.0.113.9", "ipMode": "Proxy"},
            {"ip": "2001:db8::8", "ipMode": "VIP"},
            {"hostname": "lb.example.com"},
        ]),
    );
    assert_eq!(service.service_type, ServiceType::LoadBalancer);
    assert_eq!(texts(service.external_ips), ["203.0.113.7", "2001:db8::7"]);
    assert_eq!(
        texts(service.load_balancer_ips),
        ["203.0.113.8", "2001:db8::8"]
    );
    let node_ports: Vec<_> = service.ports.iter().map(|port| port.node_port).collect();
    assert_eq!(node_ports, [NonZeroU16::new(30_080), None]);
    assert_eq!(service.external_traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.health_check_node_port, NonZeroU16::new(32_000));
    assert_eq!(service.ignored, []);
}

#[test]
fn only_a_load_balancer_whose_policy_is_local_asks_for_health() {
    for (spec, expected) in [
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
            None,
        ),
        (
            json!({"type": "LoadBalancer", "healthCheckNodePort": 32000}),
            None,
        ),
        (
            json!({"type": "NodePort", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}),
            None,
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}),
            NonZeroU16::new(32_000),
        ),
    ] {
        assert_eq!(
            service(spec.clone()).health_check_node_port,
            expected,
            "{spec}"
        );
    }
}

#[test]
fn what_nobody_outside_can_reach_has_no_external_policy() {
    let policy = |spec| service(spec).external_traffic_policy;
    assert_eq!(
        policy(json!({"externalTrafficPolicy": "Local"})),
        TrafficPolicy::Cluster
    );
    assert_eq!(
        policy(json!({"externalTrafficPolicy": "Local", "externalIPs": ["203.0.113.7"]})),
        TrafficPolicy::Local
    );
}

#[test]
fn source_ranges_count_for_their_family_alone() {
    let ranges = |ranges: serde_json::Value| {
        let service = service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges}));
        let of = |family| service.source_ranges.of(family).map(texts);
        (of(Family::V4), of(Family::V6), texts(&service.ignored))
    };
    let some = |list: &[&str]| Some(texts(list));
    assert_eq!(ranges(json!([])), (None, None, vec![]));
    assert_eq!(
        ranges(json!([" 203.0.113.0/24 ", "10.1.2.3/8", "203.0.113.0/24"])),
        (some(&["203.0.113.0/24", "10.0.0.0/8"]), None, vec![])
    );
    assert_eq!(
        ranges(json!(["203.0.113.0/24", "0.0.0.0/0", "2001:db8::/64"])),
        (None, some(&["2001:db8::/64"]), vec![])
    );
    assert_eq!(
        ranges(json!(["203.0.113.0", "2001:db8::/64"])),
        (
            some(&[]),
            some(&["2001:db8::/64"]),
            texts([
                "spec.loadBalancerSourceRanges[0]: \"203.0.113.0\" is not ADDRESS/LENGTH; it \
                 admits nobody"
            ])
        )
    );
    let (v4, v6, ignored) = ranges(json!(["all"]));
    assert_eq!((v4, v6, ignored.len()), (some(&[]), some(&[]), 1));
}

#[test]
fn what_is_wrong_with_one_address_leaves_the_others() {
    let service = with_status(
        json!({
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 70000,
            "externalIPs": ["127.0.0.1", "203.0.113.7"],
            "ports": [{"port": 80, "nodePort": -1}],
        }),
        json!([{"ip": "nowhere"}, {"ip": "203.0.113.8"}, {"ip": "203.0.113.9", "ipMode": "Vip"}]),
    );
    assert_eq!(texts(&service.external_ips), ["203.0.113.7"]);
    assert_eq!(texts(&service.load_balancer_ips), ["203.0.113.8"]);
    assert_eq!(service.ports[0].node_port, None);
    assert_eq!(service.health_check_node_port, None);
    let left_out = "; it is left out, the rest of the service is served";
    assert_eq!(
        texts(&service.ignored),
        [
            "spec.ports[0].nodePort: -1 is not a port (1-65535)",
            "spec.externalIPs[0]: 127.0.0.1 is a loopback address",
            "status.loadBalancer.ingress[0].ip: \"nowhere\" is not an IP address",
            "status.loadBalancer.ingress[2].ipMode: \"Vip\" is neither VIP nor Proxy",
            "spec.healthCheckNodePort: 70000 is not a port (1-65535)",
        ]
        .map(|text| format!("{text}{left_out}"))
    );
}

#[test]
fn a_node_port_needs_a_type_that_has_one() {
    let service = service(json!({"ports": [{"port": 80, "nodePort": 30080}]}));
    assert_eq!(service.ports[0].node_port, None);
    assert!(
        service.ignored[0].to_string().starts_with(
            "spec.ports[0].nodePort: is for services of type NodePort or LoadBalancer"
        ),
        "{:?}",
        service.ignored
    );
}

#[test]
fn a_family_that_is_not_named_has_no_cluster_ip() {
    let service = service(json!({
        "clusterIPs": ["10.32.0.140", "fd00:10:32::8c"], "ipFamilies": ["IPv4"],
    }));
    assert_eq!(texts(service.cluster_ips_of(Family::V4)), ["10.32.0.140"]);
    assert_eq!(service.cluster_ips_of(Family::V6).count(), 0);
}
