//! Pods, as far as policies speak of them.
//!
//! A pod that can be named is read: what is wrong in it is left out and reported
//! ([`Pod::ignored`]), because a pod that is not known is a pod that no policy isolates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::Timestamp;

use super::metadata::{Metadata, unusual_label};
use super::{Invalid, Kind, Labels, Object, ObjectRef, PodRef, Protocol};
use super::{address, port};

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub id: PodRef,
    /// `metadata.uid`: tells a pod from a later one of its name. Empty where a manifest has none.
    pub uid: String,
    /// When it was created; a manifest does not say.
    pub created: Option<Timestamp>,
    /// Its labels, as selectors see them.
    pub labels: Labels,
    /// The node that it was given to.
    pub node: Option<String>,
    /// `status.podIPs` in order, none twice. Whether they are its own says [`Pod::own_addrs`].
    pub addrs: Vec<IpAddr>,
    /// Is its network the node's? Then no policy selects it, and its addresses are the node's.
    pub is_host_network: bool,
    /// The named ports of its containers, in order.
    pub ports: Vec<ContainerPort>,
    /// Have all its containers ended for good (`Succeeded`, `Failed`)? Then another pod may have
    /// its addresses.
    pub is_completed: bool,
    /// Has its deletion been asked for? Until it completes or is gone, its addresses are its own.
    pub is_being_deleted: bool,
    /// What is wrong in it and left out; the rest of it is in force.
    pub ignored: Vec<Invalid>,
}

/// A port of a pod's container that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: NonZeroU16,
}

/// Whose each address is by the pods' objects.
#[must_use]
pub fn youngest_by_addr<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<IpAddr, &'a Pod> {
    youngest_of(pods.flat_map(|pod| pod.own_addrs().iter().map(move |addr| (*addr, pod))))
}

/// Whose each address is: of several that have one it is the one created last, since an address is
/// given to a pod when no other uses it.
#[must_use]
pub fn youngest_of<'a>(
    owned: impl Iterator<Item = (IpAddr, &'a Pod)>,
) -> BTreeMap<IpAddr, &'a Pod> {
    let mut by_addr: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
    for (addr, pod) in owned {
        let youngest = by_addr.entry(addr).or_insert(pod);
        if youngest.age() < pod.age() {
            *youngest = pod;
        }
    }
    by_addr
}

impl Pod {
    /// The addresses that are this pod's and nobody else's.
    #[must_use]
    pub fn own_addrs(&self) -> &[IpAddr] {
        if self.is_host_network || self.is_completed {
            &[]
        } else {
            &self.addrs
        }
    }

    /// What is younger is greater. An object without a time has not been through an API server
    /// yet; one that is being deleted makes room for another of the same second.
    pub fn age(&self) -> impl Ord + '_ {
        (
            self.created.is_none(),
            self.created,
            !self.is_being_deleted,
            &self.id,
        )
    }

    /// The port that a policy means by this name: the first of that name and protocol, as for the
    /// target port of a service.
    #[must_use]
    pub fn named_port(&self, name: &str, protocol: Protocol) -> Option<NonZeroU16> {
        self.ports
            .iter()
            .find(|port| port.name == name && port.protocol == protocol)
            .map(|port| port.port)
    }
}

impl TryFrom<api::Pod> for Object {
    type Error = Invalid;

    fn try_from(mut pod: api::Pod) -> Result<Self, Invalid> {
        let uid = pod.metadata.uid.take().unwrap_or_default();
        let is_being_deleted = pod.metadata.deletion_timestamp.is_some();
        let metadata = Metadata::read(Kind::Pod, pod.metadata)?;
        let ObjectRef {
            kind: _,
            namespace,
            name,
        } = metadata.reference;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let mut ignored: Vec<Invalid> = unusual_label(&metadata.labels).into_iter().collect();
        Ok(Self::Pod(Pod {
            id: PodRef { namespace, name },
            uid,
            created: metadata.created,
            labels: metadata.labels.into(),
            addrs: read_addrs(&status, &mut ignored),
            is_host_network: spec.host_network == Some(true),
            ports: read_ports(&spec, &mut ignored),
            node: spec.node_name.filter(|node| !node.is_empty()),
            is_completed: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            is_being_deleted,
            ignored,
        }))
    }
}

fn ignore(ignored: &mut Vec<Invalid>, invalid: Invalid) {
    let message = format!(
        "{}; it is left out, the rest of the pod is in force",
        invalid.message
    );
    ignored.push(Invalid { message, ..invalid });
}

