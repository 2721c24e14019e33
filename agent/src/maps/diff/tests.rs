mod policies;

use proptest::prelude::*;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Backend, BackendKey, Service, ServingKey};

use super::*;
use crate::compile::Ids;
use crate::compile::testing::{backends_by_name, clusters, compile_all};
use crate::maps::UNSETTLED;

/// The tables after each prefix of the plan, the empty and the whole one too.
fn prefixes(plan: &Plan, start: &Contents) -> Vec<Contents> {
    let mut contents = start.clone();
    let mut prefixes = vec![contents.clone()];
    for write in &plan.0 {
        write.apply_to(&mut contents);
        prefixes.push(contents.clone());
    }
    prefixes
}

/// What every packet relies on.
fn check_references(contents: &Contents) {
    for (key, frontend) in &contents.frontends {
        for number in numbers(frontend) {
            assert_eq!(number == 0, key.is_address_only(), "{key:?}");
            if number == 0 {
                continue;
            }
            assert!(contents.service_names.contains_key(&number), "{key:?}");
            assert!(contents.services.contains_key(&number), "{key:?}");
        }
    }
    for (&service, entry) in &contents.services {
        for slot in 0..entry.backend_count {
            let backend = contents.backends.get(&BackendKey { service, slot });
            let backend = *backend.unwrap_or_else(|| panic!("{service} has no slot {slot}"));
            assert!(
                contents.serving.contains(&ServingKey {
                    service,
                    backend: backend.identity()
                }),
                "{service} slot {slot}: {backend:?} does not serve"
            );
        }
    }
}

/// A frontend leads to backends of the service port that it belonged to or will belong to, as
/// these are before or after.
fn check_destinations(prefix: &Contents, actual: &Contents, desired: &Contents) {
    let (before, after) = (backends_by_name(actual), backends_by_name(desired));
    for (key, frontend) in &prefix.frontends {
        if key.is_address_only() {
            continue;
        }
        let owners = [actual, desired].into_iter().flat_map(|contents| {
            let numbers = contents.frontends.get(key).map(numbers);
            let numbers = numbers.into_iter().flatten();
            numbers.filter_map(|number| contents.service_names.get(&number))
        });
        let allowed: BTreeSet<Backend> = owners
            .flat_map(|name| before.get(name).into_iter().chain(after.get(name)))
            .flatten()
            .copied()
            .collect();
        for number in numbers(frontend) {
            let count = prefix.services[&number].backend_count;
            for (slot, backend) in prefix.backends_of(number) {
                assert!(
                    slot >= count || allowed.contains(&backend),
                    "{key:?} leads to {backend:?}"
                );
            }
        }
    }
}

/// Where a frontend asks who may come, the answer is that of before, or of after, or of both.
fn check_source_ranges(prefix: &Contents, actual: &Contents, desired: &Contents) {
    // What a client meets at a frontend: `None` where there is none.
    let may_come = |contents: &Contents, key: &FrontendKey, client: Addr| {
        let frontend = contents.frontends.get(key)?;
        let mut ranges = contents.source_ranges.iter();
        Some(
            !frontend.flags.contains(FrontendFlags::SOURCE_RANGES)
                || ranges.any(|range| range.service == frontend.service && range.contains(client)),
        )
    };
    let ranges = actual.source_ranges.iter().chain(&desired.source_ranges);
    let clients: BTreeSet<Addr> = ranges.map(|range| range.addr).collect();
    for key in prefix.frontends.keys() {
        for client in &clients {
            let now = may_come(prefix, key, *client);
            let answers = [actual, desired].map(|contents| may_come(contents, key, *client));
            assert!(
                answers.contains(&now),
                "{client} at {key:?}: {now:?}, which is neither of {answers:?}"
            );
        }
    }
}

