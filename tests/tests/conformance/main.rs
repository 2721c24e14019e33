//! NetworkPolicy as the community's own suite asks for it, and beyond: who reaches whom.
//!
//! Three namespaces with three pods each, on two nodes, in pod networks that are routed or bridged,
//! with the fast path and without it ([`way`]).
//! Each case is a file of `tests/conformance`: policies and labels. What has to come out of them is
//! a [`table`] with a cell for each family, protocol, port, client and server, which the reference
//! evaluator fills in, and of which the file says a few cells itself; every cell is then asked of
//! real sockets. Needs root.

#![forbid(unsafe_code)]

mod attack;
mod case;
mod cluster;
mod ground;
mod lifecycle;
mod print;
mod starts;
mod table;
mod way;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::{Arguments, Failed, Trial};

use case::Case;
use ground::Ground;
use way::Way;

const KIND: &str = "needs root: cargo xtask test conformance";

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // One for each ground: more would wait for each other.
    arguments.test_threads.get_or_insert(Way::ALL.len());
    let grounds = Way::ALL.map(|way| (way, Slot::default()));
    let mut trials = Vec::new();
    for (name, case) in case::all()? {
        let case = case.map(Arc::new).map_err(|error| format!("{error:#}"));
        trials.push(trial(&format!("{name}/reference"), {
            let case = case.clone();
            move || case.map_err(anyhow::Error::msg)?.check()
        }));
        for (way, slot) in grounds.iter().filter(|(way, _)| way.has_tables()) {
            let (case, way, slot) = (case.clone(), *way, slot.clone());
            let name = format!("{name}/{}", way.name());
            let test = move || slot.show(way, &*case.map_err(anyhow::Error::msg)?);
            trials.push(needs_root(trial(&name, test)));
        }
    }
    for &(name, attack) in attack::ALL {
        for (way, slot) in &grounds {
            let (way, slot) = (*way, slot.clone());
            let name = format!("attack/{name}/{}", way.name());
            let test = move || slot.play(way, |ground| attack::play(ground, attack));
            trials.push(needs_root(trial(&name, test)));
        }
    }
    let starts: lifecycle::Test = starts::play;
    let tests = lifecycle::ALL.iter().copied();
    for (name, test) in tests.chain([("pods_reach_out_at_once", starts)]) {
        for (way, slot) in &grounds {
            let (way, slot) = (*way, slot.clone());
            let name = format!("lifecycle/{name}/{}", way.name());
            trials.push(needs_root(trial(&name, move || slot.play(way, test))));
        }
    }
    for &(name, flags, way, test) in lifecycle::WITH_FLAGS {
        let name = format!("lifecycle/{name}/{}", way.name());
        trials.push(needs_root(trial(&name, move || {
            let mut ground = Ground::start_with(way, flags)?;
            test(&mut ground).map_err(|error| anyhow!("{error:#}\n{}", ground.last_words()))
        })));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The grounds go before the process does.
    drop(grounds);
    Ok(conclusion.exit_code())
}

fn trial(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, || {
        test().map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// Ignored unless asked for.
fn needs_root(trial: Trial) -> Trial {
    trial.with_kind(KIND).with_ignored_flag(true)
}

/// A ground that is there once a case has needed it.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<Option<Ground>>>);

impl Slot {
    fn show(&self, way: Way, case: &Case) -> Result<()> {
        let (wrong, words) = self.play(way, |ground| {
            let wrong = case.show(ground)?;
            Ok((wrong.join("\n"), ground.last_words()))
        })?;
        ensure!(wrong.is_empty(), "{wrong}\n{words}");
        Ok(())
    }

    /// Plays on the ground, which is set up if need be. One on which something failed is of no use
    /// to the next.
    fn play<T>(&self, way: Way, play: impl FnOnce(&mut Ground) -> Result<T>) -> Result<T> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ground = match held.take() {
            Some(ground) => ground,
            None => Ground::start(way).context("set the ground up")?,
        };
        let played =
            play(&mut ground).map_err(|error| anyhow!("{error:#}\n{}", ground.last_words()))?;
        *held = Some(ground);
        Ok(played)
    }
}
