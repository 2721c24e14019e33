//! Connections that are older than the policies which judge them: the kernel's sockets say who
//! opened them.
//!
//! Sockets are opened in their namespaces and used from here, so that either side can speak first.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::world::World;
use crate::bed::{Family, Pod};

/// Where the pods listen for these connections.
const PORT: u16 = 9_090;
/// What comes late has not come, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody waits for what is dropped.
const SHORT: Duration = Duration::from_millis(500);

/// A connection: the end in the pod that policies isolate, and the other one.
struct Connection {
    family: Family,
    near: TcpStream,
    far: TcpStream,
    /// Who listens must still do so when policies come.
    _listener: TcpListener,
}

/// The pod under policy may be opened connections to, and may open none. What it says first on an
/// old connection passes if that was opened to it, and not if the pod opened it.
pub fn belong_to_who_opened_them(world: &mut World) -> Result<()> {
    let (pod, peer) = (&world.server, &world.client);
    let mut opened_to_it = Vec::new();
    let mut opened_by_it = Vec::new();
    for family in Family::ALL {
        let (far, near, _listener) = connect(peer, pod, family)?;
        opened_to_it.push(Connection {
            family,
            near,
            far,
            _listener,
        });
        let (near, far, _listener) = connect(pod, peer, family)?;
        opened_by_it.push(Connection {
            family,
            near,
            far,
            _listener,
        });
    }
    // The peer is known, too, and no policy's business: what is unknown would be refused.
    let objects = [manifest(pod, "isolated"), manifest(peer, "free"), policy()];
    world.manifests.put("policy.yaml", &objects)?;
    wait_policies(world, 1)?;
    for Connection {
        family, near, far, ..
    } in &mut opened_to_it
    {
        near.write_all(b"x").context("speak")?;
        let heard = hears(far, PATIENCE)?;
        ensure!(heard, "{family:?}: what was opened to the pod stopped");
        far.write_all(b"x").context("answer")?;
        let heard = hears(near, PATIENCE)?;
        ensure!(heard, "{family:?}: the pod hears no answer");
    }
    for Connection {
        family, near, far, ..
    } in &mut opened_by_it
    {
        near.write_all(b"x").context("speak")?;
        let heard = hears(far, SHORT)?;
        ensure!(!heard, "{family:?}: what the pod opened goes on");
    }
    world.manifests.remove("policy.yaml")?;
    wait_policies(world, 0)
}

/// Waits until so many policies are in force.
fn wait_policies(world: &mut World, count: u64) -> Result<()> {
    let what = format!("{count} policies to be in force");
    world.agent.wait_status(&what, |status| {
        status["policies"] == count && status["error"].is_null()
    })?;
    Ok(())
}

/// The client's end, the server's, and who waits for more.
fn connect(
    client: &Pod,
    server: &Pod,
    family: Family,
) -> Result<(TcpStream, TcpStream, TcpListener)> {
    let to = SocketAddr::from((server.addr(family), PORT));
    let listener = server
        .namespace()
        .enter(|| TcpListener::bind(to).with_context(|| format!("listen at {to}")))?;
    let client = client.namespace().enter(|| {
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))
    })?;
    let (server, _) = listener.accept().context("accept")?;
    Ok((client, server, listener))
}

/// Does a byte come in time?
fn hears(stream: &mut TcpStream, patience: Duration) -> Result<bool> {
    stream.set_read_timeout(Some(patience))?;
    match stream.read(&mut [0]) {
        Ok(1) => Ok(true),
        Ok(_) => bail!("the connection was closed"),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error).context("listen"),
    }
}

fn manifest(pod: &Pod, kind: &str) -> Value {
    let ips: Vec<Value> = Family::ALL
        .map(|family| json!({"ip": pod.addr(family)}))
        .to_vec();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": "default", "labels": {"kind": kind}},
        "spec": {"nodeName": pod.node().name(), "containers": [{"name": "main"}]},
        "status": {"phase": "Running", "podIP": pod.addr(Family::V4), "podIPs": ips},
    })
}

fn policy() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "opened-to-it-only", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"kind": "isolated"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": PORT}]}],
        },
    })
}
