//! Scenarios of conversations with real sockets between network namespaces, each on the kinds of network
//! that it names.
//! Needs root.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use weir_tests::scenario::format::Ground;
use weir_tests::scenario::{self, ScenarioFile, network};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for ground in Ground::ALL {
        let files = scenario::all()?.into_iter();
        trials.extend(
            files
                .filter(|file| is_shown(file, ground))
                .map(|file| needs_root(file, ground)),
        );
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// Is the scenario shown on this ground? One that cannot be read fails on the first.
fn is_shown(file: &ScenarioFile, ground: Ground) -> bool {
    match &file.scenario {
        Ok(scenario) => scenario.is_for_network() && scenario.grounds.contains(&ground),
        Err(_) => ground == Ground::Routed,
    }
}

/// Ignored unless asked for: needs root: `cargo xtask test network`.
fn needs_root(file: ScenarioFile, ground: Ground) -> Trial {
    let name = format!("{}/{ground}", file.name);
    let test =
        move || network::run(file, ground).map_err(|error| Failed::from(format!("{error:#}")));
    Trial::test(name, test)
        .with_kind("needs root: cargo xtask test network")
        .with_ignored_flag(true)
}
