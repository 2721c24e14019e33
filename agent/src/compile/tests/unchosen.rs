//! Why endpoints are not chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use weir_ebpf::tables::EndpointSet;

use super::*;
use crate::model::Hints;

fn whys(desired: &Desired) -> Vec<(String, Option<TrafficPolicy>, Why)> {
    let accounts = desired.unchosen.values();
    accounts
        .flat_map(|account| &account.unchosen)
        .map(|it| (it.addr.to_string(), it.policy, it.why))
        .collect()
}

fn why(addr: &str, why: Why) -> (String, Option<TrafficPolicy>, Why) {
    (addr.to_owned(), Some(TrafficPolicy::Cluster), why)
}

#[test]
fn conditions_are_told_apart() {
    let desired = compiled([
        web(),
        slice(
            "web-1",
            ("", 8080),
            &[
                ("10.200.0.2", READY),
                ("10.200.0.3", NOT_READY),
                ("10.200.0.4", TERMINATING),
                ("10.200.0.5", (false, false, true)),
            ],
        ),
    ]);
    assert_eq!(
        whys(&desired),
        [
            why("10.200.0.3", Why::NotReady),
            why("10.200.0.4", Why::Terminating),
            why("10.200.0.5", Why::NotServing),
        ]
    );
}

#[test]
fn where_all_are_chosen_there_is_nothing_to_tell() {
    let desired = compiled([web(), slice("web-1", ("", 8080), &[("10.200.0.2", READY)])]);
    assert_eq!(desired.unchosen, BTreeMap::new());
}

#[test]
fn the_policy_local_leaves_out_other_nodes_for_its_own_traffic_alone() {
    let mut service = service("web", &[VIP], &[("", 80, Protocol::Tcp)]);
    service.external_ips = vec!["203.0.113.7".parse().unwrap()];
    service.external_traffic_policy = TrafficPolicy::Local;
    let desired = compiled([
        Object::Service(service),
        on(
            "worker-1",
            slice("web-1", ("", 8080), &[("10.200.1.2", READY)]),
        ),
    ]);
    assert_eq!(
        whys(&desired),
        [(
            "10.200.1.2".to_owned(),
            Some(TrafficPolicy::Local),
            Why::OtherNode
        )]
    );
    let account = &desired.unchosen[&service_ref("web")];
    assert_eq!(account.unchosen[0].node.as_deref(), Some("worker-1"));
}

#[test]
fn hints_for_others_are_a_reason() {
    let hinted = |addr: &str, nodes: &[&str], zones: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect();
        let mut group = group(("", 8080), &[(addr, READY)]);
        group.endpoints[0].hints = Hints {
            nodes: texts(nodes),
            zones: texts(zones),
        };
        Object::EndpointSlice(EndpointSlice {
            name: format!("web-{}", addr.replace('.', "-")),
            triggered: None,
            service: service_ref("web"),
            group,
        })
    };
    let desired = compiled([
        web(),
        hinted("10.200.0.2", &["worker-0"], &[]),
        hinted("10.200.0.3", &["worker-1"], &[]),
    ]);
    assert_eq!(whys(&desired), [why("10.200.0.3", Why::HintsOtherNodes)]);
    let desired = compiled([
        web(),
        Object::Node(Node {
            name: "worker-0".to_owned(),
            labels: [("topology.kubernetes.io/zone".to_owned(), "a".to_owned())].into(),
            ..Node::default()
        }),
        hinted("10.200.0.2", &[], &["a"]),
        hinted("10.200.0.3", &[], &["b"]),
    ]);
    assert_eq!(whys(&desired), [why("10.200.0.3", Why::HintsOtherZones)]);
}

#[test]
fn what_belongs_to_no_port_is_counted() {
    let desired = compiled([
        web(),
        slice("web-1", ("", 8080), &[("10.200.0.2", TERMINATING)]),
        slice("web-2", ("", 8080), &[("10.200.0.2", READY)]),
        slice(
            "web-3",
            ("other", 9090),
            &[("10.200.0.2", READY), ("10.200.0.3", READY)],
        ),
        slice("web-4", ("", 8080), &[("fd00:10:200::2", READY)]),
    ]);
    let account = &desired.unchosen[&service_ref("web")];
    assert_eq!(account.unchosen.len(), 1);
    assert_eq!(
        (account.unchosen[0].policy, account.unchosen[0].why),
        (None, Why::Duplicate)
    );
    let unused: Vec<_> = account
        .unused
        .iter()
        .map(|it| (&*it.port_name, it.endpoints, it.why))
        .collect();
    assert_eq!(
        unused,
        [
            ("other", 2, WhyUnused::NoSuchPort),
            ("", 1, WhyUnused::OtherFamily)
        ]
    );
}

#[test]
fn of_very_many_the_first_are_named_and_the_others_counted() {
    let addrs: Vec<String> = (0_u32..1_005)
        .map(|number| Ipv4Addr::from_bits(0x0ac8_0000 + number).to_string())
        .collect();
    let endpoints: Vec<(&str, Conditions)> =
        addrs.iter().map(|addr| (addr.as_str(), READY)).collect();
    let cluster = Cluster::from_objects([web(), slice("web-1", ("", 8080), &endpoints)]);
    let capacities = Capacities {
        backends: 1,
        ..Capacities::default()
    };
    let desired = compile(&cluster, &context(), &mut Ids::default(), &capacities);
    let account = &desired.unchosen[&service_ref("web")];
    assert_eq!((account.unchosen.len(), account.more), (Account::MOST, 4));
    assert!(account.unchosen.iter().all(|it| it.why == Why::NoRoom));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// An endpoint is either in a set, or it is said why it is not; never both.
    #[test]
    fn whoever_is_not_chosen_has_a_reason(cluster in clusters()) {
        let desired = compile_all(&cluster, &mut Ids::default());
        for (number, name) in &desired.contents.service_names {
            let chosen: BTreeSet<IpAddr> = desired
                .contents
                .backends_of(*number)
                .map(|(_, backend)| backend.addr.into())
                .collect();
            let policy = match name.set {
                EndpointSet::LOCAL => TrafficPolicy::Local,
                _ => TrafficPolicy::Cluster,
            };
            let of_this = |part: &Part| {
                (part.family.number(), part.port.get()) == (name.family, name.port.number())
                    && names::wire_protocol(part.protocol) == name.protocol
            };
            let service = service_ref(&crate::maps::text::unpadded(&name.name));
            let reasons: Vec<IpAddr> = desired
                .unchosen
                .get(&service)
                .into_iter()
                .flat_map(|account| &account.unchosen)
                .filter(|it| it.policy == Some(policy) && of_this(&it.part))
                .map(|it| it.addr)
                .collect();
            // All slices of a service here have one port each, but two slices may differ in it.
            let slices: Vec<&EndpointSlice> = cluster
                .endpoint_slices()
                .filter(|slice| {
                    slice.service == service && slice.group.family.number() == name.family
                })
                .collect();
            let ports: BTreeSet<_> = slices.iter().map(|slice| slice.group.ports[0].port).collect();
            if ports.len() > 1 {
                continue;
            }
            let all: BTreeSet<IpAddr> = slices
                .iter()
                .flat_map(|slice| slice.group.endpoints.iter().map(|endpoint| endpoint.addr))
                .collect();
            let explained: BTreeSet<IpAddr> = reasons.iter().copied().collect();
            prop_assert_eq!(explained.len(), reasons.len());
            prop_assert!(chosen.is_disjoint(&explained));
            prop_assert_eq!(&chosen | &explained, all);
        }
    }
}
