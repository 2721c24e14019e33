//! Conversations that are under way when what allows them changes.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use weir_tests::bed::Family;
use weir_tests::testpod::client::any_port;
use weir_tests::testpod::protocol::{Carrier, Failure, Handle};

use super::{ANSWER, SILENCE, id, is_kept_from, reaches};
use crate::cluster::{Cluster, PodId};
use crate::ground::Ground;

const FROM_B: &str = r#"
policies:
  x/from-b:
    podSelector: {matchLabels: {pod: a}}
    ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]
"#;
const FROM_NOBODY: &str = r#"
policies:
  x/from-b: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]}
"#;
const TO_NOBODY: &str = r#"
policies:
  x/from-b:
    podSelector: {matchLabels: {pod: a}}
    ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]
  x/to-nobody: {podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress]}
"#;

/// A connection and a UDP socket to the same server, in each family. They live while the ground
/// changes.
struct Conversations {
    client: PodId,
    /// Where a socket is not connected, the server's address.
    sockets: Vec<(Handle, Option<SocketAddr>)>,
}

impl Conversations {
    /// Opens them, and asks once by each.
    fn open(ground: &Ground, client: &str, server: &str) -> Result<Self> {
        let (client, server) = (id(client)?, id(server)?);
        let mut sockets = Vec::new();
        for family in Family::ALL {
            let to = SocketAddr::new(server.addr(family), 80);
            let pod = ground.pod(client)?;
            sockets.push((pod.connect(to)?.handle, None));
            sockets.push((pod.open_udp(any_port(to))?.handle, Some(to)));
        }
        let conversations = Self { client, sockets };
        conversations.go_on(ground)?;
        Ok(conversations)
    }

    /// Each is answered.
    fn go_on(&self, ground: &Ground) -> Result<()> {
        let client = ground.pod(self.client)?;
        for &(socket, to) in &self.sockets {
            // A datagram may be lost; a connection repeats what was.
            let limit = if to.is_some() { ANSWER / 5 } else { ANSWER };
            let ask = || client.ask_with(socket, to, 0, limit);
            ask()
                .or_else(|_| ask())
                .with_context(|| format!("{} must go on", describe(to)))?;
        }
        Ok(())
    }

    /// None is.
    fn are_over(&self, ground: &Ground) -> Result<()> {
        let client = ground.pod(self.client)?;
        // All at once: each takes its time to be sure of.
        let answers = thread::scope(|scope| {
            let ask = |&(socket, to): &(Handle, Option<SocketAddr>)| {
                scope.spawn(move || (to, client.ask_with(socket, to, 0, SILENCE)))
            };
            let asking: Vec<_> = self.sockets.iter().map(ask).collect();
            let answers = asking.into_iter().map(|asked| asked.join());
            answers.collect::<Result<Vec<_>, _>>()
        });
        let answers = answers.map_err(|_| anyhow!("a thread that asks panicked"))?;
        for (to, answer) in answers {
            ensure!(
                answer == Err(Failure::TimedOut),
                "{} must be over: {answer:?}",
                describe(to)
            );
        }
        Ok(())
    }

    fn close(self, ground: &Ground) -> Result<()> {
        let client = ground.pod(self.client)?;
        for (socket, _) in self.sockets {
            client.close(socket)?;
        }
        Ok(())
    }
}

fn describe(to: Option<SocketAddr>) -> String {
    match to {
        Some(to) => format!("UDP with {to}"),
        None => "the connection".to_owned(),
    }
}

/// Plays: allowed, then not, then allowed again.
fn allowed_and_not(ground: &mut Ground, client: &str, allowed: &str, refused: &str) -> Result<()> {
    let (allowed, refused) = (Cluster::with(allowed)?, Cluster::with(refused)?);
    ground.apply(&allowed)?;
    let conversations = Conversations::open(ground, client, "x/a")?;
    ground.apply(&refused)?;
    conversations.are_over(ground)?;
    // Nor does the other end bring it back, which repeats what was not acknowledged.
    conversations.are_over(ground)?;
    ground.apply(&allowed)?;
    conversations.go_on(ground)?;
    conversations.close(ground)
}

