//! What service ports are called: in the tables, and where something of them is left out.

use weir_ebpf::addr::{Port, Protocol as WireProtocol};
use weir_ebpf::tables::{EndpointSet, ServiceName};

use crate::model::{Family, ObjectRef, Protocol, Service, ServicePort, TrafficPolicy};

use super::skipped::Part;
use super::{Reason, Skipped};

/// A service port of one address family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub service: &'a Service,
    pub port: &'a ServicePort,
    pub family: Family,
}

impl<'a> Subject<'a> {
    /// Every port of a service in each family.
    pub fn all(service: &'a Service) -> impl Iterator<Item = Self> {
        service.ports.iter().flat_map(move |port| {
            [Family::V4, Family::V6].map(|family| Self {
                service,
                port,
                family,
            })
        })
    }

    /// The name of its endpoints that are chosen under this policy.
    pub fn name(&self, policy: TrafficPolicy) -> ServiceName {
        let Self {
            service,
            port,
            family,
        } = self;
        ServiceName {
            namespace: padded(&service.id.namespace),
            name: padded(&service.id.name),
            port_name: padded(&port.name),
            port: Port::new(port.port.get()),
            protocol: wire_protocol(port.protocol),
            family: family.number(),
            set: match policy {
                TrafficPolicy::Cluster => EndpointSet::CLUSTER,
                TrafficPolicy::Local => EndpointSet::LOCAL,
            },
            reserved: 0,
        }
    }

    /// Its service.
    pub fn reference(&self) -> ObjectRef {
        self.service.id.reference()
    }

    /// Which part of its service it is.
    pub fn part(&self) -> Part {
        Part {
            port_name: self.port.name.clone(),
            port: self.port.port,
            protocol: self.port.protocol,
            family: self.family,
        }
    }

    /// It, or something of it, is left out.
    pub fn skipped(&self, reason: Reason) -> Skipped {
        Skipped {
            object: self.reference(),
            part: Some(self.part()),
            reason,
        }
    }
}

/// The model holds labels only, which leave at least one zero.
pub(super) fn padded(label: &str) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (byte, letter) in bytes.iter_mut().zip(label.bytes()) {
        *byte = letter;
    }
    bytes
}

pub(super) const fn wire_protocol(protocol: Protocol) -> WireProtocol {
    match protocol {
        Protocol::Tcp => WireProtocol::TCP,
        Protocol::Udp => WireProtocol::UDP,
        Protocol::Sctp => WireProtocol::SCTP,
    }
}
