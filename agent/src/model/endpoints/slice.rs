//! An EndpointSlice, whoever has read its text and in which form.
//!
//! Slices change more often than all else together, so what is read of their texts is borrowed from
//! them where that can be ([`SliceForm`]); what is kept is copied once.

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1 as discovery;

use super::super::metadata::Metadata;
use super::super::{Family, Invalid, Kind, NotOurs, Object, ServiceRef, address};
use super::{
    Endpoint, EndpointGroup, EndpointPort, EndpointSlice, HEADLESS_LABEL, Hints,
    SERVICE_NAME_LABEL, TRIGGER_TIME_ANNOTATION, items, read_node_name, read_port,
};

/// What the model reads of an EndpointSlice.
#[derive(Debug)]
pub struct SliceForm<'a, L, A, P, E> {
    /// `metadata.name`
    pub name: Option<&'a str>,
    /// `metadata.namespace`
    pub namespace: Option<&'a str>,
    /// The value of a label.
    pub label: L,
    /// The value of an annotation.
    pub annotation: A,
    /// `addressType`
    pub address_type: &'a str,
    /// `ports`
    pub ports: P,
    /// `endpoints`
    pub endpoints: E,
}

/// What the model reads of one of its ports.
#[derive(Clone, Copy, Debug)]
pub struct PortForm<'a> {
    /// `name`
    pub name: Option<&'a str>,
    /// `port`
    pub port: Option<i32>,
    /// `protocol`
    pub protocol: Option<&'a str>,
}

/// What the model reads of one of its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct EndpointForm<'a> {
    /// `addresses[0]`: further ones have no meaning (API documentation of `addresses`).
    pub address: Option<&'a str>,
    /// `nodeName`
    pub node: Option<&'a str>,
    /// `zone`
    pub zone: Option<&'a str>,
    /// `conditions`
    pub conditions: Option<&'a discovery::EndpointConditions>,
    /// `hints`
    pub hints: Option<&'a discovery::EndpointHints>,
}

impl<'a, L, A, P, E> SliceForm<'a, L, A, P, E>
where
    L: Fn(&str) -> Option<&'a str>,
    A: Fn(&str) -> Option<&'a str>,
    P: ExactSizeIterator<Item = PortForm<'a>>,
    E: ExactSizeIterator<Item = EndpointForm<'a>>,
{
    /// The slice, or what else the object is.
    ///
    /// # Errors
    /// The field at fault.
    pub fn read(self) -> Result<Object, Invalid> {
        let reference = Metadata::reference(Kind::EndpointSlice, self.name, self.namespace)?;
        if (self.label)(HEADLESS_LABEL).is_some() {
            return Ok(Object::NotOurs(reference, NotOurs::HeadlessSlice));
        }
        if self.address_type == "FQDN" {
            return Ok(Object::NotOurs(reference, NotOurs::NamesSlice));
        }
        let service = (self.label)(SERVICE_NAME_LABEL).filter(|name| !name.is_empty());
        let Some(service) = service else {
            return Ok(Object::NotOurs(reference, NotOurs::NoService));
        };
        let family = Family::parse(self.address_type)
            .map_err(|message| Invalid::new("addressType", message))?;
        let triggered = (self.annotation)(TRIGGER_TIME_ANNOTATION);
        let ports = items("ports", self.ports, read_slice_port)?;
        Ok(Object::EndpointSlice(EndpointSlice {
            triggered: triggered.and_then(|time| time.parse().ok()),
            name: reference.name,
            service: ServiceRef {
                namespace: reference.namespace,
                name: service.to_owned(),
            },
            group: EndpointGroup {
                family,
                ports: ports.into_iter().flatten().collect(),
                endpoints: items("endpoints", self.endpoints, |endpoint| {
                    read_slice_endpoint(family, endpoint)
                })?,
            },
        }))
    }
}

impl TryFrom<discovery::EndpointSlice> for Object {
    type Error = Invalid;

    fn try_from(slice: discovery::EndpointSlice) -> Result<Self, Invalid> {
        let metadata = &slice.metadata;
        let ports = slice.ports.as_deref().unwrap_or_default().iter();
        let endpoints = slice.endpoints.iter();
        let form = SliceForm {
            name: metadata.name.as_deref(),
            namespace: metadata.namespace.as_deref(),
            label: |key: &str| value(metadata.labels.as_ref(), key),
            annotation: |key: &str| value(metadata.annotations.as_ref(), key),
            address_type: &slice.address_type,
            ports: ports.map(|port| PortForm {
                name: port.name.as_deref(),
                port: port.port,
                protocol: port.protocol.as_deref(),
            }),
            endpoints: endpoints.map(|endpoint| EndpointForm {
                address: endpoint.addresses.first().map(String::as_str),
                node: endpoint.node_name.as_deref(),
                zone: endpoint.zone.as_deref(),
                conditions: endpoint.conditions.as_ref(),
                hints: endpoint.hints.as_ref(),
            }),
        };
        form.read()
    }
}

fn value<'a>(map: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    map?.get(key).map(String::as_str)
}

fn read_slice_port(port: PortForm<'_>) -> Result<Option<EndpointPort>, Invalid> {
    match port.port {
        // "All ports": a service port cannot mean that.
        None | Some(0) => Ok(None),
        Some(number) => read_port(port.name, number, port.protocol).map(Some),
    }
}

fn read_slice_endpoint(family: Family, endpoint: EndpointForm<'_>) -> Result<Endpoint, Invalid> {
    let Some(text) = endpoint.address else {
        return Err(Invalid::new("addresses", "is empty"));
    };
    let invalid = |message| Invalid::new("", message).at(0).within("addresses");
    let addr = address::parse_unicast(text).map_err(invalid)?;
    if Family::of(&addr) != family {
        return Err(invalid(format!(
            "{addr} is not of the slice's addressType {family}"
        )));
    }
    let zone = endpoint.zone.filter(|zone| !zone.is_empty());
    let condition =
        |of: fn(&discovery::EndpointConditions) -> Option<bool>| endpoint.conditions.and_then(of);
    Ok(Endpoint {
        addr,
        node: read_node_name(endpoint.node)?,
        zone: zone.map(str::to_owned),
        hints: read_hints(endpoint.hints)?,
        is_ready: condition(|it| it.ready).unwrap_or(true),
        is_serving: condition(|it| it.serving).unwrap_or(true),
        is_terminating: condition(|it| it.terminating).unwrap_or(false),
    })
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
        for_nodes.as_deref().unwrap_or_default().iter(),
        |hint| named(&hint.name),
    );
    let zones = items(
        "forZones",
        for_zones.as_deref().unwrap_or_default().iter(),
        |hint| named(&hint.name),
    );
    let within = |invalid: Invalid| invalid.within("hints");
    Ok(Hints {
        nodes: nodes.map_err(within)?,
        zones: zones.map_err(within)?,
    })
}
