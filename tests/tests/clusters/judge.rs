//! Is what came of a connection one of the answers that the reference model gives?

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use weir_ebpf::verdict::{DropReason, RejectReason};
use weir_tests::reference::affinity::Memory;
use weir_tests::reference::world::World;
use weir_tests::reference::{Answer, Client, Served, Source};

use super::journey::{Connection, Outcome};
use super::plan;

/// Source ports for translated sources.
pub const SNAT_PORTS: (u16, u16) = (20_000, 29_999);

/// Clients by which it shows whether they are remembered. A complete run has three times as many
/// of the rarest timeout, so that it hardly ever has fewer than these.
const ENOUGH: u32 = 16;

/// Of clients whose time with an endpoint was up and that could choose among several: by timeout,
/// how many there were, and how many came to the same endpoint again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faded(BTreeMap<Duration, (u32, u32)>);

impl Faded {
    /// Those of another comparison, too.
    pub fn extend(&mut self, other: &Self) {
        for (timeout, (asked, same)) in &other.0 {
            let own = self.0.entry(*timeout).or_default();
            own.0 += asked;
            own.1 += same;
        }
    }

    /// Among many clients of a timeout somebody goes elsewhere. A complete run has many of each.
    ///
    /// # Errors
    /// Nobody did, or there were too few.
    pub fn check(&self, is_complete: bool) -> Result<()> {
        for (timeout, (asked, same)) in &self.0 {
            ensure!(
                !is_complete || *asked >= ENOUGH,
                "only {asked} clients outlived a timeout of {timeout:?}"
            );
            // By chance alone all go where they went before once in 2^16 times, if they are so few.
            ensure!(
                same < asked || *asked < ENOUGH,
                "after {timeout:?} all {asked} clients went to the same endpoint again"
            );
        }
        Ok(())
    }
}

/// The answer among those expected that an outcome is. What is remembered of clients is brought up
/// to date.
///
/// # Errors
/// It is none of them.
pub fn judge<'a>(
    world: &World,
    (memory, faded): (&mut Memory, &mut Faded),
    now: Duration,
    connection: &Connection,
    outcome: Outcome,
    expected: &'a BTreeSet<Answer>,
) -> Result<&'a Answer> {
    let mut reasons = Vec::new();
    for answer in expected {
        match is(world, memory, now, connection, outcome, answer) {
            Ok(()) => {
                if let Answer::Served(served) = answer {
                    let at = match outcome {
                        Outcome::Reached { at, .. } => Some(at),
                        Outcome::LeftAlone => Some(connection.to),
                        Outcome::Refused(_) | Outcome::Dropped(_) => None,
                    };
                    if let Some(at) = at {
                        let memory = (memory, faded);
                        remember(world, memory, now, connection, served, at);
                    }
                }
                return Ok(answer);
            }
            Err(error) => reasons.push(format!("  {answer:?}: {error:#}")),
        }
    }
    bail!(
        "it came to {outcome:?}, but right would have been\n{}",
        reasons.join("\n")
    )
}

fn is(
    world: &World,
    memory: &Memory,
    now: Duration,
    connection: &Connection,
    outcome: Outcome,
    answer: &Answer,
) -> Result<()> {
    let is_right = match (answer, outcome) {
        (Answer::Served(served), Outcome::Reached { at, source }) => {
            return is_served(world, memory, now, connection, served, (at, source));
        }
        // An endpoint that is reached at its own address.
        (Answer::Served(served), Outcome::LeftAlone) => {
            let ends = (connection.to, connection.from);
            return is_served(world, memory, now, connection, served, ends);
        }
        (Answer::LeftAlone, Outcome::LeftAlone)
        | (Answer::NoEndpoint, Outcome::Refused(RejectReason::NoBackend))
        | (Answer::NoSuchPort, Outcome::Refused(RejectReason::NoSuchPort))
        | (Answer::NoneHere, Outcome::Dropped(DropReason::NoLocalEndpoint))
        | (Answer::NotInSourceRanges, Outcome::Dropped(DropReason::SourceRange))
        | (Answer::UnusedServiceAddress, Outcome::Dropped(DropReason::ServiceAddress)) => true,
        // A call cannot wait for an answer that never comes.
        (Answer::NotInSourceRanges, Outcome::Refused(RejectReason::SourceRange)) => {
            connection.client == Client::Node
        }
        // Calls of the node are not dropped; its packets are, on their way out.
        (Answer::NoneHere, Outcome::Dropped(DropReason::ServiceAddress)) => {
            connection.client == Client::Node
        }
        (
            Answer::Served(_)
            | Answer::LeftAlone
            | Answer::NoEndpoint
            | Answer::NoSuchPort
            | Answer::NoneHere
            | Answer::NotInSourceRanges
            | Answer::UnusedServiceAddress,
            _,
        ) => false,
    };
    ensure!(is_right, "it is not");
    Ok(())
}

fn is_served(
    world: &World,
    memory: &Memory,
    now: Duration,
    connection: &Connection,
    served: &Served,
    (at, source): (SocketAddr, SocketAddr),
) -> Result<()> {
    let Some(expected) = served.endpoints.get(&at) else {
        bail!("{at} is not one of its endpoints");
    };
    let is_v6 = connection.to.is_ipv6();
    if let (Some(sticky), Some(client)) = (&served.sticky, connection.client.address(world, is_v6))
    {
        let endpoints = served.endpoints.keys().copied().collect();
        let recalled = memory.recall(sticky, client, now, &endpoints);
        ensure!(
            recalled.is_none_or(|endpoint| endpoint == at),
            "{client} went to {at}, but before to {recalled:?}"
        );
    }
    // A pod that reaches itself does so within the node.
    let node = if is_itself(connection, at) {
        world.node.address(is_v6)
    } else {
        world.node.address_beyond(is_v6)
    };
    let (first, last) = SNAT_PORTS;
    let is_right = match expected {
        Source::Client => source == connection.from,
        Source::Node => Some(source.ip()) == node && (first..=last).contains(&source.port()),
    };
    // A process that reaches its own pod by its own address has left it by no hook.
    let is_within_pod = source == connection.from && is_itself(connection, at);
    // The slices put the endpoint elsewhere, or nowhere; but it is here, and what does not leave
    // the node need not be masqueraded.
    let is_here = plan::is_here(at.ip()) && source == connection.from;
    ensure!(
        is_right || is_within_pod || is_here && !is_itself(connection, at),
        "{at} sees {source}, not the address that it should: {expected:?}"
    );
    Ok(())
}

fn is_itself(connection: &Connection, at: SocketAddr) -> bool {
    connection.from.ip() == at.ip()
}

fn remember(
    world: &World,
    (memory, faded): (&mut Memory, &mut Faded),
    now: Duration,
    connection: &Connection,
    served: &Served,
    at: SocketAddr,
) {
    if let (Some(sticky), Some(client)) = (
        &served.sticky,
        connection.client.address(world, connection.to.is_ipv6()),
    ) {
        let endpoints: BTreeSet<SocketAddr> = served.endpoints.keys().copied().collect();
        if endpoints.len() > 1
            && let Some(before) = memory.faded(sticky, client, now, &endpoints)
        {
            let (asked, same) = faded.0.entry(sticky.timeout).or_default();
            *asked += 1;
            *same += u32::from(before == at);
        }
        memory.remember(sticky, client, now, at);
    }
}
