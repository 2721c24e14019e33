//! The process that works and is worked for: client and server of a measurement.
//!
//! It is told what to do by JSON lines on its input, one at a time, and answers on its output
//! ([`Loader`] is the other end). It uses blocking calls and one thread for each thing it serves: what
//! is measured is the kernel's work, so there should be little beside it.

mod cycles;
mod drive;
mod loader;
mod processor;
mod serve;
mod softirqs;

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use cycles::Cycles;
pub use loader::Loader;
pub use softirqs::Softirqs;

/// What the process is to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Serve TCP and UDP at an address from now on.
    Serve(SocketAddr),
    /// Have all threads run on this processor only.
    Pin(usize),
    /// Say how much processor time was used since the start.
    Used,
    /// Work for this many milliseconds.
    Run {
        /// What to do.
        work: Work,
        /// With whom.
        to: SocketAddr,
        /// How long.
        millis: u64,
    },
}

/// What a client does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Connect, a byte there, a byte back, close.
    Connections,
    /// A byte there and one back on an open connection.
    Requests,
    /// Datagrams of 16 bytes, 32 at a time until the server has confirmed how many came.
    Datagrams,
    /// As much as a connection takes.
    Bytes,
}

impl Work {
    /// All of it.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Requests,
        Self::Datagrams,
        Self::Bytes,
    ];
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// Processor time since the start.
    Used(Duration),
    /// Work that was done.
    Ran(Done),
}

/// Work that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How often; of [`Work::Bytes`] how many bytes.
    pub count: u64,
    /// By the clock.
    pub elapsed: Duration,
    /// The client's processor time.
    pub used: Duration,
    /// Half of the requests took no longer; of [`Work::Requests`] alone.
    pub median: Duration,
    /// All but one request in a hundred took no longer.
    pub percentile_99: Duration,
}

/// The process: follows orders until its input ends.
///
/// # Errors
/// An order cannot be followed; nothing is to be measured then.
pub fn run() -> Result<()> {
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read an order")?;
        let order: Order =
            serde_json::from_str(&line).with_context(|| format!("{line:?} is no order"))?;
        let answer = follow(order).with_context(|| format!("{order:?}"))?;
        let mut text = serde_json::to_vec(&answer).context("write an answer")?;
        text.push(b'\n');
        output
            .write_all(&text)
            .and_then(|()| output.flush())
            .context("answer")?;
    }
    Ok(())
}

fn follow(order: Order) -> Result<Answer> {
    match order {
        Order::Serve(at) => serve::start(at).map(|()| Answer::Done),
        Order::Pin(to) => processor::pin(to).map(|()| Answer::Done),
        Order::Used => processor::used().map(Answer::Used),
        Order::Run { work, to, millis } => {
            drive::run(work, to, Duration::from_millis(millis)).map(Answer::Ran)
        }
    }
}
