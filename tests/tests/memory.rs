//! Every scenario through the pure pipeline: no privileges, no kernel.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};
use weir_tests::scenario::{self, memory::Memory};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let trials = scenario::all()?
        .into_iter()
        .map(|file| {
            Trial::test(file.name, move || {
                let scenario = file.scenario?;
                scenario::run(&scenario, &file.directory, &mut Memory::new(1))
                    .map_err(|error| format!("{}: {error:#}", scenario.name).into())
            })
        })
        .collect();
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}
