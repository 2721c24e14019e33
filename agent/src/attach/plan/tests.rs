use super::*;
use proptest::prelude::*;

const ETHERNET: Role = Role::Network {
    has_link_header: true,
};
const BARE: Role = Role::Network {
    has_link_header: false,
};

/// The ids of the loaded programs.
fn ours(name: &str) -> u32 {
    let place = TC_PROGRAMS.iter().position(|program| *program == name);
    100 + u32::try_from(place.expect("it is one of our programs")).unwrap()
}

fn at(interface: u32, hook: TcHook, mode: TcMode) -> Attachment {
    Attachment {
        hook,
        interface,
        mode,
    }
}

fn tcx(interface: u32, hook: TcHook) -> Attachment {
    at(interface, hook, TcMode::Tcx)
}

/// What is attached after the actions.
fn perform(
    mut present: BTreeMap<Attachment, State>,
    actions: &[Action],
) -> BTreeMap<Attachment, State> {
    for action in actions {
        match action {
            Action::Attach(attachment, program) => {
                let before = present.insert(*attachment, State::Live(ours(program)));
                assert_eq!(before, None, "attached twice: {attachment}");
            }
            Action::Replace(attachment, program) => {
                let before = present.insert(*attachment, State::Live(ours(program)));
                assert!(
                    matches!(before, Some(State::Live(_))),
                    "replaced what was not there: {attachment}"
                );
            }
            Action::Remove(attachment) => {
                assert!(
                    present.remove(attachment).is_some(),
                    "removed what was not there: {attachment}"
                );
            }
        }
    }
    present
}

/// What the wanted interfaces have in the end.
fn expected(wanted: &BTreeMap<u32, Role>, mode: TcMode) -> BTreeMap<Attachment, State> {
    wanted
        .iter()
        .flat_map(|(interface, role)| {
            role.hooks()
                .iter()
                .map(|(hook, program)| (at(*interface, *hook, mode), State::Live(ours(program))))
        })
        .collect()
}

#[test]
fn replies_are_translated_at_every_interface_before_requests_are_at_any() {
    let wanted = BTreeMap::from([(2, ETHERNET), (3, BARE), (7, Role::Pod)]);
    assert_eq!(
        plan(&wanted, &BTreeMap::new(), TcMode::Tcx, ours),
        [
            Action::Attach(tcx(7, TcHook::ToPod), "to_pod"),
            Action::Attach(tcx(2, TcHook::ToNetwork), "to_network"),
            Action::Attach(tcx(3, TcHook::ToNetwork), "to_network_l3"),
            Action::Attach(tcx(7, TcHook::FromPod), "from_pod"),
            Action::Attach(tcx(2, TcHook::FromNetwork), "from_network"),
            Action::Attach(tcx(3, TcHook::FromNetwork), "from_network_l3"),
        ]
    );
}

#[test]
fn replies_are_translated_until_requests_no_longer_are() {
    let present = expected(
        &BTreeMap::from([(2, ETHERNET), (7, Role::Pod)]),
        TcMode::Tcx,
    );
    assert_eq!(
        plan(&BTreeMap::new(), &present, TcMode::Tcx, ours),
        [
            Action::Remove(tcx(2, TcHook::FromNetwork)),
            Action::Remove(tcx(7, TcHook::FromPod)),
            Action::Remove(tcx(2, TcHook::ToNetwork)),
            Action::Remove(tcx(7, TcHook::ToPod)),
        ]
    );
}

#[test]
fn a_program_of_an_earlier_agent_is_replaced_in_place() {
    let to_pod = at(7, TcHook::ToPod, TcMode::Clsact);
    let mut present = expected(&BTreeMap::from([(7, Role::Pod)]), TcMode::Clsact);
    present.insert(to_pod, State::Live(3));
    assert_eq!(
        plan(
            &BTreeMap::from([(7, Role::Pod)]),
            &present,
            TcMode::Clsact,
            ours
        ),
        [Action::Replace(to_pod, "to_pod")]
    );
}

#[test]
fn a_severed_link_makes_room_for_a_new_one() {
    let dead = tcx(7, TcHook::FromPod);
    let mut present = expected(&BTreeMap::from([(7, Role::Pod)]), TcMode::Tcx);
    present.insert(dead, State::Severed);
    assert_eq!(
        plan(
            &BTreeMap::from([(7, Role::Pod)]),
            &present,
            TcMode::Tcx,
            ours
        ),
        [Action::Remove(dead), Action::Attach(dead, "from_pod")]
    );
}

