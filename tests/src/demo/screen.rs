//! How the demonstration looks: one row a step, coloured where the output is a terminal.
#![allow(
    clippy::print_stdout,
    reason = "showing is what the demonstration is for"
)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use owo_colors::{OwoColorize, Stream};

use super::cluster::Cluster;
use super::steps::Step;

const TITLE_WIDTH: usize = 56;
/// Lines of each agent's log under a failed step.
const LOG_LINES: usize = 15;

/// The standard output. Clones share whether they are muted.
#[derive(Clone, Debug, Default)]
pub struct Screen {
    muted: Arc<AtomicBool>,
}

impl Screen {
    /// Shows no further step: what fails because the cluster is being taken down says nothing.
    pub fn mute_steps(&self) {
        self.muted.store(true, Ordering::SeqCst);
    }

    /// Is the cluster being taken down?
    pub fn is_muted(&self) -> bool {
        self.muted.load(Ordering::SeqCst)
    }

    /// A line as it is.
    pub fn line(&self, text: &str) {
        println!("{text}");
        flush();
    }

    /// A line above what follows.
    pub fn heading(&self, text: &str) {
        let text = text.if_supports_color(Stream::Stdout, |text| text.bold());
        println!("\n{text}");
        flush();
    }

    /// Shows a step and tells whether it holds.
    pub fn step(&self, cluster: &mut Cluster, step: &Step) -> bool {
        let start = Instant::now();
        let result = (step.show)(cluster);
        if self.is_muted() {
            return result.is_ok();
        }
        let time = format!("{:>7.0} ms", start.elapsed().as_secs_f64() * 1000.0);
        let time = time.if_supports_color(Stream::Stdout, |text| text.dimmed());
        let title = format!("{:<TITLE_WIDTH$}", step.title);
        match &result {
            Ok(seen) => {
                let mark = "ok    ".if_supports_color(Stream::Stdout, |text| text.green());
                let seen = seen.if_supports_color(Stream::Stdout, |text| text.cyan());
                println!("  {mark} {time}  {title} {seen}");
            }
            Err(error) => {
                let mark = "FAILED".if_supports_color(Stream::Stdout, |text| text.red());
                println!("  {mark} {time}  {title} {error:#}");
                for agent in &cluster.agents {
                    println!("{}", agent.log_tail(LOG_LINES));
                }
            }
        }
        flush();
        result.is_ok()
    }

    /// What came of all steps.
    pub fn summary(&self, failed: usize) {
        if failed == 0 {
            let text = "every step holds".if_supports_color(Stream::Stdout, |text| text.green());
            println!("\n{text}");
        } else {
            let text = format!("{failed} steps do not hold");
            println!(
                "\n{}",
                text.if_supports_color(Stream::Stdout, |text| text.red())
            );
        }
        flush();
    }

    /// A command to try.
    pub fn hint(&self, what: &str, command: &str) {
        println!("  {what:<26} {command}");
        flush();
    }
}

/// Rows appear as they are made, in a pipe, too.
fn flush() {
    // Nobody looks any more when this fails, and the exit code still tells.
    let _ = std::io::stdout().flush();
}
