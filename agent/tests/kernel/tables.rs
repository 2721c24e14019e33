//! Reading and writing the pinned maps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use aya::maps::{Array, HashMap, MapData, MapInfo};
use weir_agent::attach::Dataplane;
use weir_agent::maps::diff::{Limits, diff, diff_within};
use weir_agent::maps::kernel::{KernelTables, Part};
use weir_agent::maps::layout::layouts;
use weir_agent::maps::pins::{KeptSize, Pins};
use weir_agent::maps::{Contents, Plan, Write};
use weir_ebpf::addr::{Addr, Port, Protocol};
use weir_ebpf::tables::{
    Backend, BackendKey, Cidr, Frontend, FrontendKey, Interface, LAYOUT_VERSION, Node, Service,
    ServiceName, ServingKey, SourceRange, name,
};

use crate::bed;

fn addr(number: u32) -> Addr {
    Addr::from(IpAddr::from(Ipv4Addr::from_bits(0x0a20_0000 + number)))
}

fn frontend(number: u32) -> FrontendKey {
    FrontendKey::new(addr(number), Port::new(80), Protocol::TCP)
}

fn service_name(number: u32) -> ServiceName {
    let mut text = [0; 64];
    text[..8].copy_from_slice(&format!("{number:08}").into_bytes());
    ServiceName {
        namespace: text,
        name: text,
        port_name: [0; 64],
        port: Port::new(80),
        protocol: Protocol::TCP,
        family: 4,
        set: weir_ebpf::tables::EndpointSet::CLUSTER,
        reserved: 0,
    }
}

/// Every table filled, the larger ones beyond what one call to the kernel gives back.
fn contents(services: u32) -> Contents {
    let mut contents = Contents {
        node: Node {
            addr_v4: addr(0),
            snat_ports: [
                weir_ebpf::tables::PortRange::new(1024, 29_999),
                weir_ebpf::tables::PortRange::NONE,
            ],
            ..Node::default()
        },
        ..Contents::default()
    };
    for number in 0..3 {
        contents.node_port_addrs.insert(addr(number));
        contents.interfaces.insert(
            number,
            Interface {
                addr_v4: addr(number),
                ..Interface::default()
            },
        );
    }
    for length in [96 + 8, 96 + 24, 64] {
        contents.service_cidrs.insert(Cidr {
            prefix_len: length,
            addr: if length > 96 {
                addr(0)
            } else {
                Addr::UNSPECIFIED
            },
        });
    }
    for service in 1..=services {
        // One range inside another, and the same one of every service.
        for length in [32 + 96 + 8, 32 + 96 + 32] {
            contents.source_ranges.insert(SourceRange {
                prefix_len: length,
                service,
                addr: if length < 160 {
                    Addr::from(Ipv4Addr::new(10, 0, 0, 0))
                } else {
                    addr(7)
                },
            });
        }
        contents.frontends.insert(
            frontend(service),
            Frontend::to(service, weir_ebpf::tables::FrontendFlags::NONE),
        );
        contents.services.insert(
            service,
            Service {
                backend_count: 2,
                revision: service,
                ..Service::default()
            },
        );
        contents
            .service_names
            .insert(service, service_name(service));
        for slot in 0..2 {
            let backend = Backend::new(addr(service * 2 + slot), Port::new(8080));
            contents
                .backends
                .insert(BackendKey { service, slot }, backend);
            contents.serving.insert(ServingKey { service, backend });
        }
    }
    contents
}

fn puts(contents: &Contents) -> Plan {
    let names = contents
        .service_names
        .iter()
        .map(|(key, value)| Write::PutServiceName(*key, Box::new(*value)));
    let serving = contents.serving.iter().map(|key| Write::PutServing(*key));
    let backends = contents
        .backends
        .iter()
        .map(|(key, value)| Write::PutBackend(*key, *value));
    let services = contents
        .services
        .iter()
        .map(|(key, value)| Write::PutService(*key, *value));
    let frontends = contents
        .frontends
        .iter()
        .map(|(key, value)| Write::PutFrontend(*key, *value));
    let ranges = contents.source_ranges.iter().copied();
    let cidrs = contents.service_cidrs.iter().copied();
    let addrs = contents.node_port_addrs.iter().copied();
    let interfaces = contents.interfaces.iter();
    Plan(
        names
            .chain(serving)
            .chain(backends)
            .chain(services)
            .chain(ranges.map(Write::PutSourceRange))
            .chain(frontends)
            .chain(cidrs.map(Write::PutServiceCidr))
            .chain(addrs.map(Write::PutNodePortAddr))
            .chain(interfaces.map(|(key, value)| Write::PutInterface(*key, *value)))
            .chain([Write::PutNode(Box::new(contents.node))])
            .collect(),
    )
}

