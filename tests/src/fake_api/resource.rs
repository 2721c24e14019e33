//! The kinds that the server holds, and the paths by which they are asked for.

use super::status::Status;

/// A kind of the API, by the name that paths have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `v1` Service
    Services,
    /// `v1` Endpoints
    Endpoints,
    /// `v1` Pod
    Pods,
    /// `v1` Namespace
    Namespaces,
    /// `v1` Node
    Nodes,
    /// `discovery.k8s.io/v1` EndpointSlice
    EndpointSlices,
    /// `networking.k8s.io/v1` NetworkPolicy
    NetworkPolicies,
    /// `networking.k8s.io/v1` ServiceCIDR
    ServiceCidrs,
    /// `v1` Event
    CoreEvents,
    /// `events.k8s.io/v1` Event
    Events,
}

impl Resource {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Services,
        Self::Endpoints,
        Self::Pods,
        Self::Namespaces,
        Self::Nodes,
        Self::EndpointSlices,
        Self::NetworkPolicies,
        Self::ServiceCidrs,
        Self::CoreEvents,
        Self::Events,
    ];

    /// Its name in paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::EndpointSlices => "endpointslices",
            Self::NetworkPolicies => "networkpolicies",
            Self::ServiceCidrs => "servicecidrs",
            Self::CoreEvents | Self::Events => "events",
        }
    }

    /// Its `kind`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::Endpoints => "Endpoints",
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::EndpointSlices => "EndpointSlice",
            Self::NetworkPolicies => "NetworkPolicy",
            Self::ServiceCidrs => "ServiceCIDR",
            Self::CoreEvents | Self::Events => "Event",
        }
    }

    /// Its group; empty for the core.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Services
            | Self::Endpoints
            | Self::Pods
            | Self::Namespaces
            | Self::Nodes
            | Self::CoreEvents => "",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::NetworkPolicies | Self::ServiceCidrs => "networking.k8s.io",
            Self::Events => "events.k8s.io",
        }
    }

    /// Its `apiVersion`.
    #[must_use]
    pub fn api_version(self) -> String {
        match self.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// Does an object of it live in a namespace?
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::Services
            | Self::Endpoints
            | Self::Pods
            | Self::EndpointSlices
            | Self::NetworkPolicies
            | Self::CoreEvents
            | Self::Events => true,
            Self::Namespaces | Self::Nodes | Self::ServiceCidrs => false,
        }
    }

    /// The one that an object of this `apiVersion` and `kind` is of.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|it| it.kind() == kind && it.api_version() == api_version)
    }

    /// As messages name it: `networkpolicies.networking.k8s.io`.
    #[must_use]
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}

/// What a path is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The kind.
    pub resource: Resource,
    /// The namespace, where the path names one.
    pub namespace: Option<String>,
    /// The object, where the path names one.
    pub name: Option<String>,
}

impl Target {
    /// Reads `/api/v1/namespaces/shop/pods/cart-1` and the like.
    ///
    /// # Errors
    /// The server has nothing of that name.
    pub fn parse(path: &str) -> Result<Self, Status> {
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let group = match parts.as_slice() {
            ["api", "v1", ..] => "",
            ["apis", group, "v1", ..] => group,
            _ => return Err(Status::no_such_path()),
        };
        parts.drain(..if group.is_empty() { 2 } else { 3 });
        let (namespace, plural, name) = match parts.as_slice() {
            ["namespaces"] => (None, "namespaces", None),
            ["namespaces", name] => (None, "namespaces", Some(*name)),
            ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
            ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
            [plural] => (None, *plural, None),
            [plural, name] => (None, *plural, Some(*name)),
            _ => return Err(Status::no_such_path()),
        };
        let resource = Resource::ALL
            .into_iter()
            .find(|it| it.group() == group && it.plural() == plural)
            .filter(|it| it.is_namespaced() || namespace.is_none())
            .filter(|it| !it.is_namespaced() || namespace.is_some() || name.is_none())
            .ok_or_else(Status::no_such_path)?;
        Ok(Self {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(resource: Resource, namespace: Option<&str>, name: Option<&str>) -> Target {
        Target {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn a_path_names_a_kind_a_namespace_and_an_object() {
        let all = [
            ("/api/v1/pods", target(Resource::Pods, None, None)),
            (
                "/api/v1/namespaces/shop",
                target(Resource::Namespaces, None, Some("shop")),
            ),
            (
                "/api/v1/namespaces/shop/pods/cart-1",
                target(Resource::Pods, Some("shop"), Some("cart-1")),
            ),
            (
                "/apis/events.k8s.io/v1/namespaces/default/events",
                target(Resource::Events, Some("default"), None),
            ),
            (
                "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
                target(Resource::ServiceCidrs, None, Some("kubernetes")),
            ),
        ];
        for (path, expected) in all {
            assert_eq!(Target::parse(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in [
            "/",
            "/api/v2/pods",
            "/api/v1/gateways",
            "/apis/discovery.k8s.io/v1/pods",
            "/api/v1/namespaces/shop/nodes",
            "/api/v1/pods/cart-1",
            "/apis/networking.k8s.io/v1beta1/servicecidrs",
        ] {
            assert_eq!(Target::parse(path), Err(Status::no_such_path()), "{path}");
        }
    }
}
