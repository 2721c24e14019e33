//! A node with its pods, somebody who tells of a large cluster, and the real agent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;
use weir_tests::bed::manifests::Manifests;
use weir_tests::bed::{Agent, AgentOptions, Bed, Sandbox, Topology, Wiring};
use weir_tests::fake_api::{FakeApi, Options};

use crate::machine;
use crate::probe::Server;
use crate::teller::{Source, Teller};
use crate::world::{self, PASSING_ADDR, PROBED, PROBED_ADDR, PROBED_PORT, Size};

/// Ten thousand services are read from files.
const PATIENCE: Duration = Duration::from_secs(300);

/// Fields are dropped from first to last: the agent before the bed.
pub struct Ground {
    pub agent: Agent,
    _servers: [Server; 2],
    /// Two that serve, one that asks, and all others.
    pub pods: Vec<Sandbox>,
    pub teller: Teller,
    pub size: Size,
    options: AgentOptions,
    bed: Bed,
}

/// What a start took.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// From the process's start until everything was programmed and attached.
    pub whole: Duration,
    /// From the arrival of the last list until the tables were complete.
    pub tables: Duration,
    /// From then until everything was attached, too.
    pub attaching: Duration,
    /// What the agent's threads ran in all.
    pub run_time: Duration,
}

impl Ground {
    /// Everything but a running agent.
    pub fn prepare(weir: &Path, size: Size, source: Source) -> Result<(Self, Start)> {
        let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
        let pods = (0..size.local_pods)
            .map(|number| bed.sandbox_at(0, &format!("p{number}"), world::pod_addr(number, size)))
            .collect::<Result<Vec<_>>>()?;
        let (teller, options) = match source {
            Source::Api => api_server(weir, &bed)?,
            Source::Files => {
                let files = Manifests::create(bed.run_dir().join("manifests"))?;
                let mut options = AgentOptions::new(weir, files.directory());
                options.patience = PATIENCE;
                (Teller::Files(files), options)
            }
        };
        teller.fill(world::objects(size))?;
        teller.apply([
            world::node(),
            world::udp_service(PROBED, PROBED_ADDR),
            world::probed(world::pod_addr(0, size)),
            world::admission(),
            world::probe_pod("server-0", world::pod_addr(0, size), "server"),
            world::probe_pod("server-1", world::pod_addr(1, size), "server"),
            world::probe_pod("client", world::pod_addr(2, size), "client"),
        ])?;
        let servers = [Server::start(&pods[0]), Server::start(&pods[1])];
        let mut agent = Agent::launch(bed.node(0), &options)?;
        let start = started(&mut agent)?;
        let ground = Self {
            agent,
            _servers: servers,
            pods,
            teller,
            size,
            options,
            bed,
        };
        Ok((ground, start))
    }

    /// Ends the agent in order and starts it again over its own tables.
    pub fn restart(&mut self) -> Result<Start> {
        self.agent.stop()?;
        self.agent = Agent::launch(self.bed.node(0), &self.options)?;
        started(&mut self.agent)
    }

    /// The pod that asks.
    pub fn client(&self) -> &Sandbox {
        &self.pods[2]
    }

    /// Where the probed service is.
    pub fn probed() -> SocketAddr {
        (PROBED_ADDR, PROBED_PORT).into()
    }

    /// Where the service is that comes and goes.
    pub fn passing() -> SocketAddr {
        (PASSING_ADDR, PROBED_PORT).into()
    }
}

/// One with TLS and tokens, on a host beside the node, and an agent that asks it.
fn api_server(weir: &Path, bed: &Bed) -> Result<(Teller, AgentOptions)> {
    let host = bed.host("api", 100)?;
    let api = FakeApi::start_in(
        &host,
        &Options {
            address: (world::HOST, 6443).into(),
            is_secure: true,
            // As seldom as a real one sends them.
            bookmark_interval: Duration::from_secs(60),
            ..Options::default()
        },
    )?;
    let account = api.service_account(&bed.directory("service-account")?)?;
    let directory = account.directory().to_str().context("a path is UTF-8")?;
    let url = api.url();
    let flags = ["--api-server", &url, "--service-account-dir", directory];
    let options = AgentOptions::of_api_server(weir, &flags);
    Ok((Teller::Api(Box::new(api)), options))
}

/// Waits until the agent is ready, and reads from its own words what that took.
fn started(agent: &mut Agent) -> Result<Start> {
    agent.wait_ready()?;
    let run_time = machine::run_time(agent.id())?;
    let status = agent.wait_status("every kind to be known", |status| {
        let sources = status["sources"].as_array().into_iter().flatten();
        let mut states = sources.map(|source| source["state"].as_str());
        states.all(|state| matches!(state, Some("synced" | "absent")))
    })?;
    let log = agent.log()?;
    let said = |text| time_of(&log, text).with_context(|| format!("the log says: {text}"));
    let (complete, done) = (said("the tables are complete")?, said("synchronised")?);
    let process: Timestamp = time(&status["started"])?;
    let lists = status["sources"].as_array().into_iter().flatten();
    let lists: Vec<Timestamp> = lists
        .filter(|source| source["state"] == "synced")
        .map(|source| time(&source["since"]))
        .collect::<Result<_>>()?;
    let last = lists.into_iter().max().context("a source")?;
    let between = |from: Timestamp, to: Timestamp| {
        Duration::try_from(to.duration_since(from)).unwrap_or_default()
    };
    Ok(Start {
        whole: between(process, done),
        tables: between(last, complete),
        attaching: between(complete, done),
        run_time,
    })
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value.as_str().context("a time is a text")?;
    text.parse().with_context(|| format!("{text} is a time"))
}

/// When the first line that says so was written.
fn time_of(log: &str, text: &str) -> Option<Timestamp> {
    let line = log.lines().find(|line| line.contains(text))?;
    let plain = line.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    plain.split_whitespace().next()?.parse().ok()
}

/// The binary that is measured.
pub fn weir() -> Result<PathBuf> {
    let path = std::env::var_os("WEIR_BINARY")
        .context("WEIR_BINARY is not set; run this by: cargo xtask bench control")?;
    PathBuf::from(path)
        .canonicalize()
        .context("WEIR_BINARY names no file")
}
