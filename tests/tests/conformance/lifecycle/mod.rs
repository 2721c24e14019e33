//! What happens to conversations and pods while policies, labels, pods and agents come and go.

mod agents;
mod changes;
mod established;
mod pods;
mod services;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Carrier, Failure, Inquiry};

use crate::cluster::PodId;
use crate::ground::Ground;
use crate::way::Way;

/// A test on a ground with the agents' ordinary flags.
pub type Test = fn(&mut Ground) -> Result<()>;
/// A test on a ground of its own, with flags.
pub type TestWithFlags = (&'static str, &'static [&'static str], Way, Test);

/// On every ground.
pub const ALL: &[(&str, Test)] = &[
    (
        "a_permission_withdrawn_ends_a_connection",
        established::withdrawn,
    ),
    (
        "a_permission_withdrawn_at_the_sender_ends_a_connection",
        established::withdrawn_at_the_sender,
    ),
    ("a_label_lost_ends_a_connection", established::label_lost),
    (
        "a_namespaces_label_lost_ends_a_connection",
        established::namespaces_label_lost,
    ),
    (
        "a_policy_deleted_lets_a_connection_go_on",
        established::policy_deleted,
    ),
    (
        "a_connection_older_than_its_policy_is_judged_as_it_was_opened",
        established::older_than_policy,
    ),
    (
        "the_nodes_probes_pass_whatever_changes",
        changes::probes_of_the_node,
    ),
    (
        "what_is_allowed_before_and_after_a_change_passes_during_it",
        changes::no_gap,
    ),
    (
        "a_pod_created_again_has_its_own_labels",
        pods::created_again,
    ),
    ("a_pod_that_comes_later_is_isolated", pods::comes_later),
    (
        "service_traffic_is_judged_by_its_backend",
        services::by_backend,
    ),
    ("a_pod_reaches_itself_by_its_service", services::itself),
    ("policies_outlive_their_agent", agents::outlived),
];

/// On one ground each: they are about flags, not about networks.
pub const WITH_FLAGS: &[TestWithFlags] = &[
    (
        "established_connections_are_kept_where_that_is_asked_for",
        &["--established=keep"],
        Way::Routed,
        established::kept,
    ),
    (
        "unknown_pods_are_let_through_where_that_is_asked_for",
        &["--unknown-pods=allow"],
        Way::Bridged,
        pods::unknown_allowed,
    ),
    (
        "unknown_pods_are_denied_where_that_is_asked_for",
        &["--unknown-pods=deny"],
        Way::Routed,
        pods::unknown_denied,
    ),
    (
        "unknown_pods_are_denied_while_there_are_policies",
        &[],
        Way::Bridged,
        pods::unknown_auto,
    ),
    (
        "sources_are_not_checked_where_that_is_asked_for",
        &["--source-check=off"],
        Way::Bridged,
        pods::sources_unchecked,
    ),
];

/// Nothing comes back within this from a question that is dropped.
const SILENCE: Duration = Duration::from_millis(250);
/// What must be answered is answered within this, TCP's own repetitions included: of which one may
/// come as much later as the connection was cut off before.
const ANSWER: Duration = Duration::from_secs(60);
const TRIES: usize = 3;

/// Asks by new sockets, until there is an answer.
fn reaches(client: &TestPod, to: SocketAddr, by: Carrier) -> Result<()> {
    let mut last = None;
    for _ in 0..TRIES {
        match ask(client, to, by, ANSWER / 3)? {
            Ok(_) => return Ok(()),
            Err(failure) => last = Some(failure),
        }
    }
    let (client, by) = (client.server_name(), by.name());
    let failure = last.unwrap_or(Failure::TimedOut);
    Err(failure).with_context(|| format!("{client} asks {to} by {by}, and must be answered"))
}

/// Asks by a new socket; silence is the answer.
fn is_kept_from(client: &TestPod, to: SocketAddr, by: Carrier) -> Result<()> {
    let answer = ask(client, to, by, SILENCE)?;
    let (client, by) = (client.server_name(), by.name());
    ensure!(
        answer == Err(Failure::TimedOut),
        "{client} asks {to} by {by}, and must not be answered: {answer:?}"
    );
    Ok(())
}

fn ask(
    client: &TestPod,
    to: SocketAddr,
    by: Carrier,
    limit: Duration,
) -> Result<Result<String, Failure>> {
    let timeout = u64::try_from(limit.as_millis())?;
    let mut answers = client.inquire(vec![Inquiry { to, by, timeout }])?;
    answers.pop().context("a question has an answer")
}

fn id(name: &str) -> Result<PodId> {
    PodId::named(name)
}
