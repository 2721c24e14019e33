//! A measurement's end of the dialogue with a loading process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Answer, Done, Order, Work};
use crate::bed::process::{Place, Process, Streams};

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub struct Loader {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Last, so that its streams are closed before.
    _process: Process,
}

impl Loader {
    /// Starts it in a place.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(place: &Place) -> Result<Self> {
        let mut process = place
            .start(&place.helper, &["load"], Streams::Dialogue)
            .context("start a loading process")?;
        let child = process.child()?;
        let input = child.stdin.take().context("the process has an input")?;
        let output = child.stdout.take().context("the process has an output")?;
        Ok(Self {
            input,
            output: BufReader::new(output),
            _process: process,
        })
    }

    /// Has it serve at an address.
    ///
    /// # Errors
    /// It cannot.
    pub fn serve(&mut self, at: SocketAddr) -> Result<()> {
        self.expect_done(Order::Serve(at))
    }

    /// Has it run on one processor.
    ///
    /// # Errors
    /// It cannot.
    pub fn pin(&mut self, processor: usize) -> Result<()> {
        self.expect_done(Order::Pin(processor))
    }

    /// The processor time that it used.
    ///
    /// # Errors
    /// It has ended.
    pub fn used(&mut self) -> Result<Duration> {
        match self.tell(Order::Used)? {
            Answer::Used(time) => Ok(time),
            other => bail!("asked for the time used, it answered {other:?}"),
        }
    }

    /// Has it work.
    ///
    /// # Errors
    /// It could not: who it works with did not answer.
    pub fn run(&mut self, work: Work, to: SocketAddr, time: Duration) -> Result<Done> {
        let millis = u64::try_from(time.as_millis()).context("a sample is short")?;
        match self.tell(Order::Run { work, to, millis })? {
            Answer::Ran(done) => Ok(done),
            other => bail!("told to work, it answered {other:?}"),
        }
    }

    fn expect_done(&mut self, order: Order) -> Result<()> {
        let answer = self.tell(order)?;
        ensure!(answer == Answer::Done, "{order:?} was answered {answer:?}");
        Ok(())
    }

    fn tell(&mut self, order: Order) -> Result<Answer> {
        let mut line = serde_json::to_vec(&order).context("write an order")?;
        line.push(b'\n');
        let ended = || format!("the loading process ended; it said why: {order:?}");
        self.input
            .write_all(&line)
            .and_then(|()| self.input.flush())
            .with_context(ended)?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).with_context(ended)?;
        serde_json::from_str(&answer).with_context(ended)
    }
}
