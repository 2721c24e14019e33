//! `weir policy`.

mod explain;
mod list;
mod test;

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use clap::Subcommand;

use super::output;
use crate::{
    explain::Scene,
    model::{Cluster, Event, SourceId},
    sources::manifests::{directory::scan, files::Files},
};

/// What can be asked about network policies.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether a connection is allowed, by which rule, or why it is not
    ///
    /// No packet is sent: the agent compiles its tables in memory for the nodes of both ends and
    /// lets the programs' own code judge. Where it is refused, the policies that isolate are named, and
    /// the rule that came nearest. Exit code 0: it is allowed. 1: it is refused. 2: it cannot be
    /// said.
    Explain(explain::Arguments),
    /// Show which pairs of pods would change their verdict if manifests were applied
    ///
    /// Nothing is applied. All pods of the cluster are compared with each other and with the addresses
    /// beyond it that policies name, for every port. Exit code 0: nothing changes. 1: something
    /// does. 2: it cannot be said.
    Test(test::Arguments),
    /// List the policies, and the pods of this node that each isolates
    #[command(visible_alias = "ls")]
    List(list::Arguments),
}

/// Performs the command. A failure is not the exit code of an answer.
pub fn run(command: &Command) -> Result<ExitCode> {
    let result = match command {
        Command::Explain(arguments) => explain::explain(arguments),
        Command::Test(arguments) => test::test(arguments),
        Command::List(arguments) => return list::list(arguments),
    };
    Ok(result.unwrap_or_else(|error| {
        output::error(&error);
        ExitCode::from(2)
    }))
}

/// The cluster of a directory of manifests.
fn scene(manifests: &Path) -> Result<Scene> {
    let scan = scan(manifests);
    if let Err(fault) = &scan {
        bail!("{fault}");
    }
    let mut cluster = Cluster::default();
    cluster.apply(Event {
        source: SourceId::MANIFESTS,
        changes: Files::default().update(scan),
    });
    for report in cluster.reports().values() {
        for problem in &report.problems {
            output::warning(&problem.to_string());
        }
    }
    Ok(Scene::new(cluster))
}
