//! What each BPF program costs on its own: nanoseconds a packet above a program that does nothing, by
//! `BPF_PROG_TEST_RUN`. Needs root: `cargo xtask bench programs`.
//!
//! The kernel runs a program many times on the same bytes, and each run sees what the one before has
//! changed. Where a packet is to be translated in every run, two services have each other's addresses
//! as their endpoints: the packet goes from one to the other for ever. What can be seen once only, a new
//! flow, is run once, with a port of its own; the clock is part of such a run, and its caches are those
//! of the work in between, for the empty program beside it likewise. Within a round the programs take
//! turns; what is told is the median of the differences to the empty one of the same round.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_ebpf::verdict::Hook;
use weir_tests::bench::cases::{CASES, Case, Repeat};
use weir_tests::bench::empty::Empty;
use weir_tests::bench::exchange::{Exchange, LOOKS};
use weir_tests::bench::{Figure, Report, Summary, rounds};
use weir_tests::scenario::program::{HOOKS, Program};
use weir_tests::scenario::runner::Executor as _;

/// The name by which figures are known.
const BENCH: &str = "programs";
/// Runs of a packet that stays what it is, in one call: less than a millisecond, so that most calls
/// are not interrupted.
const MANY: u32 = 2_000;
/// Calls for one sample, of many runs or of one.
const CALLS: usize = 31;

fn main() -> Result<()> {
    let mut report = Report::from_environment();
    let count = if report.is_quick() { 5 } else { 21 };
    let bench = Bench::start()?;
    // What does not become what it should is not measured, and the rest is.
    let (mut cases, mut strange) = (Vec::new(), Vec::new());
    for case in CASES {
        match bench.check(case) {
            Ok(()) => cases.push(case),
            Err(error) => strange.push(format!("{}, {}: {error:#}", case.hook.name(), case.what)),
        }
    }
    // The empty program once for each way of repeating, then the cases.
    let empties = [Repeat::Many, Repeat::Single];
    let samples = rounds::take(empties.len() + cases.len(), count, |number| match number {
        0 | 1 => bench.empty(empties[number]),
        other => bench.case(cases[other - empties.len()]),
    })?;
    let sizes = bench.sizes()?;
    for hook in HOOKS {
        let mut figures = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            if case.hook != hook {
                continue;
            }
            let empty = &samples[usize::from(case.repeat == Repeat::Single)];
            let own = &samples[empties.len() + number];
            let above: Vec<f64> = own
                .iter()
                .zip(empty)
                .map(|(own, empty)| own - empty)
                .collect();
            let value = Summary::of(&above).context("there are samples")?;
            let unit = "ns above empty";
            figures.push(figure(hook, case.what, unit, value).with_goal(case.goal));
        }
        for (what, count) in &sizes[hook.name()] {
            let value = Summary::of(&[f64::from(*count)]).context("it is a number")?;
            figures.push(figure(hook, what, "instructions", value));
        }
        report.add(hook.name(), figures);
    }
    let floor = Summary::of(&samples[0]).context("there are samples")?;
    report.add(
        "the floor",
        vec![Figure::new(BENCH, "", "empty", "does nothing", "ns", floor)],
    );
    report.finish()?;
    ensure!(strange.is_empty(), "not measured:\n{}", strange.join("\n"));
    Ok(())
}

fn figure(hook: Hook, what: &str, unit: &str, value: Summary) -> Figure {
    Figure::new(
        BENCH,
        "4 services, 10 policies",
        hook.name(),
        what,
        unit,
        value,
    )
}

/// Loaded programs, their tables filled.
struct Bench {
    program: RefCell<Program>,
    empty: RefCell<Empty>,
    exchange: Exchange,
    /// The source port that was used last.
    port: Cell<u16>,
}

impl Bench {
    fn start() -> Result<Self> {
        let exchange = Exchange::new()?;
        let mut program = Program::load()?;
        program.apply(exchange.plan())?;
        Ok(Self {
            program: RefCell::new(program),
            empty: RefCell::new(Empty::load()?),
            exchange,
            port: Cell::new(10_000),
        })
    }

    /// With a source port that nobody used before, where it has to have one.
    fn frame(&self, packet: &str) -> Result<Vec<u8>> {
        if packet.contains("PORT") {
            self.port.set(self.port.get() + 1);
        }
        Exchange::frame(packet, self.port.get())
    }

    /// Sends what goes before, and sees that the packet becomes what it should.
    fn check(&self, case: &Case) -> Result<()> {
        let mut program = self.program.borrow_mut();
        self.port.set(self.port.get() + 1);
        self.exchange
            .prepare(&mut *program, case, self.port.get())?;
        self.port.set(self.port.get() + LOOKS);
        Ok(())
    }

    /// Nanoseconds of a run.
    fn case(&self, case: &Case) -> Result<f64> {
        let at = self.exchange.at(case.hook, case.pod)?;
        let mut program = self.program.borrow_mut();
        match case.repeat {
            Repeat::Many => {
                let frame = self.frame(case.packet)?;
                calls(|| program.time(at, &frame, MANY))
            }
            Repeat::Single => calls(|| program.time(at, &self.frame(case.packet)?, 1)),
        }
    }

    fn empty(&self, repeat: Repeat) -> Result<f64> {
        let frame = self.frame("udp 10.200.0.2:40000 > 203.0.113.10:53")?;
        let mut empty = self.empty.borrow_mut();
        match repeat {
            Repeat::Many => calls(|| empty.time(&frame, MANY)),
            Repeat::Single => calls(|| empty.time(&frame, 1)),
        }
    }

    /// Of each program: how long it is, and how much of it the verifier looks at.
    fn sizes(&self) -> Result<BTreeMap<String, [(&'static str, u32); 2]>> {
        let mut program = self.program.borrow_mut();
        let verified = program.verified_instructions()?;
        let loaded = program.instructions()?;
        Ok(loaded
            .into_iter()
            .map(|(name, count)| {
                let looked_at = verified.get(&name).copied().unwrap_or_default();
                (name, [("loaded", count), ("verified", looked_at)])
            })
            .collect())
    }
}

/// The median of some calls, in nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run")]
fn calls(mut call: impl FnMut() -> Result<Duration>) -> Result<f64> {
    let times: Vec<f64> = (0..CALLS)
        .map(|_| Ok(call()?.as_nanos() as f64))
        .collect::<Result<_>>()?;
    Ok(Summary::of(&times).context("there are calls")?.median)
}
