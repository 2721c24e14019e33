//! Every packet scenario through the loaded programs, one packet at a time, and random packets
//! through them and through memory. Needs root.

mod clusters;
mod policies;
mod random;
mod verdicts;

use std::cell::RefCell;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use weir_agent::maps::Plan;
use weir_ebpf::datapath::At;
use weir_ebpf::verdict::{Hook, Verdict};
use weir_tests::scenario::{
    self, Executor as _, ScenarioFile, frame,
    memory::{Memory, UPLINK},
    packet::Packet,
    program::{INSTRUCTION_BUDGET, Program},
    runner::Sent,
};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        needs_root(
            "the_verifier_stays_within_the_budget",
            the_verifier_stays_within_the_budget,
        ),
        needs_root(
            "the_programs_do_what_the_library_does",
            the_programs_do_what_the_library_does,
        ),
        needs_root(
            "the_programs_do_what_the_reference_model_says",
            the_programs_do_what_the_reference_model_says,
        ),
        needs_root(
            "the_programs_judge_as_the_reference_evaluator_says",
            the_programs_judge_as_the_reference_evaluator_says,
        ),
    ];
    trials.extend(
        scenario::all()?
            .into_iter()
            .filter(|file| !matches!(&file.scenario, Ok(scenario) if !scenario.is_for_program()))
            .map(|file| needs_root(&file.name.clone(), move || run(file))),
    );
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// Ignored unless asked for: needs root: `cargo xtask test program`.
fn needs_root(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let test = || test().map_err(|error| Failed::from(format!("{error:#}")));
    Trial::test(name, test)
        .with_kind("needs root: cargo xtask test program")
        .with_ignored_flag(true)
}

fn run(file: ScenarioFile) -> Result<()> {
    let scenario = file.scenario?;
    with_program(|program| scenario::run(&scenario, &file.directory, program))
        .with_context(|| scenario.name.clone())
}

thread_local! {
    /// The programs of this thread's tests, which come one after the other: the verifier takes longer
    /// for them than most of these tests.
    static PROGRAM: RefCell<Option<Program>> = const { RefCell::new(None) };
}

/// Tries something on programs whose tables are empty. Those on which something failed are of no use
/// to the next.
fn with_program<T>(attempt: impl FnOnce(&mut Program) -> Result<T>) -> Result<T> {
    let mut program = match PROGRAM.take() {
        Some(program) => program,
        None => Program::load()?,
    };
    program.empty().context("empty the tables")?;
    let result = attempt(&mut program)?;
    PROGRAM.set(Some(program));
    Ok(result)
}

fn the_verifier_stays_within_the_budget() -> Result<()> {
    let counts = Program::load()?.verified_instructions()?;
    for (program, count) in &counts {
        #[allow(clippy::print_stderr, reason = "a figure to watch")]
        {
            eprintln!("{program}: {count} verified instructions");
        }
    }
    let over: Vec<_> = counts
        .iter()
        .filter(|(_, count)| **count > INSTRUCTION_BUDGET)
        .collect();
    ensure!(
        over.is_empty(),
        "over the budget of {INSTRUCTION_BUDGET}: {over:?}"
    );
    Ok(())
}

/// The same packets, in the same worlds, have the same verdicts and come out with the same bytes.
///
/// One backend and one port for translated sources leave nothing to chance; sums of the delays
/// stay clear of every lifetime, since the kernel's clock goes on by itself.
fn the_programs_do_what_the_library_does() -> Result<()> {
    let packets = (random::event(&[13, 39, 130]), damage(), any::<bool>());
    let cases = (
        random::services(0..=1),
        prop::collection::vec(packets, 400..=400),
    );
    random::check(12, &cases, |(services, packets)| {
        let (_, plan) = random::world(&services, (20_000, 20_000))?;
        with_program(|program| {
            let mut both = Both {
                memory: Memory::new(1),
                program,
            };
            both.apply(&plan)?;
            for (event, damage, is_answered) in packets {
                both.advance(Duration::from_secs(event.after))?;
                let mut bytes = frame::build(&event.packet)?;
                damage.apply_to(&mut bytes, &event.packet);
                let sent = both.send(event.hook, &bytes)?;
                if sent.verdict == Verdict::Translate && is_answered {
                    let (src, dst) = frame::places(&sent.frame, &event.packet)?;
                    let output = Packet {
                        src,
                        dst,
                        ..event.packet
                    };
                    let sent = both.send(Hook::ToPod, &frame::build(&output)?)?;
                    if sent.verdict == Verdict::Pass {
                        both.send(Hook::ToPod, &frame::build(&output.reply())?)?;
                    } else {
                        let (src, dst) = frame::places(&sent.frame, &output)?;
                        let inward = Packet { src, dst, ..output };
                        both.send(Hook::FromPod, &frame::build(&inward.reply())?)?;
                    }
                }
            }
            Ok(())
        })
    })
}

