//! Scenarios of conversations with real sockets between network namespaces, in both wirings.
//! Needs root.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use weir_tests::bed::Wiring;
use weir_tests::scenario::{self, ScenarioFile, network};

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for wiring in Wiring::ALL {
        let files = scenario::all()?.into_iter();
        trials.extend(
            files
                .filter(
                    |file| !matches!(&file.scenario, Ok(scenario) if !scenario.is_for_network()),
                )
                .map(|file| needs_root(file, wiring)),
        );
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// Ignored unless asked for: needs root: `cargo xtask test network`.
fn needs_root(file: ScenarioFile, wiring: Wiring) -> Trial {
    let wired = match wiring {
        Wiring::Routed => "routed",
        Wiring::Bridged => "bridged",
    };
    let name = format!("{}/{wired}", file.name);
    let test =
        move || network::run(file, wiring).map_err(|error| Failed::from(format!("{error:#}")));
    Trial::test(name, test)
        .with_kind("needs root: cargo xtask test network")
        .with_ignored_flag(true)
}
