//! Every packet scenario through the loaded programs, one packet at a time. Needs root.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use weir_tests::scenario::{
    self, ScenarioFile,
    program::{INSTRUCTION_BUDGET, Program},
};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let mut trials = vec![needs_root(
        "the_verifier_stays_within_the_budget",
        the_verifier_stays_within_the_budget,
    )];
    trials.extend(
        scenario::all()?
            .into_iter()
            .filter(|file| !matches!(&file.scenario, Ok(scenario) if !scenario.is_for_program()))
            .map(|file| needs_root(&file.name.clone(), move || run(file))),
    );
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// Ignored unless asked for: needs root: `cargo xtask test program`.
fn needs_root(name: &str, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    Trial::test(name, test)
        .with_kind("needs root: cargo xtask test program")
        .with_ignored_flag(true)
}

fn run(file: ScenarioFile) -> Result<(), Failed> {
    let scenario = file.scenario?;
    scenario::run(&scenario, &file.directory, &mut Program::load()?)
        .map_err(|error| format!("{}: {error:#}", scenario.name).into())
}

fn the_verifier_stays_within_the_budget() -> Result<(), Failed> {
    for (hook, count) in Program::load()?.verified_instructions()? {
        #[allow(clippy::print_stderr, reason = "a figure to watch")]
        {
            eprintln!("{}: {count} verified instructions", hook.name());
        }
        if count > INSTRUCTION_BUDGET {
            return Err(format!("{}: {count} exceeds {INSTRUCTION_BUDGET}", hook.name()).into());
        }
    }
    Ok(())
}
