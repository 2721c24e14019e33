//! `weir doctor`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use super::output::{self, Format, bad, dim, doubtful, good};
use crate::{
    config::{Paths, Places},
    doctor::{Finding, State, examine, worst},
};

/// What `weir doctor` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    paths: Paths,

    #[command(flatten)]
    places: Places,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// The answer to programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// How the worst finding is.
    state: State,
    findings: Vec<Finding>,
}

/// Looks at the node, and says whether it is fit.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let findings = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?
        .block_on(examine(&arguments.paths, &arguments.places));
    let answer = Answer {
        state: worst(&findings),
        findings,
    };
    match arguments.output {
        Format::Table => show_to_people(&answer),
        Format::Json | Format::Yaml => output::encode(arguments.output, &answer)?,
    }
    Ok(match answer.state {
        State::Ok | State::Warning => ExitCode::SUCCESS,
        State::Error => ExitCode::FAILURE,
    })
}

fn show_to_people(answer: &Answer) {
    for finding in &answer.findings {
        let Finding {
            name,
            state,
            found,
            remedy,
        } = finding;
        output::line(&format!("{}  {name}: {found}", label(*state)));
        if let Some(remedy) = remedy {
            output::line(&dim(&format!("{:9}→ {remedy}", "")));
        }
    }
    output::line("");
    let count = |state| {
        let all = answer.findings.iter();
        all.filter(|finding| finding.state == state).count()
    };
    let (errors, warnings) = (count(State::Error), count(State::Warning));
    let verdict = match errors {
        0 => good("Weir can work here"),
        _ => bad("Weir cannot work here"),
    };
    output::line(&format!(
        "{verdict} (errors: {errors}, warnings: {warnings})"
    ));
}

/// As wide as the longest.
fn label(state: State) -> String {
    match state {
        State::Ok => good("ok     "),
        State::Warning => doubtful("warning"),
        State::Error => bad("error  "),
    }
}
