//! Attaching, restarting, cleaning up.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use weir_agent::attach::{
    AgentLock, Attachment, Dataplane, Features, HAND_OVER, LOG_DEBUG, Role, TcChoice, TcHook,
    TcMode, cleanup, netns_cookie, netns_cookie_by_program, of_every_node,
};
use weir_agent::maps::layout::layouts;
use weir_ebpf::tables::name;

use crate::bed::{self, Bed, remove_interface, tcx_programs, veths};

/// "Continue with the next program."
const TCX_NEXT: i32 = -1;

const ETHERNET: Role = Role::Network {
    has_link_header: true,
};
const BARE: Role = Role::Network {
    has_link_header: false,
};

/// Pods' interfaces, as they are wanted.
fn pods(interfaces: &[u32]) -> BTreeMap<u32, Role> {
    interfaces
        .iter()
        .map(|interface| (*interface, Role::Pod))
        .collect()
}

/// What wanted interfaces have, in the order in which it is attached.
fn attachments(wanted: &BTreeMap<u32, Role>, mode: TcMode) -> Vec<Attachment> {
    let all: BTreeSet<Attachment> = wanted
        .iter()
        .flat_map(|(interface, role)| {
            role.hooks().iter().map(|(hook, _)| Attachment {
                hook: *hook,
                interface: *interface,
                mode,
            })
        })
        .collect();
    all.into_iter().collect()
}

fn reversed(mut attachments: Vec<Attachment>) -> Vec<Attachment> {
    attachments.reverse();
    attachments
}

/// All, in the order of their names.
const PROGRAMS: [&str; 16] = [
    "connect4",
    "connect6",
    "from_network",
    "from_network_l3",
    "from_pod",
    "getpeername4",
    "getpeername6",
    "hand_over_to_pod",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
    "to_network",
    "to_network_l2",
    "to_network_l3",
    "to_pod",
];
/// Those of interfaces without link headers.
const NETWORK_L3: [&str; 2] = ["from_network_l3", "to_network_l3"];
const BRIDGE_PORT: [&str; 1] = ["to_network_l2"];

