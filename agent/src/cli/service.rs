//! `weir service list`, and what it has in common with `weir service get`.

mod get;

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{self, ListFormat, bad, dim};
use crate::{
    config::Paths,
    listing::services::{FamilyPart, ServicePort, service_ports, short_address},
    maps::{kernel::KernelTables, pins::Pins},
};

use get::{GetArguments, get};

/// What can be asked about services.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List service ports: their addresses, and how many backends each has
    ///
    /// One row for each port of each service, both address families in one. An address at which
    /// the service is reached by another port than its own is shown with that port, a node port as
    /// `*:30080`. Backends are counted for each traffic policy in use. `0` backends: whoever
    /// connects is refused, or dropped where the policy is Local and others have backends.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Show one service: each address, its backends, and why other endpoints are not chosen
    ///
    /// `number` is what the endpoints of a service port are called in the tables, where each family
    /// has its own, and each traffic policy; `revision` grows with each change of its backends. Which
    /// endpoints are not chosen, and why, is the last agent's account. Exit code 1: the service is
    /// not in the tables.
    Get(GetArguments),
}

/// What `weir service list` can be told.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only services of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Services of all namespaces; this is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    #[command(flatten)]
    paths: Paths,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

/// Performs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Get(arguments) => get(arguments),
    }
}

fn read_service_ports(paths: &Paths) -> Result<Vec<ServicePort>> {
    let tables = KernelTables::open_read_only(&Pins::new(&paths.bpffs))?;
    Ok(service_ports(&tables.read()?))
}

/// The answer to programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    service_ports: Vec<ServicePort>,
}

fn list(arguments: &ListArguments) -> Result<ExitCode> {
    let mut service_ports = read_service_ports(&arguments.paths)?;
    if let Some(namespace) = &arguments.namespace {
        service_ports.retain(|port| port.namespace == *namespace);
    }
    let is_wide = arguments.output == ListFormat::Wide;
    match arguments.output.encoding() {
        Some(format) => output::encode(format, &List { service_ports })?,
        None if service_ports.is_empty() => output::line("no services"),
        None if is_wide => output::table(
            [
                "NAMESPACE",
                "NAME",
                "PORT",
                "ADDRESSES",
                "BACKENDS",
                "POLICIES",
                "AFFINITY",
                "NUMBER",
                "REVISION",
                "ENDPOINTS",
            ],
            service_ports.iter().map(wide_row),
        ),
        None => output::table(
            ["NAMESPACE", "NAME", "PORT", "ADDRESSES", "BACKENDS"],
            service_ports.iter().map(row),
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn row(port: &ServicePort) -> [String; 5] {
    let addresses = port.addresses.iter();
    let mut addresses: Vec<String> = addresses
        .map(|it| short_address(it.address, port.port))
        .collect();
    // A node port is one for both families.
    let mut seen = BTreeSet::new();
    addresses.retain(|it| seen.insert(it.clone()));
    [
        or_none(&port.namespace),
        or_none(&port.name),
        port.port_text(),
        or_none(&joined(addresses.into_iter())),
        joined(port.families.iter().map(count)),
    ]
}

fn wide_row(port: &ServicePort) -> [String; 10] {
    let [namespace, name, port_text, addresses, backends] = row(port);
    let endpoints = port.families.iter().flat_map(|part| &part.backends);
    [
        namespace,
        name,
        port_text,
        addresses,
        backends,
        policies(port),
        affinity(port),
        joined(port.families.iter().map(|part| part.number.to_string())),
        joined(port.families.iter().map(revision)),
        or_none(&joined(endpoints.map(|slot| slot.address.to_string()))),
    ]
}

/// `2 IPv4`, `1 IPv4 Local`
fn count(part: &FamilyPart) -> String {
    let count = part.backends.len();
    let family = part.family;
    let policy = match part.traffic_policy {
        "Cluster" => "",
        _ => " Local",
    };
    let text = format!("{count} {family}{policy}");
    if part.refuses || part.drops {
        bad(&text)
    } else {
        text
    }
}

/// `internal Cluster, external Local`
fn policies(port: &ServicePort) -> String {
    let named = |name: &str, policy: Option<&str>| policy.map(|policy| format!("{name} {policy}"));
    or_none(&joined(
        [
            named("internal", port.internal_traffic_policy),
            named("external", port.external_traffic_policy),
        ]
        .into_iter()
        .flatten(),
    ))
}

fn affinity(port: &ServicePort) -> String {
    match port.affinity_seconds {
        Some(seconds) => format!("client IP, {seconds} s"),
        None => or_none(""),
    }
}

fn revision(part: &FamilyPart) -> String {
    if part.changing {
        format!("{} (changing)", part.revision)
    } else {
        part.revision.to_string()
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        dim("<none>")
    } else {
        text.to_owned()
    }
}
