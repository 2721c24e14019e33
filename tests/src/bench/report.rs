//! Where figures go: to the terminal as tables while they come, and to a file at the end.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::figure::Figure;
use super::table;

/// The environment variable that names the file for the figures, as JSON.
pub const RESULTS: &str = "WEIR_BENCH_RESULTS";
/// The environment variable that asks for a short run.
pub const QUICK: &str = "WEIR_BENCH_QUICK";

/// The figures of one program.
#[derive(Debug)]
pub struct Report {
    file: Option<PathBuf>,
    is_quick: bool,
    figures: Vec<Figure>,
}

impl Report {
    /// As the environment says. Without [`RESULTS`] nothing is written, only shown.
    #[must_use]
    pub fn from_environment() -> Self {
        Self {
            file: std::env::var_os(RESULTS).map(PathBuf::from),
            is_quick: std::env::var_os(QUICK).is_some(),
            figures: Vec::new(),
        }
    }

    /// Is a run of less than two minutes, of all programs together, asked for?
    #[must_use]
    pub const fn is_quick(&self) -> bool {
        self.is_quick
    }

    /// Shows what goes on.
    #[allow(clippy::unused_self, reason = "whoever measures has a report")]
    pub fn note(&self, text: &str) {
        #[allow(clippy::print_stderr, reason = "progress")]
        {
            eprintln!("{text}");
        }
    }

    /// Shows figures that belong together as a table under a title, and writes them to the file beside
    /// those that were there: what is interrupted leaves what it has.
    pub fn add(&mut self, title: &str, figures: Vec<Figure>) {
        #[allow(clippy::print_stdout, reason = "results")]
        {
            println!("\n{title}\n{}", table::of(&figures));
        }
        self.figures.extend(figures);
        // Whether that can be done at all, [`Report::finish`] tells.
        let _ = self.write();
    }

    /// The figures so far.
    #[must_use]
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// Writes all figures to the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(self) -> Result<()> {
        self.write()
    }

    fn write(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let text = serde_json::to_vec_pretty(&self.figures).context("write figures as JSON")?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }
}
