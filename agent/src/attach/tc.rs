//! The packet hooks: programs at interfaces.
//!
//! What is attached is asked of the kernel each time, never remembered, so that the same path
//! serves the first start, a restart, an interface that comes, goes or changes, and repair. An interface that
//! vanishes between listing and attaching is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};

use super::bpf::{self, AttachType, Place};
use super::clsact::Clsact;
use super::plan::{Action, Attachment, Role, State, TcHook, TcMode, plan};
use crate::maps::pins::{Pins, names};

/// A loaded program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded<'program> {
    pub(super) id: u32,
    pub(super) fd: BorrowedFd<'program>,
}

/// What was done at the packet hooks.
#[derive(Debug, Default)]
pub struct TcReport {
    /// Newly attached.
    pub attached: Vec<Attachment>,
    /// Given another program: an earlier agent's were there, or those for another link header.
    pub replaced: Vec<Attachment>,
    /// Removed: the interface is gone, or its role is another.
    pub removed: Vec<Attachment>,
    /// Wanted, but the interface was gone by then.
    pub vanished: BTreeSet<u32>,
    /// Not done, and why. The others were done all the same.
    pub failed: Vec<(Attachment, anyhow::Error)>,
}

impl TcReport {
    /// Was nothing to be done?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            attached,
            replaced,
            removed,
            vanished,
            failed,
        } = self;
        attached.is_empty()
            && replaced.is_empty()
            && removed.is_empty()
            && vanished.is_empty()
            && failed.is_empty()
    }
}

/// Leaves exactly the wanted interfaces, by index, with the programs of their roles, which are
/// given by name. Where one could not be loaded, its hooks stay as they are.
pub(super) fn sync<'program>(
    pins: &Pins,
    mode: TcMode,
    wanted: &BTreeMap<u32, Role>,
    program: impl Fn(&'static str) -> Result<Loaded<'program>>,
) -> Result<TcReport> {
    let mut clsact = Clsact::open()?;
    let present = present(pins, &mut clsact)?;
    // No program has the number 0: what could not be loaded stands nowhere.
    let actions = plan(wanted, &present, mode, |name| {
        program(name).map_or(0, |loaded| loaded.id)
    });
    let mut report = TcReport::default();
    for action in actions {
        match action {
            Action::Attach(attachment, name) | Action::Replace(attachment, name) => {
                let replaced = matches!(action, Action::Replace(..));
                let done = program(name)
                    .and_then(|loaded| set(pins, &mut clsact, attachment, replaced, loaded.fd));
                match done {
                    Ok(()) if replaced => report.replaced.push(attachment),
                    Ok(()) => report.attached.push(attachment),
                    Err(error) if interface_is_gone(&error) => {
                        report.vanished.insert(attachment.interface);
                    }
                    Err(error) => report.failed.push((attachment, error)),
                }
            }
            Action::Remove(attachment) => match remove(pins, &mut clsact, attachment) {
                Ok(()) => report.removed.push(attachment),
                Err(error) => report.failed.push((attachment, error)),
            },
        }
    }
    clsact.remove_empty_qdiscs(pins)?;
    Ok(report)
}

/// What is attached of ours, in either mode.
pub(super) fn present(pins: &Pins, clsact: &mut Clsact) -> Result<BTreeMap<Attachment, State>> {
    let mut present = BTreeMap::new();
    for attachment in pinned(pins)? {
        let state = pinned_state(pins, attachment)
            .with_context(|| format!("look at the pinned link of {attachment}"))?;
        if let Some(state) = state {
            present.insert(attachment, state);
        }
    }
    for interface in clsact.interfaces()? {
        for hook in TcHook::ALL {
            if let Some(id) = clsact.program(interface, hook)? {
                let attachment = Attachment {
                    interface,
                    hook,
                    mode: TcMode::Clsact,
                };
                present.insert(attachment, State::Live(id));
            }
        }
    }
    Ok(present)
}

