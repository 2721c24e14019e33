//! `weir service list` and `weir service get`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{self, Format, ListFormat, bad, dim};
use crate::{
    attach::AgentLock,
    config::{Paths, lock_file},
    listing::{
        filter::ServiceReference,
        services::{FamilyPart, ServicePort, service_ports, short_address},
    },
    maps::{kernel::KernelTables, pins::Pins},
    observe::status::{Problem, Skipped, Status},
};

/// What can be asked about services.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List service ports: their addresses, and how many backends each has
    ///
    /// One row for each port of each service, both address families in one. An address at which
    /// the service is reached by another port than its own is shown with that port. `0` backends:
    /// whoever connects is refused.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Show one service: each address with its backends, and what the agent says of it
    ///
    /// `number` is what the service port is called in the tables, where each family has its own;
    /// `revision` grows with each change of its backends. Exit code 1: the service is not in the
    /// tables.
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

/// What `weir service get` can be told.
#[derive(Debug, Args)]
pub struct GetArguments {
    /// The service
    #[arg(value_name = "[NAMESPACE/]NAME")]
    service: ServiceReference,

    /// The namespace of a NAME that is given without one [default: default]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    #[command(flatten)]
    paths: Paths,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
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
    let addresses = port.families.iter().flat_map(|part| &part.addresses);
    [
        or_none(&port.namespace),
        or_none(&port.name),
        port.port_text(),
        or_none(&joined(
            addresses.map(|address| short_address(*address, port.port)),
        )),
        joined(port.families.iter().map(count)),
    ]
}

fn wide_row(port: &ServicePort) -> [String; 8] {
    let [namespace, name, port_text, addresses, backends] = row(port);
    let endpoints = port.families.iter().flat_map(|part| &part.backends);
    [
        namespace,
        name,
        port_text,
        addresses,
        backends,
        joined(port.families.iter().map(|part| part.number.to_string())),
        joined(port.families.iter().map(revision)),
        or_none(&joined(endpoints.map(|slot| slot.address.to_string()))),
    ]
}

/// `2 IPv4`
fn count(part: &FamilyPart) -> String {
    let count = part.backends.len();
    let family = part.family;
    if part.refuses {
        bad(&format!("{count} {family}"))
    } else {
        format!("{count} {family}")
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

/// The answer to programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    namespace: String,
    name: String,
    ports: Vec<ServicePort>,
    account: Account,
}

/// What an agent says of the service.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Account {
    /// Does it run? Else it may be old.
    agent_running: bool,
    problems: Vec<Problem>,
    skipped: Vec<Skipped>,
}

fn get(arguments: &GetArguments) -> Result<ExitCode> {
    let service = arguments.service()?;
    let mut ports = read_service_ports(&arguments.paths)?;
    ports.retain(|port| port.is_of(&service));
    let account = read_account(&arguments.paths, &service);
    if ports.is_empty() && account.skipped.is_empty() && account.problems.is_empty() {
        bail!(
            "no service {service} is in the tables at {}; `weir service list` shows those that \
             are",
            Pins::new(&arguments.paths.bpffs).maps().display()
        );
    }
    let code = ExitCode::from(u8::from(ports.is_empty()));
    let details = Details {
        namespace: service.namespace,
        name: service.name,
        ports,
        account,
    };
    match arguments.output {
        Format::Table => show_to_people(&details),
        Format::Json | Format::Yaml => output::encode(arguments.output, &details)?,
    }
    Ok(code)
}

impl GetArguments {
    fn service(&self) -> Result<ServiceReference> {
        let mut service = self.service.clone();
        if let Some(namespace) = &self.namespace {
            // A name that was given without a namespace is in this one.
            if service.is_qualified && service.namespace != *namespace {
                bail!(
                    "the service {service} is not in the namespace {namespace} that --namespace \
                     names"
                );
            }
            service.namespace.clone_from(namespace);
        }
        Ok(service)
    }
}

/// What the agent says of the service. Its account is an extra: where it cannot be read, that is
/// said, and the tables are shown.
fn read_account(paths: &Paths, service: &ServiceReference) -> Account {
    match Status::read(&paths.run_dir) {
        Ok(Some(status)) => Account {
            // An unreadable lock is no reason to say that nobody holds it.
            agent_running: AgentLock::is_held(&lock_file(&paths.run_dir)).unwrap_or(true),
            ..account(&status, service)
        },
        Ok(None) => Account::default(),
        Err(error) => {
            output::warning(&format!(
                "what the agent says of {service} is not known: {error:#}"
            ));
            Account::default()
        }
    }
}

