//! Which attachments must change: pure.
//!
//! Only attachments of ours are ever given to this module, so no other program can be touched
//! by what it returns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A packet hook of a pod's interface on the node's side.
///
/// Ordered: `to_pod`, which translates replies back, is attached before `from_pod`, which
/// translates requests, and removed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcHook {
    /// Egress: packets towards the pod.
    ToPod,
    /// Ingress: packets from the pod.
    FromPod,
}

impl TcHook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ToPod, Self::FromPod];

    /// The name of the program that belongs there.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::ToPod => "to_pod",
            Self::FromPod => "from_pod",
        }
    }
}

/// How a packet hook holds its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcMode {
    /// A link of its own, pinned (Linux 6.6).
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl fmt::Display for TcMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// One program at one hook of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The interface's index.
    pub interface: u32,
    /// The hook.
    pub hook: TcHook,
    /// How it is held.
    pub mode: TcMode,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interface,
            hook,
            mode,
        } = self;
        write!(f, "{} at interface {interface} ({mode})", hook.program())
    }
}

/// What is known of an attachment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs the program with this id.
    Live(u32),
    /// Its interface is gone; only the pin is left.
    Severed,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Attach where nothing of ours is.
    Attach(Attachment),
    /// Put our program in the place of an earlier agent's, in one step.
    Replace(Attachment),
    /// Remove what is ours.
    Remove(Attachment),
}