#[test]
fn a_new_pods_packets_are_judged_before_all_else() {
    let old = BTreeMap::from([(3, Role::Pod), (7, Role::Pod)]);
    let mut present = expected(&old, TcMode::Tcx);
    for hook in [TcHook::FromPod, TcHook::ToPod] {
        present.insert(tcx(3, hook), State::Severed);
    }
    let wanted = BTreeMap::from([(7, Role::Pod), (8, Role::Pod), (9, Role::Pod)]);
    assert_eq!(
        plan(&wanted, &present, TcMode::Tcx, ours),
        [
            Action::Attach(tcx(8, TcHook::FromPod), "from_pod"),
            Action::Attach(tcx(9, TcHook::FromPod), "from_pod"),
            Action::Attach(tcx(8, TcHook::ToPod), "to_pod"),
            Action::Attach(tcx(9, TcHook::ToPod), "to_pod"),
            Action::Remove(tcx(3, TcHook::ToPod)),
            Action::Remove(tcx(3, TcHook::FromPod)),
        ]
    );
}

#[test]
fn another_mode_is_attached_before_the_old_one_is_removed() {
    let wanted = BTreeMap::from([(7, ETHERNET)]);
    let present = expected(&wanted, TcMode::Clsact);
    assert_eq!(
        plan(&wanted, &present, TcMode::Tcx, ours),
        [
            Action::Attach(tcx(7, TcHook::ToNetwork), "to_network"),
            Action::Attach(tcx(7, TcHook::FromNetwork), "from_network"),
            Action::Remove(at(7, TcHook::FromNetwork, TcMode::Clsact)),
            Action::Remove(at(7, TcHook::ToNetwork, TcMode::Clsact)),
        ]
    );
}

#[test]
fn an_interface_that_becomes_a_pods_changes_its_programs() {
    let present = expected(&BTreeMap::from([(7, ETHERNET)]), TcMode::Tcx);
    assert_eq!(
        plan(
            &BTreeMap::from([(7, Role::Pod)]),
            &present,
            TcMode::Tcx,
            ours
        ),
        [
            Action::Attach(tcx(7, TcHook::ToPod), "to_pod"),
            Action::Attach(tcx(7, TcHook::FromPod), "from_pod"),
            Action::Remove(tcx(7, TcHook::FromNetwork)),
            Action::Remove(tcx(7, TcHook::ToNetwork)),
        ]
    );
}

#[test]
fn a_program_for_another_link_header_is_replaced() {
    let present = expected(&BTreeMap::from([(7, ETHERNET)]), TcMode::Tcx);
    assert_eq!(
        plan(&BTreeMap::from([(7, BARE)]), &present, TcMode::Tcx, ours),
        [
            Action::Replace(tcx(7, TcHook::ToNetwork), "to_network_l3"),
            Action::Replace(tcx(7, TcHook::FromNetwork), "from_network_l3"),
        ]
    );
}

#[test]
fn each_program_belongs_to_a_hook() {
    let named: BTreeSet<&str> = [Role::Pod, ETHERNET, BARE, Role::BridgePort]
        .iter()
        .flat_map(|role| role.hooks())
        .map(|(_, program)| *program)
        .collect();
    assert_eq!(named, TC_PROGRAMS.into_iter().collect());
    for role in [Role::Pod, ETHERNET, BARE] {
        let are_egress = role.hooks().iter().map(|(hook, _)| hook.is_egress());
        assert_eq!(are_egress.collect::<Vec<_>>(), [true, false], "{role:?}");
    }
}

fn any_mode() -> impl Strategy<Value = TcMode> {
    prop_oneof![Just(TcMode::Tcx), Just(TcMode::Clsact)]
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![
        Just(Role::Pod),
        Just(ETHERNET),
        Just(BARE),
        Just(Role::BridgePort)
    ]
}

fn any_attachment() -> impl Strategy<Value = (Attachment, State)> {
    (1u32..6, 0..TcHook::ALL.len(), any_mode(), 99u32..107).prop_map(
        |(interface, hook, mode, id)| {
            let state = match (id, mode) {
                // A filter goes with its interface.
                (99, TcMode::Tcx) => State::Severed,
                _ => State::Live(id),
            };
            (at(interface, TcHook::ALL[hook], mode), state)
        },
    )
}

proptest! {
    #[test]
    fn attaching_twice_changes_nothing(
        wanted in prop::collection::btree_map(1u32..6, any_role(), 0..6),
        present in prop::collection::vec(any_attachment(), 0..12),
        mode in any_mode(),
    ) {
        let present: BTreeMap<_, _> = present.into_iter().collect();
        let after = perform(present.clone(), &plan(&wanted, &present, mode, ours));
        prop_assert_eq!(&after, &expected(&wanted, mode));
        prop_assert_eq!(plan(&wanted, &after, mode, ours), []);
    }
}
