//! Does a kube-proxy run on this node?
//!
//! It answers at the node's loopback address, and its process may be visible. Without the host's
//! processes (`hostPID`) the answers have to do; a kube-proxy whose ports were all moved or turned
//! off is not seen then. To look at all processes of a node takes far longer than to ask.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

/// Nobody on the node takes that long.
const LIMIT: Duration = Duration::from_secs(2);
/// Its answers are short.
const LONGEST: usize = 64 * 1024;
const METRICS: u16 = 10_249;
/// Where its health checks are answered, as ours by default.
pub const HEALTH: u16 = 10_256;
/// As `/proxyMode` names them.
const MODES: [&str; 4] = ["iptables", "ipvs", "nftables", "userspace"];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing tells of one.
    Absent,
    /// One runs, for this reason.
    Running(String),
}

/// Looks for one. `may_ask_health`: whatever answers at the port of health checks is not our own.
/// `looks_at_processes`: those whose answers tell nothing are looked for, too.
pub async fn presence(may_ask_health: bool, looks_at_processes: bool) -> Presence {
    let mode = get(METRICS, "/proxyMode").await;
    let health = match (&mode, may_ask_health) {
        // One of ours.
        (Some(mode), _) if mode.trim() == "ebpf" => None,
        (_, true) => get(HEALTH, "/healthz").await,
        (_, false) => None,
    };
    if let Some(reason) = judge(mode.as_deref(), health.as_deref()) {
        return Presence::Running(reason);
    }
    let found = match looks_at_processes {
        true => process(Path::new("/proc")),
        false => None,
    };
    match found {
        Some(process) => Presence::Running(format!("process {process}")),
        None => Presence::Absent,
    }
}

/// Who gives these answers?
fn judge(mode: Option<&str>, health: Option<&str>) -> Option<String> {
    if let Some(mode) = mode.map(str::trim).filter(|mode| MODES.contains(mode)) {
        return Some(format!("127.0.0.1:{METRICS}/proxyMode says {mode}"));
    }
    let health: Value = serde_json::from_str(health?).ok()?;
    let is_proxy = ["lastUpdated", "currentTime"]
        .iter()
        .all(|field| health.get(field).is_some());
    is_proxy.then(|| format!("127.0.0.1:{HEALTH}/healthz answers as kube-proxy does"))
}

/// The body of an answer, whatever its status.
async fn get(port: u16, path: &str) -> Option<String> {
    timeout(LIMIT, ask(port, path)).await.ok()?.ok()
}

async fn ask(port: u16, path: &str) -> anyhow::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// A process of that name in our network namespace.
fn process(proc: &Path) -> Option<u32> {
    let own = fs::metadata(proc.join("self/ns/net")).ok()?.ino();
    fs::read_dir(proc).ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let path = entry.path();
        let name = fs::read_to_string(path.join("comm")).ok()?;
        // Asked of those alone: for each process of a node it takes time.
        let is_here = || Some(fs::metadata(path.join("ns/net")).ok()?.ino() == own);
        (name.trim_end() == "kube-proxy" && is_here()?).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxy_is_known_by_what_it_answers_and_an_agent_is_not_one() {
        let health =
            r#"{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"2026-01-01T00:00:00Z"}"#;
        for (mode, answer, expected) in [
            (Some("nftables"), None, true),
            (Some("iptables\n"), None, true),
            (Some("ebpf"), None, false),
            (Some("404 page not found"), None, false),
            (None, Some(health), true),
            (None, Some("ok"), false),
            (None, Some(r#"{"status":"ok"}"#), false),
            (None, None, false),
        ] {
            assert_eq!(
                judge(mode, answer).is_some(),
                expected,
                "{mode:?} {answer:?}"
            );
        }
    }

    #[test]
    fn a_process_of_that_name_counts_where_it_is_in_our_network_namespace() {
        let proc = tempfile::tempdir().unwrap();
        let path = |name: &str| proc.path().join(name);
        for (directory, name) in [("self", "weir"), ("7", "kube-proxy"), ("8", "kube-proxy")] {
            fs::create_dir_all(path(directory).join("ns")).unwrap();
            fs::write(path(directory).join("comm"), format!("{name}\n")).unwrap();
        }
        fs::write(path("self/ns/net"), "ours").unwrap();
        fs::write(path("7/ns/net"), "another").unwrap();
        fs::write(path("8/ns/net"), "another").unwrap();
        assert_eq!(process(proc.path()), None);
        fs::remove_file(path("8/ns/net")).unwrap();
        fs::hard_link(path("self/ns/net"), path("8/ns/net")).unwrap();
        assert_eq!(process(proc.path()), Some(8));
        fs::write(path("8/comm"), "kubelet\n").unwrap();
        assert_eq!(process(proc.path()), None);
    }
}