fn read_addrs(status: &api::PodStatus, ignored: &mut Vec<Invalid>) -> Vec<IpAddr> {
    let mut addrs = Vec::new();
    let mut read =
        |text: &str, place: &dyn Fn(Invalid) -> Invalid| match address::parse_unicast(text) {
            Ok(addr) if addrs.contains(&addr) => {}
            Ok(addr) => addrs.push(addr),
            Err(message) => ignore(ignored, place(Invalid::new("", message))),
        };
    let several = status.pod_ips.as_deref().unwrap_or_default();
    for (index, pod_ip) in several.iter().enumerate() {
        read(&pod_ip.ip, &|invalid| {
            invalid.within("ip").at(index).within("status.podIPs")
        });
    }
    // The older field is the first of the list where there is one.
    match status.pod_ip.as_deref() {
        Some(text) if several.is_empty() && !text.is_empty() => {
            read(text, &|invalid| invalid.within("status.podIP"));
        }
        Some(_) | None => {}
    }
    addrs.shrink_to_fit();
    addrs
}

/// The named ports of everything that runs as long as the pod does: its containers, then its
/// sidecars (init containers that are restarted), as where a service's target port is looked up.
fn read_ports(spec: &api::PodSpec, ignored: &mut Vec<Invalid>) -> Vec<ContainerPort> {
    let containers = ("spec.containers", spec.containers.as_slice());
    let sidecars = (
        "spec.initContainers",
        spec.init_containers.as_deref().unwrap_or_default(),
    );
    let mut ports = Vec::new();
    for (field, containers) in [containers, sidecars] {
        for (index, container) in containers.iter().enumerate() {
            let runs_on =
                field == "spec.containers" || container.restart_policy.as_deref() == Some("Always");
            if !runs_on {
                continue;
            }
            for (number, port) in container.ports.iter().flatten().enumerate() {
                match read_port(port) {
                    Ok(port) => ports.extend(port),
                    Err(invalid) => ignore(
                        ignored,
                        invalid.at(number).within("ports").at(index).within(field),
                    ),
                }
            }
        }
    }
    ports.shrink_to_fit();
    ports
}

