//! Endpoints: slices, and the older objects that hold all endpoints of a service.
//!
//! Both become [`EndpointGroup`]s, so that everything behind this module knows one form.

mod slice;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;

use super::metadata::{Metadata, validate_subdomain};
use super::{Family, Invalid, Kind, NotOurs, Object, Protocol, ServiceRef};
use super::{address, port};

pub use slice::{EndpointForm, PortForm, SliceForm};

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

fn read_node_name(name: Option<&str>) -> Result<Option<String>, Invalid> {
    name.map(|name| {
        validate_subdomain(name).map_err(|message| Invalid::new("nodeName", message))?;
        Ok(name.to_owned())
    })
    .transpose()
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
            groups: items("subsets", subsets.iter(), read_subset)?
                .into_iter()
                .flatten()
                .collect(),
        }))
    }
}

fn read_subset(subset: &core::EndpointSubset) -> Result<Vec<EndpointGroup>, Invalid> {
    let ports = items(
        "ports",
        subset.ports.as_deref().unwrap_or_default().iter(),
        |port| read_port(port.name.as_deref(), port.port, port.protocol.as_deref()),
    )?;
    let mut families: BTreeMap<Family, Vec<Endpoint>> = BTreeMap::new();
    for (field, addresses, is_ready) in [
        ("addresses", &subset.addresses, true),
        ("notReadyAddresses", &subset.not_ready_addresses, false),
    ] {
        let addresses = addresses.as_deref().unwrap_or_default();
        for (addr, node) in items(field, addresses.iter(), |address| {
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
    list: impl ExactSizeIterator<Item = T>,
    read: impl Fn(T) -> Result<R, Invalid>,
) -> Result<Vec<R>, Invalid> {
    // There are many, which have no more room than they need.
    let mut items = Vec::with_capacity(list.len());
    for (index, item) in list.enumerate() {
        let item = read(item);
        items.push(item.map_err(|invalid| invalid.at(index).within(field))?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests;
