//! A process whose first instructions reach out: what a container does that does not wait for its
//! network.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::io::BufReader;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::client::any_port;
use super::protocol::Failure;
use super::sockets;

/// From one attempt to the next.
const EVERY: Duration = Duration::from_millis(2);
/// Then it gives up.
const LIMIT: Duration = Duration::from_secs(90);

/// What became of the attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct First {
    /// Microseconds from the start to the first answer of the one that may be asked; `None`: there
    /// was none.
    pub answered_after: Option<u64>,
    /// Answers of those who must not be asked.
    pub leaks: u64,
}

/// Asks `allowed` until it answers, and all the time `forbidden`; prints a [`First`].
pub fn run(start: Instant, allowed: SocketAddr, forbidden: &[SocketAddr]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let first = runtime.block_on(async {
        let mut leaks = JoinSet::new();
        for &to in forbidden {
            leaks.spawn(ask_by_tcp(to));
            leaks.spawn(ask_by_udp(to));
        }
        let answered = timeout(LIMIT, ask_until_answered(allowed)).await;
        let answered_after = answered
            .is_ok()
            .then(|| u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut answers = 0;
        // Only what has come so far: nobody waits for an answer that must not come.
        while let Some(leak) = leaks.try_join_next() {
            answers += u64::from(matches!(leak, Ok(Ok(()))));
        }
        First {
            answered_after,
            leaks: answers,
        }
    });
    #[allow(clippy::print_stdout, reason = "the answer to who started the process")]
    {
        println!("{}", serde_json::to_string(&first)?);
    }
    Ok(())
}

/// By a new connection each time: the kernel would ask again after a second only.
async fn ask_until_answered(to: SocketAddr) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut attempts = JoinSet::new();
    loop {
        tokio::select! {
            Some(attempt) = attempts.join_next() => {
                if let Ok(Ok(())) = attempt {
                    return;
                }
            }
            _ = ticks.tick() => {
                attempts.spawn(ask_by_tcp(to));
            }
        }
    }
}

async fn ask_by_tcp(to: SocketAddr) -> Result<(), Failure> {
    let stream = sockets::connect(to, None).await?;
    sockets::ask_tcp(&mut BufReader::new(stream)).await?;
    Ok(())
}

/// Again and again, until somebody answers.
async fn ask_by_udp(to: SocketAddr) -> Result<(), Failure> {
    let socket: UdpSocket = sockets::open_udp(any_port(to), Some(to), false).await?;
    loop {
        if let Ok(answer) = timeout(EVERY, sockets::ask_udp(&socket, None, 0)).await {
            return answer.map(|_| ());
        }
    }
}
