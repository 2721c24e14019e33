//! Endpoints: slices, and the older objects that hold all endpoints of a service.
//!
//! Both become [`EndpointGroup`]s, so that everything behind this module knows one form.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::jiff::Timestamp;

use super::metadata::{Metadata, validate_subdomain};
use super::{Family, Invalid, Kind, NotOurs, Object, Protocol, ServiceRef};
use super::{address, port};

/// Names the service of a slice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// When whatever made the endpoints change happened: a pod became ready, or a service was written.
const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Marks the slices of a headless service.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its own name; its namespace is the service's.
    pub name: String,
    /// The service that it serves.
    pub service: ServiceRef,
    /// Its endpoints.
    pub group: EndpointGroup,
    /// When that happened which last made it change, where its writer says so. Only measured:
    /// one that cannot be read is none.
    pub triggered: Option<Timestamp>,
}

/// A `v1` Endpoints object, which has the name of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The service that it serves.
    pub service: ServiceRef,
    /// Its subsets, one group for each family in them.
    pub groups: Vec<EndpointGroup>,
}

/// Endpoints of one family that have the same ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointGroup {
    /// The family of all addresses in it.
    pub family: Family,
    /// The ports of each endpoint in it.
    pub ports: Vec<EndpointPort>,
    /// In the order of the object.
    pub endpoints: Vec<Endpoint>,
}

/// A port of all endpoints of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The name of the service port that it serves; empty for a service of one port.
    pub name: String,
    /// The protocol of the service port that it serves.
    pub protocol: Protocol,
    /// The port at the endpoint.
    pub port: NonZeroU16,
}

/// Something that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub addr: IpAddr,
    /// The node that it is on, where it is on one.
    pub node: Option<String>,
    /// The zone that it is in, where that is known.
    pub zone: Option<String>,
    /// Who should prefer it.
    pub hints: Hints,
    /// Should it get new connections?
    pub is_ready: bool,
    /// Would it answer, be it terminating?
    pub is_serving: bool,
    /// Is it about to go?
    pub is_terminating: bool,
}

/// Where the clients are that should prefer an endpoint. No hint of a kind is not the same as
/// hints that name nobody here: see the choice of endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `hints.forNodes[].name`
    pub nodes: Vec<String>,
    /// `hints.forZones[].name`
    pub zones: Vec<String>,
}

impl TryFrom<discovery::EndpointSlice> for Object {
    type Error = Invalid;

    fn try_from(slice: discovery::EndpointSlice) -> Result<Self, Invalid> {
        let metadata = Metadata::read(Kind::EndpointSlice, slice.metadata)?;
        if metadata.labels.contains_key(HEADLESS_LABEL) {
            return Ok(Self::NotOurs(metadata.reference, NotOurs::HeadlessSlice));
        }
        if slice.address_type == "FQDN" {
            return Ok(Self::NotOurs(metadata.reference, NotOurs::NamesSlice));
        }
        let Some(service) = metadata.label(SERVICE_NAME_LABEL) else {
            return Ok(Self::NotOurs(metadata.reference, NotOurs::NoService));
        };
        let service = ServiceRef {
            namespace: metadata.reference.namespace.clone(),
            name: service.to_owned(),
        };
        let family = Family::parse(&slice.address_type)
            .map_err(|message| Invalid::new("addressType", message))?;
        let ports = slice.ports.unwrap_or_default();
        let triggered = metadata.annotations.get(TRIGGER_TIME_ANNOTATION);
        Ok(Self::EndpointSlice(EndpointSlice {
            triggered: triggered.and_then(|time| time.parse().ok()),
            name: metadata.reference.name,
            service,
            group: EndpointGroup {
                family,
                ports: items("ports", &ports, read_slice_port)?
                    .into_iter()
                    .flatten()
                    .collect(),
                endpoints: items("endpoints", &slice.endpoints, |endpoint| {
                    read_slice_endpoint(family, endpoint)
                })?,
            },
        }))
    }
}

fn read_slice_port(port: &discovery::EndpointPort) -> Result<Option<EndpointPort>, Invalid> {
    match port.port {
        // "All ports": a service port cannot mean that.
        None | Some(0) => Ok(None),
        Some(number) => read_port(port.name.as_deref(), number, port.protocol.as_deref()).map(Some),
    }
}