/// A port without a name only documents: nobody can ask for it.
fn read_port(container_port: &api::ContainerPort) -> Result<Option<ContainerPort>, Invalid> {
    let Some(name) = container_port.name.clone().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    Ok(Some(ContainerPort {
        name,
        protocol: Protocol::parse(container_port.protocol.as_deref())
            .map_err(|message| Invalid::new("protocol", message))?,
        port: port::parse_number(container_port.container_port)
            .map_err(|message| Invalid::new("containerPort", message))?,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, status: Value) -> Pod {
        let api: api::Pod = serde_json::from_value(json!({
            "metadata": {"name": "cart-1", "namespace": "shop", "uid": "u-1",
                         "labels": {"app": "cart"}},
            "spec": spec, "status": status,
        }))
        .unwrap();
        match Object::try_from(api).unwrap() {
            Object::Pod(pod) => pod,
            other => panic!("{other:?}"),
        }
    }

    fn ignored(pod: &Pod) -> Vec<String> {
        pod.ignored.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_its_addresses_are_read() {
        let pod = read(
            json!({"nodeName": "worker-0", "containers": []}),
            json!({"phase": "Running", "podIP": "10.200.1.2",
                   "podIPs": [{"ip": "10.200.1.2"}, {"ip": "fd00:10:200:1::2"},
                              {"ip": "10.200.1.2"}]}),
        );
        assert_eq!(pod.id.to_string(), "shop/cart-1");
        assert_eq!(
            (pod.uid.as_str(), pod.node.as_deref()),
            ("u-1", Some("worker-0"))
        );
        assert_eq!(pod.labels.get("app"), Some("cart"));
        let expected: [IpAddr; 2] = [
            "10.200.1.2".parse().unwrap(),
            "fd00:10:200:1::2".parse().unwrap(),
        ];
        assert_eq!(pod.own_addrs(), expected);
        assert_eq!(ignored(&pod), [""; 0]);
        let older = read(json!({"containers": []}), json!({"podIP": "10.200.1.2"}));
        assert_eq!(older.own_addrs(), &expected[..1]);
        let starting = read(
            json!({"containers": []}),
            json!({"podIP": "", "podIPs": []}),
        );
        assert!(starting.own_addrs().is_empty() && starting.ignored.is_empty());
    }

    #[test]
    fn an_address_that_is_the_nodes_or_was_given_back_is_not_its_own() {
        let addrs = json!([{"ip": "10.200.1.2"}]);
        for (spec, phase, is_own) in [
            (json!({"containers": []}), "Running", true),
            (json!({"containers": []}), "Pending", true),
            (json!({"containers": []}), "Unknown", true),
            (json!({"containers": []}), "Succeeded", false),
            (json!({"containers": []}), "Failed", false),
            (
                json!({"containers": [], "hostNetwork": true}),
                "Running",
                false,
            ),
        ] {
            let pod = read(spec, json!({"phase": phase, "podIPs": addrs}));
            assert_eq!(!pod.own_addrs().is_empty(), is_own, "{pod:?}");
            assert_eq!(pod.addrs.len(), 1);
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_keeps_its_address() {
        let api: api::Pod = serde_json::from_value(json!({
            "metadata": {"name": "cart-1", "deletionTimestamp": "2026-11-21T07:00:00Z"},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.200.1.2"}]},
        }))
        .unwrap();
        let Ok(Object::Pod(pod)) = api.try_into() else {
            panic!("a pod")
        };
        assert!(pod.is_being_deleted && pod.own_addrs().len() == 1);
        assert_eq!(pod.id.namespace, "default");
    }

    #[test]
    fn a_named_port_is_the_first_of_its_name_and_protocol() {
        let pod = read(
            json!({
                "initContainers": [
                    {"name": "setup", "ports": [{"name": "http", "containerPort": 1}]},
                    {"name": "proxy", "restartPolicy": "Always",
                     "ports": [{"name": "admin", "containerPort": 15000}]},
                ],
                "containers": [
                    {"name": "a", "ports": [
                        {"containerPort": 7}, {"name": "http", "containerPort": 8080},
                        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    ]},
                    {"name": "b", "ports": [{"name": "http", "containerPort": 9090}]},
                ],
            }),
            json!({}),
        );
        for (name, protocol, expected) in [
            ("http", Protocol::Tcp, Some(8080)),
            ("http", Protocol::Udp, None),
            ("dns", Protocol::Udp, Some(53)),
            ("dns", Protocol::Tcp, None),
            ("admin", Protocol::Tcp, Some(15000)),
            ("", Protocol::Tcp, None),
        ] {
            let port = pod.named_port(name, protocol).map(NonZeroU16::get);
            assert_eq!(port, expected, "{name}/{protocol}");
        }
    }

    #[test]
    fn what_is_wrong_is_left_out_and_named() {
        let pod = read(
            json!({"containers": [{"name": "a", "ports": [
                {"name": "http", "containerPort": 80, "protocol": "ICMP"},
                {"name": "admin", "containerPort": 0},
                {"name": "fine", "containerPort": 81},
            ]}]}),
            json!({"podIPs": [{"ip": "10.200.1.2"}, {"ip": "127.0.0.1"}, {"ip": ""}]}),
        );
        let rest = "it is left out, the rest of the pod is in force";
        assert_eq!(
            ignored(&pod),
            [
                format!("status.podIPs[1].ip: 127.0.0.1 is a loopback address; {rest}"),
                format!("status.podIPs[2].ip: \"\" is not an IP address; {rest}"),
                format!(
                    "spec.containers[0].ports[0].protocol: \"ICMP\" is not TCP, UDP or SCTP; {rest}"
                ),
                format!(
                    "spec.containers[0].ports[1].containerPort: 0 is not a port (1-65535); {rest}"
                ),
            ]
        );
        assert_eq!((pod.addrs.len(), pod.ports.len()), (1, 1));
    }

    #[test]
    fn ten_thousand_labels_are_kept_and_a_strange_one_is_named() {
        let mut labels: BTreeMap<String, String> = (0..10_000)
            .map(|n| (format!("key-{n}"), String::new()))
            .collect();
        labels.insert(String::new(), "x".to_owned());
        let api: api::Pod =
            serde_json::from_value(json!({"metadata": {"name": "a", "labels": labels}})).unwrap();
        let Ok(Object::Pod(pod)) = api.try_into() else {
            panic!("a pod")
        };
        assert_eq!(pod.labels.iter().count(), 10_001);
        assert_eq!(
            ignored(&pod),
            ["metadata.labels: \"\" is not a label's key; no selector can ask for it"]
        );
    }
}
