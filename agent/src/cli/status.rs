//! `weir status`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::output::{self, Format, bad, dim, good};
use crate::{
    attach::AgentLock,
    config::{Paths, lock_file},
    observe::status::{self, PodInterface, Problem, Remark, Status},
};

/// What `weir status` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    paths: Paths,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// The answer to programs: the agent's account, and whether it still lives.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    running: bool,
    #[serde(flatten)]
    status: Option<Status>,
}

/// Shows the status; the exit code says how it is.
pub fn show(arguments: &Arguments) -> Result<ExitCode> {
    let running = AgentLock::is_held(&lock_file(&arguments.paths.run_dir))?;
    let answer = Answer {
        running,
        status: Status::read(&arguments.paths.run_dir)?,
    };
    match arguments.output {
        Format::Table => show_to_people(&answer, &arguments.paths),
        Format::Json | Format::Yaml => output::encode(arguments.output, &answer)?,
    }
    Ok(exit_code(&answer))
}

fn exit_code(answer: &Answer) -> ExitCode {
    match &answer.status {
        Some(status) if answer.running && status.ready => {
            let is_content = status.error.is_none()
                && status.problems.is_empty()
                && status.skipped.is_empty()
                && status.listeners.iter().all(|one| one.error.is_none());
            ExitCode::from(u8::from(!is_content))
        }
        _ => ExitCode::from(2),
    }
}

fn show_to_people(answer: &Answer, paths: &Paths) {
    let Some(status) = &answer.status else {
        let file = status::file(&paths.run_dir);
        output::line(&format!(
            "{} no agent has run here: there is no {}",
            bad("○"),
            file.display()
        ));
        return;
    };
    output::line(&agent_line(answer.running, status));
    if let Some(sync) = &status.last_sync {
        output::line(&format!(
            "  synchronised {} times, last at {}: {} writes in {:.1} ms",
            status.generation,
            sync.at,
            sync.writes,
            sync.microseconds as f64 / 1000.0
        ));
    }
    if let Some(error) = &status.error {
        output::line(&format!(
            "  {} {error}",
            bad("last synchronisation failed:")
        ));
    }
    output::line(&format!(
        "  {} service ports, {} network policies, {} network interfaces",
        status.service_ports,
        status.policies,
        status.network_interfaces.len()
    ));
    output::line(&format!("  {}", pods_line(&status.interfaces)));

    output::heading("Tables");
    output::table(
        ["NAME", "ENTRIES", "CAPACITY"],
        status.tables.iter().map(|table| {
            let entries = table.entries.to_string();
            let is_full = table.entries >= table.capacity as usize;
            let entries = if is_full {
                format!("{entries} (full)")
            } else {
                entries
            };
            [table.name.clone(), entries, table.capacity.to_string()]
        }),
    );
    if !status.interfaces.is_empty() {
        output::heading("Pods' interfaces");
        output::table(
            [
                "INDEX",
                "NAME",
                "POD",
                "STATE",
                "INGRESS ISOLATED BY",
                "EGRESS ISOLATED BY",
            ],
            status.interfaces.iter().map(pod_row),
        );
    }
    if !status.network_interfaces.is_empty() {
        output::heading("Network interfaces");
        output::table(
            ["INDEX", "NAME"],
            status
                .network_interfaces
                .iter()
                .map(|interface| [interface.index.to_string(), interface.name.clone()]),
        );
    }
    if !status.listeners.is_empty() {
        output::heading("Ports");
        output::table(
            ["ADDRESS", "WHAT FOR", "STATE"],
            status.listeners.iter().map(|listener| {
                let state = match &listener.error {
                    None => "open".to_owned(),
                    Some(error) => format!("closed: {error}"),
                };
                [listener.address.clone(), listener.purpose.clone(), state]
            }),
        );
    }
    if !status.problems.is_empty() {
        output::heading("Problems: what cannot be read stays as it last was");
        output::table(
            ["WHERE", "OBJECT", "FIELD", "WHAT"],
            status.problems.iter().map(problem_row),
        );
    }
    show_remarks(&status.remarks);
    if !status.skipped.is_empty() {
        output::heading("Left out");
        output::table(
            ["OBJECT", "WHY"],
            status
                .skipped
                .iter()
                .map(|skipped| [skipped.object.clone(), skipped.reason.clone()]),
        );
    }
    if !status.unknown_kinds.is_empty() {
        let kinds = status.unknown_kinds.join(", ");
        output::line(&dim(&format!("\nkinds that are not read: {kinds}")));
    }
}