/// What the guards stop is in no table.
fn check_guards(prefix: &Contents) {
    let covers = |addr: Addr| {
        let node = &prefix.node;
        node.cover_v4.contains(addr) || node.cover_v6.contains(addr)
    };
    for key in prefix.frontends.keys() {
        assert!(!key.is_address_only() || covers(key.addr), "{key:?}");
        let number = key.port.number();
        assert!(!key.is_node_port() || prefix.node.node_ports.contains(number));
    }
    for cidr in &prefix.service_cidrs {
        assert!(covers(cidr.addr), "{cidr}");
    }
}

/// An address is for services alone only when whoever serves it does.
fn check_service_cidrs(prefix: &Contents, actual: &Contents, desired: &Contents) {
    let new = desired.service_cidrs.difference(&actual.service_cidrs);
    for cidr in new.filter(|cidr| prefix.service_cidrs.contains(cidr)) {
        assert_eq!(prefix.frontends, desired.frontends, "{cidr}");
    }
    let gone = actual.service_cidrs.difference(&desired.service_cidrs);
    for cidr in gone.filter(|cidr| prefix.service_cidrs.contains(cidr)) {
        assert_eq!(prefix.frontends, actual.frontends, "{cidr}");
    }
}

/// Flows that asked at some prefix, were told that their backend serves, and hold the revision
/// that the tables end with: none may have a backend that does not serve any more.
fn check_flows_ask_again(prefixes: &[Contents], end: &Contents) {
    for prefix in prefixes {
        for key in prefix.serving.difference(&end.serving) {
            let revision = |contents: &Contents| {
                contents
                    .services
                    .get(&key.service)
                    .map_or(0, |service| service.revision)
            };
            assert_ne!(revision(prefix), revision(end), "{key:?}");
        }
    }
}

/// What is refused because no service port has it is none before or none after.
fn check_known_addresses(prefix: &Contents, actual: &Contents, desired: &Contents) {
    for key in actual.frontends.keys() {
        let refused = prefix
            .frontends
            .contains_key(&FrontendKey::address_only(key.addr))
            && !prefix.frontends.contains_key(key);
        assert!(
            !refused || !desired.frontends.contains_key(key),
            "{key:?} is refused"
        );
    }
}

/// What was found out while a packet was nobody's business is found out anew when it is a service's at
/// the end: programs keep it for as long as the epoch is the same.
fn check_what_is_taken_is_asked_anew(prefixes: &[Contents]) {
    let end = prefixes.last().expect("the beginning is one");
    let is_anybodys = |contents: &Contents, dst: Addr, key: &FrontendKey| {
        let is_known = match key.is_node_port() {
            true => contents.node_port_addrs.contains(&dst),
            false => true,
        };
        contents.node.covers(dst) || is_known && contents.frontends.contains_key(key)
    };
    for key in end.frontends.keys() {
        let at_node = end.node_port_addrs.iter().copied();
        let addrs: Vec<Addr> = match key.is_node_port() {
            true => at_node
                .filter(|addr| addr.is_v4() == key.addr.is_v4())
                .collect(),
            false => vec![key.addr],
        };
        for addr in addrs {
            for prefix in prefixes {
                assert!(
                    is_anybodys(prefix, addr, key) || prefix.policy.epoch != end.policy.epoch,
                    "{addr}: {key:?} was nobody's in this epoch"
                );
            }
        }
    }
}

/// Whoever has read the count before the plan began, or at any prefix, finds slot 0 for as long
/// as any slot is there.
fn check_slot_zero_goes_last(prefix: &Contents) {
    for key in prefix.backends.keys() {
        let first = BackendKey { slot: 0, ..*key };
        assert!(
            prefix.backends.contains_key(&first),
            "{key:?} without slot 0"
        );
    }
}

fn check_plan(desired: &Contents, actual: &Contents) -> Vec<Contents> {
    let plan = diff(desired, actual);
    let prefixes = prefixes(&plan, actual);
    for (length, prefix) in prefixes.iter().enumerate() {
        let written = &plan.0[..length];
        let result = std::panic::catch_unwind(|| {
            check_references(prefix);
            check_destinations(prefix, actual, desired);
            check_slot_zero_goes_last(prefix);
            check_known_addresses(prefix, actual, desired);
            check_source_ranges(prefix, actual, desired);
            check_guards(prefix);
            check_service_cidrs(prefix, actual, desired);
        });
        assert!(result.is_ok(), "after {written:#?}");
    }
    check_what_is_taken_is_asked_anew(&prefixes);
    assert_reached(&prefixes, desired);
    prefixes
}

