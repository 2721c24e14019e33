//! Nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1 as api;

use super::address;
use super::metadata::Metadata;
use super::{Invalid, Kind, Object};

/// Names the zone that a node is in.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses of type `InternalIP`, in order.
    pub addrs: Vec<IpAddr>,
    /// Its labels: the zone is one.
    pub labels: BTreeMap<String, String>,
    /// The keys of its taints.
    pub taints: BTreeSet<String>,
    /// Has its deletion been asked for?
    pub is_being_deleted: bool,
}

impl Node {
    /// The zone that it is in, where its labels say so.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        let zone = self.labels.get(ZONE_LABEL)?;
        Some(zone.as_str()).filter(|zone| !zone.is_empty())
    }

    /// Its first IPv4 address.
    #[must_use]
    pub fn addr_v4(&self) -> Option<Ipv4Addr> {
        self.addrs.iter().find_map(|addr| match addr {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        })
    }

    /// Its first IPv6 address.
    #[must_use]
    pub fn addr_v6(&self) -> Option<Ipv6Addr> {
        self.addrs.iter().find_map(|addr| match addr {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(*v6),
        })
    }
}

impl TryFrom<api::Node> for Object {
    type Error = Invalid;

    fn try_from(node: api::Node) -> Result<Self, Invalid> {
        let is_being_deleted = node.metadata.deletion_timestamp.is_some();
        let metadata = Metadata::read(Kind::Node, node.metadata)?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let addresses = node.status.and_then(|status| status.addresses);
        let addrs = addresses
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .filter(|(_, address)| address.type_ == "InternalIP")
            .map(|(index, address)| {
                address::parse_any(&address.address).map_err(|message| {
                    Invalid::new("address", message)
                        .at(index)
                        .within("status.addresses")
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self::Node(Node {
            name: metadata.reference.name,
            addrs,
            labels: metadata.labels,
            taints: taints.into_iter().map(|taint| taint.key).collect(),
            is_being_deleted,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(addresses: serde_json::Value) -> Result<Object, Invalid> {
        let node: api::Node = serde_json::from_value(json!({
            "metadata": {"name": "worker-0", "namespace": "ignored", "labels": {"a": "b"}},
            "status": {"addresses": addresses},
        }))
        .unwrap();
        node.try_into()
    }

    #[test]
    fn only_internal_addresses_count() {
        let object = read(json!([
            {"type": "Hostname", "address": "worker-0"},
            {"type": "ExternalIP", "address": "203.0.113.9"},
            {"type": "InternalIP", "address": "10.240.0.11"},
            {"type": "InternalIP", "address": "fd00:10:240::11"},
        ]))
        .unwrap();
        assert_eq!(object.reference().to_string(), "Node worker-0");
        let Object::Node(node) = object else {
            panic!("{object:?}")
        };
        assert_eq!(node.addr_v4(), Some(Ipv4Addr::new(10, 240, 0, 11)));
        assert_eq!(node.addr_v6(), Some("fd00:10:240::11".parse().unwrap()));
        assert_eq!(node.labels["a"], "b");
    }

    #[test]
    fn the_zone_is_a_label() {
        let mut node = Node {
            name: "worker-0".to_owned(),
            ..Node::default()
        };
        assert_eq!(node.zone(), None);
        for (value, zone) in [("a", Some("a")), ("", None)] {
            node.labels.insert(ZONE_LABEL.to_owned(), value.to_owned());
            assert_eq!(node.zone(), zone);
        }
    }

    #[test]
    fn a_node_that_is_about_to_go_says_so() {
        let node: api::Node = serde_json::from_value(json!({
            "metadata": {"name": "worker-0", "deletionTimestamp": "2026-11-21T07:00:00Z"},
            "spec": {"taints": [
                {"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            ]},
        }))
        .unwrap();
        let Ok(Object::Node(node)) = node.try_into() else {
            panic!("a node")
        };
        assert!(node.is_being_deleted);
        let taints: Vec<_> = node.taints.iter().map(String::as_str).collect();
        assert_eq!(
            taints,
            [
                "ToBeDeletedByClusterAutoscaler",
                "node.kubernetes.io/not-ready"
            ]
        );
    }

    #[test]
    fn an_address_that_is_none_names_its_field() {
        let invalid = read(json!([
            {"type": "InternalIP", "address": "10.240.0.11"},
            {"type": "InternalIP", "address": "worker"},
        ]))
        .unwrap_err();
        assert_eq!(
            invalid.to_string(),
            "status.addresses[1].address: \"worker\" is not an IP address"
        );
    }
}
