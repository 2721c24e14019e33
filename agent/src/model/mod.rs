//! What the cluster says, validated.
//!
//! One noun a file: our small type, and the conversion from the API's. Everything behind the
//! conversion deals with valid values only; what is refused names the field at fault
//! ([`Invalid`]). [`Cluster`] collects the objects of all sources.
//!
//! Nothing here knows a clock, a file, a socket or the kernel.
#![forbid(unsafe_code)]

mod address;
mod cluster;
mod endpoints;
mod event;
mod field;
mod labels;
mod metadata;
mod namespace;
mod node;
mod object;
mod pod;
mod policy;
mod port;
mod reference;
mod selector;
mod service;
mod service_cidr;

pub use address::{Family, parse_network};
pub use cluster::{Changed, Cluster};
pub use endpoints::{
    Endpoint, EndpointForm, EndpointGroup, EndpointPort, EndpointSlice, Endpoints, Hints, PortForm,
    SliceForm,
};
pub use event::{Change, Event, Problem, Report, SourceId};
pub use field::{FieldPath, Invalid, Step};
pub use labels::Labels;
pub use metadata::{DEFAULT_NAMESPACE, validate_label, validate_subdomain};
pub use namespace::Namespace;
pub use node::Node;
pub use object::{ByName, NotOurs, Object};
pub use pod::{ContainerPort, Pod, youngest_by_addr, youngest_of};
pub use policy::{
    Direction, Directions, IpBlock, NetworkPolicy, Peer, PeerNamespaces, Peers, PolicyPort,
    PolicyPorts, PolicyRule, PortMatch, Rules,
};
pub use port::Protocol;
pub use reference::{Kind, ObjectRef, PodRef, PolicyRef, ServiceRef};
pub use selector::{Condition, LabelSelector, Requirement};
pub use service::{Affinity, Service, ServicePort, ServiceType, SourceRanges, TrafficPolicy};
pub use service_cidr::ServiceCidr;
