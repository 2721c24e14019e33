//! The command line: what can be asked of `weir`, and how answers are shown.

mod agent_socket;
mod check;
mod cleanup;
mod doctor;
mod flow;
mod output;
mod policy;
mod prepare;
mod service;
mod status;
mod top;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};

use crate::{agent, config::AgentArguments, logging};

/// How long a thread is kept that had something to do which may take its time: longer than from one
/// look at the node to the next, since to make a thread takes as long as most such looks.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// eBPF service proxy for Kubernetes: cluster IPs become pod IPs in the kernel.
///
/// `weir agent` runs on every node. It reads Services and EndpointSlices, and keeps tables and
/// programs in the kernel that translate service addresses, at the socket or at the pod's
/// interface. Traffic goes on while no agent runs; `weir cleanup` ends it.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What to log: error, warn, info, debug (each packet, too) or trace; or by module, as in
    /// `info,weir_agent::sources=debug`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "WEIR_LOG",
        default_value = "info"
    )]
    log: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep this node's tables and programs as the cluster says
    ///
    /// Needs root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN), Linux 5.10, cgroup v2 and a BPF file
    /// system. SIGTERM ends the agent and leaves traffic as it is; a new agent takes over.
    Agent(AgentArguments),
    /// Show how the agent is, what it did, what it could not use, what is attached, and how full the
    /// tables are
    ///
    /// Asks the agent; where none answers, shows its last words and what the kernel holds.
    ///
    /// Exit code 0: the agent runs, is ready, and has nothing to complain of. 1: it complains.
    /// 2: it does not run, or is not ready.
    Status(status::Arguments),
    /// Watch this node live: services and flows by rate, packets that are refused, and why
    ///
    /// Reads the tables in the kernel, with and without an agent; what was refused, packet by
    /// packet, the agent tells. Keys: tab, arrows, s sorts, / filters, p pauses, q quits. Where the
    /// output is no terminal, and with --once, one frame is printed as text. Needs root.
    Top(top::Arguments),
    /// Show which services this node knows, and what answers for them
    ///
    /// Reads the tables in the kernel: what is shown is what packets meet, whether an agent runs
    /// or not. Needs root.
    #[command(subcommand, visible_alias = "svc")]
    Service(service::Command),
    /// Show connections: those to services that this node translates, and what becomes of packets
    ///
    /// Needs root.
    #[command(subcommand)]
    Flow(flow::Command),
    /// Ask about network policies: who may talk to whom, why not, and what manifests would change
    ///
    /// Asks the agent of this node, which needs root, or a directory of manifests.
    #[command(subcommand, visible_alias = "netpol")]
    Policy(policy::Command),
    /// Read manifests as the agent would, and say what is wrong with them
    ///
    /// Changes nothing and needs no privileges. Exit code 0: nothing is wrong.
    Check(check::Arguments),
    /// Look whether this node is fit: its kernel, privileges, file systems, and who else is there
    ///
    /// Changes nothing. Exit code 0: Weir can work here, perhaps with warnings; 1: something keeps
    /// it from that, and is named with what to do about it.
    Doctor(doctor::Arguments),
    /// Remove every program, table and pin from this node
    ///
    /// End the agent first. Services are not translated any more; connections that were
    /// translated at the socket go on.
    Cleanup(cleanup::Arguments),
    /// Mount the BPF file system where it is not, and look where the API server is
    ///
    /// For the init container of a node's agent: it needs CAP_SYS_ADMIN, which the agent does not.
    Prepare(prepare::Arguments),
}

impl Cli {
    /// Reads the process's command line and environment. Ends the process where they are wrong,
    /// or ask for help.
    #[must_use]
    pub fn from_command_line() -> Self {
        let matches = Self::command().get_matches();
        Self::from_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut cli = Self::from_arg_matches(matches)?;
        if let (Command::Agent(arguments), Some((name, matches))) =
            (&mut cli.command, matches.subcommand())
        {
            arguments.flags = flags(name, matches);
        }
        Ok(cli)
    }

