//! What the pure parts cost: decoding, compiling and comparing, and the packet logic on the host, by
//! Criterion. Needs nothing: `cargo xtask bench pure`.
//!
//! They are measured as they are released. The packet logic runs the code that the BPF programs run,
//! with ordered maps for tables: what changes there is the code's own, and no kernel's.

mod estimates;
mod objects;
mod packets;

use anyhow::Result;
use weir_tests::bench::Report;

use estimates::Estimates;

/// Services and policies.
const QUICK: [(u32, u32); 1] = [(10_000, 500)];
const FULL: [(u32, u32); 4] = [(10, 0), (100, 10), (1_000, 50), (10_000, 500)];

fn main() -> Result<()> {
    let mut report = Report::from_environment();
    let sizes: &[(u32, u32)] = if report.is_quick() { &QUICK } else { &FULL };
    let mut estimates = Estimates::new(report.is_quick())?;
    objects::measure(&mut estimates, sizes)?;
    report.add("the object's way", estimates.take());
    packets::measure(&mut estimates)?;
    report.add("the packet's way, on the host", estimates.take());
    report.finish()
}