/// `12 pod interfaces: 10 programmed, 1 isolated (labels not known yet), 1 unknown`
fn pods_line(interfaces: &[PodInterface]) -> String {
    let states = [
        ("programmed", ""),
        ("isolated", " (labels not known yet)"),
        ("unknown", ""),
    ];
    let parts: Vec<String> = states
        .into_iter()
        .filter_map(|(state, remark)| {
            let count = interfaces.iter().filter(|it| it.state == state).count();
            (count > 0).then(|| format!("{count} {state}{remark}"))
        })
        .collect();
    let all = format!("{} pod interfaces", interfaces.len());
    if parts.is_empty() {
        all
    } else {
        format!("{all}: {}", parts.join(", "))
    }
}

fn pod_row(interface: &PodInterface) -> [String; 6] {
    let PodInterface {
        index,
        name,
        pod,
        state,
        ingress,
        egress,
    } = interface;
    let policies = |policies: &[String]| match policies {
        [] => "-".to_owned(),
        policies => policies.join(", "),
    };
    [
        index.to_string(),
        name.clone(),
        pod.clone().unwrap_or_else(|| "-".to_owned()),
        state.clone(),
        policies(ingress),
        policies(egress),
    ]
}

fn agent_line(is_running: bool, status: &Status) -> String {
    let Status {
        node,
        version,
        pid,
        started,
        ready,
        ..
    } = status;
    match (is_running, ready) {
        (true, true) => format!(
            "{} node {node}: agent {version} runs (pid {pid}, since {started})",
            good("●")
        ),
        (true, false) => format!(
            "{} node {node}: agent {version} (pid {pid}) is not ready: it waits for its sources' first complete list",
            bad("●")
        ),
        (false, _) => format!(
            "{} node {node}: no agent runs (the last had pid {pid}); programs and tables go on without one, \
             but nothing follows the cluster",
            bad("○")
        ),
    }
}

/// What is no fault, but may not be meant.
pub fn show_remarks(remarks: &[Remark]) {
    if remarks.is_empty() {
        return;
    }
    output::heading("Remarks: no faults, but perhaps not meant");
    output::table(
        ["OBJECT", "FIELD", "WHAT"],
        remarks.iter().map(|remark| {
            [
                remark.object.clone().unwrap_or_default(),
                remark.field.clone().unwrap_or_default(),
                remark.message.clone(),
            ]
        }),
    );
}

/// A problem as a row: where, object, field, what.
pub fn problem_row(problem: &Problem) -> [String; 4] {
    let place = match (&problem.file, problem.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.clone(),
        (None, _) => problem.source.clone(),
    };
    [
        place,
        problem.object.clone().unwrap_or_default(),
        problem.field.clone().unwrap_or_default(),
        problem.message.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_counted_by_what_is_known_of_them() {
        let interface = |state: &str| PodInterface {
            index: 5,
            name: "veth-a".to_owned(),
            pod: None,
            state: state.to_owned(),
            ingress: Vec::new(),
            egress: Vec::new(),
        };
        assert_eq!(pods_line(&[]), "0 pod interfaces");
        let interfaces = ["unknown", "programmed", "isolated", "programmed"].map(interface);
        assert_eq!(
            pods_line(&interfaces),
            "4 pod interfaces: 2 programmed, 1 isolated (labels not known yet), 1 unknown"
        );
        // The status of an agent before this one does not say.
        assert_eq!(pods_line(&[interface("")]), "1 pod interfaces");
    }
}
