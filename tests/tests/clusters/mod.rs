//! Random clusters, and the comparison of what the agent and the datapath make of them with what
//! the reference model says.

mod journey;
mod judge;
mod node;
mod objects;
mod plan;
mod report;
mod tables;
mod worlds;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use proptest::prelude::*;
use serde_json::Value;
use weir_tests::reference::affinity::Memory as Remembered;
use weir_tests::reference::world::World as Cluster;
use weir_tests::reference::{self, Answer, Client, manifests};
use weir_tests::scenario::Executor;
use weir_tests::scenario::world::{self, World};

use journey::Connection;
use judge::Faded;

/// One cluster after the other. The report of a counter-example says what they hold.
#[derive(Clone)]
pub struct History(Vec<Cluster>);

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} clusters", self.0.len())
    }
}

/// A cluster, and others that follow it.
pub fn history(clusters: RangeInclusive<usize>) -> impl Strategy<Value = History> {
    prop::collection::vec(worlds::world(), clusters).prop_map(History)
}

/// The kinds of answers. A comparison that does not meet all of them shows too little.
const KINDS: [&str; 7] = [
    "left alone",
    "served",
    "no endpoint",
    "no such port",
    "none here",
    "not in source ranges",
    "unused service address",
];

const fn kind(answer: &Answer) -> &'static str {
    match answer {
        Answer::LeftAlone => KINDS[0],
        Answer::Served(_) => KINDS[1],
        Answer::NoEndpoint => KINDS[2],
        Answer::NoSuchPort => KINDS[3],
        Answer::NoneHere => KINDS[4],
        Answer::NotInSourceRanges => KINDS[5],
        Answer::UnusedServiceAddress => KINDS[6],
    }
}

/// Of clients' sockets: none has a port that is a node port.
const FIRST_PORT: u16 = 32_767;

/// What comparisons have met, by which they show that they are worth something.
#[derive(Clone, Debug, Default)]
pub struct Met {
    /// Kinds of answers.
    kinds: BTreeSet<&'static str>,
    /// Clients whose session affinity had ended.
    faded: Faded,
}

impl Met {
    /// What another comparison has met, too.
    pub fn extend(&mut self, other: &Self) {
        self.kinds.extend(&other.kinds);
        self.faded.extend(&other.faded);
    }

    /// Was every kind of answer met?
    pub fn is_complete(&self) -> bool {
        self.kinds == BTreeSet::from(KINDS)
    }

    /// Was every kind of answer met, and was nobody remembered for too long? A complete run shows
    /// enough of everything.
    ///
    /// # Errors
    /// Not so.
    pub fn check(&self, is_complete: bool) -> Result<()> {
        ensure!(
            self.is_complete(),
            "these clusters show too little: only {:?}",
            self.kinds
        );
        self.faded.check(is_complete)
    }
}

/// Milliseconds that pass between questions: such that clients outlive each of the timeouts, and
/// that not all is forgotten too often.
const DELAYS: [u64; 10] = [
    1_303,
    1_303,
    1_303,
    1_303,
    13_307,
    13_307,
    13_307,
    15_000_011,
    15_000_011,
    100_000_013,
];

/// How much is asked of each cluster.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Of so many questions one is asked.
    pub one_in: usize,
    /// Socket calls, too.
    pub with_sockets: bool,
    /// Time passes between questions.
    pub with_delays: bool,
}

/// The agent's tables for one cluster after another, and what becomes of connections by them,
/// each compared with the model. Gives back what was met.
///
/// # Errors
/// Something is not as the model says: which, and a scenario that shows it.
pub fn compare(
    executor: &mut impl Executor,
    History(history): &History,
    seed: u64,
    extent: Extent,
) -> Result<Met> {
    let mut comparison = Comparison {
        executor,
        history: &[],
        extent,
        way: if seed.is_multiple_of(16) {
            objects::Way::Manifests
        } else {
            objects::Way::Api
        },
        random: Random(seed),
        remembered: Remembered::default(),
        now: Duration::ZERO,
        port: FIRST_PORT,
        met: Met::default(),
    };
    let (mut world, plan) = World::at(node::context(&history[0].node), Vec::new());
    comparison.executor.apply(&plan)?;
    let mut before = Vec::new();
    for (index, cluster) in history.iter().enumerate() {
        comparison.history = &history[..=index];
        let objects = manifests::objects(cluster);
        let plan = world.see_node(node::context(&cluster.node));
        comparison.executor.apply(&plan)?;
        comparison.change(&mut world, &before, &objects)?;
        before = objects;
        comparison.remembered.keep_what_is_true_in(cluster);
        comparison.ask_everything(cluster, &world)?;
    }
    Ok(comparison.met)
}

struct Comparison<'a, E> {
    executor: &'a mut E,
    /// What has been, up to what is now.
    history: &'a [Cluster],
    extent: Extent,
    /// How the objects come.
    way: objects::Way,
    random: Random,
    remembered: Remembered,
    now: Duration,
    port: u16,
    met: Met,
}

