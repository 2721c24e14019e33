//! `weir status`: what the agent of this node says now; where none answers, its last words and what
//! is pinned.

mod screen;

use std::{fs, path::Path, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::{
    agent_socket,
    output::{self, ListFormat},
};
use crate::{
    attach::AgentLock,
    config::{Paths, lock_file},
    maps::pins::{Pins, names},
    observe::{
        account::{self, Account, Hooks},
        status::{self, SourceState, Status, Table},
    },
};

pub use screen::{problem_row, show_remarks};

/// An agent that takes longer than this to tell what it knows does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `weir status` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    paths: Paths,

    /// Every table, interface and complaint, and not only as many as a screen has room for; the
    /// same as `-o wide`
    #[arg(long)]
    wide: bool,

    /// How to show it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

/// Who tells what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ToldBy {
    /// The agent, just now.
    Agent,
    /// The file in which an agent left its last words; the kernel, of tables and hooks.
    File,
    /// Nobody but the kernel: no agent has left any words here.
    Pins,
}

/// The answer to programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Does an agent run?
    pub running: bool,
    /// Who tells it.
    pub told_by: ToldBy,
    /// Why the agent that runs does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence: Option<String>,
    /// When the agent wrote its last words, where it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_word: Option<Timestamp>,
    /// The agent's account.
    #[serde(flatten)]
    pub status: Option<Status>,
    /// The pinned tables, where no account has them.
    #[serde(rename = "tables", skip_serializing_if = "Option::is_none")]
    pub pinned_tables: Option<Vec<Table>>,
    /// Why the pinned tables cannot be read, where they were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables_error: Option<String>,
    /// The layouts of tables that are pinned, as `v4`.
    pub layouts: Vec<String>,
    /// What is attached.
    pub hooks: Hooks,
}

/// Shows the status; the exit code says how it is.
pub fn show(arguments: &Arguments) -> Result<ExitCode> {
    let answer = ask(&arguments.paths)?;
    match arguments.output.encoding() {
        Some(encoding) => output::encode(encoding, &answer)?,
        None => {
            let is_wide = arguments.wide || arguments.output == ListFormat::Wide;
            let lines = screen::lines(&answer, &arguments.paths, Timestamp::now(), is_wide);
            for line in lines {
                output::line(&line);
            }
        }
    }
    Ok(ExitCode::from(exit_code(&answer)))
}

/// Asks the agent, or else its last words and the pins.
pub fn ask(paths: &Paths) -> Result<Answer> {
    let run_dir = &paths.run_dir;
    let pins = Pins::new(&paths.bpffs);
    let layouts = layouts(&pins);
    let asked = agent_socket::get_within(run_dir, "/v1/status", PATIENCE);
    let silence: anyhow::Error = match asked {
        Ok(Account { status, hooks }) => {
            return Ok(Answer {
                running: true,
                told_by: ToldBy::Agent,
                silence: None,
                last_word: None,
                status: Some(status),
                pinned_tables: None,
                tables_error: None,
                layouts,
                hooks,
            });
        }
        Err(error) => error,
    };
    let running = AgentLock::is_held(&lock_file(run_dir))?;
    let mut status = Status::read(run_dir)?;
    let mut answer = Answer {
        running,
        told_by: ToldBy::Pins,
        silence: running.then(|| format!("{silence:#}")),
        last_word: None,
        status: None,
        pinned_tables: None,
        tables_error: None,
        layouts,
        hooks: account::hooks(&pins),
    };
    match account::pinned_tables(&pins) {
        Ok(tables) => match &mut status {
            Some(status) => status.tables = tables,
            None => answer.pinned_tables = Some(tables),
        },
        Err(error) => answer.tables_error = Some(format!("{error:#}")),
    }
    if status.is_some() {
        answer.told_by = ToldBy::File;
        answer.last_word = written(run_dir);
        answer.status = status;
    }
    Ok(answer)
}

/// When the agent last wrote its status.
fn written(run_dir: &Path) -> Option<Timestamp> {
    let written = fs::metadata(status::file(run_dir)).ok()?.modified().ok()?;
    Timestamp::try_from(written).ok()
}

