//! Keeps servers open as wanted.
//!
//! A server whose address is taken, or not the node's yet, is tried again until it listens: it
//! must not keep the agent from its work, nor need a restart once the address is free. What
//! listens, and what cannot and why, is told for `weir status`.

use std::{collections::BTreeMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tracing::{info, warn};

use super::http::{Handler, Server};
use crate::{model::ServiceRef, news};

/// Between two attempts, as kube-proxy's.
const RETRY: Duration = Duration::from_secs(5);

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// `/healthz` and `/livez`
    Health,
    /// `/metrics` and what is beside it
    Metrics,
    /// The health check node port of this service
    HealthCheck(ServiceRef),
}

/// What is served where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// What.
    pub purpose: Purpose,
    /// Where.
    pub address: SocketAddr,
}

/// What is to be served, and who answers. A listener keeps the handler it was opened with.
pub type Wanted = BTreeMap<Listener, Handler>;

/// What listens: at which address really, or why it does not.
pub type Listening = BTreeMap<Listener, Result<SocketAddr, String>>;

/// The servers. Dropping it ends them.
pub struct Listeners {
    wanted: watch::Sender<Wanted>,
    listening: watch::Receiver<Listening>,
    task: JoinHandle<()>,
}

impl Listeners {
    /// Nothing is served yet.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(RETRY)
    }

    fn start_with(retry: Duration) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::new());
        let (sender, listening) = watch::channel(Listening::new());
        Self {
            wanted,
            listening,
            task: tokio::spawn(keep(receiver, sender, retry)),
        }
    }

    /// Serve this from now on, and nothing else.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let is_news = !before.keys().eq(wanted.keys());
            *before = wanted;
            is_news
        });
    }

    /// What listens, once that is different from the last time this was asked.
    pub async fn changed(&mut self) -> Listening {
        match self.listening.changed().await {
            Ok(()) => self.listening.borrow_and_update().clone(),
            // The task has ended, which it does not unless the runtime does.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An attempt to listen, and what came of it.
type Open = BTreeMap<Listener, Result<Server, String>>;

async fn keep(
    mut wanted: watch::Receiver<Wanted>,
    listening: watch::Sender<Listening>,
    retry: Duration,
) {
    let mut open = Open::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        bring_up_to_date(&now, &mut open).await;
        news::tell(&listening, tell(&open));
        let must_retry = open.values().any(Result::is_err);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = sleep(retry), if must_retry => {}
        }
    }
}

async fn bring_up_to_date(wanted: &Wanted, open: &mut Open) {
    // First what goes: its port may be another's now.
    let gone: Vec<Listener> = open
        .keys()
        .filter(|listener| !wanted.contains_key(*listener))
        .cloned()
        .collect();
    for listener in gone {
        if let Some(Ok(server)) = open.remove(&listener) {
            server.close().await;
            info!("closed {listener}");
        }
    }
    for (listener, handler) in wanted {
        let before = open.get(listener);
        if matches!(before, Some(Ok(_))) {
            continue;
        }
        let outcome =
            Server::start(listener.address, Arc::clone(handler)).map_err(|error| explain(&error));
        match (&outcome, before) {
            (Ok(_), _) => info!("opened {listener}"),
            // Said already.
            (Err(error), Some(Err(before))) if before == error => {}
            (Err(error), _) => warn!("cannot open {listener}: {error}"),
        }
        open.insert(listener.clone(), outcome);
    }
}

fn tell(open: &Open) -> Listening {
    open.iter()
        .map(|(listener, outcome)| {
            let told = match outcome {
                Ok(server) => Ok(server.address()),
                Err(error) => Err(error.clone()),
            };
            (listener.clone(), told)
        })
        .collect()
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is taken; end what listens there, or choose another".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "the node has no such address".to_owned(),
        _ => error.to_string(),
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Health => f.write_str("health checks"),
            Self::Metrics => f.write_str("metrics"),
            Self::HealthCheck(service) => write!(f, "health check node port of Service {service}"),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.purpose, self.address)
    }
}

#[cfg(test)]
mod tests;
