//! Any object that Weir reads.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use super::{
    EndpointSlice, Endpoints, Invalid, Kind, Namespace, NetworkPolicy, Node, ObjectRef, Pod,
    Service, ServiceCidr,
};

/// A valid object, or one that somebody else looks after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A service that Weir serves.
    Service(Service),
    /// Endpoints of a service.
    EndpointSlice(EndpointSlice),
    /// Endpoints of a service that has no slices.
    Endpoints(Endpoints),
    /// A node.
    Node(Node),
    /// A range of cluster IPs.
    ServiceCidr(ServiceCidr),
    /// A namespace.
    Namespace(Namespace),
    /// A pod.
    Pod(Pod),
    /// A policy, also one that cannot be read: see [`NetworkPolicy`].
    NetworkPolicy(NetworkPolicy),
    /// An object that is no error and has no effect. It takes the place of a former version of
    /// the same object that had one.
    NotOurs(ObjectRef, NotOurs),
}

/// An object that stands for its name: with others it compares as their [`Object::reference`]s do.
#[derive(Clone, Debug)]
pub struct ByName(pub Arc<Object>);

impl Deref for ByName {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.0
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.identity().cmp(&other.0.identity())
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.identity().hash(state);
    }
}

/// Why an object has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// A service whose label `service.kubernetes.io/service-proxy-name` names another proxy.
    OtherProxy(String),
    /// A service with `clusterIP: None`: it has no address of its own.
    Headless,
    /// A service that is an alias in DNS.
    ExternalName,
    /// A slice of a headless service.
    HeadlessSlice,
    /// A slice of names instead of addresses.
    NamesSlice,
    /// A slice without the label that names its service.
    NoService,
}

impl Object {
    /// What it is called.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let (kind, namespace, name) = self.identity();
        ObjectRef::new(kind, namespace, name)
    }

    /// The same in parts, which are its own.
    pub(super) fn identity(&self) -> (Kind, &str, &str) {
        match self {
            Self::Service(Service { id, .. }) => (Kind::Service, &id.namespace, &id.name),
            Self::EndpointSlice(slice) => {
                (Kind::EndpointSlice, &slice.service.namespace, &slice.name)
            }
            Self::Endpoints(Endpoints { service, .. }) => {
                (Kind::Endpoints, &service.namespace, &service.name)
            }
            Self::Node(node) => (Kind::Node, "", &node.name),
            Self::ServiceCidr(service_cidr) => (Kind::ServiceCidr, "", &service_cidr.name),
            Self::Namespace(namespace) => (Kind::Namespace, "", &namespace.name),
            Self::Pod(Pod { id, .. }) => (Kind::Pod, &id.namespace, &id.name),
            Self::NetworkPolicy(NetworkPolicy { id, .. }) => {
                (Kind::NetworkPolicy, &id.namespace, &id.name)
            }
            Self::NotOurs(reference, _) => reference.identity(),
        }
    }
}

impl Object {
    /// Fields of it that are not in force, though the object is.
    #[must_use]
    pub fn ignored(&self) -> &[Invalid] {
        match self {
            Self::Service(service) => &service.ignored,
            Self::Namespace(namespace) => &namespace.ignored,
            Self::Pod(pod) => &pod.ignored,
            Self::NetworkPolicy(policy) => policy.problems(),
            Self::EndpointSlice(_)
            | Self::Endpoints(_)
            | Self::Node(_)
            | Self::ServiceCidr(_)
            | Self::NotOurs(..) => &[],
        }
    }
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherProxy(name) => write!(f, "served by the proxy {name:?}"),
            Self::Headless => f.write_str("headless: it has no cluster IP"),
            Self::ExternalName => f.write_str("an external name: it has no cluster IP"),
            Self::HeadlessSlice => f.write_str("endpoints of a headless service"),
            Self::NamesSlice => f.write_str("endpoints that are names, not addresses"),
            Self::NoService => f.write_str("endpoints of no service"),
        }
    }
}