pub fn withdrawn(ground: &mut Ground) -> Result<()> {
    allowed_and_not(ground, "x/b", FROM_B, FROM_NOBODY)
}

pub fn withdrawn_at_the_sender(ground: &mut Ground) -> Result<()> {
    allowed_and_not(ground, "x/b", FROM_B, TO_NOBODY)
}

pub fn label_lost(ground: &mut Ground) -> Result<()> {
    let without = format!("pods: {{x/b: {{pod: nobody}}}}\n{FROM_B}");
    allowed_and_not(ground, "x/b", FROM_B, &without)
}

pub fn namespaces_label_lost(ground: &mut Ground) -> Result<()> {
    let policy = r#"
policies:
  x/from-y:
    podSelector: {matchLabels: {pod: a}}
    ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]}]
"#;
    let without = format!("namespaces: {{y: {{ns: other}}}}\n{policy}");
    // One of the same node and one of the other.
    allowed_and_not(ground, "y/b", policy, &without)?;
    allowed_and_not(ground, "y/c", policy, &without)
}

pub fn policy_deleted(ground: &mut Ground) -> Result<()> {
    allowed_and_not(ground, "x/b", "{}", FROM_NOBODY)
}

/// The connection is tracked only once there is a policy; who opened it is known all the same.
pub fn older_than_policy(ground: &mut Ground) -> Result<()> {
    let both_shut = r#"
policies:
  x/shut: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}
"#;
    let egress_shut = r#"
policies:
  x/shut: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}
"#;
    // The isolated pod is the client: only egress counts. Then it is the server.
    for (client, server, allowed, refused) in [
        ("x/a", "y/b", FROM_NOBODY, egress_shut),
        ("x/a", "y/c", FROM_NOBODY, both_shut),
        ("y/b", "x/a", egress_shut, FROM_NOBODY),
        ("y/c", "x/a", egress_shut, both_shut),
    ] {
        ground.apply(&Cluster::new())?;
        let to = |family| Ok::<_, anyhow::Error>(SocketAddr::new(id(server)?.addr(family), 80));
        let mut sockets = Vec::new();
        for family in Family::ALL {
            let pod = ground.pod(id(client)?)?;
            let socket = pod.connect(to(family)?)?.handle;
            pod.ask(socket)?;
            sockets.push(socket);
        }
        ground.apply(&Cluster::with(allowed)?)?;
        let pod = ground.pod(id(client)?)?;
        for &socket in &sockets {
            pod.ask_with(socket, None, 0, ANSWER)
                .with_context(|| format!("{client} to {server}, which is allowed"))?;
        }
        ground.apply(&Cluster::with(refused)?)?;
        let pod = ground.pod(id(client)?)?;
        for &socket in &sockets {
            let answer = pod.ask_with(socket, None, 0, SILENCE);
            ensure!(
                answer == Err(Failure::TimedOut),
                "{client} to {server}, which is not allowed: {answer:?}"
            );
            pod.close(socket)?;
        }
    }
    Ok(())
}

pub fn kept(ground: &mut Ground) -> Result<()> {
    ground.apply(&Cluster::with(FROM_B)?)?;
    let conversations = Conversations::open(ground, "x/b", "x/a")?;
    ground.apply(&Cluster::with(FROM_NOBODY)?)?;
    let client = ground.pod(id("x/b")?)?;
    let to = SocketAddr::new(id("x/a")?.addr(Family::V4), 80);
    is_kept_from(client, to, Carrier::Tcp)?;
    is_kept_from(client, to, Carrier::Udp)?;
    conversations.go_on(ground)?;
    conversations.close(ground)?;
    ground.apply(&Cluster::with(FROM_B)?)?;
    reaches(ground.pod(id("x/b")?)?, to, Carrier::Tcp)
}