fn load(bed: &Bed, tc: TcChoice) -> Dataplane {
    bed.try_load(|options| options.tc = tc).unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn every_program_loads_with_a_record_of_each_packet() {
    bed::run(|bed| {
        let interfaces = veths(&["va", "vb", "vc", "vd"]);
        let roles = [Role::Pod, ETHERNET, BARE, Role::BridgePort];
        let roles = interfaces.into_iter().zip(roles);
        let wanted = roles.collect();
        let load = |level| {
            let loaded = bed.try_load(|options| {
                options.log_level = level;
                options.at_once = BTreeSet::from([HAND_OVER]);
            });
            loaded.unwrap()
        };
        let mut dataplane = load(LOG_DEBUG);
        let mut silent = load(0);
        for dataplane in [&mut dataplane, &mut silent] {
            let report = dataplane.sync_interfaces(&wanted).unwrap();
            assert!(report.failed.is_empty(), "{report:?}");
            dataplane.attach_cgroup(bed.cgroup()).unwrap();
            assert_eq!(loaded(dataplane), PROGRAMS);
        }
        let instructions = |dataplane: &Dataplane| -> u32 {
            let programs = dataplane.programs().iter();
            programs
                .filter_map(|program| program.verified_instructions)
                .sum()
        };
        assert!(
            instructions(&dataplane) > 2 * instructions(&silent),
            "the records are there in both, or in neither"
        );
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn every_program_loads_when_it_is_needed_and_is_counted() {
    bed::run(|bed| {
        let at_once = of_every_node().into_iter().chain([HAND_OVER]).collect();
        let mut dataplane = bed.try_load(|options| options.at_once = at_once).unwrap();
        let is_later = |it: &&str| NETWORK_L3.contains(it) || BRIDGE_PORT.contains(it);
        let at_once: Vec<&str> = PROGRAMS.into_iter().filter(|it| !is_later(it)).collect();
        assert_eq!(loaded(&dataplane), at_once);

        // One that has link headers needs none of the others.
        let interfaces = veths(&["va", "vb", "vc"]);
        let mut wanted = BTreeMap::from([(interfaces[0], ETHERNET)]);
        dataplane.sync_interfaces(&wanted).unwrap();
        assert_eq!(loaded(&dataplane), at_once);
        wanted.extend([(interfaces[1], BARE), (interfaces[2], Role::BridgePort)]);
        let report = dataplane.sync_interfaces(&wanted).unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!(loaded(&dataplane), PROGRAMS);
        for program in dataplane.programs() {
            assert_ne!(program.verified_instructions, Some(0), "{program:?}");
        }
        assert_eq!(dataplane.features(), Features::probe().unwrap());
    });
}

/// It is left in a pinned table, for programs that are replaced after it.
#[test]
#[ignore = "needs root: cargo xtask test program"]
fn what_an_earlier_agent_hands_packets_over_by_goes_with_it() {
    bed::run(|bed| {
        let can = Features::probe().unwrap().redirect_peer;
        let expected: &[&str] = if can { &[HAND_OVER] } else { &[] };
        let earlier = bed
            .try_load(|options| options.at_once = BTreeSet::from([HAND_OVER]))
            .unwrap();
        assert_eq!(loaded(&earlier), expected);
        assert_eq!(take_next_program(&earlier), can);
        let earlier = bed
            .try_load(|options| options.at_once = BTreeSet::from([HAND_OVER]))
            .unwrap();
        drop(earlier);
        let dataplane = bed.load();
        assert_eq!(loaded(&dataplane), [""; 0]);
        assert!(!take_next_program(&dataplane), "it is still there");
    });
}

/// Takes away what packets are handed over by. Was it there?
fn take_next_program(dataplane: &Dataplane) -> bool {
    let map = MapData::from_pin(dataplane.pins().map(name::NEXT_PROGRAMS)).unwrap();
    let mut next = ProgramArray::try_from(Map::ProgramArray(map)).unwrap();
    next.clear_index(&0).is_ok()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_program_that_is_refused_fails_the_hooks_that_need_it_and_no_other() {
    bed::run(|bed| {
        let interfaces = veths(&["va", "vb"]);
        let wanted = BTreeMap::from([(interfaces[0], BARE), (interfaces[1], ETHERNET)]);
        let mut dataplane = bed.load();
        // It is not loaded twice.
        let program: &mut SchedClassifier = dataplane
            .ebpf_mut()
            .program_mut("from_network_l3")
            .unwrap()
            .try_into()
            .unwrap();
        program.load().unwrap();
        let report = dataplane.sync_interfaces(&wanted).unwrap();
        let [(attachment, error)] = report.failed.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(
            (attachment.interface, attachment.hook),
            (interfaces[0], TcHook::FromNetwork)
        );
        let text = format!("{error:#}");
        assert!(text.contains("load the program from_network_l3"), "{text}");
        assert_eq!(report.attached.len(), 3, "{report:?}");

        // An earlier agent's stays where it is.
        assert!(
            bed.load()
                .sync_interfaces(&wanted)
                .unwrap()
                .failed
                .is_empty()
        );
        let before = tcx_programs("va");
        assert_eq!(before.len(), 2);
        let report = dataplane.sync_interfaces(&wanted).unwrap();
        assert_eq!(report.failed.len(), 1, "{report:?}");
        assert_eq!(tcx_programs("va"), before);
    });
}

fn loaded(dataplane: &Dataplane) -> Vec<&str> {
    let programs = dataplane.programs().iter();
    programs.map(|program| program.name.as_str()).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_program_and_a_socket_tell_the_same_cookie() {
    bed::run(|_| {
        let cookie = netns_cookie().unwrap();
        assert_ne!(cookie, 0);
        assert_eq!(netns_cookie_by_program().unwrap(), cookie);
    });
}

/// Tunnels of IPsec, and most others before Linux 5.14, leave outer headers before the packet. What
/// cannot be read must not be taken for malformed, and dropped.
#[test]
#[ignore = "needs root: cargo xtask test program"]
fn packets_that_do_not_begin_with_their_ip_header_pass_interfaces_without_link_headers() {
    bed::run(|bed| {
        let programs = ["from_network", "from_network_l3", "to_network_l3"];
        let loaded = bed.try_load(|options| options.at_once = programs.into());
        let mut dataplane = loaded.unwrap();
        // The kernel runs it as it would after such a tunnel: with the network header behind an
        // Ethernet header.
        let ethernet = [0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0];
        let ip = [
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 200, 0, 2, 10, 200, 1, 2, 0x13, 0x88, 0,
            53, 0, 8, 0, 0,
        ];
        let frame = [&ethernet[..], &ip[..]].concat();
        for name in programs {
            let program: &mut SchedClassifier = dataplane
                .ebpf_mut()
                .program_mut(name)
                .unwrap()
                .try_into()
                .unwrap();
            let result = program
                .test_run(TestRunOptions {
                    data_in: Some(&frame),
                    ..TestRunOptions::default()
                })
                .unwrap();
            assert_eq!(result.return_value.cast_signed(), TCX_NEXT, "{name}");
        }
    });
}

/// The same story for both ways of holding programs.
fn a_restart_replaces_programs_in_place(choice: TcChoice, mode: TcMode) {
    bed::run(move |bed| {
        let interfaces = veths(&["va", "vb", "vc"]);
        let wanted = BTreeMap::from([
            (interfaces[0], Role::Pod),
            (interfaces[1], ETHERNET),
            (interfaces[2], BARE),
        ]);
        let all = attachments(&wanted, mode);

        let mut first = load(bed, choice);
        assert_eq!(first.tc_mode(), mode);
        let report = first.sync_interfaces(&wanted).unwrap();
        assert_eq!(report.attached, all, "{report:?}");
        let report = first.sync_interfaces(&wanted).unwrap();
        assert!(report.is_empty(), "attaching twice changed: {report:?}");
        drop(first);
        if mode == TcMode::Tcx {
            let programs = tcx_programs("va");
            assert_eq!(
                programs,
                ["from_pod", "to_pod"],
                "they ended with their agent"
            );
            assert_eq!(tcx_programs("vb"), ["from_network", "to_network"]);
            assert_eq!(tcx_programs("vc"), NETWORK_L3);
        }

        let mut second = load(bed, choice);
        let report = second.sync_interfaces(&wanted).unwrap();
        assert_eq!(report.replaced, all, "{report:?}");
        assert!(report.attached.is_empty(), "{report:?}");
        assert!(second.sync_interfaces(&wanted).unwrap().is_empty());

        // A pod goes, and its interface with it; another no longer leads to the network.
        remove_interface(interfaces[0]);
        let report = second.sync_interfaces(&BTreeMap::new()).unwrap();
        assert!(report.failed.is_empty(), "{report:?}");
        assert!(
            report.removed.ends_with(&reversed(attachments(
                &BTreeMap::from([(interfaces[1], ETHERNET), (interfaces[2], BARE)]),
                mode
            ))),
            "{report:?}"
        );
        assert!(second.sync_interfaces(&BTreeMap::new()).unwrap().is_empty());
        if mode == TcMode::Tcx {
            assert!(tcx_programs("vb").is_empty());
            assert!(tcx_programs("vc").is_empty());
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_restart_replaces_tcx_programs_in_place() {
    a_restart_replaces_programs_in_place(TcChoice::Tcx, TcMode::Tcx);
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_restart_replaces_clsact_programs_in_place() {
    a_restart_replaces_programs_in_place(TcChoice::Clsact, TcMode::Clsact);
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn an_agent_with_another_mode_takes_over() {
    bed::run(|bed| {
        let wanted = pods(&veths(&["va"]));
        load(bed, TcChoice::Clsact)
            .sync_interfaces(&wanted)
            .unwrap();

        let report = load(bed, TcChoice::Tcx).sync_interfaces(&wanted).unwrap();
        assert_eq!(report.attached, attachments(&wanted, TcMode::Tcx));
        assert_eq!(report.removed.len(), 2, "{report:?}");
        assert_eq!(tcx_programs("va"), ["from_pod", "to_pod"]);

        let report = load(bed, TcChoice::Clsact)
            .sync_interfaces(&wanted)
            .unwrap();
        assert_eq!(report.attached, attachments(&wanted, TcMode::Clsact));
        assert_eq!(report.removed.len(), 2, "{report:?}");
        assert!(tcx_programs("va").is_empty());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn an_interface_may_change_its_role() {
    bed::run(|bed| {
        for choice in [TcChoice::Tcx, TcChoice::Clsact] {
            let interface = veths(&["va"])[0];
            let mut dataplane = load(bed, choice);
            let mode = dataplane.tc_mode();
            let of = |role| BTreeMap::from([(interface, role)]);
            dataplane.sync_interfaces(&of(ETHERNET)).unwrap();

            // The programs at its hooks are others, the hooks are the same.
            let report = dataplane.sync_interfaces(&of(BARE)).unwrap();
            assert_eq!(report.replaced, attachments(&of(BARE), mode), "{report:?}");
            assert!(report.removed.is_empty(), "{report:?}");
            if mode == TcMode::Tcx {
                assert_eq!(tcx_programs("va"), ["from_network_l3", "to_network_l3"]);
            }

            let report = dataplane.sync_interfaces(&of(Role::Pod)).unwrap();
            assert!(report.failed.is_empty(), "{report:?}");
            assert_eq!(report.attached, attachments(&of(Role::Pod), mode));
            assert_eq!(report.removed, reversed(attachments(&of(BARE), mode)));
            assert!(
                dataplane
                    .sync_interfaces(&of(Role::Pod))
                    .unwrap()
                    .is_empty()
            );
            if mode == TcMode::Tcx {
                assert_eq!(tcx_programs("va"), ["from_pod", "to_pod"]);
            }
            cleanup(&bed.bpffs()).unwrap();
            remove_interface(interface);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn an_interface_that_vanishes_is_no_error() {
    bed::run(|bed| {
        for choice in [TcChoice::Tcx, TcChoice::Clsact] {
            let interfaces = veths(&["va", "vb"]);
            let wanted = pods(&interfaces);
            remove_interface(interfaces[0]);
            let mut dataplane = load(bed, choice);
            let report = dataplane.sync_interfaces(&wanted).unwrap();
            assert_eq!(report.vanished, BTreeSet::from([interfaces[0]]));
            let kept = pods(&interfaces[1..]);
            assert_eq!(report.attached, attachments(&kept, dataplane.tc_mode()));
            assert!(report.failed.is_empty(), "{report:?}");
            remove_interface(interfaces[1]);
        }
    });
}

/// With the programs of pods' interfaces from the beginning.
fn load_for_pods(bed: &Bed, tc: TcChoice) -> Dataplane {
    let loaded = bed.try_load(|options| {
        options.tc = tc;
        let pods = Role::Pod.hooks().iter();
        options.at_once = pods.map(|(_, program)| *program).collect();
    });
    loaded.unwrap()
}

/// A program of someone else at the interface `va`: by TCX, and as a filter with a qdisc of its
/// own.
fn attach_foreign(dataplane: &mut Dataplane) {
    let program: &mut SchedClassifier = dataplane
        .ebpf_mut()
        .program_mut("to_pod")
        .unwrap()
        .try_into()
        .unwrap();
    program
        .attach_with_options(
            "va",
            TcAttachType::Ingress,
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )
        .unwrap();
    program
        .attach_with_options(
            "va",
            TcAttachType::Ingress,
            TcAttachOptions::Netlink(NlOptions {
                priority: 1,
                handle: TcHandle::new(0, 1),
                classid: None,
            }),
        )
        .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn others_programs_are_never_touched() {
    bed::run(|bed| {
        for choice in [TcChoice::Tcx, TcChoice::Clsact] {
            let interface = veths(&["va"])[0];
            qdisc_add_clsact("va").unwrap();
            let mut dataplane = load_for_pods(bed, choice);
            attach_foreign(&mut dataplane);
            dataplane.sync_interfaces(&pods(&[interface])).unwrap();
            dataplane.sync_interfaces(&BTreeMap::new()).unwrap();
            dataplane.sync_interfaces(&pods(&[interface])).unwrap();
            let removed = cleanup(&bed.bpffs()).unwrap();
            assert!(removed.qdiscs.is_empty(), "another's qdisc was removed");
            assert_eq!(tcx_programs("va"), ["to_pod"], "{choice:?}");
            // The kernel gives the filter's place to nobody else, so it is still there.
            let program: &mut SchedClassifier = dataplane
                .ebpf_mut()
                .program_mut("from_pod")
                .unwrap()
                .try_into()
                .unwrap();
            program
                .attach_with_options(
                    "va",
                    TcAttachType::Ingress,
                    TcAttachOptions::Netlink(NlOptions {
                        priority: 1,
                        handle: TcHandle::new(0, 1),
                        classid: None,
                    }),
                )
                .expect_err("another's filter was removed");
            drop(dataplane);
            remove_interface(interface);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn our_qdisc_stays_while_another_uses_it() {
    bed::run(|bed| {
        let interface = veths(&["va"])[0];
        let mut dataplane = load_for_pods(bed, TcChoice::Clsact);
        dataplane.sync_interfaces(&pods(&[interface])).unwrap();
        attach_foreign(&mut dataplane);
        let removed = cleanup(&bed.bpffs()).unwrap();
        assert_eq!(removed.filters.len(), 2, "{removed:?}");
        assert!(removed.qdiscs.is_empty());
        assert_eq!(bed.pinned(), BTreeSet::new());
        qdisc_add_clsact("va").expect_err("the qdisc was removed under another's filter");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn another_filter_in_our_place_is_left_there_and_named() {
    bed::run(|bed| {
        let interface = veths(&["va"])[0];
        qdisc_add_clsact("va").unwrap();
        let mut dataplane = load_for_pods(bed, TcChoice::Clsact);
        let program: &mut SchedClassifier = dataplane
            .ebpf_mut()
            .program_mut("to_pod")
            .unwrap()
            .try_into()
            .unwrap();
        program
            .attach_with_options(
                "va",
                TcAttachType::Egress,
                TcAttachOptions::Netlink(NlOptions {
                    priority: 0x5745,
                    handle: TcHandle::new(0x5765, 0x6972),
                    classid: None,
                }),
            )
            .unwrap();
        let report = dataplane.sync_interfaces(&pods(&[interface])).unwrap();
        assert_eq!(report.attached.len(), 1, "{report:?}");
        let [(attachment, error)] = report.failed.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(attachment.hook, TcHook::ToPod);
        let text = format!("{error:#}");
        assert!(text.contains("is taken by a bpf filter (to_pod)"), "{text}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn socket_programs_are_replaced_in_place_and_follow_the_cgroup() {
    bed::run(|bed| {
        let report = bed.load().attach_cgroup(bed.cgroup()).unwrap();
        assert_eq!(report.attached.len(), 8, "{report:?}");

        let mut second = bed.load();
        let report = second.attach_cgroup(bed.cgroup()).unwrap();
        assert_eq!(report.replaced.len(), 8, "{report:?}");
        assert_eq!(report.attached.len() + report.moved.len(), 0, "{report:?}");

        let child = bed.cgroup().join("child");
        std::fs::create_dir(&child).unwrap();
        let report = second.attach_cgroup(&child).unwrap();
        assert_eq!(report.moved.len(), 8, "{report:?}");
        let report = second.attach_cgroup(&child).unwrap();
        assert_eq!(report.replaced.len(), 8, "{report:?}");

        // The links outlive their cgroup, but do nothing.
        std::fs::remove_dir(&child).unwrap();
        let report = second.attach_cgroup(bed.cgroup()).unwrap();
        assert_eq!(report.moved.len(), 8, "{report:?}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn a_directory_that_is_no_cgroup_is_refused_with_the_way_out() {
    bed::run(|bed| {
        let error = bed.load().attach_cgroup(&bed.run_dir()).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("--cgroup-root"), "{text}");
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn cleanup_leaves_nothing_and_can_be_repeated() {
    bed::run(|bed| {
        for choice in [TcChoice::Tcx, TcChoice::Clsact] {
            let interfaces = veths(&["va", "vb"]);
            let mut dataplane = load(bed, choice);
            let wanted = BTreeMap::from([(interfaces[0], Role::Pod), (interfaces[1], ETHERNET)]);
            dataplane.sync_interfaces(&wanted).unwrap();
            dataplane.attach_cgroup(bed.cgroup()).unwrap();
            drop(dataplane);
            assert!(!bed.pinned().is_empty());

            let removed = cleanup(&bed.bpffs()).unwrap();
            assert_eq!(removed.maps.len(), layouts().len(), "{removed:?}");
            let (links, filters, qdiscs) = match choice {
                TcChoice::Clsact => (8, 4, interfaces.clone()),
                TcChoice::Auto | TcChoice::Tcx => (12, 0, vec![]),
            };
            assert_eq!(removed.links.len(), links, "{removed:?}");
            assert_eq!(removed.filters.len(), filters, "{removed:?}");
            assert_eq!(removed.qdiscs, qdiscs);

            assert_eq!(bed.pinned(), BTreeSet::new());
            assert!(tcx_programs("va").is_empty());
            // The kernel refuses a second qdisc, so ours is gone.
            qdisc_add_clsact("va").unwrap();
            assert!(cleanup(&bed.bpffs()).unwrap().is_empty());
            interfaces.into_iter().for_each(remove_interface);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn cleanup_needs_a_bpf_file_system() {
    bed::run(|bed| {
        std::fs::create_dir(bed.run_dir().join("weir")).unwrap();
        let error = cleanup(&bed.run_dir()).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(bed.run_dir().join("weir").exists());
    });
}

#[test]
#[ignore = "needs root: cargo xtask test program"]
fn the_lock_is_free_when_its_agent_is_gone() {
    bed::run(|bed| {
        let path = bed.run_dir().join("agent.lock");
        let held = AgentLock::acquire(&path).unwrap();
        AgentLock::acquire(&path).unwrap_err();
        drop(held);
        AgentLock::acquire(&path).unwrap();
    });
}
