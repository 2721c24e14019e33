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
    line(&heading_text(text));
}

/// A heading, as text.
pub fn heading_text(text: &str) -> String {
    format!(
        "\n{}",
        text.if_supports_color(Stream::Stdout, |text| text.bold())
    )
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

/// Text that someone may want to look at.
pub fn doubtful(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.yellow())
        .to_string()
}

/// Text that explains.
pub fn dim(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.dimmed())
        .to_string()
}

/// Shows rows under a header.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    line(&table_text(header, rows));
}

/// Rows under a header, as text.
pub fn table_text<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// Says why a command failed, with all causes.
pub fn error(error: &anyhow::Error) {
    let label = "error:";
    eprintln!(
        "{} {error:#}",
        label.if_supports_color(Stream::Stderr, |text| text.red())
    );
}

/// `12s`, `3m20s`, `2h05m`, `4d03h`: the two largest units tell enough.
pub fn duration_text(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{:02}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3_599, "59m59s"),
            (3_600, "1h00m"),
            (86_399, "23h59m"),
            (86_400, "1d00h"),
            (432_000 + 3_600, "5d01h"),
        ] {
            assert_eq!(duration_text(seconds), text);
        }
    }
}
