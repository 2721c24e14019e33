//! How answers look: coloured tables for people, JSON or YAML for programs.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what the command line is for; nothing else prints"
)]

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

/// Shows a value to a program.
pub fn encode(format: Format, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Table | Format::Json => {
            println!(
                "{}",
                serde_json::to_string_pretty(value).context("encode as JSON")?
            );
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).context("encode as YAML")?;
            println!("{}", text.trim_end());
        }
    }
    Ok(())
}

/// Shows a line.
pub fn line(text: &str) {
    println!("{text}");
}

/// Shows a heading above what follows.
pub fn heading(text: &str) {
    println!(
        "\n{}",
        text.if_supports_color(Stream::Stdout, |text| text.bold())
    );
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
    println!("{table}");
}

/// Says why a command failed, with all causes.
pub fn error(error: &anyhow::Error) {
    let label = "error:";
    eprintln!(
        "{} {error:#}",
        label.if_supports_color(Stream::Stderr, |text| text.red())
    );
}
