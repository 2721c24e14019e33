//! What is asked of the API server: which kinds, which objects of them.
//!
//! The role in `deploy` grants exactly this.

use crate::model::Kind;

/// A kind, as the API server serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// Its group; empty for the core's.
    pub group: &'static str,
    /// Its name in paths and roles.
    pub plural: &'static str,
    /// Which objects of it.
    pub labels: Option<&'static str>,
    /// Is it asked for the object with this node's name alone?
    pub is_own_node: bool,
    /// What becomes of Weir where it cannot be read.
    pub need: Need,
}

/// What becomes of Weir where a kind cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It waits: without this it could only do harm.
    Needed,
    /// It does what can be done without.
    Optional,
    /// It is asked for only where this other kind is not served.
    InsteadOf(Kind),
}

/// What is done with each of them.
pub const VERBS: [&str; 2] = ["list", "watch"];

/// All of them.
///
/// Services and slices are chosen by the labels that kube-proxy chooses them by. Of nodes only the
/// own one is asked for: nothing in the tables comes from another node's object (pods of the host
/// network carry their node's addresses themselves), and each node tells of itself every few
/// minutes, to everyone who watches all.
pub const RESOURCES: [Resource; 8] = [
    Resource {
        labels: Some("!service.kubernetes.io/service-proxy-name"),
        need: Need::Needed,
        ..resource(Kind::Service, "", "services")
    },
    Resource {
        labels: Some("!service.kubernetes.io/headless"),
        need: Need::Needed,
        ..resource(Kind::EndpointSlice, "discovery.k8s.io", "endpointslices")
    },
    Resource {
        labels: Some("!service.kubernetes.io/headless"),
        need: Need::InsteadOf(Kind::EndpointSlice),
        ..resource(Kind::Endpoints, "", "endpoints")
    },
    Resource {
        is_own_node: true,
        ..resource(Kind::Node, "", "nodes")
    },
    resource(Kind::ServiceCidr, "networking.k8s.io", "servicecidrs"),
    resource(Kind::Namespace, "", "namespaces"),
    resource(Kind::Pod, "", "pods"),
    resource(Kind::NetworkPolicy, "networking.k8s.io", "networkpolicies"),
];

const fn resource(kind: Kind, group: &'static str, plural: &'static str) -> Resource {
    Resource {
        kind,
        group,
        plural,
        labels: None,
        is_own_node: false,
        need: Need::Optional,
    }
}

impl Resource {
    /// How a kind is served.
    #[must_use]
    pub fn of(kind: Kind) -> &'static Self {
        RESOURCES
            .iter()
            .find(|resource| resource.kind == kind)
            .expect("every kind that Weir reads is asked for")
    }

    /// The path under which all objects of it are.
    #[must_use]
    pub fn path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/v1/{}", self.plural)
        } else {
            format!("/apis/{}/v1/{}", self.group, self.plural)
        }
    }

    /// As roles name it: `networkpolicies.networking.k8s.io`.
    #[must_use]
    pub fn role_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_asked_for_where_the_api_serves_it() {
        for kind in Kind::ALL {
            let resource = Resource::of(kind);
            let version = kind.api_version();
            let root = if version.contains('/') { "apis" } else { "api" };
            let path = format!("/{root}/{version}/{}", resource.plural);
            assert_eq!(resource.path(), path, "{kind}");
            let role = resource.role_name();
            assert!(role.starts_with(resource.plural), "{role}");
        }
        assert_eq!(RESOURCES.len(), Kind::ALL.len());
    }
}
