//! Every scenario through the pure pipeline, and properties of random ones: no privileges, no
//! kernel.

mod clusters;
mod policies;
mod random;
mod verdicts;

use std::cell::{Cell, RefCell};
use std::num::NonZero;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use weir_ebpf::verdict::{Hook, Verdict};
use weir_tests::scenario::{
    self, Executor as _, ScenarioFile,
    memory::{Memory, Way},
    packet::{Body, Fragment, Packet},
    runner,
};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        property(
            "every_reply_comes_from_the_address_the_client_used",
            every_reply_comes_from_the_address_the_client_used,
        ),
        property(
            "the_chosen_endpoints_are_those_of_the_reference_model",
            the_chosen_endpoints_are_those_of_the_reference_model,
        ),
        property(
            "policies_do_what_the_reference_evaluator_says",
            policies_do_what_the_reference_evaluator_says,
        ),
    ];
    for (way, suffix) in [(Way::Long, ""), (Way::Short, "/handed-over")] {
        trials.extend(
            scenario::all()?
                .into_iter()
                .filter(|file| !matches!(&file.scenario, Ok(scenario) if !scenario.is_for_memory()))
                .map(|file| Trial::test(format!("{}{suffix}", file.name), move || run(file, way))),
        );
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn property(name: &str, test: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || {
        test().map_err(|error| format!("{error:#}").into())
    })
}

fn run(file: ScenarioFile, way: Way) -> Result<(), Failed> {
    let scenario = file.scenario?;
    scenario::run(&scenario, &file.directory, &mut Memory::new(1).by(way))
        .map_err(|error| format!("{}: {error:#}", scenario.name).into())
}

/// In any world, after any packets: what is answered to a translated packet reaches the client
/// from the address it used, and no byte but addresses, ports and checksums has changed.
fn every_reply_comes_from_the_address_the_client_used() -> Result<()> {
    let cases = (
        random::services(0..=3),
        prop::collection::vec(random::event(&[1, 3, 29, 31, 119, 121]), 1..40),
        any::<u64>(),
    );
    random::check(400, &cases, |(services, events, seed)| {
        let (_, plan) = random::world(&services, (20_000, 29_999))?;
        let mut memory = Memory::new(seed);
        memory.apply(&plan)?;
        for event in events {
            memory.advance(Duration::from_secs(event.after))?;
            let output = runner::send(&mut memory, event.hook, &event.packet)?;
            let (Verdict::Translate, Hook::FromPod) = (output.0, event.hook) else {
                continue;
            };
            round_trip(&mut memory, &event.packet, &output.1)?;
        }
        Ok(())
    })
}

/// For any cluster, and any others that follow it, each address leads every client where the
/// reference model says: to all of its endpoints and no others, with the source address that it
/// names, or to another answer; and what is answered reaches the client.
///
/// The clusters are shared out among the processors.
fn the_chosen_endpoints_are_those_of_the_reference_model() -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let histories = histories()?;
    let share = histories.div_ceil(u32::try_from(threads)?);
    let met = thread::scope(|scope| -> Result<clusters::Met> {
        let threads: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| compare_with_the_model(share)))
            .collect();
        let mut met = clusters::Met::default();
        for thread in threads {
            match thread.join() {
                Ok(of_thread) => met.extend(&of_thread?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(met)
    })?;
    met.check(histories >= HISTORIES)
}

fn compare_with_the_model(histories: u32) -> Result<clusters::Met> {
    let all = clusters::Extent {
        one_in: 1,
        with_sockets: true,
        with_delays: true,
    };
    let cases = (clusters::history(1..=3), any::<u64>());
    let met = RefCell::new(clusters::Met::default());
    random::check(histories, &cases, |(history, seed)| {
        let mut memory = Memory::new(seed).by(way_of(seed));
        let of_history = clusters::compare(&mut memory, &history, seed, all)?;
        met.borrow_mut().extend(&of_history);
        Ok(())
    })?;
    Ok(met.into_inner())
}

