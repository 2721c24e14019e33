//! The agent of one node of a bed: the real binary, its output in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::node::Node;
use super::process::{Process, Streams};
use super::wait::wait_for_some;

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The binary.
    pub weir: PathBuf,
    /// The directory of manifests it watches; without one its flags name an API server.
    pub manifests: Option<PathBuf>,
    /// Further flags.
    pub flags: Vec<String>,
    /// Longest wait for it to have done something.
    pub patience: Duration,
}

impl AgentOptions {
    /// No further flags, and two minutes: to load its programs alone takes an agent fifteen seconds on
    /// a machine that is very busy.
    #[must_use]
    pub fn new(weir: &Path, manifests: &Path) -> Self {
        Self {
            weir: weir.to_owned(),
            manifests: Some(manifests.to_owned()),
            flags: Vec::new(),
            patience: Duration::from_secs(120),
        }
    }

    /// Objects come from the API server that these flags name, which may make it wait.
    #[must_use]
    pub fn of_api_server(weir: &Path, flags: &[&str]) -> Self {
        Self {
            weir: weir.to_owned(),
            manifests: None,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            patience: Duration::from_secs(180),
        }
    }
}

/// A node's agent. Dropping it kills it; its programs stay until the bed goes.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    options: AgentOptions,
    process: Process,
    log: PathBuf,
    /// Where its own output begins in the log: others wrote there before.
    begun: u64,
}

impl Agent {
    /// Starts one on each node, and waits until all are ready.
    pub fn start_all(nodes: &[Node], options: &AgentOptions) -> Result<Vec<Self>> {
        let agents = nodes.iter().map(|node| Self::launch(node, options));
        let mut agents: Vec<Self> = agents.collect::<Result<_>>()?;
        for agent in &mut agents {
            agent.wait_ready()?;
        }
        Ok(agents)
    }

    /// Starts `weir agent` on a node and waits until it is ready.
    pub fn start(node: &Node, options: &AgentOptions) -> Result<Self> {
        let mut agent = Self::launch(node, options)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts `weir agent` and does not wait.
    pub fn launch(node: &Node, options: &AgentOptions) -> Result<Self> {
        let log = node.run_dir().join("agent.log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let begun = file.metadata().context("look at the log")?.len();
        let process = node.system().start(
            &options.weir,
            &arguments(node, options)?,
            Streams::Log(file),
        )?;
        Ok(Self {
            node: node.clone(),
            options: options.clone(),
            process,
            log,
            begun,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until `weir status` tells of this very process that its tables are complete and the
    /// interface of every pod that the node has now carries programs.
    pub fn wait_ready(&mut self) -> Result<()> {
        let (pid, links) = (self.id(), self.node.pod_links());
        self.wait_status("the agent to be ready", |status| {
            let attached = |link: &String| {
                let interfaces = status["interfaces"].as_array();
                interfaces.is_some_and(|all| all.iter().any(|one| one["name"] == link.as_str()))
            };
            status["running"] == true
                && status["pid"] == pid
                && status["ready"] == true
                && links.iter().all(attached)
        })?;
        Ok(())
    }

    /// Waits until the tables were brought up to date at least once more since `generation`.
    pub fn wait_generation_after(&mut self, generation: u64) -> Result<()> {
        self.wait_status("the next synchronisation", |status| {
            status["generation"]
                .as_u64()
                .is_some_and(|now| now > generation)
                && status["error"].is_null()
        })?;
        Ok(())
    }

    /// How often the tables were brought up to date since the agent's start.
    pub fn generation(&self) -> Result<u64> {
        let status = self.node.status(&self.options.weir)?;
        status["generation"]
            .as_u64()
            .context("the status has a generation")
    }

    /// Waits until `weir status` is as `condition` says; gives that status.
    pub fn wait_status(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = String::new();
        let outcome = wait_for_some(
            || format!("{what} on {}", self.node.name()),
            self.options.patience,
            || {
                if let Some(status) = self.process.status()? {
                    bail!("the agent ended: {status}");
                }
                match self.node.status(&self.options.weir) {
                    Ok(status) if condition(&status) => Ok(Some(status)),
                    Ok(status) => {
                        last = status.to_string();
                        Ok(None)
                    }
                    // It may not have got so far yet.
                    Err(error) => {
                        last = format!("{error:#}");
                        Ok(None)
                    }
                }
            },
        );
        outcome.map_err(|error| anyhow!("{error:#}\nlast status: {last}\n{}", self.log_tail(20)))
    }

    /// Kills it as a crash would, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.end(Signal::SIGKILL)?;
        Ok(())
    }

    /// Asks it to end and waits for it.
    pub fn stop(&mut self) -> Result<Option<ExitStatus>> {
        self.process.end(Signal::SIGTERM)
    }

    /// Starts it again with the same flags, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        *self = Self::start(&self.node, &self.options)?;
        Ok(())
    }

    /// Starts it again with the same flags, and does not wait.
    pub fn relaunch(&mut self) -> Result<()> {
        *self = Self::launch(&self.node, &self.options)?;
        Ok(())
    }

    /// Starts another binary with the same flags, and does not wait.
    pub fn upgrade(&mut self, weir: &Path) -> Result<()> {
        self.options.weir = weir.to_owned();
        self.relaunch()
    }

    /// What was written to the node's log since it was launched.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let begun = usize::try_from(self.begun).context("a log fits")?;
        Ok(String::from_utf8_lossy(bytes.get(begun..).unwrap_or_default()).into_owned())
    }

    /// The last lines of its output, for a failure's report.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }
}

/// The last lines of a log file.
#[must_use]
pub fn log_tail(log: &Path, lines: usize) -> String {
    let text = match fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("{}: {error}", log.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    let tail = &all[all.len().saturating_sub(lines)..];
    format!("{} says last:\n  {}", log.display(), tail.join("\n  "))
}

fn arguments(node: &Node, options: &AgentOptions) -> Result<Vec<String>> {
    ensure!(
        options.weir.is_file(),
        "there is no binary {}; build it: cargo xtask build",
        options.weir.display()
    );
    let mut arguments = vec!["agent".to_owned()];
    let paths = [
        ("--node-name", Path::new(node.name())),
        ("--cgroup-root", node.group()),
        ("--bpffs", &node.bpffs()),
        ("--netns-dir", &node.netns_dir()),
        ("--cni-results-dir", &node.cni_results_dir()),
        ("--run-dir", &node.agent_dir()),
    ];
    let manifests = options.manifests.as_deref();
    let manifests = manifests.map(|directory| ("--manifests", directory));
    for (flag, path) in manifests.into_iter().chain(paths) {
        arguments.push(flag.to_owned());
        arguments.push(path.to_str().context("a bed's paths are UTF-8")?.to_owned());
    }
    arguments.extend(options.flags.iter().cloned());
    Ok(arguments)
}
