//! `weir service get`: one service, as the tables have it, and as the last agent explains it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::{affinity, count, joined, or_none, policies, read_service_ports, revision};
use crate::{
    attach::AgentLock,
    cli::output::{self, Format, bad, dim},
    config::{Paths, lock_file},
    listing::{
        filter::ServiceReference,
        services::{Address, AddressKind, FamilyPart, Masquerade, ServicePort, port_text},
    },
    maps::pins::Pins,
    observe::{
        endpoints::{self, NotChosen},
        status::{Problem, Skipped, Status},
    },
};

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
    not_chosen: NotChosen,
}

/// Performs the command.
pub fn get(arguments: &GetArguments) -> Result<ExitCode> {
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
    let unknown = |error: anyhow::Error| {
        output::warning(&format!(
            "what the agent says of {service} is not known: {error:#}"
        ));
    };
    let mut told = match Status::read(&paths.run_dir) {
        Ok(Some(status)) => Account {
            // An unreadable lock is no reason to say that nobody holds it.
            agent_running: AgentLock::is_held(&lock_file(&paths.run_dir)).unwrap_or(true),
            ..account(&status, service)
        },
        Ok(None) => Account::default(),
        Err(error) => {
            unknown(error);
            Account::default()
        }
    };
    match endpoints::read(&paths.run_dir, &service.namespace, &service.name) {
        Ok(not_chosen) => told.not_chosen = not_chosen,
        Err(error) => unknown(error),
    }
    told
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
        not_chosen: NotChosen::default(),
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
        show_port(port);
        for part in &port.families {
            show_part(port, part);
        }
    }
    let Account {
        agent_running,
        problems,
        skipped,
        not_chosen,
    } = account;
    if problems.is_empty() && skipped.is_empty() && *not_chosen == NotChosen::default() {
        return;
    }
    if !agent_running {
        output::line(&dim("\nno agent runs; the last one said:"));
    }
    show_not_chosen(not_chosen);
    if !problems.is_empty() {
        output::heading("Problems: what cannot be read stays as it last was");
        output::table(
            ["WHERE", "OBJECT", "FIELD", "WHAT"],
            problems.iter().map(crate::cli::status::problem_row),
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

fn show_port(port: &ServicePort) {
    output::heading(&port.port_text());
    output::line(&format!("  traffic policies: {}", policies(port)));
    output::line(&format!("  session affinity: {}", affinity(port)));
    output::table(
        [
            "ADDRESS",
            "KIND",
            "THIS NODE IS LED TO",
            "OTHERS ARE LED TO",
            "SOURCE TRANSLATED OF",
            "WHO MAY COME",
        ],
        port.addresses.iter().map(|it| address_row(port, it)),
    );
}

fn address_row(port: &ServicePort, it: &Address) -> [String; 6] {
    let led_to = |number: u32| {
        let mut parts = port.families.iter();
        let part = parts.find(|part| part.number == number);
        part.map_or_else(
            || or_none(""),
            |part| format!("number {number}: {}", count(part)),
        )
    };
    let kind = match it.kind {
        AddressKind::ClusterIp => "cluster IP".to_owned(),
        AddressKind::NodePort if it.node_addresses.is_empty() => {
            "node port, at no address".to_owned()
        }
        AddressKind::NodePort => {
            let addrs = it.node_addresses.iter().map(ToString::to_string);
            format!("node port at {}", joined(addrs))
        }
        AddressKind::External => "external or load balancer IP".to_owned(),
    };
    let masquerade = match it.masquerade {
        Masquerade::Nobody => "nobody",
        Masquerade::Outside => "clients outside",
        Masquerade::Everyone => "everyone",
    };
    [
        format!("{}/{}", it.address, port.protocol),
        kind,
        led_to(it.number),
        led_to(it.outside_number),
        masquerade.to_owned(),
        match &it.source_ranges {
            None => "anyone".to_owned(),
            Some(ranges) if ranges.is_empty() => bad("nobody"),
            Some(ranges) => joined(ranges.iter().cloned()),
        },
    ]
}

fn show_part(port: &ServicePort, part: &FamilyPart) {
    output::heading(&format!(
        "{} {}, traffic policy {}",
        port.port_text(),
        part.family,
        part.traffic_policy
    ));
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
    } else if part.drops {
        output::line(&bad(
            "  has no backend on this node: what arrives is dropped in silence",
        ));
    } else {
        output::table(
            ["SLOT", "BACKEND", "ON"],
            part.backends.iter().map(|slot| {
                let place = if slot.local { "this node" } else { "another" };
                [
                    slot.slot.to_string(),
                    slot.address.to_string(),
                    place.to_owned(),
                ]
            }),
        );
    }
}

fn show_not_chosen(not_chosen: &NotChosen) {
    let NotChosen {
        endpoints,
        more,
        unused,
    } = not_chosen;
    if !endpoints.is_empty() {
        output::heading("Endpoints that are not chosen");
        output::table(
            ["PORT", "ENDPOINT", "NODE", "ZONE", "POLICY", "WHY"],
            endpoints.iter().map(|it| {
                let or_dash = |text: &Option<String>| or_none(text.as_deref().unwrap_or_default());
                [
                    port_text(&it.port_name, it.port, &it.protocol),
                    it.address.to_string(),
                    or_dash(&it.node),
                    or_dash(&it.zone),
                    it.traffic_policy
                        .clone()
                        .unwrap_or_else(|| "any".to_owned()),
                    it.reason.clone(),
                ]
            }),
        );
    }
    if *more > 0 {
        output::line(&dim(&format!("and {more} more")));
    }
    if !unused.is_empty() {
        output::heading("Endpoints of no port of the service");
        output::table(
            ["PORT", "FAMILY", "ENDPOINTS", "WHY"],
            unused.iter().map(|it| {
                [
                    port_text(&it.port_name, it.port, &it.protocol),
                    it.family.clone(),
                    it.endpoints.to_string(),
                    it.reason.clone(),
                ]
            }),
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
