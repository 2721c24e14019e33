//! Tables of one layout follow those of another.
//!
//! The older layouts here are made of today's: layout 4 has shorter entries in `PODS`, and layout 3
//! the same tables as that without those of policy.

use std::fs;

use aya::maps::{HashMap, MapData, MapInfo};
use weir_agent::attach::Dataplane;
use weir_agent::maps::pins::Pins;
use weir_agent::maps::succession::Inheritance;
use weir_agent::maps::{Plan, Write};
use weir_ebpf::addr::{Port, Protocol};
use weir_ebpf::tables::{
    Backend, BackendFlags, BackendKey, EndpointSet, LAYOUT_VERSION, Pod, PodAddr, PodState, Policy,
    PolicyFlags, RuleKey, Service, ServiceName, ServingKey, Slots, name,
};

use crate::bed::{self, Bed};

/// What layout 4 added.
const NEW_IN_4: [&str; 8] = [
    name::PODS,
    name::POD_ADDRS,
    name::PEERS,
    name::PEER_RANGES,
    name::RULES,
    name::POLICY,
    name::CONNECTIONS,
    name::EVENTS,
];
/// What the programs write, in layout 3 already.
const HANDED_OVER: [&str; 4] = [name::FLOWS, name::SOCKETS, name::AFFINITY, name::FRAGMENTS];

/// A service port and its only backend: what has numbers.
fn numbers() -> Vec<Write> {
    let mut text = [0; 64];
    text[..3].copy_from_slice(b"web");
    let backend = Backend {
        addr: std::net::IpAddr::from([10, 200, 0, 2]).into(),
        port: Port::new(8080),
        flags: BackendFlags::NONE,
    };
    vec![
        Write::PutServiceName(
            7,
            Box::new(ServiceName {
                namespace: text,
                name: text,
                port_name: [0; 64],
                port: Port::new(80),
                protocol: Protocol::TCP,
                family: 4,
                set: EndpointSet::CLUSTER,
                reserved: 0,
            }),
        ),
        Write::PutService(
            7,
            Service {
                backend_count: 1,
                revision: 12,
                ..Service::default()
            },
        ),
        Write::PutBackend(
            BackendKey {
                service: 7,
                slot: 0,
            },
            backend,
        ),
        Write::PutServing(ServingKey {
            service: 7,
            backend,
        }),
    ]
}

/// The interface of a pod under policy.
const POD: u32 = 10;
const BPF_F_NO_PREALLOC: u32 = 1;

/// What layout 4 says of it.
fn judged_pod() -> Pod {
    Pod {
        egress: Slots([2, 3]),
        ingress: Slots([4, 5]),
        netns: 7,
        state: PodState::PROGRAMMED,
        ..Pod::default()
    }
}

/// Policies in force, beside the pod's entry.
fn policies() -> Vec<Write> {
    vec![
        Write::PutRule(RuleKey::everything(3, 6), 1),
        Write::PutPodAddr(PodAddr {
            interface: POD,
            addr: std::net::IpAddr::from([10, 200, 0, 3]).into(),
        }),
        Write::PutPolicy(Policy {
            revision: 41,
            flags: PolicyFlags::DENY_UNKNOWN,
            epoch: 0,
        }),
    ]
}

/// Leaves the pins as an agent with this layout would have: with [`numbers`].
fn leave_layout(bed: &Bed, version: u32) -> Pins {
    let dataplane = bed.load();
    dataplane.tables().unwrap().apply(&Plan(numbers())).unwrap();
    let ours = dataplane.pins().clone();
    let theirs = ours.of_layout(version);
    fs::rename(ours.maps(), theirs.maps()).unwrap();
    if version < 4 {
        for table in NEW_IN_4 {
            fs::remove_file(theirs.map(table)).unwrap();
        }
    }
    if version == 4 {
        fs::remove_file(theirs.map(name::PODS)).unwrap();
        let mut pods = HashMap::<MapData, u32, [u8; 24]>::create(16, BPF_F_NO_PREALLOC).unwrap();
        let entry: [u8; 24] = bytemuck::bytes_of(&judged_pod())[..24].try_into().unwrap();
        pods.insert(POD, entry, 0).unwrap();
        pods.pin(theirs.map(name::PODS)).unwrap();
    }
    theirs
}

fn map_id(pins: &Pins, table: &str) -> u32 {
    MapInfo::from_pin(pins.map(table)).unwrap().id()
}

fn directories(bed: &Bed) -> Vec<String> {
    let pinned = bed.pinned().into_iter();
    pinned
        .filter_map(|path| Some(path.strip_prefix("weir/v")?.to_owned()))
        .filter(|path| !path.contains('/'))
        .collect()
}

