use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::{Value, json};

use super::*;

fn slice(mut value: Value) -> Result<Object, Invalid> {
    if value.get("metadata").is_none() {
        value["metadata"] = json!({
            "namespace": "default", "name": "web-1", "labels": {SERVICE_NAME_LABEL: "web"},
        });
    }
    serde_json::from_value::<discovery::EndpointSlice>(value)
        .unwrap()
        .try_into()
}

#[test]
fn nothing_said_of_a_condition_means_ready() {
    let object = slice(json!({
        "addressType": "IPv4",
        "ports": [{"port": 8080}, {"name": "none"}, {"name": "zero", "port": 0}],
        "endpoints": [
            {"addresses": ["10.200.0.2", "not looked at"]},
            {"addresses": ["10.200.0.3"], "conditions": {"ready": false, "terminating": true}},
        ],
    }))
    .unwrap();
    assert_eq!(
        object.reference().to_string(),
        "EndpointSlice default/web-1"
    );
    let Object::EndpointSlice(slice) = object else {
        panic!("{object:?}")
    };
    assert_eq!(slice.service.to_string(), "default/web");
    assert_eq!(slice.group.ports.len(), 1);
    assert_eq!(slice.group.ports[0].protocol, Protocol::Tcp);
    let conditions = slice
        .group
        .endpoints
        .iter()
        .map(|endpoint| {
            (
                endpoint.is_ready,
                endpoint.is_serving,
                endpoint.is_terminating,
            )
        })
        .collect::<Vec<_>>();
    assert_eq!(conditions, [(true, true, false), (false, true, true)]);
}

#[test]
fn the_time_of_what_made_a_slice_change_is_kept_where_it_is_one() {
    for (text, expected) in [
        (
            "2026-11-21T07:00:00.25Z",
            Some("2026-11-21T07:00:00.25Z".parse().unwrap()),
        ),
        ("yesterday", None),
    ] {
        let object = slice(json!({
            "metadata": {
                "name": "web-1",
                "labels": {SERVICE_NAME_LABEL: "web"},
                "annotations": {TRIGGER_TIME_ANNOTATION: text},
            },
            "addressType": "IPv4",
            "endpoints": [],
        }))
        .unwrap();
        let Object::EndpointSlice(slice) = object else {
            panic!("{object:?}")
        };
        assert_eq!(slice.triggered, expected, "{text}");
    }
}

#[test]
fn where_an_endpoint_is_and_who_should_prefer_it_is_kept() {
    let object = slice(json!({
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.200.0.2"], "nodeName": "worker-0", "zone": "a",
             "hints": {"forNodes": [{"name": "worker-0"}],
                       "forZones": [{"name": "a"}, {"name": "b"}]}},
            {"addresses": ["10.200.0.3"], "zone": "", "hints": {}},
        ],
    }))
    .unwrap();
    let Object::EndpointSlice(slice) = object else {
        panic!("{object:?}")
    };
    let [first, second] = &slice.group.endpoints[..] else {
        panic!("{slice:?}")
    };
    assert_eq!(first.node.as_deref(), Some("worker-0"));
    assert_eq!(first.zone.as_deref(), Some("a"));
    assert_eq!(first.hints.nodes, ["worker-0"]);
    assert_eq!(first.hints.zones, ["a", "b"]);
    assert_eq!((&second.node, &second.zone), (&None, &None));
    assert_eq!(second.hints, Hints::default());
}

#[test]
fn slices_without_effect_are_no_error() {
    let metadata = |labels: Value| json!({"name": "web-1", "labels": labels});
    for (value, expected) in [
        (
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}),
            NotOurs::NamesSlice,
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [], "metadata":
                   metadata(json!({SERVICE_NAME_LABEL: "web", HEADLESS_LABEL: ""}))}),
            NotOurs::HeadlessSlice,
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [], "metadata": metadata(json!({}))}),
            NotOurs::NoService,
        ),
    ] {
        match slice(value.clone()) {
            Ok(Object::NotOurs(_, not_ours)) => assert_eq!(not_ours, expected),
            other => panic!("{value}: {other:?}"),
        }
    }
}

#[test]
fn what_is_wrong_names_its_field() {
    for (value, expected) in [
        (
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}),
            "endpoints[0].addresses[0]: fd00::1 is not of the slice's addressType IPv4",
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [
                {"addresses": ["10.200.0.2"]}, {"addresses": []}]}),
            "endpoints[1].addresses: is empty",
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"port": -1}]}),
            "ports[0].port: -1 is not a port (1-65535)",
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [
                {"addresses": ["10.200.0.2"], "nodeName": "Worker"}]}),
            "endpoints[0].nodeName: \"Worker\" is not a name of lower-case letters, digits, \
             and inner '.' and '-'",
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [
                {"addresses": ["10.200.0.2"],
                 "hints": {"forZones": [{"name": "a"}, {"name": ""}]}}]}),
            "endpoints[0].hints.forZones[1].name: is empty",
        ),
        (
            json!({"addressType": "IPX", "endpoints": []}),
            "addressType: \"IPX\" is neither IPv4 nor IPv6",
        ),
        (
            json!({"addressType": "IPv4", "endpoints": [], "metadata": {}}),
            "metadata.name: is missing",
        ),
    ] {
        let invalid = slice(value.clone()).unwrap_err();
        assert_eq!(invalid.to_string(), expected, "{value}");
    }
}

fn endpoints(subsets: Value) -> Result<Object, Invalid> {
    serde_json::from_value::<core::Endpoints>(
        json!({"metadata": {"name": "web"}, "subsets": subsets}),
    )
    .unwrap()
    .try_into()
}

#[test]
fn a_subset_becomes_a_group_for_each_family() {
    let object = endpoints(json!([{
        "addresses": [{"ip": "10.200.0.2", "nodeName": "worker-0"}, {"ip": "fd00:10:200::2"}],
        "notReadyAddresses": [{"ip": "10.200.0.3"}],
        "ports": [{"name": "http", "port": 8080}],
    }]))
    .unwrap();
    let Object::Endpoints(endpoints) = object else {
        panic!("{object:?}")
    };
    assert_eq!(endpoints.service.to_string(), "default/web");
    let summary = endpoints
        .groups
        .iter()
        .map(|group| {
            let ready = group.endpoints.iter().filter(|endpoint| endpoint.is_ready);
            (group.family, group.endpoints.len(), ready.count())
        })
        .collect::<Vec<_>>();
    assert_eq!(summary, [(Family::V4, 2, 1), (Family::V6, 1, 1)]);
    let first = &endpoints.groups[0].endpoints[0];
    assert_eq!(first.node.as_deref(), Some("worker-0"));
}

#[test]
fn an_address_that_is_none_names_its_field() {
    let invalid = endpoints(json!([
        {"addresses": [{"ip": "10.200.0.2"}]},
        {"notReadyAddresses": [{"ip": "web.example"}]},
    ]))
    .unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "subsets[1].notReadyAddresses[0].ip: \"web.example\" is not an IP address"
    );
}
