//! `weir flow`.

mod watch;

use std::{collections::BTreeMap, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use weir_ebpf::{
    addr::Protocol,
    tables::{FlowState, Nanos, name},
};

use super::output::{self, ListFormat, dim};
use crate::{
    config::Paths,
    listing::{
        filter::{Addresses, Destination, Filter, ServiceReference},
        flows::{FlowRow, ServiceName, flows},
        sockets::{SocketRow, sockets},
    },
    maps::{kernel::KernelTables, pins::Pins},
};

/// What can be asked about flows.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List flows: who talks to which service, and which backend answers
    ///
    /// One row for each flow that is translated packet by packet: UDP and SCTP of pods, and
    /// whatever the socket programs do not see. Connections that were translated when they were
    /// opened (TCP, and the node's own UDP) are shown by --sockets as well.
    ///
    /// A flow is OPENING until it is answered, then ESTABLISHED; CLOSING when one side has said
    /// that it is done, CLOSED when both have or one has reset it. IDLE is the time since its
    /// last packet, to the second.
    ///
    /// Reads the tables in the kernel, whether an agent runs or not.
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Watch what becomes of packets at pods' interfaces, and why
    ///
    /// A line for each packet that is dropped or rejected, and for the first of each connection that
    /// a pod under policy opens or answers: the policies that isolate and the rule that came
    /// nearest, or the rule that allows. Asks the agent. No packet waits for it: where more happens
    /// than can be shown, what is lost is counted and said.
    Watch(watch::WatchArguments),
}

/// What `weir flow list` can be told.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Only clients with this address, or in this prefix
    #[arg(long, value_name = "ADDRESS[/LENGTH]")]
    from: Option<Addresses>,

    /// Only flows to this address and port, the service's or the backend's: 10.32.0.140,
    /// 10.32.0.0/24:80, [fd00::1]:80
    #[arg(long, value_name = "ADDRESS[/LENGTH][:PORT]")]
    to: Option<Destination>,

    /// Only flows to this service; without a namespace, one in the namespace default
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    service: Option<ServiceReference>,

    /// Only flows of this protocol
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<ProtocolName>,

    /// Only flows in this state, or one of these
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<StateName>,

    /// Expired flows, too: they stay in the table until it needs their room, and their next
    /// packet opens a new flow
    #[arg(long)]
    all: bool,

    /// The sockets whose peers are translated, too. Their entries stay when they are closed,
    /// until the table needs the room; they know no client's address and no state
    #[arg(long, conflicts_with_all = ["from", "state"])]
    sockets: bool,

    /// Show the list anew each second, until Ctrl-C
    #[arg(short, long)]
    watch: bool,

    #[command(flatten)]
    paths: Paths,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolName {
    Tcp,
    Udp,
    Sctp,
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::TCP,
            ProtocolName::Udp => Self::UDP,
            ProtocolName::Sctp => Self::SCTP,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StateName {
    /// Nobody has answered yet
    Opening,
    /// Both have spoken
    Established,
    /// One side is done
    Closing,
    /// Both are, or one has reset the connection
    Closed,
}

impl From<StateName> for FlowState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Opening => Self::OPENING,
            StateName::Established => Self::ESTABLISHED,
            StateName::Closing => Self::CLOSING,
            StateName::Closed => Self::CLOSED,
        }
    }
}

/// How often the list is shown anew.
const REFRESH: Duration = Duration::from_secs(1);

/// The answer to programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    flows: Vec<FlowRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<Vec<SocketRow>>,
}

/// Performs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::List(arguments) => list(arguments),
        Command::Watch(arguments) => watch::watch(arguments),
    }
}

