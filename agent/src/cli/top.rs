//! `weir top`: the node live.
//!
//! [`read`](mod@read) asks the kernel and the agent, [`state`] keeps what is shown and knows what keys do,
//! [`draw`](mod@draw) puts it on a screen, [`terminal`] has the screen.

mod conversations;
mod draw;
mod rates;
mod read;
mod state;
mod terminal;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;

use self::{
    state::State,
    terminal::{Message, show, start, take},
};
use super::output;
use crate::config::Paths;

/// What `weir top` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Seconds between two readings of the tables
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    interval: Duration,

    /// Print one frame as text, after one interval, and end
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    paths: Paths,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|seconds| (0.1..=3_600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give seconds, 0.1 to 3600".to_owned())
}

/// Shows the node until somebody ends it.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments {
        interval,
        once,
        paths,
    } = arguments;
    if *once || !io::stdout().is_terminal() {
        output::line(&draw::text(&look(paths, *interval)?));
    } else {
        // Without tables there is nothing to watch: said before the terminal is taken.
        read::sample(&paths.bpffs)?;
        show(paths, *interval)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// For how long longer than the interval one frame is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two readings, and all that is told between them.
fn look(paths: &Paths, interval: Duration) -> Result<State> {
    let messages = start(paths, interval);
    let mut state = State::new();
    let deadline = Instant::now() + interval + PATIENCE;
    while state.rates.is_none() || state.presence.is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        match messages.recv_timeout(left) {
            Ok(Message::Sample(Err(fault))) => return Err(fault),
            Ok(message) => {
                if let Some(end) = take(&mut state, message) {
                    end?;
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the tables have not been read twice within {PATIENCE:?} and the interval")
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("nothing tells what to show any more")
            }
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_seconds_within_reason() {
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_interval("60"), Ok(Duration::from_secs(60)));
        for text in ["0", "-1", "0.05", "3601", "NaN", "inf", "1s", ""] {
            assert!(parse_interval(text).is_err(), "{text:?}");
        }
    }
}
