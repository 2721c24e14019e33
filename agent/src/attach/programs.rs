//! Which programs are loaded when, and how.
//!
//! The verifier takes longer than all else of a start. So an agent loads at once what every node
//! needs ([`of_every_node`]), before it writes anything, and what only some do with the first hook
//! that needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Error, Result, bail};
use aya::Ebpf;
use aya::maps::{MapError, ProgramArray};
use aya::programs::{Program, SchedClassifier};
use weir_ebpf::tables::name;

use super::cgroup;
use super::plan::{Role, TC_PROGRAMS};

/// The program that those where packets enter the node go on with, when they hand one over to a pod.
pub const HAND_OVER: &str = "hand_over_to_pod";

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramReport {
    /// Its name in the object.
    pub name: String,
    /// Instructions that the verifier looked at, where the kernel tells (Linux 5.16).
    pub verified_instructions: Option<u32>,
}

/// Programs that the kernel does not take, each with the reason.
pub(super) type Refused = BTreeMap<String, Error>;

/// What every node needs: the programs of sockets, of pods' interfaces, and of those with link
/// headers that lead to the network.
#[must_use]
pub fn of_every_node() -> BTreeSet<&'static str> {
    let sockets = cgroup::HOOKS.iter().map(|(name, _)| *name);
    let network = Role::Network {
        has_link_header: true,
    };
    let packets = [Role::Pod, network].into_iter().flat_map(Role::hooks);
    sockets.chain(packets.map(|(_, name)| *name)).collect()
}

/// Every program is in the object, which may be of another build than this agent.
pub(super) fn check(ebpf: &Ebpf) -> Result<()> {
    let sockets = cgroup::HOOKS.iter().map(|(name, _)| *name);
    for name in TC_PROGRAMS.into_iter().chain([HAND_OVER]).chain(sockets) {
        of(ebpf, name)?;
    }
    Ok(())
}

/// A program by its name.
pub(super) fn of<'ebpf>(ebpf: &'ebpf Ebpf, name: &str) -> Result<&'ebpf Program> {
    ebpf.program(name)
        .with_context(|| format!("the BPF object has no program {name}"))
}

/// The programs that are loaded, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Programs(Vec<ProgramReport>);

impl Programs {
    pub(super) fn reports(&self) -> &[ProgramReport] {
        &self.0
    }

    /// Loads those of these programs that are not loaded yet, and gives those that the kernel
    /// refuses.
    pub(super) fn load(
        &mut self,
        ebpf: &mut Ebpf,
        needed: &BTreeSet<&'static str>,
    ) -> Result<Refused> {
        let is_loaded = |name: &str| self.0.iter().any(|program| program.name == name);
        let missing: BTreeSet<&str> = needed.iter().copied().filter(|it| !is_loaded(it)).collect();
        if missing.is_empty() {
            return Ok(Refused::new());
        }
        let refused = load_side_by_side(ebpf, &missing);
        for name in missing {
            if !refused.contains_key(name) {
                let info = of(ebpf, name)?.info();
                let info = info.with_context(|| format!("ask about the program {name}"))?;
                self.0.push(ProgramReport {
                    name: name.to_owned(),
                    verified_instructions: info.verified_instruction_count(),
                });
            }
        }
        self.0.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(refused)
    }

    /// The same for what is of no use without all of them.
    pub(super) fn load_all(
        &mut self,
        ebpf: &mut Ebpf,
        needed: &BTreeSet<&'static str>,
    ) -> Result<()> {
        match self.load(ebpf, needed)?.pop_first() {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Puts [`HAND_OVER`], if it is loaded, where those programs find it that go on with it; takes an
    /// earlier agent's away if not. The array is pinned: without a name or a descriptor the kernel
    /// empties it.
    pub(super) fn set_next(&self, ebpf: &mut Ebpf) -> Result<()> {
        let next = match self.0.iter().any(|program| program.name == HAND_OVER) {
            true => {
                let program: &SchedClassifier = of(ebpf, HAND_OVER)?
                    .try_into()
                    .with_context(|| format!("the program {HAND_OVER} is of another type"))?;
                Some(program.fd()?.try_clone()?)
            }
            false => None,
        };
        let map = ebpf
            .map_mut(name::NEXT_PROGRAMS)
            .with_context(|| format!("the BPF object has no map {}", name::NEXT_PROGRAMS))?;
        let mut array = ProgramArray::try_from(map)?;
        let done = match next {
            Some(program) => array.set(0, &program, 0),
            None => match array.clear_index(&0) {
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::NotFound =>
                {
                    Ok(())
                }
                done => done,
            },
        };
        done.with_context(|| format!("set the program in {}", name::NEXT_PROGRAMS))
    }
}

/// Loads programs, as many at once as there are processors: the verifier takes a tenth of a second
/// for the largest, and nothing else of a start takes as long.
fn load_side_by_side(ebpf: &mut Ebpf, wanted: &BTreeSet<&str>) -> Refused {
    let programs = ebpf
        .programs_mut()
        .filter(|(name, _)| wanted.contains(name));
    let mut programs: Vec<(&str, &mut Program)> = programs.collect();
    // Those that are taken first are the last here: the longest, so that none is waited for alone.
    programs.sort_unstable_by_key(|(name, _)| load_order(name));
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = workers.min(programs.len());
    let programs = Mutex::new(programs);
    let refused = Mutex::new(Refused::new());
    let take = || {
        programs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    };
    let load_some = || {
        while let Some((name, program)) = take() {
            if let Err(error) = load_program(program) {
                let error = error.context(format!("load the program {name}"));
                let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.insert(name.to_owned(), error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(load_some);
        }
        load_some();
    });
    refused.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The higher, the sooner: by what the verifier takes for it.
fn load_order(name: &str) -> usize {
    const LONGEST: [&str; 8] = [
        "to_network_l2",
        "to_network_l3",
        "to_network",
        "from_network_l3",
        "from_network",
        HAND_OVER,
        "to_pod",
        "from_pod",
    ];
    LONGEST
        .iter()
        .position(|it| *it == name)
        .map_or(0, |place| place + 1)
}

fn load_program(program: &mut Program) -> Result<()> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        other => bail!("it is of another type: {:?}", other.prog_type()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_seldom_interfaces_and_the_hand_over_bring_others() {
        let every_node = of_every_node();
        let sockets = cgroup::HOOKS.iter().map(|(name, _)| *name);
        let all: BTreeSet<&str> = TC_PROGRAMS
            .into_iter()
            .chain([HAND_OVER])
            .chain(sockets)
            .collect();
        let later: Vec<&str> = all.difference(&every_node).copied().collect();
        assert_eq!(
            later,
            [
                "from_network_l3",
                HAND_OVER,
                "to_network_l2",
                "to_network_l3"
            ]
        );
        assert!(every_node.is_subset(&all));
    }
}