fn list(arguments: &ListArguments) -> Result<ExitCode> {
    let filter = arguments.filter();
    loop {
        // Opened each time: an agent may have made the tables anew since.
        let answer = read(arguments, &filter)?;
        if arguments.watch {
            output::clear();
        }
        show(arguments.output, arguments.watch, &answer)?;
        if !arguments.watch {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(REFRESH);
    }
}

impl ListArguments {
    fn filter(&self) -> Filter {
        Filter {
            from: self.from,
            to: self.to,
            service: self.service.clone(),
            protocol: self.protocol.map(Protocol::from),
            states: self.state.iter().copied().map(FlowState::from).collect(),
            expired: self.all,
        }
    }
}

fn read(arguments: &ListArguments, filter: &Filter) -> Result<Answer> {
    let tables = KernelTables::open_read_only(&Pins::new(&arguments.paths.bpffs))?;
    let flow_entries = tables
        .flows()
        .collect::<std::io::Result<BTreeMap<_, _>>>()
        .with_context(|| format!("read the table {}", name::FLOWS))?;
    let socket_entries = arguments
        .sockets
        .then(|| {
            tables
                .sockets()
                .collect::<std::io::Result<BTreeMap<_, _>>>()
                .with_context(|| format!("read the table {}", name::SOCKETS))
        })
        .transpose()?;
    // Names after flows: a flow that has just been opened finds its service.
    let contents = tables.read()?;
    let now = monotonic()?;
    Ok(Answer {
        flows: flows(&contents, &flow_entries, now, filter),
        sockets: socket_entries.map(|entries| sockets(&contents, &entries, now, filter)),
    })
}

/// The clock by which programs note the time.
pub fn monotonic() -> Result<Nanos> {
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the monotonic clock of the node")?;
    let nanoseconds = Duration::from(time).as_nanos();
    Nanos::try_from(nanoseconds).context("the monotonic clock is beyond its range")
}

fn show(format: ListFormat, is_one_of_many: bool, answer: &Answer) -> Result<()> {
    match format.encoding() {
        Some(output::Format::Yaml) if is_one_of_many => {
            output::line("---");
            output::encode(output::Format::Yaml, answer)
        }
        Some(encoding) => output::encode(encoding, answer),
        None => {
            show_to_people(format == ListFormat::Wide, answer);
            Ok(())
        }
    }
}

fn show_to_people(is_wide: bool, answer: &Answer) {
    let Answer { flows, sockets } = answer;
    match (flows.is_empty(), is_wide) {
        (true, _) => output::line("no flows"),
        (false, false) => output::table(
            [
                "PROTOCOL", "CLIENT", "SERVICE", "ADDRESS", "BACKEND", "STATE", "IDLE",
            ],
            flows.iter().map(row),
        ),
        (false, true) => output::table(
            [
                "PROTOCOL",
                "CLIENT",
                "SERVICE",
                "ADDRESS",
                "BACKEND",
                "STATE",
                "IDLE",
                "PORT NAME",
                "CLIENT AT BACKEND",
                "HAIRPIN",
            ],
            flows.iter().map(wide_row),
        ),
    }
    let Some(sockets) = sockets else { return };
    output::heading("Sockets");
    if sockets.is_empty() {
        output::line("no sockets");
    } else {
        output::table(
            [
                "PROTOCOL",
                "COOKIE",
                "SERVICE",
                "ADDRESS",
                "BACKEND",
                "LAST USED",
            ],
            sockets.iter().map(socket_row),
        );
    }
}

fn row(flow: &FlowRow) -> [String; 7] {
    [
        flow.protocol.clone(),
        flow.client.to_string(),
        service_text(flow.service.as_ref()),
        flow.address.to_string(),
        flow.backend.to_string(),
        flow.state.to_owned(),
        age(flow.idle_seconds, flow.expired),
    ]
}

fn wide_row(flow: &FlowRow) -> [String; 10] {
    let [protocol, client, service, address, backend, state, idle] = row(flow);
    let port_name = flow.service.as_ref().map(|service| &*service.port_name);
    let hairpin = if flow.hairpin { "yes" } else { "no" };
    [
        protocol,
        client,
        service,
        address,
        backend,
        state,
        idle,
        port_name.unwrap_or_default().to_owned(),
        flow.client_at_backend.to_string(),
        hairpin.to_owned(),
    ]
}

fn socket_row(socket: &SocketRow) -> [String; 6] {
    [
        socket.protocol.clone(),
        socket.cookie.to_string(),
        service_text(socket.service.as_ref()),
        socket.address.to_string(),
        socket.backend.to_string(),
        age(socket.last_used_seconds, socket.expired),
    ]
}

fn service_text(service: Option<&ServiceName>) -> String {
    match service {
        Some(ServiceName {
            namespace,
            name,
            port_name: _,
        }) => format!("{namespace}/{name}"),
        None => dim("<none>"),
    }
}

fn age(seconds: u64, is_expired: bool) -> String {
    let text = output::duration_text(seconds);
    if is_expired {
        format!("{text} (expired)")
    } else {
        text
    }
}