/// How many histories of clusters there may be until every kind of answer was met. The rarest is
/// met in five histories of six: one is enough in most runs, and all of them fail to meet it once
/// in 10^12 times.
const HISTORIES: usize = 16;

/// One cluster after the other in the same maps, some of what is asked of each in memory.
fn the_programs_do_what_the_reference_model_says() -> Result<()> {
    let some = clusters::Extent {
        one_in: 8,
        with_sockets: false,
        with_delays: false,
    };
    let cases = (clusters::history(60..=60), any::<u64>());
    let met = RefCell::new(clusters::Met::default());
    for _ in 0..HISTORIES {
        random::check(1, &cases, |(history, seed)| {
            let of_history =
                with_program(|program| clusters::compare(program, &history, seed, some))?;
            met.borrow_mut().extend(&of_history);
            Ok(())
        })?;
        if met.borrow().is_complete() {
            break;
        }
    }
    met.into_inner().check(false)
}

/// Clusters under policy in each round, and how many rounds there may be until every kind of
/// answer was met. The rarest is met in one history of thirteen, so a round or two are enough in
/// most runs, and all of them fail to meet it once in 10^12 times.
const CLUSTERS: u32 = 12;
const ROUNDS: usize = 30;

/// Clusters that change, and packets between their pods, each with empty maps.
fn the_programs_judge_as_the_reference_evaluator_says() -> Result<()> {
    let all = verdicts::Extent { with_time: true };
    let met = RefCell::new(verdicts::Met::default());
    for _ in 0..ROUNDS {
        random::check(CLUSTERS, &verdicts::history(40..=80), |history| {
            let of_history = with_program(|program| verdicts::compare(program, &history, all))?;
            met.borrow_mut().extend(&of_history);
            Ok(())
        })?;
        if met.borrow().is_complete() {
            break;
        }
    }
    met.into_inner().check()
}

/// Both executors in step.
struct Both<'program> {
    memory: Memory,
    program: &'program mut Program,
}

impl Both<'_> {
    fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.memory.apply(plan)?;
        self.program.apply(plan)
    }

    fn advance(&mut self, by: Duration) -> Result<()> {
        if by.is_zero() {
            return Ok(());
        }
        self.memory.advance(by)?;
        self.program.advance(by)
    }

    fn send(&mut self, hook: Hook, frame: &[u8]) -> Result<Sent> {
        let at = At::new(hook, UPLINK);
        let in_memory = self.memory.send(at, frame)?;
        let in_kernel = self.program.send(at, frame)?;
        ensure!(
            in_kernel.verdict == in_memory.verdict,
            "{} gave {:?} in the kernel and {:?} in memory to {}",
            hook.name(),
            in_kernel.verdict,
            in_memory.verdict,
            frame::hex(frame)
        );
        // A dropped packet may have been changed in part.
        if !matches!(in_memory.verdict, Verdict::Drop(_)) {
            frame::compare(&in_kernel.frame, &in_memory.frame)?;
        }
        Ok(in_memory)
    }
}

/// What happens to a frame before it is sent.
#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    /// Only a part of it is left.
    Cut(u16),
    /// A byte behind the link-layer header is another one.
    Byte(u16, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        8 => Just(Damage::None),
        1 => any::<u16>().prop_map(Damage::Cut),
        1 => any::<(u16, u8)>().prop_map(|(place, byte)| Damage::Byte(place, byte)),
    ]
}

impl Damage {
    fn apply_to(self, frame: &mut Vec<u8>, packet: &Packet) {
        // BPF_PROG_TEST_RUN refuses a frame without a whole network header.
        let network = frame::ETHERNET + if packet.is_v4() { 20 } else { 40 };
        match self {
            Self::None => {}
            Self::Cut(place) => {
                let room = frame.len() - network + 1;
                frame.truncate(network + usize::from(place) % room);
            }
            Self::Byte(place, byte) => {
                let room = frame.len() - frame::ETHERNET;
                frame[frame::ETHERNET + usize::from(place) % room] = byte;
            }
        }
    }
}
