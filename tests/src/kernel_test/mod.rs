//! Does Weir serve on this kernel? A virtual machine boots it, with this as its first program.
//!
//! The machine has a kernel, a few of its modules, this program, `weir` and the test bed's helper,
//! and nothing else: no shell, no library, no disk. `machine` makes it usable, `world` builds
//! a node with pods and an agent, `checks` are what has to hold. The console tells how it goes;
//! whoever booted the machine looks for the last line, which begins with [`MARKER`].

mod checks;
mod machine;
mod older;
mod sctp;
mod world;

use std::io::{Write as _, stdout};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

use machine::Kernel;
use world::World;

/// How the last line on the console begins. `OK` and the kernel's release follow, or `FAILED` and
/// why.
pub const MARKER: &str = "WEIR-KERNEL-TEST";

/// Runs the checks and switches the machine off.
#[must_use]
pub fn main() -> ExitCode {
    if !machine::is_ours() {
        say("this is the first program of a virtual machine: run `cargo xtask test kernels`");
        return ExitCode::FAILURE;
    }
    // On a thread, because a first program that panics takes the kernel with it.
    let outcome = match std::thread::spawn(run).join() {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("a panic, see above")),
    };
    match outcome {
        Ok(kernel) => say(&format!("{MARKER} OK {kernel}")),
        Err(error) => {
            say(&format!("{error:?}"));
            say(&format!("{MARKER} FAILED {error}"));
        }
    }
    let error = machine::switch_off();
    say(&format!("the machine stays on: {error:#}"));
    ExitCode::FAILURE
}

fn run() -> Result<Kernel> {
    let begun = Instant::now();
    let kernel = machine::prepare().context("the machine could not be prepared")?;
    say(&format!("kernel {kernel}"));
    let mut world = World::build().context("the world could not be built")?;
    say(&format!(
        "the agent is ready ({:.1} s)",
        begun.elapsed().as_secs_f64()
    ));
    for (name, check) in checks::ALL {
        let begun = Instant::now();
        let outcome = check(&mut world, &kernel);
        world
            .explain(outcome)
            .context(format!("not true: {name}"))?;
        say(&format!(
            "ok: {name} ({:.1} s)",
            begun.elapsed().as_secs_f64()
        ));
    }
    Ok(kernel)
}

/// Writes a line to the console. A console that cannot be written to leaves nobody to tell.
fn say(line: &str) {
    let mut console = stdout().lock();
    let _ = writeln!(console, "{line}");
    let _ = console.flush();
}
