//! Random clusters: namespaces, nodes, pods, and the policies of [`super::rules`].

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use weir_tests::reference::policy::world::{
    Container, ContainerPort, Labels, Namespace, NetworkPolicy, Node, Phase, Pod, Protocol, World,
};

use super::plan::{
    KEYS, NAMESPACES, NODE_ADDRESSES, NODES, POD_ADDRESSES, PORT_NAMES, PORTS, VALUES, addr,
};
use super::rules::policy;

/// Any cluster.
pub fn world() -> impl Strategy<Value = World> {
    (namespaces(), vec(pod(), 3..9), policies()).prop_map(|(namespaces, pods, policies)| {
        let pods = pods.into_iter().enumerate();
        World {
            namespaces,
            nodes: nodes(),
            pods: pods
                .map(|(index, pod)| Pod {
                    name: format!("pod-{index}"),
                    ..pod
                })
                .collect(),
            policies,
        }
    })
}

/// Both nodes, with an address of each family.
pub fn nodes() -> Vec<Node> {
    let nodes = NODES.iter().zip(NODE_ADDRESSES);
    nodes
        .map(|(name, addresses)| Node {
            name: (*name).to_owned(),
            addresses: addresses.map(addr).to_vec(),
        })
        .collect()
}

/// Any labels.
pub fn labels() -> impl Strategy<Value = Labels> {
    vec(weighted(0.6, select(&VALUES)), KEYS.len()).prop_map(|values| {
        let pairs = KEYS.iter().zip(values);
        pairs
            .filter_map(|(key, value)| Some(((*key).to_owned(), value?.to_owned())))
            .collect()
    })
}

/// Nearly always all of them.
fn namespaces() -> impl Strategy<Value = Vec<Namespace>> {
    let all = NAMESPACES.to_vec();
    let known = prop_oneof![
        8 => Just(all.clone()),
        1 => subsequence(all.clone(), 0..=all.len()),
    ];
    (known, vec(labels(), NAMESPACES.len())).prop_map(|(known, labels)| {
        let all = known.into_iter().zip(labels);
        all.map(|(name, mut labels)| {
            // As the API server adds it.
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            Namespace {
                name: name.to_owned(),
                labels,
            }
        })
        .collect()
    })
}

/// One of few addresses, so that some pods share one.
fn pod() -> impl Strategy<Value = Pod> {
    let phase = prop_oneof![
        10 => Just(Phase::Running),
        2 => Just(Phase::Pending),
        1 => Just(Phase::Succeeded),
        1 => Just(Phase::Failed),
    ];
    let families = prop_oneof![
        6 => Just(vec![0_usize, 1]),
        1 => Just(vec![1, 0]),
        2 => Just(vec![0]),
        1 => Just(vec![1]),
        1 => Just(Vec::new()),
    ];
    (
        (select(&NAMESPACES), labels(), prop::bool::weighted(0.1)),
        (0..POD_ADDRESSES.len(), families, weighted(0.95, Just(()))),
        phase,
        vec(container_port(), 0..4),
    )
        .prop_map(
            |((namespace, labels, host_network), (place, families, is_bound), phase, ports)| {
                let node = usize::from(place >= POD_ADDRESSES.len() / 2);
                let addresses = if host_network {
                    NODE_ADDRESSES[node]
                } else {
                    POD_ADDRESSES[place]
                };
                Pod {
                    namespace: namespace.to_owned(),
                    name: String::new(),
                    labels,
                    node: is_bound.map(|()| NODES[node].to_owned()),
                    host_network,
                    addresses: families
                        .into_iter()
                        .map(|family| addr(addresses[family]))
                        .collect(),
                    phase,
                    ports,
                }
            },
        )
}

fn container_port() -> impl Strategy<Value = ContainerPort> {
    let container = prop_oneof![
        4 => Just(Container::Ordinary),
        1 => Just(Container::Sidecar),
        1 => Just(Container::Init),
    ];
    (
        container,
        weighted(0.8, select(&PORT_NAMES)),
        of(select(&Protocol::ALL)),
        select(&PORTS),
    )
        .prop_map(|(container, name, protocol, port)| ContainerPort {
            container,
            name: name.map(str::to_owned),
            protocol,
            port,
        })
}

fn policies() -> impl Strategy<Value = Vec<NetworkPolicy>> {
    vec(policy(), 0..6).prop_map(|mut policies| {
        let mut taken = BTreeSet::new();
        policies.retain(|policy| taken.insert(policy.name.clone()));
        policies
    })
}
