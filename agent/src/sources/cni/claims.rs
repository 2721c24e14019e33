//! Which interface each record is of: pure.
//!
//! The pod's network namespace decides, because its file's name is never given twice; a record
//! that outlived its pod claims nothing. Among several interfaces of a pod it is the one that the
//! record names, else the one with its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Record;
use crate::model::PodRef;
use crate::sources::node::Interface;

/// What records say of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The pod that it was made for.
    pub pod: PodRef,
    /// The pod's UID; empty where it is not told.
    pub uid: String,
    /// The addresses that the pod was given there.
    pub addrs: BTreeSet<IpAddr>,
}

/// The claims to pods' interfaces, by index. `records`: the older ones first; where two claim an
/// interface for different pods, the later one is believed.
#[must_use]
pub fn claims(interfaces: &BTreeMap<u32, Interface>, records: &[Record]) -> BTreeMap<u32, Claim> {
    let mut by_namespace: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    let mut by_name: BTreeMap<&str, u32> = BTreeMap::new();
    for (index, interface) in interfaces {
        for name in &interface.namespaces {
            by_namespace.entry(name).or_default().push(*index);
        }
        by_name.insert(&interface.name, *index);
    }
    let mut claims: BTreeMap<u32, Claim> = BTreeMap::new();
    for record in records {
        let candidates: Vec<u32> = match namespace(record) {
            Some(namespace) => by_namespace.get(namespace).cloned().unwrap_or_default(),
            None => {
                let names = record.outside.iter();
                names
                    .filter_map(|name| by_name.get(name.as_str()).copied())
                    .collect()
            }
        };
        for (index, addrs) in chosen(record, &candidates, interfaces) {
            let claim = Claim {
                pod: record.pod.clone(),
                uid: record.uid.clone(),
                addrs: addrs.clone(),
            };
            match claims.get_mut(&index) {
                Some(known) if known.pod == claim.pod && known.uid == claim.uid => {
                    known.addrs.extend(claim.addrs);
                }
                Some(_) | None => {
                    claims.insert(index, claim);
                }
            }
        }
    }
    claims
}

/// The name of the file of the pod's network namespace; `None` where it has none that lasts (it
/// is named by a process, or the record does not say).
fn namespace(record: &Record) -> Option<&str> {
    let path = record.sandbox.as_deref()?;
    if path.starts_with("/proc/") {
        return None;
    }
    path.rsplit('/').next().filter(|name| !name.is_empty())
}