fn read_slice_endpoint(
    family: Family,
    endpoint: &discovery::Endpoint,
) -> Result<Endpoint, Invalid> {
    // Further addresses of an endpoint have no meaning (API documentation of `addresses`).
    let Some(text) = endpoint.addresses.first() else {
        return Err(Invalid::new("addresses", "is empty"));
    };
    let invalid = |message| Invalid::new("", message).at(0).within("addresses");
    let addr = address::parse_unicast(text).map_err(invalid)?;
    if Family::of(&addr) != family {
        return Err(invalid(format!(
            "{addr} is not of the slice's addressType {family}"
        )));
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    Ok(Endpoint {
        addr,
        node: read_node_name(endpoint.node_name.as_deref())?,
        zone: endpoint.zone.clone().filter(|zone| !zone.is_empty()),
        hints: read_hints(endpoint.hints.as_ref())?,
        is_ready: conditions.ready.unwrap_or(true),
        is_serving: conditions.serving.unwrap_or(true),
        is_terminating: conditions.terminating.unwrap_or(false),
    })
}

fn read_node_name(name: Option<&str>) -> Result<Option<String>, Invalid> {
    name.map(|name| {
        validate_subdomain(name).map_err(|message| Invalid::new("nodeName", message))?;
        Ok(name.to_owned())
    })
    .transpose()
}

/// A hint without a name is refused: read as "none", it would send the service's traffic past
/// the topology that the other hints describe.
fn read_hints(hints: Option<&discovery::EndpointHints>) -> Result<Hints, Invalid> {
    let named = |name: &String| match name.as_str() {
        "" => Err(Invalid::new("name", "is empty")),
        _ => Ok(name.clone()),
    };
    let Some(discovery::EndpointHints {
        for_nodes,
        for_zones,
    }) = hints
    else {
        return Ok(Hints::default());
    };
    let nodes = items(
        "forNodes",
        for_nodes.as_deref().unwrap_or_default(),
        |hint| named(&hint.name),
    );
    let zones = items(
        "forZones",
        for_zones.as_deref().unwrap_or_default(),
        |hint| named(&hint.name),
    );
    let within = |invalid: Invalid| invalid.within("hints");
    Ok(Hints {
        nodes: nodes.map_err(within)?,
        zones: zones.map_err(within)?,
    })
}

impl TryFrom<core::Endpoints> for Object {
    type Error = Invalid;

    fn try_from(endpoints: core::Endpoints) -> Result<Self, Invalid> {
        let metadata = Metadata::read(Kind::Endpoints, endpoints.metadata)?;
        if metadata.labels.contains_key(HEADLESS_LABEL) {
            return Ok(Self::NotOurs(metadata.reference, NotOurs::HeadlessSlice));
        }
        let subsets = endpoints.subsets.unwrap_or_default();
        Ok(Self::Endpoints(Endpoints {
            service: ServiceRef {
                namespace: metadata.reference.namespace,
                name: metadata.reference.name,
            },
            groups: items("subsets", &subsets, read_subset)?
                .into_iter()
                .flatten()
                .collect(),
        }))
    }
}

fn read_subset(subset: &core::EndpointSubset) -> Result<Vec<EndpointGroup>, Invalid> {
    let ports = items(
        "ports",
        subset.ports.as_deref().unwrap_or_default(),
        |port| read_port(port.name.as_deref(), port.port, port.protocol.as_deref()),
    )?;
    let mut families: BTreeMap<Family, Vec<Endpoint>> = BTreeMap::new();
    for (field, addresses, is_ready) in [
        ("addresses", &subset.addresses, true),
        ("notReadyAddresses", &subset.not_ready_addresses, false),
    ] {
        let addresses = addresses.as_deref().unwrap_or_default();
        for (addr, node) in items(field, addresses, |address| {
            let addr = address::parse_unicast(&address.ip)
                .map_err(|message| Invalid::new("ip", message))?;
            Ok((addr, read_node_name(address.node_name.as_deref())?))
        })? {
            families
                .entry(Family::of(&addr))
                .or_default()
                .push(Endpoint {
                    addr,
                    node,
                    zone: None,
                    hints: Hints::default(),
                    is_ready,
                    is_serving: is_ready,
                    is_terminating: false,
                });
        }
    }
    Ok(families
        .into_iter()
        .map(|(family, endpoints)| EndpointGroup {
            family,
            ports: ports.clone(),
            endpoints,
        })
        .collect())
}

fn read_port(
    name: Option<&str>,
    number: i32,
    protocol: Option<&str>,
) -> Result<EndpointPort, Invalid> {
    Ok(EndpointPort {
        name: name.unwrap_or_default().to_owned(),
        protocol: Protocol::parse(protocol).map_err(|message| Invalid::new("protocol", message))?,
        port: port::parse_number(number).map_err(|message| Invalid::new("port", message))?,
    })
}

/// Reads each item of the list in this field.
fn items<T, R>(
    field: &str,
    list: &[T],
    read: impl Fn(&T) -> Result<R, Invalid>,
) -> Result<Vec<R>, Invalid> {
    list.iter()
        .enumerate()
        .map(|(index, item)| read(item).map_err(|invalid| invalid.at(index).within(field)))
        .collect()
}

#[cfg(test)]
mod tests {
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
}
