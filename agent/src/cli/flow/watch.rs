//! `weir flow watch`.

use std::{fmt, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    cli::{
        agent_socket,
        output::{self, ListFormat, bad, dim, good},
    },
    config::Paths,
    explain::{FlowRecord, record::Outcome},
    listing::watch::{End, WatchFilter},
    observe::socket_routes::Line,
};

/// What `weir flow watch` can be told.
#[derive(Debug, Args)]
pub struct WatchArguments {
    /// Only what this became of. Of what is forwarded the first packet of each connection of a pod
    /// under policy is shown
    #[arg(
        long,
        value_name = "VERDICT",
        value_delimiter = ',',
        default_values_t = [VerdictName::Dropped, VerdictName::Rejected]
    )]
    verdict: Vec<VerdictName>,

    /// Only connections of this pod, or of the pods of this namespace, whoever opens them
    #[arg(long, value_name = "NAMESPACE/[POD]")]
    pod: Option<End>,

    /// Only connections that these open
    #[arg(long, value_name = "NAMESPACE/[POD]|ADDRESS[/LENGTH]")]
    from: Option<End>,

    /// Only connections to these, the service's address or the backend's
    #[arg(long, value_name = "NAMESPACE/[POD]|ADDRESS[/LENGTH][:PORT]")]
    to: Option<End>,

    /// Only this protocol: TCP, UDP, SCTP, ICMP, ICMPv6
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,

    /// Only connections to this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Of what was forwarded show each Nth only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,

    /// Show first the last so many that were dropped or rejected
    #[arg(long, value_name = "N", default_value_t = 0)]
    last: usize,

    #[command(flatten)]
    paths: Paths,

    /// How to show it: a line each; json: one value a line
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VerdictName {
    Dropped,
    Rejected,
    Forwarded,
    All,
}

impl VerdictName {
    const fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Dropped => Some(Outcome::Dropped),
            Self::Rejected => Some(Outcome::Rejected),
            Self::Forwarded => Some(Outcome::Forwarded),
            Self::All => None,
        }
    }
}

impl fmt::Display for VerdictName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome() {
            Some(outcome) => outcome.fmt(f),
            None => f.write_str("all"),
        }
    }
}

impl WatchArguments {
    fn query(&self) -> String {
        let filter = WatchFilter {
            verdicts: if self.verdict.contains(&VerdictName::All) {
                Vec::new()
            } else {
                self.verdict.iter().filter_map(|it| it.outcome()).collect()
            },
            pod: self.pod.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            protocol: self.protocol.clone(),
            port: self.port,
        };
        let (sample, last) = (self.sample, self.last);
        let query = filter.query();
        let more = if query.is_empty() { "" } else { "&" };
        format!("/v1/flows?{query}{more}sample={sample}&last={last}")
    }
}

/// Shows records until the agent ends, or whoever asks.
pub fn watch(arguments: &WatchArguments) -> Result<ExitCode> {
    agent_socket::follow(&arguments.paths.run_dir, &arguments.query(), |line| {
        let line: Line = serde_json::from_str(line)
            .context("understand the agent's answer; are agent and command of one version?")?;
        show(arguments.output, &line)?;
        Ok(true)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn show(format: ListFormat, line: &Line) -> Result<()> {
    match (format, line) {
        (ListFormat::Json, line) => {
            output::line(&serde_json::to_string(line).context("encode as JSON")?);
        }
        (ListFormat::Yaml, line) => {
            output::line("---");
            output::encode(output::Format::Yaml, line)?;
        }
        (ListFormat::Table | ListFormat::Wide, Line::Lost { lost }) => {
            output::warning(&format!("{lost} events were lost here"));
        }
        (ListFormat::Table, Line::Packet(record)) => output::line(&coloured(record)),
        (ListFormat::Wide, Line::Packet(record)) => {
            let from = dim(&format!(
                "[from {} at interface {}]",
                record.from.address_text(),
                record.interface
            ));
            output::line(&format!(
                "{} {} {from}",
                dim(&record.time),
                coloured(record)
            ));
        }
    }
    Ok(())
}

fn coloured(record: &FlowRecord) -> String {
    let text = record.to_string();
    let verdict = record.verdict.to_string();
    let rest = text.strip_prefix(&verdict).unwrap_or(&text);
    match record.verdict {
        Outcome::Dropped | Outcome::Rejected => format!("{}{rest}", bad(&verdict)),
        Outcome::Forwarded => format!("{}{rest}", good(&verdict)),
    }
}