fn removals(contents: &Contents) -> Plan {
    let frontends = contents
        .frontends
        .keys()
        .map(|key| Write::RemoveFrontend(*key));
    let services = contents
        .services
        .keys()
        .map(|key| Write::PutService(*key, Service::default()));
    let backends = contents
        .backends
        .keys()
        .map(|key| Write::RemoveBackend(*key));
    let serving = contents
        .serving
        .iter()
        .map(|key| Write::RemoveServing(*key));
    let names = contents
        .service_names
        .keys()
        .map(|key| Write::RemoveServiceName(*key));
    let ranges = contents.source_ranges.iter().copied();
    let cidrs = contents.service_cidrs.iter().copied();
    let addrs = contents.node_port_addrs.iter().copied();
    let interfaces = contents.interfaces.keys().copied();
    Plan(
        frontends
            .chain(ranges.map(Write::RemoveSourceRange))
            .chain(cidrs.map(Write::RemoveServiceCidr))
            .chain(addrs.map(Write::RemoveNodePortAddr))
            .chain(interfaces.map(Write::RemoveInterface))
            .chain(services)
            .chain(backends)
            .chain(serving)
            .chain(names)
            .chain([Write::PutNode(Box::default())])
            .collect(),
    )
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn what_is_written_is_read_back_and_what_is_removed_is_gone() {
    bed::run(|bed| {
        let dataplane = bed.load();
        let mut tables = dataplane.tables().unwrap();
        assert_eq!(tables.read().unwrap(), Contents::default());

        let contents = contents(5_000);
        tables.apply(&puts(&contents)).unwrap();
        let read = tables.read().unwrap();
        assert!(read == contents, "what is read is not what was written");
        for part in Part::ALL {
            let differing = tables.differing(part, &contents, read.policy).unwrap();
            assert_eq!(differing, None, "{part:?}");
        }

        // Removing what is absent is no error, wherever in a run it stands.
        let half = Plan(removals(&contents).0.into_iter().step_by(2).collect());
        tables.apply(&half).unwrap();
        assert_ne!(tables.read().unwrap(), contents);
        tables.apply(&removals(&contents)).unwrap();
        assert_eq!(tables.read().unwrap(), Contents::default());
        tables.apply(&removals(&contents)).unwrap();
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_full_table_is_named_and_what_came_before_took_effect() {
    bed::run(|bed| {
        let dataplane = bed
            .try_load(|options| {
                options.capacities.insert(name::FRONTENDS, 2);
            })
            .unwrap();
        let mut tables = dataplane.tables().unwrap();
        assert_eq!(tables.capacities()[name::FRONTENDS], 2);
        let contents = contents(4);
        let plan = puts(&contents);
        let error = tables.apply(&plan).unwrap_err();
        assert_eq!(error.table, name::FRONTENDS);
        assert_eq!(*error.write, plan.0[error.applied]);
        assert!(
            error.to_string().starts_with(
                "put frontend 10.32.0.3:80/TCP of service 3 in FRONTENDS: the table is full (it \
                 holds 2 entries"
            ),
            "{error}"
        );
        let read = tables.read().unwrap();
        assert_eq!(
            read.frontends.keys().copied().collect::<Vec<_>>(),
            [frontend(1), frontend(2)]
        );
        assert_eq!(read.backends, contents.backends);
        assert_eq!(
            read.node,
            Node::default(),
            "a write after the error was made"
        );
    });
}

/// One service port with these backends.
fn served_by(revision: u32, hosts: [u32; 2]) -> Contents {
    let mut contents = Contents::default();
    contents.service_names.insert(1, service_name(1));
    let service = Service {
        backend_count: 2,
        revision,
        ..Service::default()
    };
    contents.services.insert(1, service);
    for (slot, host) in (0..).zip(hosts) {
        let service = 1;
        let backend = Backend::new(addr(host), Port::new(8080));
        let key = BackendKey { service, slot };
        contents.backends.insert(key, backend);
        contents.serving.insert(ServingKey { service, backend });
    }
    contents
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_full_table_exchanges_all_that_it_holds() {
    bed::run(|bed| {
        let dataplane = bed
            .try_load(|options| {
                options.capacities.insert(name::BACKENDS, 2);
                options.capacities.insert(name::SERVING, 2);
            })
            .unwrap();
        let mut tables = dataplane.tables().unwrap();
        let (before, after) = (served_by(1, [2, 3]), served_by(2, [4, 5]));
        tables
            .apply(&diff(&before, &tables.read().unwrap()))
            .unwrap();
        let error = tables.apply(&diff(&after, &before)).unwrap_err();
        assert_eq!(error.table, name::SERVING);
        // As an agent goes on: from what the tables hold.
        let limits = Limits {
            backends: 2,
            source_ranges: 0,
            ..Limits::AMPLE
        };
        let left = tables.read().unwrap();
        tables.apply(&diff_within(&after, &left, limits)).unwrap();
        assert_eq!(tables.read().unwrap(), after);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_number_beyond_the_services_end_is_refused() {
    bed::run(|bed| {
        let dataplane = bed
            .try_load(|options| {
                options.capacities.insert(name::SERVICES, 8);
            })
            .unwrap();
        let mut tables = dataplane.tables().unwrap();
        let service = Service {
            backend_count: 0,
            revision: 1,
            ..Service::default()
        };
        let plan = Plan(vec![
            Write::PutService(7, service),
            Write::PutService(8, service),
        ]);
        let error = tables.apply(&plan).unwrap_err();
        assert_eq!(error.applied, 1);
        assert_eq!(*error.write, Write::PutService(8, service));
        assert_eq!(
            tables.read().unwrap().services,
            BTreeMap::from([(7, service)])
        );
    });
}

fn map_ids(dataplane: &Dataplane) -> BTreeMap<&'static str, u32> {
    layouts()
        .into_keys()
        .map(|table| {
            let info = MapInfo::from_pin(dataplane.pins().map(table)).unwrap();
            (table, info.id())
        })
        .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_second_agent_adopts_the_tables_and_their_content() {
    bed::run(|bed| {
        let first = bed.load();
        let contents = contents(3);
        first.tables().unwrap().apply(&puts(&contents)).unwrap();
        let ids = map_ids(&first);
        drop(first);

        let second = bed.load();
        assert_eq!(map_ids(&second), ids);
        assert_eq!(second.kept_sizes(), []);
        assert_eq!(second.tables().unwrap().read().unwrap(), contents);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_pinned_table_keeps_its_size_and_says_so() {
    bed::run(|bed| {
        drop(bed.load());
        let second = bed
            .try_load(|options| {
                options.capacities.insert(name::FLOWS, 1000);
            })
            .unwrap();
        let pinned = second.tables().unwrap().capacities()[name::FLOWS];
        assert_eq!(
            second.kept_sizes(),
            [KeptSize {
                table: name::FLOWS,
                pinned,
                wanted: 1000
            }]
        );
        assert_ne!(pinned, 1000);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_pinned_map_of_another_layout_is_refused_and_left_alone() {
    bed::run(|bed| {
        let pins = Pins::new(&bed.bpffs());
        pins.prepare().unwrap();
        let wider = HashMap::<MapData, u32, u64>::create(16, 1).unwrap();
        wider.pin(pins.map(name::FRONTENDS)).unwrap();
        let before = bed.pinned();

        for text in [
            format!("{:#}", bed.try_load(|_| {}).unwrap_err()),
            format!("{:#}", KernelTables::open(&pins).unwrap_err()),
        ] {
            for part in [
                &format!("weir/v{LAYOUT_VERSION}/FRONTENDS"),
                "found Hash, keys of 4 bytes, values of 8 bytes",
                "expected Hash, keys of 20 bytes, values of 12 bytes",
                "weir cleanup",
            ] {
                assert!(text.contains(part), "{part:?} is not in {text:?}");
            }
        }
        assert_eq!(bed.pinned(), before);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_pinned_map_of_another_type_is_refused() {
    bed::run(|bed| {
        let pins = Pins::new(&bed.bpffs());
        pins.prepare().unwrap();
        // As wide as SERVICE_NAMES' key, but an array.
        let array = Array::<MapData, u64>::create(16, 0).unwrap();
        array.pin(pins.map(name::SERVICE_NAMES)).unwrap();
        let text = format!("{:#}", bed.try_load(|_| {}).unwrap_err());
        assert!(text.contains("SERVICE_NAMES"), "{text}");
        assert!(text.contains("found Array"), "{text}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_load_that_fails_leaves_no_new_pins() {
    bed::run(|bed| {
        let error = bed
            .try_load(|options| {
                // Beyond what the kernel can make.
                options.capacities.insert(name::SOCKETS, u32::MAX);
            })
            .unwrap_err();
        assert!(format!("{error:#}").contains("SOCKETS"), "{error:#}");
        let left: Vec<String> = bed
            .pinned()
            .into_iter()
            .filter(|path| path.contains(&format!("v{LAYOUT_VERSION}/")))
            .collect();
        assert_eq!(left, Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn without_a_pinned_map_the_tables_say_which() {
    bed::run(|bed| {
        let pins = Pins::new(&bed.bpffs());
        pins.prepare().unwrap();
        let text = format!("{:#}", KernelTables::open(&pins).unwrap_err());
        assert!(text.contains("COUNTERS"), "{text}");
    });
}
