//! Which endpoints of a service are not chosen on this node, and why: for whoever asks why a
//! pod gets no traffic.
//!
//! Of a service with very many such endpoints only the first are kept ([`Account::MOST`]); the
//! others are counted.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::model::{Endpoint, EndpointGroup, Family, Protocol, Service, TrafficPolicy};

use super::choice::Target;
use super::names::Subject;
use super::skipped::Part;

/// What of a service's endpoints nobody is led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Endpoints of a port of the service.
    pub unchosen: Vec<Unchosen>,
    /// How many more there are.
    pub more: usize,
    /// Endpoints of no port of the service.
    pub unused: Vec<Unused>,
}

/// An endpoint that is not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchosen {
    /// Of which service port.
    pub part: Part,
    /// Under which traffic policy; `None`: whichever.
    pub policy: Option<TrafficPolicy>,
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: NonZeroU16,
    /// The node that it is on, if that is known.
    pub node: Option<String>,
    /// The zone that it is in, likewise.
    pub zone: Option<String>,
    /// Why.
    pub why: Why,
}

/// Why an endpoint is not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// `conditions.ready` is false.
    NotReady,
    /// Ready ones are there, and it is about to go.
    Terminating,
    /// It is about to go and does not answer any more.
    NotServing,
    /// It is on another node, or on none, and the traffic policy is Local.
    OtherNode,
    /// The hints say that it is for other nodes.
    HintsOtherNodes,
    /// The hints say that it is for other zones.
    HintsOtherZones,
    /// Another entry for the same address and port counts.
    Duplicate,
    /// The table is full.
    NoRoom,
}

/// Endpoints that belong to no port of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// Their family.
    pub family: Family,
    /// The name of their port.
    pub port_name: String,
    /// Their protocol.
    pub protocol: Protocol,
    /// Their port.
    pub port: NonZeroU16,
    /// How many there are.
    pub endpoints: usize,
    /// Why.
    pub why: WhyUnused,
}

/// Why endpoints belong to no port of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyUnused {
    /// The service has no port of that name and protocol.
    NoSuchPort,
    /// The service has no cluster IP of that family.
    OtherFamily,
}

impl Account {
    /// How many endpoints of a service are kept.
    pub const MOST: usize = 1_000;

    /// Is there nothing to tell?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.unchosen.is_empty() && self.unused.is_empty()
    }

    /// Adds an endpoint of this service port.
    pub(super) fn add(
        &mut self,
        subject: &Subject<'_>,
        policy: Option<TrafficPolicy>,
        (addr, port): Target,
        endpoint: Option<&Endpoint>,
        why: Why,
    ) {
        if self.unchosen.len() == Self::MOST {
            self.more += 1;
            return;
        }
        self.unchosen.push(Unchosen {
            part: subject.part(),
            policy,
            addr,
            port,
            node: endpoint.and_then(|endpoint| endpoint.node.clone()),
            zone: endpoint.and_then(|endpoint| endpoint.zone.clone()),
            why,
        });
    }

    /// Adds the endpoints that belong to no port of the service.
    pub(super) fn add_unused(&mut self, service: &Service, groups: &[&EndpointGroup]) {
        for group in groups.iter().filter(|group| !group.endpoints.is_empty()) {
            let is_of_family = service.cluster_ips_of(group.family).next().is_some();
            for port in &group.ports {
                let why = if !is_of_family {
                    WhyUnused::OtherFamily
                } else if !service
                    .ports
                    .iter()
                    .any(|own| own.name == port.name && own.protocol == port.protocol)
                {
                    WhyUnused::NoSuchPort
                } else {
                    continue;
                };
                let count = group.endpoints.len();
                let mut known = self.unused.iter_mut();
                match known.find(|it| {
                    (it.family, &*it.port_name, it.protocol, it.port)
                        == (group.family, &*port.name, port.protocol, port.port)
                }) {
                    Some(unused) => unused.endpoints += count,
                    None => self.unused.push(Unused {
                        family: group.family,
                        port_name: port.name.clone(),
                        protocol: port.protocol,
                        port: port.port,
                        endpoints: count,
                        why,
                    }),
                }
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "it is not ready",
            Self::Terminating => "it is terminating, and others are ready",
            Self::NotServing => "it is terminating and does not serve any more",
            Self::OtherNode => "the traffic policy is Local, and it is not on this node",
            Self::HintsOtherNodes => "its hints name other nodes",
            Self::HintsOtherZones => "its hints name other zones",
            Self::Duplicate => "another entry for the same address and port counts",
            Self::NoRoom => "the table BACKENDS is full",
        })
    }
}

impl fmt::Display for WhyUnused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchPort => "the service has no port of this name and protocol",
            Self::OtherFamily => "the service has no cluster IP of this family",
        })
    }
}