/// In any cluster that changes, each packet between its pods has the verdict that the reference
/// evaluator's answers and the memory of what was open call for, and the reason that is told of it
/// is one of the evaluator's.
///
/// The clusters are shared out among the processors.
fn policies_do_what_the_reference_evaluator_says() -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let histories = histories()?;
    let share = histories.div_ceil(u32::try_from(threads)?);
    let (met, deliveries) = thread::scope(|scope| -> Result<(verdicts::Met, Deliveries)> {
        let threads: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| compare_with_the_evaluator(share)))
            .collect();
        let (mut met, mut deliveries) = (verdicts::Met::default(), Deliveries::default());
        for thread in threads {
            match thread.join() {
                Ok(of_thread) => {
                    let (of_thread, delivered) = of_thread?;
                    met.extend(&of_thread);
                    deliveries.add(delivered);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok((met, deliveries))
    })?;
    if histories >= HISTORIES {
        met.check()?;
        ensure!(deliveries.handed_over > 0, "nothing was handed over");
        ensure!(deliveries.by_shortcut > 0, "nothing took a shortcut");
    }
    Ok(())
}

/// How packets came to pods past the node's IP layer.
#[derive(Clone, Copy, Debug, Default)]
struct Deliveries {
    handed_over: usize,
    by_shortcut: usize,
}

impl Deliveries {
    const fn add(&mut self, other: Self) {
        self.handed_over += other.handed_over;
        self.by_shortcut += other.by_shortcut;
    }
}

fn compare_with_the_evaluator(histories: u32) -> Result<(verdicts::Met, Deliveries)> {
    let extent = verdicts::Extent { with_time: true };
    let met = RefCell::new(verdicts::Met::default());
    let deliveries = Cell::new(Deliveries::default());
    let cases = (verdicts::history(8..=40), any::<u64>());
    random::check(histories, &cases, |(history, seed)| {
        let mut memory = Memory::new(seed).by(way_of(seed));
        let of_history = verdicts::compare(&mut memory, &history, extent)?;
        met.borrow_mut().extend(&of_history);
        let mut all = deliveries.get();
        all.add(Deliveries {
            handed_over: memory.deliveries(),
            by_shortcut: memory.shortcuts(),
        });
        deliveries.set(all);
        Ok(())
    })?;
    Ok((met.into_inner(), deliveries.get()))
}

/// Half of the worlds hand over to pods what they can.
const fn way_of(seed: u64) -> Way {
    if seed.is_multiple_of(2) {
        Way::Long
    } else {
        Way::Short
    }
}

/// How many histories of clusters are compared with the reference model, if nobody says.
const HISTORIES: u32 = 10_000;

fn histories() -> Result<u32> {
    match std::env::var("WEIR_WORLDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("WEIR_WORLDS is a number, not {text:?}")),
        Err(_) => Ok(HISTORIES),
    }
}

/// The rest of the way of a packet that was translated on its way out of a pod: to the backend,
/// which may be the pod itself, and back.
fn round_trip(memory: &mut Memory, packet: &Packet, output: &Packet) -> Result<()> {
    // It follows the first one there; what answers the whole datagram is no fragment of it.
    if packet.network.fragment == Some(Fragment::Later) {
        return Ok(());
    }
    // A port of a datagram in fragments cannot be changed: its checksum covers its length.
    if packet.network.fragment.is_some() && matches!(packet.body, Body::Sctp(_)) {
        return Ok(());
    }
    let to_client = if output.src.ip() == output.dst.ip() {
        let (verdict, inward) = runner::send(memory, Hook::ToPod, output)?;
        ensure!(
            verdict == Verdict::Translate && inward.src.ip() != inward.dst.ip(),
            "the pod would meet itself: {inward}"
        );
        let (verdict, outward) = runner::send(memory, Hook::FromPod, &inward.reply())?;
        ensure!(
            verdict == Verdict::Translate,
            "a hairpin's reply is lost: {outward}"
        );
        outward
    } else {
        output.reply()
    };
    let (verdict, seen) = runner::send(memory, Hook::ToPod, &to_client)?;
    ensure!(
        verdict == Verdict::Translate && (seen.src, seen.dst) == (packet.dst, packet.src),
        "{packet} became {output}, whose reply {to_client} became {seen} ({verdict:?})"
    );
    Ok(())
}