/// The changes that leave each wanted interface with the given programs at both hooks, held in
/// the given mode, and no other interface with any of ours.
///
/// Attached first, removed last: an interface that changes its mode is never without a program.
#[must_use]
pub fn plan(
    wanted: &BTreeSet<u32>,
    present: &BTreeMap<Attachment, State>,
    mode: TcMode,
    program: impl Fn(TcHook) -> u32,
) -> Vec<Action> {
    let severed = present
        .iter()
        .filter(|(_, state)| **state == State::Severed)
        .map(|(attachment, _)| Action::Remove(*attachment));

    let needed = wanted.iter().flat_map(|interface| {
        TcHook::ALL.map(|hook| Attachment {
            interface: *interface,
            hook,
            mode,
        })
    });
    let set = needed.filter_map(|attachment| match present.get(&attachment) {
        Some(State::Live(id)) if *id == program(attachment.hook) => None,
        Some(State::Live(_)) => Some(Action::Replace(attachment)),
        Some(State::Severed) | None => Some(Action::Attach(attachment)),
    });

    let superfluous = present
        .iter()
        .rev()
        .filter(|(attachment, state)| {
            **state != State::Severed
                && (attachment.mode != mode || !wanted.contains(&attachment.interface))
        })
        .map(|(attachment, _)| Action::Remove(*attachment));

    severed.chain(set).chain(superfluous).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: fn(TcHook) -> u32 = |hook| match hook {
        TcHook::ToPod => 100,
        TcHook::FromPod => 101,
    };

    fn at(interface: u32, hook: TcHook, mode: TcMode) -> Attachment {
        Attachment {
            interface,
            hook,
            mode,
        }
    }

    /// What is attached after the actions.
    fn perform(
        mut present: BTreeMap<Attachment, State>,
        actions: &[Action],
    ) -> BTreeMap<Attachment, State> {
        for action in actions {
            match action {
                Action::Attach(attachment) => {
                    let before = present.insert(*attachment, State::Live(OURS(attachment.hook)));
                    assert_eq!(before, None, "attached twice: {attachment}");
                }
                Action::Replace(attachment) => {
                    let before = present.insert(*attachment, State::Live(OURS(attachment.hook)));
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

    #[test]
    fn replies_are_translated_before_requests_are() {
        assert_eq!(
            plan(&BTreeSet::from([7]), &BTreeMap::new(), TcMode::Tcx, OURS),
            [
                Action::Attach(at(7, TcHook::ToPod, TcMode::Tcx)),
                Action::Attach(at(7, TcHook::FromPod, TcMode::Tcx)),
            ]
        );
    }

    #[test]
    fn replies_are_translated_until_requests_no_longer_are() {
        let present = BTreeMap::from([
            (at(7, TcHook::ToPod, TcMode::Tcx), State::Live(100)),
            (at(7, TcHook::FromPod, TcMode::Tcx), State::Live(101)),
        ]);
        assert_eq!(
            plan(&BTreeSet::new(), &present, TcMode::Tcx, OURS),
            [
                Action::Remove(at(7, TcHook::FromPod, TcMode::Tcx)),
                Action::Remove(at(7, TcHook::ToPod, TcMode::Tcx)),
            ]
        );
    }

    #[test]
    fn a_program_of_an_earlier_agent_is_replaced_in_place() {
        let present = BTreeMap::from([
            (at(7, TcHook::ToPod, TcMode::Clsact), State::Live(3)),
            (at(7, TcHook::FromPod, TcMode::Clsact), State::Live(101)),
        ]);
        assert_eq!(
            plan(&BTreeSet::from([7]), &present, TcMode::Clsact, OURS),
            [Action::Replace(at(7, TcHook::ToPod, TcMode::Clsact))]
        );
    }

    #[test]
    fn a_severed_link_makes_room_for_a_new_one() {
        let dead = at(7, TcHook::FromPod, TcMode::Tcx);
        let present = BTreeMap::from([
            (dead, State::Severed),
            (at(7, TcHook::ToPod, TcMode::Tcx), State::Live(100)),
        ]);
        assert_eq!(
            plan(&BTreeSet::from([7]), &present, TcMode::Tcx, OURS),
            [Action::Remove(dead), Action::Attach(dead)]
        );
    }

    #[test]
    fn another_mode_is_attached_before_the_old_one_is_removed() {
        let present = BTreeMap::from([
            (at(7, TcHook::ToPod, TcMode::Clsact), State::Live(100)),
            (at(7, TcHook::FromPod, TcMode::Clsact), State::Live(101)),
        ]);
        assert_eq!(
            plan(&BTreeSet::from([7]), &present, TcMode::Tcx, OURS),
            [
                Action::Attach(at(7, TcHook::ToPod, TcMode::Tcx)),
                Action::Attach(at(7, TcHook::FromPod, TcMode::Tcx)),
                Action::Remove(at(7, TcHook::FromPod, TcMode::Clsact)),
                Action::Remove(at(7, TcHook::ToPod, TcMode::Clsact)),
            ]
        );
    }

    fn any_mode() -> impl Strategy<Value = TcMode> {
        prop_oneof![Just(TcMode::Tcx), Just(TcMode::Clsact)]
    }

    fn any_attachment() -> impl Strategy<Value = (Attachment, State)> {
        (1u32..6, prop::bool::ANY, any_mode(), 99u32..103).prop_map(
            |(interface, from, mode, id)| {
                let hook = if from { TcHook::FromPod } else { TcHook::ToPod };
                let state = match (id, mode) {
                    // A filter goes with its interface.
                    (99, TcMode::Tcx) => State::Severed,
                    _ => State::Live(id),
                };
                (at(interface, hook, mode), state)
            },
        )
    }

    proptest! {
        #[test]
        fn attaching_twice_changes_nothing(
            wanted in prop::collection::btree_set(1u32..6, 0..6),
            present in prop::collection::btree_map(
                any_attachment().prop_map(|(attachment, _)| attachment),
                any_attachment().prop_map(|(_, state)| state),
                0..12,
            ),
            mode in any_mode(),
        ) {
            let after = perform(present.clone(), &plan(&wanted, &present, mode, OURS));
            let expected: BTreeMap<_, _> = wanted
                .iter()
                .flat_map(|interface| TcHook::ALL.map(|hook| at(*interface, hook, mode)))
                .map(|attachment| (attachment, State::Live(OURS(attachment.hook))))
                .collect();
            prop_assert_eq!(&after, &expected);
            prop_assert_eq!(plan(&wanted, &after, mode, OURS), []);
        }
    }
}
