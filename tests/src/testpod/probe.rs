//! Asking again and again, each time by a new socket, and keeping account.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::BufReader;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::protocol::{Answer, Failure, Probed, Transport};
use super::sockets;

/// A running probe. It ends when dropped.
#[derive(Debug)]
pub struct Probe {
    seen: Arc<Mutex<Probed>>,
    task: JoinHandle<()>,
}

impl Probe {
    /// Starts asking.
    pub fn start(to: SocketAddr, transport: Transport, every: Duration, limit: Duration) -> Self {
        let seen = Arc::new(Mutex::new(Probed::default()));
        let account = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut ticks = interval(every);
            // A machine that was busy does not make up for it.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let account = Arc::clone(&account);
                tokio::spawn(async move {
                    let answer = match timeout(limit, ask_once(to, transport)).await {
                        Ok(answer) => answer,
                        Err(_) => Err(Failure::TimedOut),
                    };
                    note(
                        &mut account.lock().unwrap_or_else(PoisonError::into_inner),
                        answer,
                    );
                });
            }
        });
        Self { seen, task }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Probed {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask_once(to: SocketAddr, transport: Transport) -> Result<Answer, Failure> {
    match transport {
        Transport::Tcp => {
            let stream = sockets::connect(to, None).await?;
            sockets::ask_tcp(&mut BufReader::new(stream)).await
        }
        Transport::Udp => {
            let socket = sockets::open_udp(any(to), None, false).await?;
            sockets::ask_udp(&socket, Some(to), 0).await
        }
    }
}

/// The unspecified address of a peer's family.
fn any(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn note(seen: &mut Probed, answer: Result<Answer, Failure>) {
    match answer {
        Ok(answer) => *seen.answers.entry(answer.server).or_default() += 1,
        Err(failure) => {
            seen.failed += 1;
            if seen.failures.len() < Probed::KEPT {
                seen.failures.push(failure);
            }
        }
    }
}
