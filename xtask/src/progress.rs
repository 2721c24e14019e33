//! What the user sees while something takes time.
//!
//! On a terminal a step is one line with a spinner, its latest output and the time it takes;
//! elsewhere plain lines: its start, now and then a sign of life, its end.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a step without a terminal says that it is still at work.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// One step under way.
pub struct Step {
    name: String,
    started: Instant,
    spoke: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Shows that a step has begun.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let spinner = io::stderr().is_terminal().then(|| spinner(&name));
        if spinner.is_none() {
            eprintln!("{name} ...");
        }
        let now = Instant::now();
        Self {
            name,
            started: now,
            spoke: now,
            spinner,
        }
    }

    /// Shows the latest line of what the step itself prints.
    pub fn note(&mut self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(line.trim().to_owned()),
            None if self.spoke.elapsed() >= SIGN_OF_LIFE => {
                eprintln!("{}: {}", self.name, line.trim());
                self.spoke = Instant::now();
            }
            None => (),
        }
    }

    /// Shows that it succeeded.
    pub fn done(self) {
        self.end("done in");
    }

    /// Shows that it failed; the error itself is the caller's to report.
    pub fn failed(self) {
        self.end("failed after");
    }

    fn end(self, how: &str) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        eprintln!("{}: {how} {seconds:.1} s", self.name);
    }
}

fn spinner(name: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_prefix(name.to_owned());
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
    {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
