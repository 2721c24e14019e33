//! `weir check`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::{
    output::{self, Format, good},
    status::{problem_row, show_remarks},
};
use crate::{
    compile::{Capacities, Ids, NodeContext, compile},
    model::{Changed, Cluster, Event, SourceId},
    observe::{
        idle::Idle,
        report::{problem_status, remarks_status, skipped_status},
        status::{Problem, Remark, Skipped},
    },
    sources::manifests::{directory::scan, files::Files},
};

/// What `weir check` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The directory of manifests
    #[arg(value_name = "DIR")]
    manifests: PathBuf,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// What the manifests come to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    service_ports: usize,
    frontends: usize,
    backends: usize,
    policies: usize,
    problems: Vec<Problem>,
    remarks: Vec<Remark>,
    skipped: Vec<Skipped>,
    unknown_kinds: Vec<String>,
}

/// Reads the manifests as the agent would; the exit code says whether all is well.
pub fn check(arguments: &Arguments) -> Result<ExitCode> {
    let scan = scan(&arguments.manifests);
    if let Err(fault) = &scan {
        bail!("{fault}");
    }
    let mut cluster = Cluster::default();
    let changed = cluster.apply(Event {
        source: SourceId::MANIFESTS,
        changes: Files::default().update(scan),
    });
    let mut idle = Idle::default();
    if let Changed::Objects(objects) = changed {
        idle.update(&objects, &cluster);
    }
    let answer = answer(&cluster, &idle);
    match arguments.output {
        Format::Table => show_to_people(&answer),
        Format::Json | Format::Yaml => output::encode(arguments.output, &answer)?,
    }
    let is_well = answer.problems.is_empty() && answer.skipped.is_empty();
    Ok(ExitCode::from(u8::from(!is_well)))
}

fn answer(cluster: &Cluster, idle: &Idle) -> Answer {
    // What is said of the node does not matter here.
    let node = NodeContext::default();
    let desired = compile(cluster, &node, &mut Ids::default(), &Capacities::default());
    let reports = cluster.reports();
    Answer {
        service_ports: desired.service_ports,
        frontends: desired
            .contents
            .frontends
            .keys()
            .filter(|key| !key.is_address_only())
            .count(),
        backends: desired.contents.backends.len(),
        policies: idle.policies(),
        remarks: remarks_status(idle),
        problems: reports
            .iter()
            .flat_map(|(&source, report)| {
                report
                    .problems
                    .iter()
                    .map(move |problem| problem_status(source, problem))
            })
            .collect(),
        skipped: desired.skipped.iter().map(skipped_status).collect(),
        unknown_kinds: reports
            .values()
            .flat_map(|report| report.unknown_kinds.iter().cloned())
            .collect(),
    }
}

fn show_to_people(answer: &Answer) {
    let Answer {
        service_ports,
        frontends,
        backends,
        policies,
        problems,
        remarks,
        skipped,
        unknown_kinds,
    } = answer;
    output::line(&format!(
        "{service_ports} service ports at {frontends} addresses with {backends} backends, \
         {policies} network policies"
    ));
    if !problems.is_empty() {
        output::heading("Problems");
        output::table(
            ["WHERE", "OBJECT", "FIELD", "WHAT"],
            problems.iter().map(problem_row),
        );
    }
    show_remarks(remarks);
    if !skipped.is_empty() {
        output::heading("Left out");
        output::table(
            ["OBJECT", "WHY"],
            skipped
                .iter()
                .map(|skipped| [skipped.object.clone(), skipped.reason.clone()]),
        );
    }
    if !unknown_kinds.is_empty() {
        output::line(&format!(
            "\nkinds that are not read: {}",
            unknown_kinds.join(", ")
        ));
    }
    if problems.is_empty() && skipped.is_empty() {
        output::line(&good("nothing is wrong"));
    }
}
