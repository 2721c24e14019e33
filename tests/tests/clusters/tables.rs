//! What the agent's tables hold for an address: every endpoint that may be chosen there, so that a
//! comparison need not try until each was.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use weir_agent::maps::Contents;
use weir_ebpf::addr::{Port, Protocol};
use weir_ebpf::tables::{Frontend, FrontendKey};
use weir_tests::reference::{Answer, Client};

use super::journey::Connection;

fn frontend(contents: &Contents, to: SocketAddr, protocol: &str) -> Option<Frontend> {
    let protocol = match protocol {
        "TCP" => Protocol::TCP,
        "UDP" => Protocol::UDP,
        _ => Protocol::SCTP,
    };
    let port = Port::new(to.port());
    let exact = FrontendKey::new(to.ip().into(), port, protocol);
    let node_port = FrontendKey::node_port(to.is_ipv4(), port, protocol);
    let frontends = &contents.frontends;
    frontends
        .get(&exact)
        .or_else(|| {
            contents
                .node_port_addrs
                .contains(&to.ip().into())
                .then(|| frontends.get(&node_port))?
        })
        .copied()
}

/// Do the tables hold a service port there?
pub fn has(contents: &Contents, to: SocketAddr, protocol: &str) -> bool {
    frontend(contents, to, protocol).is_some()
}

/// Where the model says that a connection is served, the tables hold all the endpoints of one of
/// its answers, each once and no others.
///
/// # Errors
/// They do not.
pub fn check(
    contents: &Contents,
    connection: &Connection,
    expected: &BTreeSet<Answer>,
) -> Result<()> {
    let frontend = frontend(contents, connection.to, connection.protocol);
    // Of each answer, all endpoints.
    let sets: BTreeSet<BTreeSet<SocketAddr>> = expected
        .iter()
        .map(|answer| match answer {
            Answer::Served(served) => served.endpoints.keys().copied().collect(),
            Answer::LeftAlone
            | Answer::NoEndpoint
            | Answer::NoSuchPort
            | Answer::NoneHere
            | Answer::NotInSourceRanges
            | Answer::UnusedServiceAddress => BTreeSet::new(),
        })
        .collect();
    if sets.iter().all(BTreeSet::is_empty) {
        return Ok(());
    }
    let frontend = frontend.context("the tables have no entry for it")?;
    let number = match connection.client {
        Client::Pod(_) | Client::Node => frontend.service,
        Client::Outside(_) => frontend.from_outside,
    };
    let count = contents
        .services
        .get(&number)
        .with_context(|| format!("the tables have no service {number}"))?
        .backend_count;
    let all: BTreeSet<SocketAddr> = contents
        .backends_of(number)
        .map(|(_, backend)| SocketAddr::new(backend.addr.into(), backend.port.number()))
        .collect();
    ensure!(
        sets.contains(&all) && usize::try_from(count)? == all.len(),
        "service {number} has {count} slots for {all:?}, expected one of {sets:?}"
    );
    Ok(())
}