impl<E: Executor> Comparison<'_, E> {
    /// The objects of the next cluster come and those of the one before go, in any order, all at
    /// once or one after the other.
    fn change(&mut self, world: &mut World, before: &[Value], now: &[Value]) -> Result<()> {
        let names: BTreeSet<String> = now.iter().map(objects::name).collect();
        let gone = before
            .iter()
            .map(objects::name)
            .filter(|name| !names.contains(name));
        let mut changes: Vec<Change> = gone.map(Change::Gone).collect();
        let changed = now.iter().filter(|object| !before.contains(object));
        changes.extend(changed.cloned().map(Change::There));
        self.random.shuffle(&mut changes);
        if self.random.below(4) == 0 {
            for change in changes {
                let plan = match change {
                    Change::Gone(name) => world.delete(vec![world::parse_reference(&name)?]),
                    Change::There(object) => world.apply(objects::read(&[object], self.way)?),
                };
                self.executor.apply(&plan)?;
            }
            return Ok(());
        }
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for change in changes {
            match change {
                Change::Gone(name) => gone.push(world::parse_reference(&name)?),
                Change::There(object) => there.push(object),
            }
        }
        self.executor.apply(&world.delete(gone))?;
        self.executor
            .apply(&world.apply(objects::read(&there, self.way)?))
    }

    /// Everybody asks at every address that a service could have, and at some that none has.
    fn ask_everything(&mut self, cluster: &Cluster, world: &World) -> Result<()> {
        for is_v6 in [false, true] {
            let clients = plan::clients(is_v6);
            for host in plan::DESTINATIONS {
                for port in plan::PORTS.into_iter().chain([plan::NODE_PORTS[1]]) {
                    for protocol in plan::PROTOCOLS {
                        let to = SocketAddr::new(host.addr(is_v6), port);
                        let is_service = tables::has(world.contents(), to, protocol);
                        let any = self.random.below(clients.len());
                        for (index, client) in clients.into_iter().enumerate() {
                            // Where no service is, one of them will do.
                            if (is_service || index == any)
                                && self.random.below(self.extent.one_in) == 0
                            {
                                self.ask(cluster, world, client, to, protocol)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn ask(
        &mut self,
        cluster: &Cluster,
        world: &World,
        client: Client,
        to: SocketAddr,
        protocol: &'static str,
    ) -> Result<()> {
        if self.extent.with_delays && self.random.below(16) == 0 {
            // No few of these sum up to a timeout.
            let after = DELAYS[self.random.below(DELAYS.len())];
            let after = Duration::from_millis(after);
            self.now += after;
            self.executor.advance(after)?;
        }
        let expected = reference::answers(cluster, client, to, protocol);
        self.met.kinds.extend(expected.iter().map(kind));
        let addr = client
            .address(cluster, to.is_ipv6())
            .context("every client has an address")?;
        // A socket of its own each time: no flow is known.
        self.port += 1;
        let connection = Connection {
            client,
            from: SocketAddr::new(addr, self.port),
            to,
            protocol,
        };
        let result = self.try_it(cluster, world, &connection, &expected);
        result.map_err(|error| {
            let scenario = report::scenario(self.history, &connection, &expected);
            anyhow!("{client:?} to {protocol} {to}: {error:#}\nas a scenario:\n{scenario}")
        })
    }

    fn try_it(
        &mut self,
        cluster: &Cluster,
        world: &World,
        connection: &Connection,
        expected: &BTreeSet<Answer>,
    ) -> Result<()> {
        tables::check(world.contents(), connection, expected)?;
        let is_node = connection.client == Client::Node;
        let has_socket = !matches!(connection.client, Client::Outside(_));
        if self.extent.with_sockets && has_socket && connection.protocol != "SCTP" {
            let outcome = journey::at_socket(self.executor, connection, self.port.into())
                .context("at the socket")?;
            if let Some(outcome) = outcome {
                self.judge(cluster, connection, outcome, expected)
                    .context("at the socket")?;
                if is_node {
                    return Ok(());
                }
            }
        }
        if is_node && !(self.extent.with_sockets && connection.protocol != "SCTP") {
            return Ok(());
        }
        let outcome = journey::by_packets(self.executor, connection)?;
        self.judge(cluster, connection, outcome, expected)
    }

    fn judge(
        &mut self,
        cluster: &Cluster,
        connection: &Connection,
        outcome: journey::Outcome,
        expected: &BTreeSet<Answer>,
    ) -> Result<()> {
        let (memory, now) = ((&mut self.remembered, &mut self.met.faded), self.now);
        judge::judge(cluster, memory, now, connection, outcome, expected)?;
        Ok(())
    }
}

enum Change {
    Gone(String),
    There(Value),
}

/// Numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[allow(clippy::cast_possible_truncation, reason = "less than `end`")]
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}
