//! The executor with real sockets: network namespaces for nodes and pods, and the real agent on
//! each node. Needs root.
//!
//! A scenario's pods are those whose addresses it names; each is on the bed's node that has its
//! address, and serves wherever an object says that it does. Its objects are one file of manifests
//! for all agents. What a step changes is in force on every node before the next step: nothing is
//! asked of a client that the agents have not confirmed.

mod clients;
mod objects;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use weir_ebpf::addr::Protocol;

use super::ScenarioFile;
use super::format::talk::is_outside;
use super::format::{Ground, Scenario, Step};
use super::places::{Place, Places};
use crate::bed::manifests::Manifests;
use crate::bed::{Agent, AgentOptions, Bed, Pod, plan};
use crate::testpod::protocol::Transport;
use clients::Clients;
use objects::Objects;

/// The environment variable that names the binary.
pub const BINARY: &str = "WEIR_BINARY";

/// Lines of each agent's output that a failure shows.
const LOG_LINES: usize = 12;

/// Runs a scenario in a bed of its own.
///
/// # Errors
/// Something is not as expected, or cannot be set up: says which step and why, and what the
/// agents said last.
pub fn run(file: ScenarioFile, ground: Ground) -> Result<()> {
    let scenario = file.scenario?;
    let mut network = Network::start(&scenario, &file.directory, ground)
        .with_context(|| format!("{}: set it up", scenario.name))?;
    for (index, step) in scenario.steps.iter().enumerate() {
        if let Err(error) = network.take(step) {
            let (name, step, words) = (&scenario.name, index + 1, network.last_words());
            bail!("{name}: step {step}: {error:#}\n{words}");
        }
    }
    Ok(())
}

/// Fields are dropped from first to last: agents before clients, and those before the bed they
/// hold.
struct Network<'a> {
    directory: &'a Path,
    objects: Objects,
    manifests: Manifests,
    agents: Vec<Agent>,
    clients: Clients,
}

impl<'a> Network<'a> {
    fn start(scenario: &Scenario, directory: &'a Path, ground: Ground) -> Result<Self> {
        let weir = binary()?;
        let places = Places::of(scenario, directory)?;
        let addresses = pod_addresses(&places)?;
        // As many nodes as talk, or as the pods that talk are on.
        let last = addresses.values().chain(&places.nodes).max();
        let nodes = 1 + last.copied().unwrap_or(0);
        let bed = Bed::start(ground.topology(nodes))?;
        for (range, node) in &scenario.routes.0 {
            bed.route((range.network(), range.prefix()), *node)?;
        }
        let pods = addresses
            .into_iter()
            .map(|(addr, node)| Ok((addr, bed.pod_at(node, &pod_name(addr), addr)?)))
            .collect::<Result<BTreeMap<Ipv4Addr, Pod>>>()?;
        serve(&places, &pods, &bed)?;

        let mut objects = Objects::default();
        objects.apply(&scenario.given, directory)?;
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        objects.write(&manifests)?;
        let mut options = AgentOptions::new(&weir, manifests.directory());
        options.flags.clone_from(&scenario.flags);
        let agents = Agent::start_all(bed.nodes(), &options)?;
        let mut network = Self {
            directory,
            objects,
            manifests,
            agents,
            clients: Clients::new(bed, pods),
        };
        network.wait_in_force()?;
        Ok(network)
    }

    fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Talk { talk, expected } => {
                let replies = self.clients.talk(talk, expected)?;
                let nodes = self.clients.node_addresses(talk, expected);
                talk.judge(expected, &nodes, &replies)
            }
            Step::Apply(given) => {
                self.objects.apply(given, self.directory)?;
                self.change()
            }
            Step::Delete(references) => {
                self.objects.delete(references)?;
                self.change()
            }
            Step::Send { .. }
            | Step::Call { .. }
            | Step::Plug(_)
            | Step::Unplug(_)
            | Step::Advance(_) => {
                bail!("in a network packets are made by sockets, and time passes by itself")
            }
        }
    }

    fn change(&mut self) -> Result<()> {
        self.objects.write(&self.manifests)?;
        self.wait_in_force()
    }

    /// Waits until every agent has brought its tables up to date with the file as it is now.
    fn wait_in_force(&mut self) -> Result<()> {
        let marker = self.objects.marker();
        for agent in &mut self.agents {
            agent.wait_status(&format!("{marker} to be taken in"), |status| {
                marker.is_in(status)
                    && status["error"].is_null()
                    && status["problems"] == serde_json::json!([])
            })?;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let tails = self.agents.iter().map(|agent| agent.log_tail(LOG_LINES));
        tails.collect::<Vec<_>>().join("\n")
    }
}

/// The binary to run.
///
/// # Errors
/// [`BINARY`] is not set, or names no file.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os(BINARY)
        .with_context(|| format!("set {BINARY} to the binary that `cargo xtask build` makes"))?;
    PathBuf::from(&path)
        .canonicalize()
        .with_context(|| format!("{BINARY} names no file: {}", path.display()))
}

/// The pods by their IPv4 addresses, and the node that each is on. An IPv6 address is that of the
/// pod whose address reads the same.
fn pod_addresses(places: &Places) -> Result<BTreeMap<Ipv4Addr, usize>> {
    places
        .pods
        .iter()
        .filter(|addr| !is_outside(**addr))
        .map(|addr| {
            let v4 = match addr {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(v6) => plan::untwin(*v6),
            };
            match (v4, Place::of(*addr)) {
                (Some(v4), Place::Pod(node)) => Ok((v4, node)),
                _ => bail!("{addr} is no pod's in the address plan"),
            }
        })
        .collect()
}

/// Short: the name of its link is made of it.
fn pod_name(addr: Ipv4Addr) -> String {
    let [_, _, third, fourth] = addr.octets();
    format!("p{third}-{fourth}")
}

/// Starts every server.
fn serve(places: &Places, pods: &BTreeMap<Ipv4Addr, Pod>, bed: &Bed) -> Result<()> {
    for (protocol, server) in &places.servers {
        let transport = match *protocol {
            Protocol::TCP => Transport::Tcp,
            Protocol::UDP => Transport::Udp,
            // The test pods do not speak it; no talk asks for it.
            _ => continue,
        };
        let addr = server.ip();
        let process = match Place::of(addr) {
            Place::Node(node) => Some(bed.node(node).process()),
            Place::Elsewhere if is_outside(addr) => Some(bed.outside()),
            Place::Pod(_) | Place::Elsewhere => {
                let pod = pods.values().find(|pod| pod.has(addr));
                pod.map(|pod| &**pod)
            }
        };
        let ends = process
            .with_context(|| format!("nobody has the address of {server}"))?
            .serve(transport, *server)
            .with_context(|| format!("serve {protocol} at {server}"))?;
        ensure!(
            ends.local == *server,
            "{server} is served at {}",
            ends.local
        );
    }
    Ok(())
}