/// The directories of tables; none where they cannot be listed, which the tables' error tells.
fn layouts(pins: &Pins) -> Vec<String> {
    let is_layout = |name: &String| {
        let version = name.strip_prefix('v');
        version.is_some_and(|version| version.parse::<u32>().is_ok())
    };
    let names = names(&pins.root()).unwrap_or_default();
    names.into_iter().filter(is_layout).collect()
}

/// 0: all is well. 1: it complains. 2: it does not run, or is not ready.
fn exit_code(answer: &Answer) -> u8 {
    match &answer.status {
        Some(status) if answer.running && status.ready => {
            let is_content = status.error.is_none()
                && status.problems.is_empty()
                && status.skipped.is_empty()
                && status.listeners.iter().all(|one| one.error.is_none())
                && status.sources.iter().all(|one| is_well(one.state));
            u8::from(!is_content)
        }
        _ => 2,
    }
}

/// A cluster need not have every kind: one that is absent is no complaint.
const fn is_well(state: SourceState) -> bool {
    match state {
        SourceState::Synced | SourceState::Listing | SourceState::Absent => true,
        SourceState::Failing | SourceState::Forbidden => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an agent that has nothing to complain of.
    pub(super) fn answer() -> Answer {
        let status = serde_json::from_value(serde_json::json!({
            "node": "node-1", "version": "0.1.0", "pid": 4711,
            "started": "2026-01-01T00:00:00Z", "ready": true, "generation": 128,
            "lastSync": {"at": "2026-01-01T03:19:48Z", "microseconds": 1234, "writes": 3},
            "error": null, "servicePorts": 14, "policies": 3,
            "tables": [{"name": "FRONTENDS", "entries": 28, "capacity": 65536}],
            "interfaces": [], "programs": [], "problems": [], "skipped": [], "unknownKinds": [],
        }))
        .unwrap();
        Answer {
            running: true,
            told_by: ToldBy::Agent,
            silence: None,
            last_word: None,
            status: Some(status),
            pinned_tables: None,
            tables_error: None,
            layouts: vec!["v4".to_owned()],
            hooks: Hooks::default(),
        }
    }

    pub(super) fn of(answer: &mut Answer) -> &mut Status {
        answer.status.as_mut().unwrap()
    }

    #[test]
    fn the_exit_code_tells_content_from_complaints_and_both_from_silence() {
        assert_eq!(exit_code(&answer()), 0);
        let mut failed = answer();
        of(&mut failed).error = Some("no room".to_owned());
        assert_eq!(exit_code(&failed), 1);
        let mut starting = answer();
        of(&mut starting).ready = false;
        assert_eq!(exit_code(&starting), 2);
        let mut dead = answer();
        dead.running = false;
        assert_eq!(exit_code(&dead), 2);
        dead.status = None;
        assert_eq!(exit_code(&dead), 2);
    }

    #[test]
    fn a_source_that_fails_is_a_complaint_and_an_absent_kind_is_none() {
        for (state, code) in [
            (SourceState::Synced, 0),
            (SourceState::Listing, 0),
            (SourceState::Absent, 0),
            (SourceState::Failing, 1),
            (SourceState::Forbidden, 1),
        ] {
            let mut answer = answer();
            of(&mut answer).sources = vec![status::Source {
                source: "api".to_owned(),
                kind: "Service".to_owned(),
                state,
                objects: 0,
                since: Timestamp::UNIX_EPOCH,
                last_news: None,
                error: None,
                resource_version: None,
            }];
            assert_eq!(exit_code(&answer), code, "{state:?}");
        }
    }

    #[test]
    fn programs_find_the_tables_in_one_place_with_an_account_and_without() {
        let told = serde_json::to_value(answer()).unwrap();
        assert_eq!(told["tables"][0]["name"], "FRONTENDS");
        assert_eq!(told["toldBy"], "agent");
        let mut pinned = answer();
        pinned.pinned_tables = pinned.status.take().map(|status| status.tables);
        pinned.told_by = ToldBy::Pins;
        let pinned = serde_json::to_value(pinned).unwrap();
        assert_eq!(pinned["tables"], told["tables"]);
        assert_eq!(pinned["toldBy"], "pins");
    }
}