/// The end is as desired, but for the epoch.
fn assert_reached(prefixes: &[Contents], desired: &Contents) {
    let mut reached = prefixes.last().expect("the beginning is one").clone();
    reached.policy.epoch = desired.policy.epoch;
    assert_eq!(reached, *desired);
}

#[test]
fn a_replaced_backend_is_written_before_it_is_counted_and_forgotten_last() {
    use crate::compile::testing::{endpoint, service, service_ref};
    use crate::model::{
        Cluster, Endpoint, EndpointGroup, EndpointPort, EndpointSlice, Family, Object, Protocol,
    };
    let cluster = |host: u8| {
        Cluster::from_objects([
            Object::Service(service("web", &["10.32.0.140"], &[("", 80, Protocol::Udp)])),
            Object::EndpointSlice(EndpointSlice {
                name: "web-1".to_owned(),
                triggered: None,
                service: service_ref("web"),
                group: EndpointGroup {
                    family: Family::V4,
                    ports: vec![EndpointPort {
                        name: String::new(),
                        protocol: Protocol::Udp,
                        port: std::num::NonZeroU16::MIN,
                    }],
                    endpoints: vec![Endpoint {
                        is_ready: true,
                        is_serving: true,
                        ..endpoint([10, 200, 0, host].into())
                    }],
                },
            }),
        ])
    };
    let mut ids = Ids::default();
    let before = compile_all(&cluster(2), &mut ids).contents;
    let after = compile_all(&cluster(3), &mut ids).contents;
    let backend = |host: u8| {
        Backend::new(
            std::net::Ipv4Addr::new(10, 200, 0, host).into(),
            weir_ebpf::addr::Port::new(1),
        )
    };
    let serving = |host| ServingKey {
        service: 1,
        backend: backend(host),
    };
    let revision = |revision| Service {
        backend_count: 1,
        revision,
        ..Service::default()
    };
    let slot = BackendKey {
        service: 1,
        slot: 0,
    };
    assert_eq!(
        diff(&after, &before).0,
        [
            Write::PutServing(serving(3)),
            Write::PutBackend(slot, backend(3)),
            Write::PutService(1, revision(2 | UNSETTLED)),
            Write::RemoveServing(serving(2)),
            Write::PutService(1, revision(2)),
        ]
    );
}

