//! What a sample tells.

use weir_tests::bench::load::Work;
use weir_tests::bench::site::{Processors, Sample};

/// A suffix to the name of the work, the unit, and the number.
pub type Reading = (&'static str, &'static str, fn(&Sample) -> f64);

/// What is told of samples of this work, the first first.
pub fn of(work: Work, processors: Processors, has_cycles: bool) -> Vec<Reading> {
    let (per_processor_second, per_second, cycles): (Reading, Reading, Reading) = match work {
        Work::Bytes => (
            ("", "Gbit/s of processor", |it| {
                it.per_processor_second * 8e-9
            }),
            (", by the clock", "Gbit/s", |it| it.per_second * 8e-9),
            (", cycles", "cycles a kB", |it| it.cycles * 1e3),
        ),
        Work::Connections | Work::Requests | Work::Datagrams => (
            ("", "per s of processor", |it| it.per_processor_second),
            (", by the clock", "per s", |it| it.per_second),
            (", cycles", "cycles each", |it| it.cycles),
        ),
    };
    let mut readings = match processors {
        Processors::One => vec![per_processor_second, per_second],
        // One of them may wait for the other: what counts is the clock.
        Processors::Two => vec![per_second],
    };
    if has_cycles {
        readings.push(cycles);
    }
    if work == Work::Requests {
        readings.push((", half within", "µs", |it| it.median));
        readings.push((", 99 % within", "µs", |it| it.percentile_99));
    }
    readings
}

/// What people call the work.
pub const fn name(work: Work) -> &'static str {
    match work {
        Work::Connections => "TCP connections",
        Work::Requests => "TCP requests",
        Work::Datagrams => "UDP packets",
        Work::Bytes => "TCP bytes",
    }
}
