//! Which services load balancers ask this node about, and how many endpoints it has for each.
//!
//! The count is kube-proxy's (`EndpointsMap.LocalReadyEndpoints`): distinct addresses over all
//! ports and both families. An endpoint that is about to go does not count though it may still
//! serve, so that load balancers look for other nodes in time.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use super::choice::rank;
use super::sets::groups_of;
use crate::model::{Cluster, Endpoint, EndpointGroup, ServiceRef};

/// What a load balancer learns at a service's `healthCheckNodePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: NonZeroU16,
    /// Endpoints on this node that are ready.
    pub local_endpoints: usize,
}

/// The health check of each service that has one.
pub(super) fn health_checks(cluster: &Cluster, node: &str) -> BTreeMap<ServiceRef, HealthCheck> {
    let asked: BTreeMap<&ServiceRef, NonZeroU16> = cluster
        .services()
        .filter_map(|service| Some((&service.id, service.health_check_node_port?)))
        .collect();
    if asked.is_empty() {
        return BTreeMap::new();
    }
    let groups = groups_of(cluster, |service| asked.contains_key(service));
    asked
        .into_iter()
        .map(|(service, port)| {
            let groups = groups.get(service).map_or(&[][..], Vec::as_slice);
            let check = HealthCheck {
                port,
                local_endpoints: local_endpoints(groups, node),
            };
            (service.clone(), check)
        })
        .collect()
}

pub(super) fn local_endpoints(groups: &[&EndpointGroup], node: &str) -> usize {
    let is_local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(node);
    // Of the many endpoints of a service few are here.
    let here: BTreeSet<_> = groups
        .iter()
        .flat_map(|group| &group.endpoints)
        .filter(|endpoint| is_local(endpoint))
        .map(|endpoint| endpoint.addr)
        .collect();
    // What a slice says of an endpoint without ports, nobody can use. The same endpoint in two
    // slices is one of them, as where backends are chosen.
    let mut believed: BTreeMap<_, &Endpoint> = BTreeMap::new();
    for group in groups {
        for port in &group.ports {
            let candidates = group.endpoints.iter();
            for endpoint in candidates.filter(|endpoint| here.contains(&endpoint.addr)) {
                believed
                    .entry((&port.name, port.protocol, port.port, endpoint.addr))
                    .and_modify(|known| {
                        if rank(endpoint) > rank(known) {
                            *known = endpoint;
                        }
                    })
                    .or_insert(endpoint);
            }
        }
    }
    let addrs: BTreeSet<_> = believed
        .values()
        .filter(|endpoint| endpoint.is_ready && is_local(endpoint))
        .map(|endpoint| endpoint.addr)
        .collect();
    addrs.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::testing::{endpoint, service, service_ref};
    use crate::model::{EndpointPort, EndpointSlice, Family, Object, Protocol, Service};

    const PORT: NonZeroU16 = NonZeroU16::new(32_000).expect("not zero");

    fn load_balancer() -> Object {
        Object::Service(Service {
            health_check_node_port: Some(PORT),
            ..service("web", &["10.32.0.140"], &[("", 80, Protocol::Tcp)])
        })
    }

    /// On this node and ready, unless changed.
    fn ready(addr: &str) -> Endpoint {
        Endpoint {
            node: Some("worker-0".to_owned()),
            is_ready: true,
            is_serving: true,
            ..endpoint(addr.parse().unwrap())
        }
    }

    fn slice(name: &str, ports: &[(&str, u16)], endpoints: Vec<Endpoint>) -> Object {
        let family = endpoints
            .first()
            .map_or(Family::V4, |endpoint| Family::of(&endpoint.addr));
        Object::EndpointSlice(EndpointSlice {
            name: name.to_owned(),
            triggered: None,
            service: service_ref("web"),
            group: EndpointGroup {
                family,
                ports: ports
                    .iter()
                    .map(|&(name, port)| EndpointPort {
                        name: name.to_owned(),
                        protocol: Protocol::Tcp,
                        port: NonZeroU16::new(port).unwrap(),
                    })
                    .collect(),
                endpoints,
            },
        })
    }

    fn count(slices: impl IntoIterator<Item = Object>) -> usize {
        let cluster = Cluster::from_objects([load_balancer()].into_iter().chain(slices));
        let checks = health_checks(&cluster, "worker-0");
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[&service_ref("web")].port, PORT);
        checks[&service_ref("web")].local_endpoints
    }

    #[test]
    fn a_service_without_a_port_to_ask_at_is_not_asked_about() {
        let web = service("web", &["10.32.0.140"], &[("", 80, Protocol::Tcp)]);
        let cluster = Cluster::from_objects([
            Object::Service(web),
            slice("web-1", &[("", 8080)], vec![ready("10.200.0.2")]),
        ]);
        assert_eq!(health_checks(&cluster, "worker-0"), BTreeMap::new());
    }

    #[test]
    fn an_address_counts_once_whatever_its_ports_and_families_count_together() {
        assert_eq!(count([]), 0);
        let ports = [("http", 8080), ("https", 8443)];
        let v4 = slice(
            "web-1",
            &ports,
            vec![ready("10.200.0.2"), ready("10.200.0.3")],
        );
        assert_eq!(count([v4.clone()]), 2);
        let other_port = slice("web-2", &[("metrics", 9090)], vec![ready("10.200.0.2")]);
        assert_eq!(count([v4.clone(), other_port]), 2);
        let v6 = slice("web-3", &ports, vec![ready("fd00:10:200::2")]);
        assert_eq!(count([v4, v6]), 3);
    }

    #[test]
    fn only_ready_endpoints_of_this_node_that_have_ports_count() {
        let elsewhere = Endpoint {
            node: Some("worker-1".to_owned()),
            ..ready("10.200.128.1")
        };
        let nowhere = Endpoint {
            node: None,
            ..ready("192.0.2.1")
        };
        let terminating = Endpoint {
            is_ready: false,
            is_terminating: true,
            ..ready("10.200.0.4")
        };
        let endpoints = vec![ready("10.200.0.2"), elsewhere, nowhere, terminating];
        assert_eq!(count([slice("web-1", &[("", 8080)], endpoints.clone())]), 1);
        assert_eq!(count([slice("web-1", &[], endpoints)]), 0);
    }

    #[test]
    fn of_two_entries_for_an_endpoint_the_one_that_stays_is_believed() {
        let unready = Endpoint {
            is_ready: false,
            ..ready("10.200.0.2")
        };
        let leaving = Endpoint {
            is_terminating: true,
            ..ready("10.200.0.2")
        };
        let slices = [unready, leaving].map(|endpoint| vec![endpoint]);
        let [first, second] = slices.map(|endpoints| (endpoints, [("", 8080)]));
        for slices in [[&first, &second], [&second, &first]] {
            let slices = ["web-1", "web-2"]
                .into_iter()
                .zip(slices)
                .map(|(name, (endpoints, ports))| slice(name, ports, endpoints.clone()));
            assert_eq!(count(slices), 0);
        }
    }
}
