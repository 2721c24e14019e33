//! The clients' end of conversations: real sockets in pods, on nodes and in the
//! outside world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use weir_ebpf::addr::Protocol;

use crate::bed::{Bed, Pod};
use crate::scenario::format::talk::{By, Expected, Reply, SeenAs, Talk, Way, canonical};
use crate::scenario::places::Place;
use crate::testpod::client::{Outcome, TIMEOUT, TestPod, any_port};
use crate::testpod::protocol::{Ends, Failure};

/// After this nothing will come any more.
const SILENCE: Duration = Duration::from_millis(500);

/// Whoever asks, with the sockets that live on.
pub(super) struct Clients {
    sockets: BTreeMap<Talk, Ends>,
    /// Processes in pods that the node's programs at socket calls do not see.
    foreign: BTreeMap<Ipv4Addr, TestPod>,
    pods: BTreeMap<Ipv4Addr, Pod>,
    /// Last: what lives in it ends before it.
    bed: Bed,
}

impl Clients {
    pub(super) fn new(bed: Bed, pods: BTreeMap<Ipv4Addr, Pod>) -> Self {
        Self {
            sockets: BTreeMap::new(),
            foreign: BTreeMap::new(),
            pods,
            bed,
        }
    }

    /// Asks; gives what came of each question.
    pub(super) fn talk(&mut self, talk: &Talk, expected: &Expected) -> Result<Vec<Reply>> {
        let limit = match expected {
            Expected::Silence => SILENCE,
            Expected::Answers { .. } | Expected::Refused => TIMEOUT,
        };
        (0..talk.times)
            .map(|index| {
                self.ask_until_answered(talk, limit)
                    .with_context(|| format!("question {} of {talk}", index + 1))
            })
            .collect()
    }

    fn ask_until_answered(&mut self, talk: &Talk, limit: Duration) -> Result<Reply> {
        for _ in 1..talk.tries {
            let reply = self.ask(talk, SILENCE)?;
            if matches!(reply, Reply::Answer { .. }) {
                return Ok(reply);
            }
        }
        self.ask(talk, limit)
    }

    /// By which addresses others may see the node that a conversation is between or goes through;
    /// any node, where more than one may be.
    pub(super) fn node_addresses(&self, talk: &Talk, expected: &Expected) -> BTreeSet<IpAddr> {
        if let Expected::Answers {
            seen_as: SeenAs::Either,
            ..
        } = expected
        {
            let nodes = 0..self.bed.nodes().len();
            return nodes.flat_map(|node| self.bed.addresses_of(node)).collect();
        }
        let asked = Place::of(talk.asked().ip());
        let client = Place::of(talk.client.to_canonical());
        let node = match (client, asked) {
            (Place::Pod(node) | Place::Node(node), _) | (_, Place::Node(node)) => node,
            _ => 0,
        };
        self.bed.addresses_of(node)
    }

    fn ask(&mut self, talk: &Talk, limit: Duration) -> Result<Reply> {
        let living = self.sockets.get(&talk.socket()).copied();
        let client = self.client(talk)?;
        let ends = match living {
            Some(ends) => ends,
            None => match open(client, talk, limit) {
                Ok(ends) => ends,
                Err(failure) => return no_answer(failure),
            },
        };
        if talk.is_connected {
            ensure!(
                ends.peer == Some(talk.server),
                "the socket's peer is {:?}, but the client asked {}",
                ends.peer,
                talk.server
            );
        }
        let to = (!talk.is_connected).then_some(talk.server);
        let outcome = client.ask_with(ends.handle, to, talk.length.into(), limit);
        // A datagram may be lost or refused, its socket is as good as ever.
        let lives_on = talk.port.is_some() && (outcome.is_ok() || talk.protocol == Protocol::UDP);
        if lives_on {
            self.sockets.insert(talk.socket(), ends);
        } else {
            client.close(ends.handle)?;
            self.sockets.remove(&talk.socket());
        }
        let answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => return no_answer(failure),
        };
        ensure!(
            answer.from == talk.server,
            "the answer came from {}, but the client asked {}",
            answer.from,
            talk.server
        );
        Ok(Reply::Answer {
            by: canonical(answer.at),
            seen_as: answer.client.ip().to_canonical(),
        })
    }

    /// The process that asks.
    fn client(&mut self, talk: &Talk) -> Result<&TestPod> {
        let addr = talk.client.to_canonical();
        match (talk.by, Place::of(addr)) {
            (By::Outside, _) => return Ok(self.bed.outside()),
            (By::Node, Place::Node(node)) => return Ok(self.bed.node(node).process()),
            (By::Node, Place::Pod(_) | Place::Elsewhere) => bail!("no node has the address {addr}"),
            (By::Pod, _) => {}
        }
        let (v4, pod) = self
            .pods
            .iter()
            .find(|(_, pod)| pod.has(addr))
            .with_context(|| format!("no pod has the address {addr}"))?;
        if talk.protocol == Protocol::UDP || talk.way == Way::Socket {
            return Ok(pod);
        }
        if !self.foreign.contains_key(v4) {
            self.foreign.insert(*v4, pod.outside_the_cgroup()?);
        }
        Ok(&self.foreign[v4])
    }
}

fn open(client: &TestPod, talk: &Talk, limit: Duration) -> Outcome<Ends> {
    let bind = talk.port.map(|port| SocketAddr::new(talk.client, port));
    match talk.protocol {
        Protocol::TCP => client.connect_within(bind, talk.server, limit),
        _ => {
            let bind = bind.unwrap_or_else(|| any_port(talk.server));
            client.udp(bind, talk.is_connected.then_some(talk.server), false)
        }
    }
}

/// What a failure means to a client.
fn no_answer(failure: Failure) -> Result<Reply> {
    match failure {
        Failure::TimedOut => Ok(Reply::Silence),
        Failure::Errno(name) => match name.as_str() {
            "ECONNREFUSED" => Ok(Reply::Refused),
            // A router's error about the datagram: from now on the kernel sends shorter ones.
            "EMSGSIZE" => Ok(Reply::Silence),
            // Routers on the way say that none leads there.
            "ENETUNREACH" | "EHOSTUNREACH" => Ok(Reply::Silence),
            _ => bail!("{name}"),
        },
        Failure::Closed | Failure::Garbled(_) | Failure::Gone(_) => Err(failure.into()),
    }
}
