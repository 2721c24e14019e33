//! The API server.
//!
//! Each kind of object is listed and watched by a task of its own ([`follow`]); what they hear
//! becomes [`Event`]s in one place ([`merge`]). Where the API server is, and
//! with which credentials it is asked, is [`server`]'s business.
//!
//! Promises: nothing is in force before every kind that is needed was listed once; a partial list
//! never is; whatever fails, what was last known stays, and it is tried again without end. An
//! object that cannot be read does not hide the others of its kind. Of the API's objects nothing
//! is kept but what the model has.

pub mod announce;
pub mod backoff;
pub mod candidates;
mod connection;
pub mod fault;
pub mod follow;
pub mod freshness;
pub mod merge;
mod pace;
pub mod protocol;
pub mod resources;
pub mod server;

pub use freshness::Freshness;
pub use resources::{RESOURCES, Resource, VERBS};
pub use server::{Access, Server};

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tracing::warn;

use crate::model::{Change, Event, Kind, Problem, SourceId};

/// News that are taken in together at most.
const AT_ONCE: usize = 4096;

/// Sends what the API server holds, and from then on what changes, until nobody listens.
///
/// # Errors
/// A task that panicked.
pub async fn run(
    server: Arc<Server>,
    node: String,
    freshness: Freshness,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    let (sender, mut news) = mpsc::channel(64);
    let mut tasks = tokio::task::JoinSet::new();
    for resource in &RESOURCES {
        let follower = follow::Follower::new(
            resource,
            &node,
            Arc::clone(&server),
            sender.clone(),
            freshness.clone(),
        );
        tasks.spawn(follower.run());
    }
    drop(sender);
    let mut merge = merge::Merge::default();
    let mut reported = Vec::new();
    let mut burst: Vec<(Kind, merge::News)> = Vec::new();
    loop {
        tokio::select! {
            received = news.recv_many(&mut burst, AT_ONCE) => {
                if received == 0 {
                    break;
                }
                // What was told while the last event waited to be taken in is one event.
                let changes = merge.take_in(burst.drain(..));
                if changes.is_empty() {
                    continue;
                }
                log(&mut reported, &changes);
                let event = Event { source: SourceId::API, changes };
                if events.send(event).await.is_err() {
                    break;
                }
            }
            // They end when nobody listens, or with a panic.
            Some(ended) = tasks.join_next() => ended.context("a watch of the API server")?,
            () = events.closed() => break,
        }
    }
    Ok(())
}

/// What is wrong is said when it begins to be.
fn log(reported: &mut Vec<Problem>, changes: &[Change]) {
    for change in changes {
        if let Change::Report(report) = change {
            for problem in &report.problems {
                if !reported.contains(problem) {
                    warn!(%problem, "an object cannot be used as it is");
                }
            }
            reported.clone_from(&report.problems);
        }
    }
}