    /// Performs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.perform() {
            Ok(code) => code,
            Err(error) => {
                output::error(&error);
                ExitCode::FAILURE
            }
        }
    }

    fn perform(self) -> Result<ExitCode> {
        match self.command {
            Command::Agent(arguments) => {
                let packets_are_logged = logging::start(&self.log)?;
                let config = arguments.validate()?;
                let beside = runtime(
                    Builder::new_multi_thread()
                        .worker_threads(1)
                        .thread_keep_alive(KEEP_ALIVE),
                )?;
                // From what the API server tells to what is written there is one thread: to hand
                // a change from one to the next costs more than most changes.
                let way = runtime(&mut Builder::new_current_thread())?;
                way.block_on(agent::run(config, packets_are_logged, beside.handle()))?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Status(arguments) => status::show(&arguments),
            Command::Top(arguments) => top::run(&arguments),
            Command::Service(command) => service::run(&command),
            Command::Flow(command) => flow::run(&command),
            Command::Policy(command) => policy::run(&command),
            Command::Check(arguments) => check::check(&arguments),
            Command::Doctor(arguments) => doctor::run(&arguments),
            Command::Cleanup(arguments) => cleanup::run(&arguments),
            Command::Prepare(arguments) => prepare::prepare(&arguments),
        }
    }
}

fn runtime(builder: &mut Builder) -> Result<Runtime> {
    let runtime = builder.enable_all().build();
    runtime.context("start an asynchronous runtime")
}

/// All flags of a command that have a value, as they were given or are by default.
fn flags(command: &str, matches: &ArgMatches) -> BTreeMap<String, String> {
    let cli = Cli::command();
    let arguments = cli
        .find_subcommand(command)
        .into_iter()
        .flat_map(clap::Command::get_arguments);
    arguments
        .filter_map(|argument| {
            let values = matches.try_get_raw(argument.get_id().as_str()).ok()??;
            let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
            Some((argument.get_long()?.to_owned(), values.join(",")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_knows_its_flags_by_name() {
        let line = "weir agent --manifests /m --tc=clsact --metrics-bind-address=";
        let matches = Cli::command()
            .try_get_matches_from(line.split(' '))
            .unwrap();
        let Command::Agent(arguments) = Cli::from_matches(&matches).unwrap().command else {
            panic!("the agent")
        };
        for (flag, value) in [
            ("manifests", "/m"),
            ("tc", "clsact"),
            ("metrics-bind-address", ""),
            ("healthz-bind-address", "0.0.0.0:10256"),
            ("run-dir", "/run/weir"),
        ] {
            assert_eq!(arguments.flags[flag], value, "{flag}");
        }
        assert!(!arguments.flags.contains_key("node-name"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lists_can_be_asked_for_in_few_letters() {
        for line in [
            "weir svc ls",
            "weir service list -A -o wide",
            "weir service list -n shop",
            "weir service get shop/web -o json",
            "weir svc get web -n shop",
            "weir flow list --from 10.0.0.0/8 --to [fd00::1]:80 --state opening,closed",
            "weir flow ls --service shop/web --protocol sctp --watch --all",
            "weir flow list --sockets --to 10.32.0.140 -o yaml",
            "weir flow watch",
            "weir flow watch --verdict dropped --pod shop/cart-1 --to 10.0.0.0/8 -o json",
            "weir flow watch --verdict all --pod shop/ --sample 100 --last 5 --port 80",
            "weir policy explain --from shop/cart-1 --to svc/db/postgres --port 5432",
            "weir policy explain --from 10.0.0.1 --to shop/web --protocol icmp --manifests m",
            "weir policy test new.yaml other.yaml -o wide",
            "weir netpol test --without shop/deny",
            "weir policy ls -o wide",
            "weir status --wide",
            "weir status -o wide",
            "weir top --interval 0.5",
            "weir top --once",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
        for line in [
            "weir service list -A -n shop",
            "weir flow list --from web",
            "weir flow list --state dead",
            "weir flow list --sockets --from 10.0.0.1",
            "weir flow watch --pod cart-1",
            "weir flow watch --sample 0",
            "weir policy explain --from shop/cart-1",
            "weir policy test",
            "weir top --interval 0",
            "weir top --interval never",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn every_flag_of_the_agent_can_come_from_the_environment() {
        let command = Cli::command();
        let agent = command.find_subcommand("agent").expect("there is an agent");
        for argument in agent
            .get_arguments()
            .filter(|a| a.get_long() != Some("help"))
        {
            assert!(
                argument.get_env().is_some(),
                "--{} has no variable",
                argument.get_id()
            );
        }
    }
}