fn account(status: &Status, service: &ServiceReference) -> Account {
    let object = format!("Service {service}");
    let endpoints = format!("Endpoints {service}");
    let port = format!("{object} port ");
    Account {
        agent_running: false,
        problems: status
            .problems
            .iter()
            .filter(|problem| {
                let about = problem.object.as_ref();
                about.is_some_and(|about| *about == object || *about == endpoints)
            })
            .cloned()
            .collect(),
        skipped: status
            .skipped
            .iter()
            .filter(|skipped| skipped.object == object || skipped.object.starts_with(&port))
            .cloned()
            .collect(),
    }
}

fn show_to_people(details: &Details) {
    let Details {
        namespace,
        name,
        ports,
        account,
    } = details;
    output::line(&format!("Service {namespace}/{name}"));
    if ports.is_empty() {
        output::line(&bad("  none of its ports is in the tables"));
    }
    for port in ports {
        for part in &port.families {
            show_part(port, part);
        }
    }
    let Account {
        agent_running,
        problems,
        skipped,
    } = account;
    if problems.is_empty() && skipped.is_empty() {
        return;
    }
    if !agent_running {
        output::line(&dim("\nno agent runs; the last one said:"));
    }
    if !problems.is_empty() {
        output::heading("Problems: the last good version stays in force");
        output::table(
            ["WHERE", "OBJECT", "FIELD", "WHAT"],
            problems.iter().map(super::status::problem_row),
        );
    }
    if !skipped.is_empty() {
        output::heading("Left out");
        output::table(
            ["OBJECT", "WHY"],
            skipped
                .iter()
                .map(|skipped| [skipped.object.clone(), skipped.reason.clone()]),
        );
    }
}

fn show_part(port: &ServicePort, part: &FamilyPart) {
    output::heading(&format!("{} {}", port.port_text(), part.family));
    output::line(&format!(
        "  number {}, revision {}",
        part.number,
        revision(part)
    ));
    let at = part
        .addresses
        .iter()
        .map(|address| format!("{address}/{}", port.protocol));
    output::line(&format!("  reached at {}", or_none(&joined(at))));
    if part.refuses {
        output::line(&bad("  has no backend: connections are refused"));
    } else {
        output::table(
            ["SLOT", "BACKEND"],
            part.backends
                .iter()
                .map(|slot| [slot.slot.to_string(), slot.address.to_string()]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let skipped = |object: &str| serde_json::json!({"object": object, "reason": "full"});
        let problem = |object: &str| {
            serde_json::json!({"source": "manifests", "object": object, "file": null,
                               "line": null, "field": null, "message": "wrong"})
        };
        serde_json::from_value(serde_json::json!({
            "node": "n", "version": "1", "pid": 1, "started": "2026-01-01T00:00:00Z",
            "ready": true, "generation": 1, "lastSync": null, "error": null, "servicePorts": 0,
            "tables": [], "interfaces": [], "programs": [], "unknownKinds": [],
            "skipped": [skipped("Service default/web port http 80/TCP IPv4"),
                        skipped("Service default/web-2 port 80/TCP IPv4"),
                        skipped("Service shop/web port 80/TCP IPv4")],
            "problems": [problem("Service default/web"), problem("Endpoints default/web"),
                         problem("Service default/web-2")],
        }))
        .unwrap()
    }

    #[test]
    fn the_account_is_of_this_service_alone() {
        let account = account(&status(), &"web".parse().unwrap());
        let skipped: Vec<_> = account.skipped.iter().map(|it| &*it.object).collect();
        assert_eq!(skipped, ["Service default/web port http 80/TCP IPv4"]);
        let problems: Vec<_> = account
            .problems
            .iter()
            .filter_map(|it| it.object.as_deref())
            .collect();
        assert_eq!(problems, ["Service default/web", "Endpoints default/web"]);
    }

    #[test]
    fn a_namespace_completes_a_name_and_may_not_contradict_one() {
        let ask = |service: &str, namespace: Option<&str>| {
            let arguments = GetArguments {
                service: service.parse().unwrap(),
                namespace: namespace.map(str::to_owned),
                paths: Paths {
                    bpffs: "/".into(),
                    run_dir: "/".into(),
                },
                output: Format::Table,
            };
            arguments.service().map(|service| service.to_string()).ok()
        };
        assert_eq!(ask("web", None).as_deref(), Some("default/web"));
        assert_eq!(ask("web", Some("shop")).as_deref(), Some("shop/web"));
        assert_eq!(ask("shop/web", Some("shop")).as_deref(), Some("shop/web"));
        assert_eq!(ask("shop/web", Some("default")), None);
    }
}
