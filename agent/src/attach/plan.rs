//! Which attachments must change: pure.
//!
//! Only attachments of ours are ever given to this module, so no other program can be touched
//! by what it returns.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A packet hook of an interface.
///
/// Ordered: what translates replies back, or sources as packets leave, is attached before what
/// translates requests, at whatever interface, and removed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcHook {
    /// Egress of a pod's interface on the node's side: packets towards the pod.
    ToPod,
    /// Egress of an interface that leads to the network.
    ToNetwork,
    /// Ingress of a pod's interface on the node's side: packets from the pod.
    FromPod,
    /// Ingress of an interface that leads to the network.
    FromNetwork,
}

impl TcHook {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::ToPod,
        Self::ToNetwork,
        Self::FromPod,
        Self::FromNetwork,
    ];

    /// Its name: that of pins and filters, and of its program at interfaces with Ethernet headers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToPod => "to_pod",
            Self::ToNetwork => "to_network",
            Self::FromPod => "from_pod",
            Self::FromNetwork => "from_network",
        }
    }

    /// Does it see what leaves by the interface, or what comes from it?
    #[must_use]
    pub const fn is_egress(self) -> bool {
        match self {
            Self::ToPod | Self::ToNetwork => true,
            Self::FromPod | Self::FromNetwork => false,
        }
    }
}

/// The packet programs, by name.
pub const TC_PROGRAMS: [&str; 7] = [
    "to_pod",
    "to_network",
    "to_network_l2",
    "to_network_l3",
    "from_pod",
    "from_network",
    "from_network_l3",
];

/// What an interface leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// To a pod.
    Pod,
    /// To the network.
    Network {
        /// Do its packets begin with an Ethernet header?
        has_link_header: bool,
    },
    /// To the network, or to somebody else, by a bridge that pods hang on, too: frames.
    BridgePort,
}

impl Role {
    /// Its hooks, each with the name of the program that belongs there.
    #[must_use]
    pub const fn hooks(self) -> &'static [(TcHook, &'static str)] {
        match self {
            Self::Pod => &[(TcHook::ToPod, "to_pod"), (TcHook::FromPod, "from_pod")],
            Self::Network {
                has_link_header: true,
            } => &[
                (TcHook::ToNetwork, "to_network"),
                (TcHook::FromNetwork, "from_network"),
            ],
            Self::Network {
                has_link_header: false,
            } => &[
                (TcHook::ToNetwork, "to_network_l3"),
                (TcHook::FromNetwork, "from_network_l3"),
            ],
            Self::BridgePort => &[(TcHook::ToNetwork, "to_network_l2")],
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

/// One program at one hook of one interface. Ordered by hook first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The hook.
    pub hook: TcHook,
    /// The interface's index.
    pub interface: u32,
    /// How it is held.
    pub mode: TcMode,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            hook,
            interface,
            mode,
        } = self;
        write!(f, "{} at interface {interface} ({mode})", hook.name())
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
    /// Attach the program of this name where nothing of ours is.
    Attach(Attachment, &'static str),
    /// Put the program of this name in the place of another of ours, in one step.
    Replace(Attachment, &'static str),
    /// Remove what is ours.
    Remove(Attachment),
}

/// The changes that leave each wanted interface with the programs of its role, held in the given
/// mode, and no other interface with any of ours. `program`: the ids of the loaded programs.
///
/// Attached first, removed last: an interface that changes its mode is never without a program.
/// Where others have their programs already, those that judge what a new pod sends come before all
/// else: each takes the kernel a grace period, and the pod starts meanwhile.
#[must_use]
pub fn plan(
    wanted: &BTreeMap<u32, Role>,
    present: &BTreeMap<Attachment, State>,
    mode: TcMode,
    program: impl Fn(&'static str) -> u32,
) -> Vec<Action> {
    let needed: BTreeMap<Attachment, &'static str> = wanted
        .iter()
        .flat_map(|(interface, role)| {
            role.hooks().iter().map(|&(hook, program)| {
                let attachment = Attachment {
                    hook,
                    interface: *interface,
                    mode,
                };
                (attachment, program)
            })
        })
        .collect();
    let mut set: Vec<Action> = needed
        .iter()
        .filter_map(|(&attachment, &name)| match present.get(&attachment) {
            Some(State::Live(id)) if *id == program(name) => None,
            Some(State::Live(_)) => Some(Action::Replace(attachment, name)),
            Some(State::Severed) | None => Some(Action::Attach(attachment, name)),
        })
        .collect();
    let in_use: BTreeSet<u32> = present
        .iter()
        .filter(|(_, state)| **state != State::Severed)
        .map(|(attachment, _)| attachment.interface)
        .collect();
    if !in_use.is_empty() {
        set.sort_by_key(|action| match action {
            Action::Attach(it, _) => it.hook != TcHook::FromPod || in_use.contains(&it.interface),
            Action::Replace(..) | Action::Remove(_) => true,
        });
    }

    let severed = present
        .iter()
        .filter(|(_, state)| **state == State::Severed)
        .map(|(attachment, _)| *attachment);
    let (in_the_way, left): (Vec<_>, Vec<_>) = severed.partition(|it| needed.contains_key(it));

    let superfluous = present
        .iter()
        .rev()
        .filter(|(attachment, state)| {
            **state != State::Severed && !needed.contains_key(*attachment)
        })
        .map(|(attachment, _)| Action::Remove(*attachment));

    let in_the_way = in_the_way.into_iter().map(Action::Remove);
    let left = left.into_iter().map(Action::Remove);
    in_the_way
        .chain(set)
        .chain(left)
        .chain(superfluous)
        .collect()
}

#[cfg(test)]
mod tests;