fn assert_has_numbers(dataplane: &Dataplane) {
    let contents = dataplane.tables().unwrap().read().unwrap();
    let mut expected = weir_agent::maps::Contents::default();
    for write in numbers() {
        write.apply_to(&mut expected);
    }
    assert_eq!(contents, expected);
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn flows_and_numbers_of_layout_3_are_taken_over() {
    bed::run(|bed| {
        let old = leave_layout(bed, 3);
        let flows: Vec<u32> = HANDED_OVER.map(|table| map_id(&old, table)).to_vec();
        let services = map_id(&old, name::SERVICES);

        let dataplane = bed.load();
        assert_eq!(*dataplane.inheritance(), Inheritance::From(3));
        let new = dataplane.pins();
        // The very maps, so that no entry is lost that the old programs write from now on.
        assert_eq!(HANDED_OVER.map(|table| map_id(new, table)).to_vec(), flows);
        assert_ne!(map_id(new, name::SERVICES), services, "filled beside it");
        assert_has_numbers(&dataplane);
        assert_eq!(directories(bed), ["3", &LAYOUT_VERSION.to_string()]);

        assert_eq!(dataplane.retire_other_layouts().unwrap(), [3]);
        assert_eq!(directories(bed), [LAYOUT_VERSION.to_string()]);
        assert_eq!(dataplane.retire_other_layouts().unwrap(), [0_u32; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn layout_4_is_taken_over_whole() {
    bed::run(|bed| {
        let before = bed.load();
        let writes = Plan(policies());
        before.tables().unwrap().apply(&writes).unwrap();
        drop(before);
        let old = leave_layout(bed, 4);
        let of_programs = [
            name::FLOWS,
            name::SOCKETS,
            name::AFFINITY,
            name::FRAGMENTS,
            name::CONNECTIONS,
        ];
        let shared = of_programs.map(|table| map_id(&old, table));

        let dataplane = bed.load();
        assert_eq!(*dataplane.inheritance(), Inheritance::From(4));
        let new = dataplane.pins();
        assert_eq!(of_programs.map(|table| map_id(new, table)), shared);
        let mut expected = weir_agent::maps::Contents::default();
        for write in numbers().into_iter().chain(policies()) {
            write.apply_to(&mut expected);
        }
        expected.pods.insert(POD, judged_pod());
        assert_eq!(dataplane.tables().unwrap().read().unwrap(), expected);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_layout_that_nobody_knows_is_left_until_the_programs_are_replaced() {
    bed::run(|bed| {
        for version in [2, LAYOUT_VERSION + 1] {
            leave_layout(bed, LAYOUT_VERSION + 1);
            let root = Pins::new(&bed.bpffs());
            fs::rename(
                root.of_layout(LAYOUT_VERSION + 1).maps(),
                root.of_layout(version).maps(),
            )
            .unwrap();
            let dataplane = bed.load();
            assert_eq!(*dataplane.inheritance(), Inheritance::Lost(vec![version]));
            let contents = dataplane.tables().unwrap().read().unwrap();
            assert_eq!(contents, weir_agent::maps::Contents::default());
            assert_eq!(dataplane.retire_other_layouts().unwrap(), [version]);
            fs::remove_dir_all(dataplane.pins().maps()).unwrap();
        }
    });
}

/// A table of the older layout that is not what its version says.
#[test]
#[ignore = "needs root: cargo xtask test program"]
fn what_cannot_be_trusted_is_not_taken_over() {
    bed::run(|bed| {
        let old = leave_layout(bed, 3);
        fs::remove_file(old.map(name::FLOWS)).unwrap();
        let wider = HashMap::<MapData, u32, u64>::create(16, 0).unwrap();
        wider.pin(old.map(name::FLOWS)).unwrap();
        let dataplane = bed.load();
        assert_eq!(*dataplane.inheritance(), Inheritance::Lost(vec![3]));
        assert_eq!(directories(bed), ["3", &LAYOUT_VERSION.to_string()]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_takeover_that_was_interrupted_begins_again() {
    bed::run(|bed| {
        let old = leave_layout(bed, 3);
        let flows = map_id(&old, name::FLOWS);
        // As an agent leaves it that is killed while it loads.
        let unfinished = Pins::new(&bed.bpffs()).unfinished();
        unfinished.prepare().unwrap();
        let junk = HashMap::<MapData, u32, u64>::create(16, 0).unwrap();
        junk.pin(unfinished.map(name::SERVICES)).unwrap();

        let dataplane = bed.load();
        assert_eq!(*dataplane.inheritance(), Inheritance::From(3));
        assert_eq!(map_id(dataplane.pins(), name::FLOWS), flows);
        assert_has_numbers(&dataplane);
        assert_eq!(directories(bed), ["3", &LAYOUT_VERSION.to_string()]);
    });
}

/// Its agent was killed before it removed the older ones.
#[test]
#[ignore = "needs root: cargo xtask test program"]
fn tables_that_are_complete_are_adopted_whatever_stands_beside_them() {
    bed::run(|bed| {
        leave_layout(bed, 3);
        let first = bed.load();
        // What it wrote since is newer than what the older one holds.
        let removed = Plan(vec![Write::RemoveServiceName(7)]);
        first.tables().unwrap().apply(&removed).unwrap();
        let contents = first.tables().unwrap().read().unwrap();
        drop(first);
        let second = bed.load();
        assert_eq!(*second.inheritance(), Inheritance::None);
        assert_eq!(second.tables().unwrap().read().unwrap(), contents);
        assert_eq!(second.retire_other_layouts().unwrap(), [3]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_load_that_fails_leaves_the_older_tables_alone() {
    bed::run(|bed| {
        let old = leave_layout(bed, 3);
        let flows = map_id(&old, name::FLOWS);
        let error = bed
            .try_load(|options| {
                // Beyond what the kernel can make.
                options.capacities.insert(name::CONNECTIONS, u32::MAX);
            })
            .unwrap_err();
        assert!(format!("{error:#}").contains("CONNECTIONS"), "{error:#}");
        assert_eq!(directories(bed), ["3"]);
        assert_eq!(map_id(&old, name::FLOWS), flows);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn tables_that_were_made_smaller_take_what_fits() {
    bed::run(|bed| {
        let old = leave_layout(bed, 3);
        let flows = map_id(&old, name::FLOWS);
        let dataplane = bed
            .try_load(|options| {
                options.capacities.insert(name::SERVICES, 4);
            })
            .unwrap();
        // The service's number is beyond the end of the new table.
        assert_eq!(*dataplane.inheritance(), Inheritance::From(3));
        assert_eq!(map_id(dataplane.pins(), name::FLOWS), flows);
        let contents = dataplane.tables().unwrap().read().unwrap();
        assert_eq!(contents.services.len(), 0);
        assert_eq!(contents.service_names.len(), 1);
    });
}