#[test]
fn a_new_address_of_the_node_is_asked_about_anew() {
    use weir_ebpf::addr::{Port, Protocol};
    let key = FrontendKey::node_port(true, Port::new(30_080), Protocol::TCP);
    let before = Contents {
        frontends: [(key, Frontend::to(1, FrontendFlags::NONE))].into(),
        node: Node {
            node_ports: PortRange::new(30_080, 30_080),
            ..Node::NONE
        },
        ..Contents::default()
    };
    let mut after = before.clone();
    let addr: Addr = std::net::Ipv4Addr::new(192, 168, 7, 1).into();
    after.node_port_addrs.insert(addr);
    let next = before.policy.in_next_epoch();
    assert_eq!(
        diff(&after, &before).0,
        [Write::PutNodePortAddr(addr), Write::PutPolicy(next)]
    );
    // What goes is kept nowhere.
    assert_eq!(diff(&before, &after).0, [Write::RemoveNodePortAddr(addr)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn equal_tables_need_no_write(cluster in clusters()) {
        let contents = compile_all(&cluster, &mut Ids::default()).contents;
        prop_assert_eq!(diff(&contents, &contents), Plan::default());
    }

    #[test]
    fn every_prefix_of_a_plan_is_safe(history in proptest::collection::vec(clusters(), 1..4)) {
        let mut ids = Ids::default();
        let mut actual = Contents::default();
        for cluster in &history {
            let desired = compile_all(cluster, &mut ids).contents;
            let prefixes = check_plan(&desired, &actual);
            check_flows_ask_again(&prefixes, &desired);
            actual = desired;
        }
    }

    /// Compiled several times before the tables were written, or by agents that know nothing of
    /// each other: numbers change hands.
    #[test]
    fn every_prefix_is_safe_between_any_two_tables(
        before in proptest::collection::vec(clusters(), 1..3),
        after in proptest::collection::vec(clusters(), 1..3),
    ) {
        let contents = |history: &[_]| {
            let mut ids = Ids::default();
            history.iter().fold(Contents::default(), |_, cluster| {
                compile_all(cluster, &mut ids).contents
            })
        };
        check_plan(&contents(&after), &contents(&before));
    }

    #[test]
    fn an_agent_killed_at_any_write_leaves_no_flow_behind(
        first in clusters(),
        second in clusters(),
        third in clusters(),
        killed_at in any::<prop::sample::Index>(),
        back in any::<bool>(),
    ) {
        let mut ids = Ids::default();
        let actual = compile_all(&first, &mut ids).contents;
        let desired = compile_all(&second, &mut ids).contents;
        let mut seen = prefixes(&diff(&desired, &actual), &actual);
        seen.truncate(killed_at.index(seen.len()) + 1);
        let left = seen.last().unwrap().clone();

        let cluster = if back { &first } else { &third };
        let repaired = compile_all(cluster, &mut Ids::from_contents(&left)).contents;
        let plan = diff(&repaired, &left);
        for prefix in prefixes(&plan, &left) {
            check_references(&prefix);
            seen.push(prefix);
        }
        assert_reached(&seen, &repaired);
        check_flows_ask_again(&seen, &repaired);
    }

    /// Tables that hold no more than they must, before and after: nothing is ever one entry too many.
    #[test]
    fn a_full_table_can_still_change(
        before in proptest::collection::vec(clusters(), 1..3),
        after in clusters(),
        restarted in any::<bool>(),
    ) {
        let mut ids = Ids::default();
        let actual = before.iter().fold(Contents::default(), |_, cluster| {
            compile_all(cluster, &mut ids).contents
        });
        if restarted {
            ids = Ids::default();
        }
        let desired = compile_all(&after, &mut ids).contents;
        let most = |count: fn(&Contents) -> usize| count(&actual).max(count(&desired));
        let limits = Limits {
            backends: most(|it| it.backends.len().max(it.serving.len())),
            source_ranges: most(|it| it.source_ranges.len()),
            ..Limits::AMPLE
        };
        let plan = diff_within(&desired, &actual, limits);
        let prefixes = prefixes(&plan, &actual);
        for prefix in &prefixes {
            check_references(prefix);
            check_destinations(prefix, &actual, &desired);
            check_known_addresses(prefix, &actual, &desired);
            check_guards(prefix);
            prop_assert!(prefix.backends.len() <= limits.backends);
            prop_assert!(prefix.serving.len() <= limits.backends);
            prop_assert!(prefix.source_ranges.len() <= limits.source_ranges);
            prop_assert!(prefix.frontends.len() <= most(|it| it.frontends.len()));
        }
        assert_reached(&prefixes, &desired);
        if !restarted {
            check_flows_ask_again(&prefixes, &desired);
        }
    }

    #[test]
    fn a_service_that_does_not_change_is_not_written(one in clusters(), other in clusters()) {
        let mut ids = Ids::default();
        let actual = compile_all(&one, &mut ids).contents;
        let desired = compile_all(&other, &mut ids).contents;
        let unchanged: BTreeSet<u32> = actual
            .service_names
            .keys()
            .copied()
            .filter(|number| actual.services.get(number) == desired.services.get(number))
            .collect();
        for write in diff(&desired, &actual).0 {
            if let Write::PutService(number, _)
            | Write::PutBackend(BackendKey { service: number, .. }, _)
            | Write::RemoveBackend(BackendKey { service: number, .. }) = write
            {
                prop_assert!(!unchanged.contains(&number), "{write:?}");
            }
        }
    }
}
