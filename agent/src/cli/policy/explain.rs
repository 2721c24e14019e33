//! `weir policy explain`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, anyhow};
use clap::Args;

use crate::{
    cli::{
        agent_socket,
        output::{self, Format, bad, dim, good},
    },
    config::Paths,
    explain::answer::{Answer, Explained, Told, Written, answer},
};

/// What `weir policy explain` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Who opens the connection; an address that is nobody's is one beyond the cluster
    #[arg(long, value_name = "NAMESPACE/POD|node/NAME|ADDRESS")]
    from: String,

    /// To whom; of a service each backend is asked about
    #[arg(
        long,
        value_name = "NAMESPACE/POD|service/NAMESPACE/NAME|node/NAME|ADDRESS"
    )]
    to: String,

    /// To which port: its number, or its name at the pod or service
    #[arg(long, value_name = "PORT")]
    port: Option<String>,

    /// By which protocol: TCP, UDP, SCTP, ICMP, or a protocol's number
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP")]
    protocol: String,

    /// Ask this directory of manifests instead of the agent
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,

    #[command(flatten)]
    paths: Paths,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// Asks, and shows the answer.
pub fn explain(arguments: &Arguments) -> Result<ExitCode> {
    let written = Written {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        port: arguments.port.clone(),
        protocol: arguments.protocol.clone(),
    };
    // What is written wrongly needs no agent to say so.
    let question = written.read().map_err(|why| anyhow!(why))?;
    let answer: Answer = match &arguments.manifests {
        Some(manifests) => {
            let scene = super::scene(manifests)?;
            answer(&scene, &question).map_err(|why| anyhow!(why))?
        }
        None => agent_socket::post(&arguments.paths.run_dir, "/v1/policy/explain", &written)?,
    };
    match arguments.output {
        Format::Table => show_to_people(&answer),
        Format::Json | Format::Yaml => output::encode(arguments.output, &answer)?,
    }
    Ok(ExitCode::from(u8::from(!answer.allowed)))
}

fn show_to_people(answer: &Answer) {
    let mut shown: Vec<&Explained> = Vec::new();
    for explained in &answer.connections {
        // Both families of two pods, as a rule.
        if let Some(alike) = shown.iter().find(|other| other.is_like(explained)) {
            let same = format!(
                "  the same to {} from {}",
                explained.to.address_text(),
                explained.from.address
            );
            if alike.to.address != explained.to.address {
                output::line(&dim(&same));
            }
            continue;
        }
        let verdict = if explained.allowed {
            good("allowed")
        } else {
            bad("refused")
        };
        output::line(&format!("{verdict} {}", explained.title()));
        output::line(&end("egress", explained.from.name(), &explained.egress));
        output::line(&end("ingress", explained.to.name(), &explained.ingress));
        if let Some(doubt) = &explained.doubt {
            output::warning(&format!(
                "tables and objects do not agree, which is a fault of Weir's; please report it: {doubt}"
            ));
        }
        shown.push(explained);
    }
}

fn end(direction: &str, subject: Option<String>, told: &Told) -> String {
    let sign = if told.allowed { good("+") } else { bad("-") };
    let of = subject.map_or_else(String::new, |subject| format!(" of {subject}"));
    format!("  {sign} {direction}{of}: {}", told.why)
}
