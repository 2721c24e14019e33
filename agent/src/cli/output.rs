//! How answers look: coloured tables for people, JSON or YAML for programs.
#![allow(
    clippy::print_stderr,
    reason = "printing is what the command line is for; nothing else prints"
)]

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, TableStyle};
use owo_colors::{OwoColorize as _, Stream};
use serde::Serialize;

/// How to show an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs
    Yaml,
}

/// How to show a list: as [`Format`], or with more columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// For programs
    Json,
    /// For programs
    Yaml,
}

impl ListFormat {
    /// The format for programs, if it is one.
    pub const fn encoding(self) -> Option<Format> {
        match self {
            Self::Table | Self::Wide => None,
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
        }
    }
}

/// Shows a value to a program.
pub fn encode(format: Format, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Table | Format::Json => {
            line(&serde_json::to_string_pretty(value).context("encode as JSON")?);
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).context("encode as YAML")?;
            line(text.trim_end());
        }
    }
    Ok(())
}

/// Shows a line.
pub fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        // Whoever reads has seen enough, as `head` has; nobody is left to be told of anything.
        let code = i32::from(error.kind() != io::ErrorKind::BrokenPipe);
        std::process::exit(code);
    }
}

/// Clears the screen for what follows, where there is one.
pub fn clear() {
    if io::stdout().is_terminal() {
        // ECMA-48: the cursor to the first line, and all behind it erased.
        line("\u{1b}[H\u{1b}[2J");
    }
}

/// Says something beside the answer.
pub fn warning(text: &str) {
    let label = "warning:";
    eprintln!(
        "{} {text}",
        label.if_supports_color(Stream::Stderr, |text| text.yellow())
    );
}

/// Shows a heading above what follows.
pub fn heading(text: &str) {
    line(&format!(
        "\n{}",
        text.if_supports_color(Stream::Stdout, |text| text.bold())
    ));
}

/// Text that says all is well.
pub fn good(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.green())
        .to_string()
}

/// Text that someone should look at.
pub fn bad(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.red())
        .to_string()
}

/// Text that explains.
pub fn dim(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.dimmed())
        .to_string()
}

/// Shows rows under a header.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    line(&table.to_string());
}

/// Says why a command failed, with all causes.
pub fn error(error: &anyhow::Error) {
    let label = "error:";
    eprintln!(
        "{} {error:#}",
        label.if_supports_color(Stream::Stderr, |text| text.red())
    );
}
