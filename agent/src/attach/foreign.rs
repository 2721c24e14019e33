//! Programs of others at interfaces that carry ours.

use std::collections::BTreeSet;
use std::io;

use anyhow::{Context as _, Result};

use super::bpf::{self, AttachType};
use super::clsact::Clsact;
use super::plan::State;
use super::tc;
use crate::maps::pins::Pins;

/// Where at an interface others' programs are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Where packets come from it.
    Ingress,
    /// Where packets come from it, and where they leave by it.
    Both,
}

/// The numbers of programs that were seen to be ours. What is attached of ours takes some questions
/// for each interface, and the numbers are few; the kernel gives one to no other program (but after
/// two billions of them).
#[derive(Clone, Debug, Default)]
pub struct OwnPrograms(BTreeSet<u32>);

impl OwnPrograms {
    /// Are all of these among them? Looks again if not.
    fn know(
        &mut self,
        mut programs: impl Iterator<Item = u32>,
        pins: &Pins,
        clsact: &mut Clsact,
    ) -> Result<()> {
        if !programs.all(|id| self.0.contains(&id)) {
            self.0.extend(own_programs(pins, clsact)?);
        }
        Ok(())
    }
}

/// What stands at these interfaces beside our own, for people: TCX programs, and filters of the
/// clsact or ingress qdisc. One that has gone since has none.
///
/// # Errors
///
/// The kernel does not tell.
pub fn foreign_programs(
    pins: &Pins,
    places: &[(u32, String, Guests)],
    own: &mut OwnPrograms,
) -> Result<Vec<String>> {
    let mut clsact = Clsact::open()?;
    // One question for all: where TCX is used, hardly any interface has one.
    let with_filters = clsact.with_filters()?;
    let hooks = places.iter().flat_map(|(index, name, guests)| {
        let directions: &[bool] = match guests {
            Guests::Ingress => &[false],
            Guests::Both => &[false, true],
        };
        directions
            .iter()
            .map(move |is_egress| (*index, name, *is_egress))
    });
    let programs = hooks
        .map(|(index, name, is_egress)| {
            let programs = tcx(index, is_egress)
                .with_context(|| format!("list the TCX programs of {name}"))?;
            Ok((index, name, is_egress, programs))
        })
        .collect::<Result<Vec<_>>>()?;
    let all = programs.iter().flat_map(|(.., programs)| programs).copied();
    own.know(all, pins, &mut clsact)?;
    let mut found = Vec::new();
    for (index, name, is_egress, programs) in programs {
        let hook = if is_egress { "egress" } else { "ingress" };
        if with_filters.contains(&index) {
            let filters = clsact.foreign(index, is_egress)?.into_iter();
            found.extend(
                filters.map(|filter| format!("{name} has a filter of others ({filter}) at {hook}")),
            );
        }
        let others = programs.into_iter().filter(|id| !own.0.contains(id));
        found.extend(others.map(|id| format!("{name} has a program of others ({id}) at {hook}")));
    }
    Ok(found)
}

/// The numbers of our programs that are attached, an earlier agent's among them.
fn own_programs(pins: &Pins, clsact: &mut Clsact) -> Result<BTreeSet<u32>> {
    let present = tc::present(pins, clsact)?;
    Ok(present
        .values()
        .filter_map(|state| match state {
            State::Live(program) => Some(*program),
            State::Severed => None,
        })
        .collect())
}

/// The numbers of the TCX programs at an interface; none where it has gone, or the kernel has no
/// TCX (Linux 6.6).
fn tcx(interface: u32, is_egress: bool) -> io::Result<Vec<u32>> {
    let attach_type = match is_egress {
        false => AttachType::TCX_INGRESS,
        true => AttachType::TCX_EGRESS,
    };
    match bpf::programs_at(interface, attach_type) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => {
            Ok(Vec::new())
        }
        result => result,
    }
}
