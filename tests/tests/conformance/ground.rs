//! Where cases are played: nine pods, a node and a host beyond that serve, a real agent on each of
//! two nodes, and everybody asking everybody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use weir_tests::bed::manifests::Manifests;
use weir_tests::bed::marker::Marker;
use weir_tests::bed::{Agent, AgentOptions, Bed, Family, Pod, ReversePath, Topology};
use weir_tests::scenario::network::binary;
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Failure, Inquiry, Transport};

use crate::cluster::{Cluster, NODES, PodId};
use crate::print::{Outcome, Reply};
use crate::table::{Cell, PORTS, Party, Table};
use crate::way::Way;

/// Nothing comes back from a question that is dropped: this is how long one waits for that.
const SILENCE: u64 = 300;
/// What must be answered is answered long before, unless the machine has much else to do.
const ANSWER: u64 = 15_000;
/// How often a question is asked that must be answered: one datagram may be lost.
const TRIES: usize = 3;
/// Lines of an agent's output that a failure shows.
const LOG_LINES: usize = 10;

/// Fields are dropped from first to last: agents before the bed.
pub struct Ground {
    agents: Vec<Agent>,
    pods: BTreeMap<PodId, Pod>,
    manifests: Manifests,
    marker: Marker,
    bed: Bed,
    way: Way,
}

impl Ground {
    /// Starts everything, without a policy.
    pub fn start(way: Way) -> Result<Self> {
        Self::start_with(way, &[])
    }

    /// As [`Ground::start`], with further flags for the agents.
    pub fn start_with(way: Way, flags: &[&str]) -> Result<Self> {
        let weir = binary()?;
        let topology = Topology {
            nodes: NODES,
            // What drops a forged source is Weir, or nobody.
            reverse_path: ReversePath::Off,
            ..Topology::two_nodes(way.wiring())
        };
        let bed = Bed::start(topology)?;
        let pods = PodId::all()
            .map(|id| Ok((id, bed.pod_at(id.node(), &id.process(), id.v4())?)))
            .collect::<Result<BTreeMap<PodId, Pod>>>()?;
        for party in Party::all() {
            serve(process(&bed, &pods, party)?, party)
                .with_context(|| format!("serve in {}", party.name()))?;
        }
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        let marker = Marker::default();
        write(&manifests, &Cluster::new(), marker)?;
        let mut options = AgentOptions::new(&weir, manifests.directory());
        let flags = way.flags().iter().chain(flags);
        options.flags = flags.map(|&flag| flag.to_owned()).collect();
        let mut agents = Agent::start_all(bed.nodes(), &options)?;
        for agent in &mut agents {
            agent.wait_status("the fast path to be as on this ground", |status| {
                status["fastPath"]["isOn"] == way.is_fast()
            })?;
        }
        Ok(Self {
            agents,
            pods,
            manifests,
            marker,
            bed,
            way,
        })
    }

    /// Of what kind it is.
    pub const fn name(&self) -> &'static str {
        self.way.name()
    }

    /// A pod.
    pub fn pod(&self, id: PodId) -> Result<&Pod> {
        self.pods.get(&id).context("every pod was started")
    }

    /// The agent of a node.
    pub fn agent(&mut self, node: usize) -> &mut Agent {
        &mut self.agents[node]
    }

    /// What its agents watch.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Its nodes and their network.
    pub fn bed(&self) -> &Bed {
        &self.bed
    }

    /// Tells the agents of a cluster, and waits until it is in force on every node.
    pub fn apply(&mut self, cluster: &Cluster) -> Result<()> {
        self.tell(cluster)?;
        self.wait_in_force()
    }

    /// Tells the agents of a cluster.
    pub fn tell(&mut self, cluster: &Cluster) -> Result<()> {
        self.marker.advance();
        let marker = self.marker;
        write(&self.manifests, cluster, marker)
    }

    /// Waits until what they were told last is in force on every node.
    pub fn wait_in_force(&mut self) -> Result<()> {
        let marker = self.marker;
        for agent in &mut self.agents {
            agent.wait_status("the case to be taken in", |status| {
                marker.is_in(status) && status["error"].is_null()
            })?;
        }
        Ok(())
    }

    /// Asks for every cell. What must not be answered is asked once: one answer is one too many.
    pub fn ask(&self, expected: &Table<bool>) -> Result<Table<Reply>> {
        let mut seen = Table::from_fn(|_| Err(Failure::TimedOut));
        let mut open: Vec<Cell> = Cell::all().collect();
        for _ in 0..TRIES {
            for (cell, reply) in self.ask_all(&open, expected)? {
                seen.set(cell, reply);
            }
            open.retain(|cell| {
                let outcome = Outcome::of(*cell, *expected.get(*cell), seen.get(*cell));
                outcome == Outcome::Fails
            });
            if open.is_empty() {
                break;
            }
        }
        Ok(seen)
    }

    /// All clients at once, each all its questions at once.
    fn ask_all(&self, cells: &[Cell], expected: &Table<bool>) -> Result<Vec<(Cell, Reply)>> {
        let rows = thread::scope(|scope| {
            let clients: Vec<_> = Party::all()
                .map(|client| {
                    scope.spawn(move || {
                        let own = cells.iter().filter(|cell| cell.client == client);
                        self.ask_row(client, own.copied().collect(), expected)
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(rows.into_iter().flatten().collect())
    }

    fn ask_row(
        &self,
        client: Party,
        cells: Vec<Cell>,
        expected: &Table<bool>,
    ) -> Result<Vec<(Cell, Reply)>> {
        if cells.is_empty() {
            return Ok(Vec::new());
        }
        let questions = cells.iter().map(|cell| Inquiry {
            to: SocketAddr::new(cell.server.addr(cell.family), cell.port),
            by: cell.carrier,
            timeout: if *expected.get(*cell) {
                ANSWER
            } else {
                SILENCE
            },
        });
        let replies = process(&self.bed, &self.pods, client)?
            .inquire(questions.collect())
            .with_context(|| format!("{} asks", client.name()))?;
        Ok(cells.into_iter().zip(replies).collect())
    }

    /// What the agents said last.
    pub fn last_words(&self) -> String {
        let tails = self.agents.iter().map(|agent| agent.log_tail(LOG_LINES));
        tails.collect::<Vec<_>>().join("\n")
    }
}

/// Who asks for a party, and answers.
fn process<'a>(bed: &'a Bed, pods: &'a BTreeMap<PodId, Pod>, party: Party) -> Result<&'a TestPod> {
    match party {
        Party::Pod(id) => Ok(pods.get(&id).context("every pod was started")?),
        Party::Node => Ok(bed.node(0).process()),
        Party::Outside => Ok(bed.outside()),
    }
}

/// By every protocol, at every port, in both families.
fn serve(process: &TestPod, party: Party) -> Result<()> {
    for family in Family::ALL {
        for port in PORTS {
            let at = SocketAddr::new(party.addr(family), port);
            for transport in Transport::ALL {
                process.serve(transport, at)?;
            }
            process.serve_sctp(at)?;
        }
    }
    Ok(())
}

/// One file, replaced as a whole: an agent sees all of a case or nothing.
fn write(manifests: &Manifests, cluster: &Cluster, marker: Marker) -> Result<()> {
    let mut objects = cluster.objects();
    objects.extend(marker.objects());
    manifests.put("case.yaml", &objects)?;
    Ok(())
}
