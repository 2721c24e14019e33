//! Numbers, slots and revisions, and what tables remember of them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use weir_ebpf::tables::{Backend, Service as ServiceEntry, ServiceFlags};

use super::*;

fn web_with(addrs: &[&str]) -> Cluster {
    let endpoints: Vec<_> = addrs.iter().map(|addr| (*addr, READY)).collect();
    Cluster::from_objects([web(), slice("web-1", ("", 8080), &endpoints)])
}

#[test]
fn a_removed_backend_costs_a_handful_of_entries() {
    let addrs: Vec<String> = (2..102).map(|host| format!("10.200.0.{host}")).collect();
    let addrs: Vec<&str> = addrs.iter().map(String::as_str).collect();
    let mut ids = Ids::default();
    let before = compile_all(&web_with(&addrs), &mut ids).contents;
    let fewer: Vec<&str> = addrs
        .iter()
        .copied()
        .filter(|addr| *addr != "10.200.0.7")
        .collect();
    let after = compile_all(&web_with(&fewer), &mut ids).contents;

    let moved: Vec<_> = before
        .backends
        .iter()
        .filter(|(key, backend)| after.backends.get(key) != Some(backend))
        .collect();
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert_eq!(after.services[&1].backend_count, 99);
    assert_eq!(
        after.services[&1].revision,
        before.services[&1].revision + 1
    );
}

#[test]
fn a_revision_is_raised_by_one_when_the_set_of_backends_changes_and_only_then() {
    let mut ids = Ids::default();
    let revisions: Vec<u32> = [
        &["10.200.0.2", "10.200.0.3"][..],
        &["10.200.0.3", "10.200.0.2"],
        &["10.200.0.3"],
        &["10.200.0.4"],
        &["10.200.0.4"],
        &[],
        &["10.200.0.4"],
    ]
    .iter()
    .map(|addrs| compile_all(&web_with(addrs), &mut ids).contents.services[&1].revision)
    .collect();
    assert_eq!(revisions, [1, 1, 2, 3, 3, 4, 5]);
}

#[test]
fn a_freed_number_keeps_its_revision_and_rests_before_it_is_given_again() {
    let only = |name: &str| {
        Cluster::from_objects([Object::Service(service(
            name,
            &[VIP],
            &[("", 80, Protocol::Tcp)],
        ))])
    };
    let mut ids = Ids::default();
    let mut compiled = |name: &str| {
        let contents = compile_all(&only(name), &mut ids).contents;
        let revisions: Vec<_> = contents
            .services
            .values()
            .map(|service| service.revision)
            .collect();
        (contents.frontends[&key(VIP, 80)].service, revisions)
    };
    assert_eq!(compiled("a"), (1, vec![1]));
    assert_eq!(compiled("b"), (2, vec![1, 1]));
    assert_eq!(compiled("c"), (1, vec![2, 1]));
}

#[test]
fn the_last_number_is_given_again_at_once_rather_than_none() {
    let capacities = Capacities {
        services: 2,
        ..Capacities::default()
    };
    let mut ids = Ids::default();
    for name in ["a", "b", "c"] {
        let cluster = Cluster::from_objects([Object::Service(service(
            name,
            &[VIP],
            &[("", 80, Protocol::Tcp)],
        ))]);
        let desired = compile(&cluster, &context(), &mut ids, &capacities);
        assert_eq!(desired.skipped, []);
        assert_eq!(desired.contents.frontends[&key(VIP, 80)].service, 1);
    }
}

#[test]
fn tables_that_show_an_unfinished_change_raise_the_revision() {
    let cluster = web_with(&["10.200.0.2", "10.200.0.3"]);
    let whole = compile_all(&cluster, &mut Ids::default()).contents;
    let raised = |contents: &Contents| {
        compile_all(&cluster, &mut Ids::from_contents(contents))
            .contents
            .services[&1]
            .revision
    };
    assert_eq!(raised(&whole), 1);

    let mut unsettled = whole.clone();
    unsettled.services.get_mut(&1).unwrap().revision |= crate::maps::UNSETTLED;
    assert_eq!(raised(&unsettled), 2);

    let mut more_serving = whole.clone();
    more_serving.serving.insert(ServingKey {
        service: 1,
        backend: Backend::new(Addr::from(Ipv4Addr::new(10, 200, 0, 9)), Port::new(8080)),
    });
    assert_eq!(raised(&more_serving), 2);

    let mut hole = whole;
    hole.backends.remove(&BackendKey {
        service: 1,
        slot: 0,
    });
    assert_eq!(raised(&hole), 2);
}

#[test]
fn tables_full_of_nonsense_are_survived() {
    let mut contents = Contents::default();
    let name = compile_all(&web_with(&[]), &mut Ids::default())
        .contents
        .service_names[&1];
    for number in [0, 7, u32::MAX] {
        contents.service_names.insert(number, name);
        contents.services.insert(
            number,
            ServiceEntry {
                backend_count: u32::MAX,
                revision: u32::MAX,
                flags: ServiceFlags(u32::MAX),
                affinity_timeout: u32::MAX,
                affinity: u32::MAX,
                reserved: 0,
            },
        );
    }
    let cluster = web_with(&["10.200.0.2"]);
    let desired = compile_all(&cluster, &mut Ids::from_contents(&contents));
    assert_eq!(reachable(&desired, VIP, 80).unwrap(), ["10.200.0.2 8080"]);
    assert_eq!(desired.contents.frontends[&key(VIP, 80)].service, 7);
    let entries = desired.contents.services.values();
    assert!(
        entries
            .clone()
            .all(|entry| entry.flags == ServiceFlags::NONE)
    );
    assert!(!desired.contents.services.contains_key(&0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_restart_changes_nothing(history in proptest::collection::vec(clusters(), 1..5)) {
        let mut ids = Ids::default();
        let mut contents = Contents::default();
        for cluster in &history {
            contents = compile_all(cluster, &mut ids).contents;
        }
        let mut restarted = Ids::from_contents(&contents);
        let again = compile_all(history.last().unwrap(), &mut restarted).contents;
        prop_assert_eq!(contents, again);
    }

    #[test]
    fn numbers_stay_and_revisions_tell_of_every_change(
        history in proptest::collection::vec(clusters(), 2..5),
    ) {
        let mut ids = Ids::default();
        let mut before = Contents::default();
        for cluster in &history {
            let after = compile_all(cluster, &mut ids).contents;
            for (number, name) in &after.service_names {
                let others = before.service_names.iter().filter(|(_, old)| *old == name);
                for (old_number, _) in others {
                    prop_assert_eq!(old_number, number);
                }
            }
            for (number, old) in &before.services {
                let new = after.services[number];
                let set = |contents: &Contents| {
                    contents.backends_of(*number).map(|(_, b)| b).collect::<BTreeSet<_>>()
                };
                let same_name = before.service_names.get(number)
                    == after.service_names.get(number);
                let expected = if set(&before) == set(&after)
                    && (same_name || !after.service_names.contains_key(number))
                {
                    old.revision
                } else {
                    old.revision + 1
                };
                prop_assert_eq!(new.revision, expected);
                prop_assert_eq!(new.backend_count as usize, set(&after).len());
            }
            before = after;
        }
    }
}