/// Removes one of ours.
pub(super) fn remove(pins: &Pins, clsact: &mut Clsact, attachment: Attachment) -> Result<()> {
    match attachment.mode {
        TcMode::Tcx => bpf::unpin(&pins.link(&pin_name(attachment))).map_err(Into::into),
        TcMode::Clsact => clsact.remove(attachment.interface, attachment.hook),
    }
    .with_context(|| format!("remove {attachment}"))
}

fn set(
    pins: &Pins,
    clsact: &mut Clsact,
    attachment: Attachment,
    replace: bool,
    program: BorrowedFd<'_>,
) -> Result<()> {
    match attachment.mode {
        TcMode::Tcx if replace => replace_link(pins, attachment, program),
        TcMode::Tcx => create_link(pins, attachment, program),
        TcMode::Clsact => clsact.set(pins, attachment.interface, attachment.hook, program),
    }
    .with_context(|| format!("attach {attachment}"))
}

fn create_link(pins: &Pins, attachment: Attachment, program: BorrowedFd<'_>) -> Result<()> {
    let link =
        bpf::attach_to_interface(program, attachment.interface, attach_type(attachment.hook))?;
    let path = pins.link(&pin_name(attachment));
    // A link without a pin ends with its descriptor, so a failure here leaves nothing.
    bpf::pin(link.as_fd(), &path).with_context(|| format!("pin the link at {}", path.display()))
}

fn replace_link(pins: &Pins, attachment: Attachment, program: BorrowedFd<'_>) -> Result<()> {
    let link = bpf::get(&pins.link(&pin_name(attachment)))?;
    match bpf::replace_program(link.as_fd(), program) {
        Ok(()) => Ok(()),
        // The interface has gone since we looked.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            bpf::unpin(&pins.link(&pin_name(attachment)))?;
            create_link(pins, attachment, program)
        }
        Err(error) => Err(error.into()),
    }
}

/// The TCX links that have a pin.
fn pinned(pins: &Pins) -> Result<Vec<Attachment>> {
    Ok(names(&pins.links())?
        .iter()
        .filter_map(|name| parse_pin_name(name))
        .collect())
}

/// `None`: the pin has gone since it was listed.
fn pinned_state(pins: &Pins, attachment: Attachment) -> io::Result<Option<State>> {
    let link = match bpf::get(&pins.link(&pin_name(attachment))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        link => link?,
    };
    let info = bpf::link_info(link.as_fd())?;
    let stands = info.place == Place::Interface(attachment.interface)
        && info.attach_type == attach_type(attachment.hook);
    Ok(Some(if stands {
        State::Live(info.program)
    } else {
        State::Severed
    }))
}

fn attach_type(hook: TcHook) -> AttachType {
    if hook.is_egress() {
        AttachType::TCX_EGRESS
    } else {
        AttachType::TCX_INGRESS
    }
}

fn pin_name(attachment: Attachment) -> String {
    format!("{}-{}", attachment.hook.name(), attachment.interface)
}

fn parse_pin_name(name: &str) -> Option<Attachment> {
    let (hook, interface) = name.split_once('-')?;
    let hook = TcHook::ALL
        .into_iter()
        .find(|candidate| candidate.name() == hook)?;
    Some(Attachment {
        interface: interface.parse().ok()?,
        hook,
        mode: TcMode::Tcx,
    })
}

fn interface_is_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.raw_os_error() == Some(libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pins_name_says_hook_and_interface() {
        for hook in TcHook::ALL {
            let attachment = Attachment {
                interface: 4_000_000,
                hook,
                mode: TcMode::Tcx,
            };
            assert_eq!(parse_pin_name(&pin_name(attachment)), Some(attachment));
        }
        for other in ["connect4", "from_pod-", "from_pod-x", "to_network_l3-3", ""] {
            assert_eq!(parse_pin_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_vanished_interface_is_told_from_other_errors() {
        let gone = anyhow::Error::from(io::Error::from_raw_os_error(libc::ENODEV))
            .context("attach from_pod");
        assert!(interface_is_gone(&gone));
        let refused = anyhow::Error::from(io::Error::from_raw_os_error(libc::EPERM));
        assert!(!interface_is_gone(&refused));
    }
}
