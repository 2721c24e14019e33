//! What `weir top` reads: the pinned tables, and what the agent tells.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use weir_ebpf::tables::name;

use super::{
    conversations::{Conversation, conversations},
    rates::Counted,
};
use crate::{
    attach::AgentLock,
    cli::{agent_socket, flow::monotonic},
    config::{Paths, lock_file},
    explain::record::Outcome,
    listing::{filter::Filter, flows::flows, sockets::sockets, watch::WatchFilter},
    maps::{kernel::KernelTables, pins::Pins},
    observe::{account::Account, socket_routes::Line, status::Status},
};

/// An agent that takes longer than this does not answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Refused packets of the past that the agent is asked for.
const LAST: usize = 100;

/// The tables at a time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the programs count.
    pub counted: Counted,
    /// Who talks to services.
    pub conversations: Vec<Conversation>,
}

/// Who keeps the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The node's name, where any agent has told it.
    pub node: Option<String>,
    /// The agent's version, process and whether it is ready, if one runs.
    pub agent: Option<String>,
}

/// Reads the tables. They are opened each time: an agent may have made them anew since.
pub fn sample(bpffs: &Path) -> Result<Sample> {
    let tables = KernelTables::open_read_only(&Pins::new(bpffs))?;
    let flow_entries = tables
        .flows()
        .collect::<io::Result<_>>()
        .with_context(|| format!("read the table {}", name::FLOWS))?;
    let socket_entries = tables
        .sockets()
        .collect::<io::Result<_>>()
        .with_context(|| format!("read the table {}", name::SOCKETS))?;
    // Names after flows: a flow that has just been opened finds its service.
    let names = tables.read_names()?;
    let counters = tables.counters()?;
    let at = monotonic()?;
    let all = Filter::default();
    Ok(Sample {
        counted: Counted { at, counters },
        conversations: conversations(
            flows(&names, &flow_entries, at, &all),
            sockets(&names, &socket_entries, at, &all),
        ),
    })
}

/// Asks whether an agent runs.
pub fn presence(paths: &Paths) -> Presence {
    let run_dir = &paths.run_dir;
    let asked = agent_socket::get_within::<Account>(run_dir, "/v1/status", PATIENCE);
    if let Ok(Account { status, .. }) = asked {
        let state = if status.ready { "runs" } else { "is not ready" };
        return Presence {
            agent: Some(format!(
                "agent {} {state} (pid {})",
                status.version, status.pid
            )),
            node: Some(status.node),
        };
    }
    // What cannot be told of an agent is no reason not to show the tables.
    let is_held = AgentLock::is_held(&lock_file(run_dir)).unwrap_or(false);
    let status = Status::read(run_dir).ok().flatten();
    Presence {
        node: status.map(|status| status.node),
        agent: is_held.then(|| "an agent runs, and does not answer".to_owned()),
    }
}

/// Follows what is refused until the agent ends, or nobody wants to know more.
pub fn follow_refusals(paths: &Paths, mut take: impl FnMut(Line) -> bool) -> Result<()> {
    let filter = WatchFilter {
        verdicts: vec![Outcome::Dropped, Outcome::Rejected],
        ..WatchFilter::default()
    };
    let query = format!("/v1/flows?{}&last={LAST}", filter.query());
    agent_socket::follow(&paths.run_dir, &query, |line| {
        let line = serde_json::from_str(line)
            .context("understand the agent's answer; are agent and command of one version?")?;
        Ok(take(line))
    })
}
