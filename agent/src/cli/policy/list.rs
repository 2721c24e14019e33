//! `weir policy list`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{
    cli::{
        agent_socket,
        output::{self, ListFormat},
    },
    config::Paths,
    listing::policies::PolicyRow,
};

/// What `weir policy list` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    paths: Paths,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

/// Asks the agent, and shows the list.
pub fn list(arguments: &Arguments) -> Result<ExitCode> {
    let rows: Vec<PolicyRow> = agent_socket::get(&arguments.paths.run_dir, "/v1/policies")?;
    match arguments.output.encoding() {
        Some(encoding) => output::encode(encoding, &rows)?,
        None if rows.is_empty() => output::line("no policies"),
        None if arguments.output == ListFormat::Wide => output::table(
            [
                "POLICY",
                "SELECTS",
                "ISOLATES",
                "RULES",
                "PODS HERE",
                "PROBLEMS",
            ],
            rows.iter().map(|policy| {
                let [name, selector, directions, rules, _] = row(policy);
                let pods = policy.pods.join(", ");
                [
                    name,
                    selector,
                    directions,
                    rules,
                    pods,
                    policy.problems.join("; "),
                ]
            }),
        ),
        None => output::table(
            ["POLICY", "SELECTS", "ISOLATES", "RULES", "PODS HERE"],
            rows.iter().map(row),
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn row(policy: &PolicyRow) -> [String; 5] {
    let selector = match policy.selector.as_str() {
        "" => "all pods",
        selector => selector,
    };
    let rules = match policy.problems.len() {
        0 => policy.rules.to_string(),
        _ => "cannot be read".to_owned(),
    };
    [
        format!("{}/{}", policy.namespace, policy.name),
        selector.to_owned(),
        policy.directions.join(", "),
        rules,
        policy.pods.len().to_string(),
    ]
}
