//! The agent is a writer, not a part of the packet's way.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use weir_tests::bed::Family;
use weir_tests::testpod::protocol::{Carrier, Failure};

use super::{ANSWER, SILENCE, id, is_kept_from, reaches};
use crate::cluster::Cluster;
use crate::ground::Ground;

const POLICIES: &str = r#"
policies:
  x/from-b:
    podSelector: {matchLabels: {pod: a}}
    policyTypes: [Ingress, Egress]
    ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]
"#;

fn check(ground: &Ground) -> Result<()> {
    for family in Family::ALL {
        let to = SocketAddr::new(id("x/a")?.addr(family), 80);
        for carrier in Carrier::ALL {
            reaches(ground.pod(id("x/b")?)?, to, carrier)?;
            is_kept_from(ground.pod(id("y/b")?)?, to, carrier)?;
            let from_there = SocketAddr::new(id("y/b")?.addr(family), 80);
            is_kept_from(ground.pod(id("x/a")?)?, from_there, carrier)?;
        }
    }
    Ok(())
}

/// Killed, restarted, and told of something else while it was dead.
pub fn outlived(ground: &mut Ground) -> Result<()> {
    ground.apply(&Cluster::with(POLICIES)?)?;
    let to = SocketAddr::new(id("x/a")?.addr(Family::V4), 80);
    let open = ground.pod(id("x/b")?)?.connect(to)?.handle;
    check(ground)?;
    ground.agent(0).kill()?;
    check(ground).context("without an agent")?;
    ground.agent(0).restart()?;
    check(ground).context("with a new agent")?;
    ground
        .pod(id("x/b")?)?
        .ask_with(open, None, 0, ANSWER)
        .context("the connection that lived through it")?;
    ground.agent(0).kill()?;
    let shut = Cluster::with("{policies: {x/shut: {podSelector: {}, policyTypes: [Ingress]}}}")?;
    ground.tell(&shut)?;
    ground.agent(0).restart()?;
    ground.wait_in_force()?;
    is_kept_from(ground.pod(id("x/b")?)?, to, Carrier::Tcp)?;
    let answer = ground.pod(id("x/b")?)?.ask_with(open, None, 0, SILENCE);
    ensure!(
        answer == Err(Failure::TimedOut),
        "the connection that is not allowed any more: {answer:?}"
    );
    ground.pod(id("x/b")?)?.close(open)?;
    ground.apply(&Cluster::new())
}
