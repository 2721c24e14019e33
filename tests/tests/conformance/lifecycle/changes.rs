//! Many changes under load: every packet is judged by the state before or by the one after.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weir_tests::bed::Family;
use weir_tests::bed::raw::{Sniffer, ends};
use weir_tests::bed::wait::wait_for;
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::{Handle, Transport};

use super::{ANSWER, id};
use crate::attack::packets::destination_port;
use crate::cluster::Cluster;
use crate::ground::Ground;

/// Two hundred questions a second.
const EVERY: Duration = Duration::from_millis(5);
/// Changes under load.
const CHANGES: usize = 12;

/// Asks again and again, by each transport in each family.
fn start(client: &TestPod, server: &str) -> Result<Vec<Handle>> {
    let server = id(server)?;
    let mut probes = Vec::new();
    for family in Family::ALL {
        let to = SocketAddr::new(server.addr(family), 80);
        for transport in Transport::ALL {
            probes.push(client.start_probe(to, transport, EVERY)?);
        }
    }
    Ok(probes)
}

/// Ends probes of which no question may have failed.
fn finish(client: &TestPod, probes: Vec<Handle>) -> Result<()> {
    for probe in probes {
        // The changes may have been quick.
        wait_for(
            || "answers to a few questions".to_owned(),
            ANSWER,
            || Ok(client.read_probe(probe)?.answered() > 20),
        )?;
        let seen = client.read_probe(probe)?;
        client.close(probe)?;
        ensure!(seen.failed == 0, "requests failed: {seen:?}");
    }
    Ok(())
}

pub fn probes_of_the_node(ground: &mut Ground) -> Result<()> {
    let shut = Cluster::with(
        r#"
policies:
  x/shut: {podSelector: {}, policyTypes: [Ingress, Egress]}
"#,
    )?;
    ground.apply(&shut)?;
    let probes = start(ground.bed().node(0).process(), "x/a")?;
    for change in 0..CHANGES {
        let cluster = if change % 2 == 0 {
            Cluster::new()
        } else {
            shut.clone()
        };
        ground.apply(&cluster)?;
    }
    finish(ground.bed().node(0).process(), probes)
}

/// Each state allows `x/b` by another rule; none allows `y/b`.
const STATES: [&str; 5] = [
    "{policies: {x/in: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}}}",
    "{policies: {x/in: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.200.0.12/32}}, {ipBlock: {cidr: 'fd00:10:200::12/128'}}]}]}}}",
    "{policies: {x/other: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}}], ports: [{port: 80}, {port: 80, protocol: UDP}]}]}, y/more: {podSelector: {}, policyTypes: [Ingress]}}}",
    "{namespaces: {z: {new: label}}, policies: {x/in: {podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {new: label}}}], ports: [{port: 1, endPort: 1000}, {protocol: UDP}]}]}, x/out: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}}}",
    "{pods: {x/b: {more: labels}}, policies: {x/in: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {more: labels}}}]}]}}}",
];

pub fn no_gap(ground: &mut Ground) -> Result<()> {
    let states = STATES.map(Cluster::with);
    let states = states.into_iter().collect::<Result<Vec<_>>>()?;
    ground.apply(&states[0])?;
    let (friend, stranger) = (id("x/b")?, id("y/b")?);
    let sniffer = Sniffer::open(ground.pod(id("x/a")?)?.namespace())?;
    let probes = start(ground.pod(friend)?, "x/a")?;
    let refused = start(ground.pod(stranger)?, "x/a")?;
    for change in 1..=CHANGES {
        ground.apply(&states[change % states.len()])?;
    }
    for probe in refused {
        ground.pod(stranger)?.close(probe)?;
    }
    finish(ground.pod(friend)?, probes).context("of whom every state lets in")?;
    let own = Family::ALL.map(|family| stranger.addr(family));
    let leaks = sniffer.all()?.into_iter();
    let leaks = leaks.filter(|packet| ends(packet).is_some_and(|(from, _)| own.contains(&from)));
    // What is for another port answers what the pod itself has asked before.
    let leaks = leaks.filter(|packet| destination_port(packet) == Some(80));
    let leaks = leaks.count();
    ensure!(leaks == 0, "{leaks} packets of whom no state lets in");
    Ok(())
}