/// The record's interfaces among the candidates, and the addresses that it adds to each.
fn chosen<'a>(
    record: &'a Record,
    candidates: &[u32],
    interfaces: &BTreeMap<u32, Interface>,
) -> Vec<(u32, &'a BTreeSet<IpAddr>)> {
    const NONE: &BTreeSet<IpAddr> = &BTreeSet::new();
    let that = |accept: &dyn Fn(&Interface) -> bool| -> Vec<(u32, &'a BTreeSet<IpAddr>)> {
        candidates
            .iter()
            .filter(|index| interfaces.get(index).is_some_and(accept))
            .map(|index| (*index, &record.addrs))
            .collect()
    };
    let named = that(&|interface| record.outside.contains(&interface.name));
    if !named.is_empty() {
        return named;
    }
    let addressed = that(&|interface| !interface.addrs.is_disjoint(&record.addrs));
    if !addressed.is_empty() {
        return addressed;
    }
    match candidates {
        // An interface with addresses of its own got others than these: the record is of a
        // device of the pod that has no end on the node. The pod it tells all the same.
        [only] if interfaces.get(only).is_some_and(|it| it.addrs.is_empty()) => {
            vec![(*only, &record.addrs)]
        }
        [only] => vec![(*only, NONE)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addrs: &[&str]) -> BTreeSet<IpAddr> {
        addrs.iter().map(|addr| addr.parse().unwrap()).collect()
    }

    fn interface(name: &str, namespace: &str, addrs: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            namespaces: namespace.split(' ').map(ToOwned::to_owned).collect(),
            netns: 1,
            addrs: set(addrs),
            is_direct: true,
        }
    }

    fn record(pod: &str, sandbox: &str, outside: &[&str], addrs: &[&str]) -> Record {
        Record {
            pod: PodRef {
                namespace: "shop".to_owned(),
                name: pod.to_owned(),
            },
            uid: format!("uid-{pod}"),
            sandbox: (!sandbox.is_empty()).then(|| sandbox.to_owned()),
            outside: outside.iter().map(ToString::to_string).collect(),
            addrs: set(addrs),
        }
    }

    /// Index, pod and addresses of each claim.
    fn found(interfaces: &[(u32, Interface)], records: &[Record]) -> Vec<(u32, String, String)> {
        let interfaces = interfaces.iter().cloned().collect();
        claims(&interfaces, records)
            .into_iter()
            .map(|(index, claim)| {
                assert_eq!(claim.uid, format!("uid-{}", claim.pod.name));
                let addrs: Vec<_> = claim.addrs.iter().map(ToString::to_string).collect();
                (index, claim.pod.name, addrs.join(" "))
            })
            .collect()
    }

    fn claim(index: u32, pod: &str, addrs: &str) -> (u32, String, String) {
        (index, pod.to_owned(), addrs.to_owned())
    }

    #[test]
    fn the_namespace_decides_wherever_it_is_mounted_and_whatever_else_it_is_called() {
        let interfaces = [
            (5, interface("veth-a", "a-look-inside cni-a", &[])),
            (7, interface("veth-b", "cni-b", &["10.200.0.8"])),
        ];
        let a = record(
            "a",
            "/var/run/netns/cni-a",
            &["cni0", "veth-a"],
            &["10.200.0.7"],
        );
        // One that names no end on the node.
        let b = record("b", "/run/netns/cni-b", &[], &["10.200.0.8"]);
        assert_eq!(
            found(&interfaces, &[a, b]),
            [claim(5, "a", "10.200.0.7"), claim(7, "b", "10.200.0.8")]
        );
    }

    #[test]
    fn a_record_that_outlived_its_pod_claims_nothing() {
        let interfaces = [(5, interface("veth-a", "cni-new", &["10.200.0.7"]))];
        let old = record("old", "/run/netns/cni-old", &["veth-a"], &["10.200.0.7"]);
        assert_eq!(found(&interfaces, std::slice::from_ref(&old)), []);
        // Without a lasting name of the namespace, the interface's has to do; later ones win.
        let first = record("first", "/proc/7/ns/net", &["veth-a"], &["10.200.0.7"]);
        let second = record("second", "", &["veth-a"], &["10.200.0.9"]);
        assert_eq!(
            found(&interfaces, &[old, first, second]),
            [claim(5, "second", "10.200.0.9")]
        );
    }

    #[test]
    fn each_of_several_interfaces_of_a_pod_has_its_record() {
        let interfaces = [
            (5, interface("veth-a", "cni-a", &["10.200.0.7"])),
            (6, interface("veth-b", "cni-a", &["10.9.0.7"])),
        ];
        let eth0 = record("a", "/run/netns/cni-a", &["veth-a"], &["10.200.0.7"]);
        let net1 = record("a", "/run/netns/cni-a", &[], &["10.9.0.7"]);
        let unclear = record("a", "/run/netns/cni-a", &[], &["10.8.0.7"]);
        assert_eq!(
            found(&interfaces, &[eth0, net1, unclear]),
            [claim(5, "a", "10.200.0.7"), claim(6, "a", "10.9.0.7")]
        );
    }

    #[test]
    fn a_device_without_an_end_on_the_node_lends_its_addresses_to_no_other() {
        let interfaces = [(5, interface("veth-a", "cni-a", &["10.200.0.7"]))];
        let eth0 = record("a", "/run/netns/cni-a", &["veth-a"], &["10.200.0.7"]);
        let macvlan = record("a", "/run/netns/cni-a", &[], &["203.0.113.7"]);
        assert_eq!(
            found(&interfaces, &[eth0, macvlan.clone()]),
            [claim(5, "a", "10.200.0.7")]
        );
        assert_eq!(
            found(&interfaces, std::slice::from_ref(&macvlan)),
            [claim(5, "a", "")]
        );
        // A virtual machine's address is at no interface of the pod.
        let interfaces = [(5, interface("veth-a", "cni-a", &[]))];
        assert_eq!(
            found(&interfaces, &[macvlan]),
            [claim(5, "a", "203.0.113.7")]
        );
    }
}
