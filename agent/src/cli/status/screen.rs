//! One screen of status for people.
//!
//! Every part has a few lines, whatever the node's size: what is well is counted, what is not is
//! named, and a list that is cut says how much is missing and how to see it. What a row says is
//! [`rows`]' business.

mod rows;

use std::collections::BTreeMap;

use jiff::Timestamp;

use self::rows::{
    age, dash, hook_rows, interface_names, kinds_text, pod_row, pods_line, share, state_text,
    table_row, wide_hook,
};
use super::{Answer, ToldBy};
use crate::{
    cli::output::{self, bad, dim, good, heading_text, table_text},
    config::Paths,
    observe::{
        account::Hooks,
        status::{self, PodInterface, Problem, Remark, Source, SourceState, Status, Sync, Table},
    },
};

/// Rows of a list on a screen.
const ROWS: usize = 6;

/// The page, by lines.
pub fn lines(answer: &Answer, paths: &Paths, now: Timestamp, is_wide: bool) -> Vec<String> {
    let mut page = Page {
        lines: Vec::new(),
        now,
        is_wide,
    };
    page.head(answer, paths);
    if let Some(status) = &answer.status {
        page.sources(&status.sources);
    }
    page.tables(answer);
    page.hooks(&answer.hooks, answer.status.as_ref());
    if let Some(status) = &answer.status {
        page.pods(&status.interfaces);
        page.ports(status);
        page.complaints(status);
    }
    page.lines
}

/// What is shown so far, and how.
struct Page {
    lines: Vec<String>,
    now: Timestamp,
    is_wide: bool,
}

impl Page {
    fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// A list under a heading, cut where it is long; nothing where it is empty.
    fn list<const N: usize>(&mut self, heading: &str, header: [&str; N], rows: Vec<[String; N]>) {
        if rows.is_empty() {
            return;
        }
        let kept = if self.is_wide { rows.len() } else { ROWS };
        self.cut_list(heading, header, rows, kept);
    }

    fn cut_list<const N: usize>(
        &mut self,
        heading: &str,
        header: [&str; N],
        rows: Vec<[String; N]>,
        kept: usize,
    ) {
        let missing = rows.len().saturating_sub(kept);
        self.line(heading_text(heading));
        self.line(table_text(header, rows.into_iter().take(kept)));
        if missing > 0 {
            self.line(dim(&format!(" and {missing} more: weir status -o wide")));
        }
    }

    /// `3m20s`, from then until now.
    fn age(&self, then: Timestamp) -> String {
        age(self.now, then)
    }

    fn head(&mut self, answer: &Answer, paths: &Paths) {
        let Some(status) = &answer.status else {
            return self.head_without_account(answer, paths);
        };
        let Status {
            node,
            version,
            pid,
            started,
            ready,
            ..
        } = status;
        self.line(match (answer.running, ready) {
            (true, true) => format!(
                "{} node {node}: agent {version} runs for {} (pid {pid}, since {started})",
                good("●"),
                self.age(*started)
            ),
            (true, false) => format!(
                "{} node {node}: agent {version} (pid {pid}) is not ready for {}: it waits for its \
                 sources' first complete list",
                bad("●"),
                self.age(*started)
            ),
            (false, _) => format!(
                "{} node {node}: no agent runs {}; programs and tables go on without one, but \
                 nothing follows the cluster",
                bad("○"),
                self.end(answer, status)
            ),
        });
        if answer.told_by != ToldBy::Agent {
            let when = answer.last_word.map_or_else(
                || "some time ago".to_owned(),
                |at| format!("{} ago", self.age(at)),
            );
            let why = match (&answer.silence, answer.running) {
                (Some(silence), true) => format!(" ({silence})"),
                _ => String::new(),
            };
            self.line(dim(&format!(
                "  what follows is what the agent wrote {when}; tables and hooks are as the \
                 kernel has them now{why}"
            )));
        }
        if let Some(sync) = &status.last_sync {
            self.line(self.sync(sync, status.generation));
        }
        if let Some(error) = &status.error {
            self.line(format!("  {} {error}", bad("last synchronisation failed:")));
        }
        if let Some(server) = &status.api_server {
            self.line(format!("  asks the API server {server}"));
        }
        self.line(format!(
            "  {} service ports, {} network policies, {}, {} network interfaces",
            status.service_ports,
            status.policies,
            pods_line(&status.interfaces),
            status.network_interfaces.len(),
        ));
        if let Some(state) = &status.fast_path {
            self.line(format!("  fast path: {state}"));
        }
        for line in status.kube_proxy.lines() {
            self.line(format!("  {line}"));
        }
    }

    fn head_without_account(&mut self, answer: &Answer, paths: &Paths) {
        let file = status::file(&paths.run_dir);
        let file = file.display();
        self.line(match (answer.running, &answer.silence) {
            (true, Some(silence)) => format!(
                "{} an agent runs and has not said anything yet: {silence}",
                bad("●")
            ),
            _ => format!("{} no agent has run here: there is no {file}", bad("○")),
        });
        if !answer.layouts.is_empty() {
            let layouts = answer.layouts.join(", ");
            self.line(format!(
                "  but tables are pinned (layout {layouts}) at {}",
                paths.bpffs.join("weir").display()
            ));
        }
    }

    /// Since when no agent runs.
    fn end(&self, answer: &Answer, status: &Status) -> String {
        let pid = status.pid;
        match (status.ended, answer.last_word) {
            (Some(ended), _) => format!(
                "since {ended}, {} ago, when that of pid {pid} ended",
                self.age(ended)
            ),
            (None, Some(last)) => format!(
                "(that of pid {pid} did not end by itself; its last word is of {last}, {} ago)",
                self.age(last)
            ),
            (None, None) => format!("(the last had pid {pid})"),
        }
    }

    fn sync(&self, sync: &Sync, generation: u64) -> String {
        format!(
            "  last synchronised {} ago: {} writes in {:.1} ms; {generation} times since the start",
            self.age(sync.at),
            sync.writes,
            sync.microseconds as f64 / 1000.0
        )
    }

    fn sources(&mut self, sources: &[Source]) {
        if self.is_wide {
            let rows = sources.iter().map(|row| self.source_row(row)).collect();
            self.list(
                "Sources",
                [
                    "SOURCE",
                    "KIND",
                    "STATE",
                    "FOR",
                    "LAST NEWS",
                    "OBJECTS",
                    "VERSION",
                    "ERROR",
                ],
                rows,
            );
            return;
        }
        let mut groups: BTreeMap<(&str, SourceState, Option<&str>), Vec<&Source>> = BTreeMap::new();
        for row in sources {
            let group = (&*row.source, row.state, row.error.as_deref());
            groups.entry(group).or_default().push(row);
        }
        let rows: Vec<[String; 5]> = groups
            .into_iter()
            .map(|((source, state, error), rows)| {
                let since = rows.iter().map(|row| row.since).max();
                let news = rows.iter().filter_map(|row| row.last_news).max();
                let what = kinds_text(&rows, state);
                [
                    source.to_owned(),
                    state_text(state),
                    since.map_or_else(dash, |at| self.age(at)),
                    news.map_or_else(dash, |at| format!("{} ago", self.age(at))),
                    match error {
                        Some(error) => format!("{what}: {error}"),
                        None => what,
                    },
                ]
            })
            .collect();
        self.list(
            "Sources",
            ["SOURCE", "STATE", "FOR", "LAST NEWS", "OBJECTS"],
            rows,
        );
    }

    fn source_row(&self, row: &Source) -> [String; 8] {
        [
            row.source.clone(),
            row.kind.clone(),
            state_text(row.state),
            self.age(row.since),
            row.last_news
                .map_or_else(dash, |at| format!("{} ago", self.age(at))),
            row.objects.to_string(),
            row.resource_version.clone().unwrap_or_else(dash),
            row.error.clone().unwrap_or_else(dash),
        ]
    }

    fn tables(&mut self, answer: &Answer) {
        let status = answer.status.as_ref();
        let tables = status
            .map(|status| &status.tables)
            .or(answer.pinned_tables.as_ref());
        if let Some(tables) = tables {
            // The fullest first: those are what someone should look at.
            let mut tables: Vec<&Table> = tables.iter().collect();
            tables.sort_by(|a, b| {
                let used = share(b).total_cmp(&share(a));
                used.then_with(|| a.name.cmp(&b.name))
            });
            let rows = tables.into_iter().map(table_row).collect();
            self.list("Tables", ["NAME", "USED", "", "ENTRIES", "CAPACITY"], rows);
        }
        if let Some(error) = &answer.tables_error {
            self.line(dim(&format!(" what is pinned cannot be read: {error}")));
        }
    }

    fn hooks(&mut self, hooks: &Hooks, status: Option<&Status>) {
        if let Some(error) = &hooks.error {
            self.line(heading_text("Hooks"));
            self.line(format!(" {} {error}", bad("the kernel cannot be asked:")));
            return;
        }
        let names = interface_names(status);
        if self.is_wide {
            let rows = hooks.packets.iter().map(|hook| wide_hook(hook, &names));
            self.list(
                "Programs at interfaces",
                ["INDEX", "NAME", "HOOK", "HELD BY", "PROGRAM"],
                rows.collect(),
            );
        }
        let rows = hook_rows(hooks, status, &names);
        if rows.is_empty() {
            self.line(heading_text("Hooks"));
            self.line(" nothing is attached");
        } else {
            self.list("Hooks", ["WHERE", "PROGRAMS", "AT"], rows);
        }
    }

    /// Those that need a look; all, where there is room.
    fn pods(&mut self, interfaces: &[PodInterface]) {
        let is_shown = |it: &&PodInterface| self.is_wide || it.state != "programmed";
        let rows = interfaces.iter().filter(is_shown).map(pod_row).collect();
        let heading = if self.is_wide {
            "Pods' interfaces"
        } else {
            "Pods' interfaces of which not all is known"
        };
        self.list(
            heading,
            [
                "INDEX",
                "NAME",
                "POD",
                "STATE",
                "INGRESS ISOLATED BY",
                "EGRESS ISOLATED BY",
            ],
            rows,
        );
    }

    fn ports(&mut self, status: &Status) {
        let rows = status.listeners.iter().map(|listener| {
            let state = match &listener.error {
                None => "open".to_owned(),
                Some(error) => format!("closed: {error}"),
            };
            [listener.address.clone(), listener.purpose.clone(), state]
        });
        self.list("Ports", ["ADDRESS", "WHAT FOR", "STATE"], rows.collect());
    }

    fn complaints(&mut self, status: &Status) {
        let errors = status.recent_errors.iter().map(|error| {
            [
                format!("{} ago", self.age(error.at)),
                error.times.to_string(),
                error.message.clone(),
            ]
        });
        let errors = errors.collect();
        self.list("Last errors", ["WHEN", "TIMES", "WHAT"], errors);
        self.list(
            "Problems: what cannot be read stays as it last was",
            ["WHERE", "OBJECT", "FIELD", "WHAT"],
            status.problems.iter().map(problem_row).collect(),
        );
        self.list(
            REMARKS,
            REMARKS_HEADER,
            status.remarks.iter().map(remark_row).collect(),
        );
        let skipped = status
            .skipped
            .iter()
            .map(|it| [it.object.clone(), it.reason.clone()]);
        self.list("Left out", ["OBJECT", "WHY"], skipped.collect());
        if !status.unknown_kinds.is_empty() {
            let kinds = status.unknown_kinds.join(", ");
            self.line(dim(&format!("\nkinds that are not read: {kinds}")));
        }
    }
}

const REMARKS: &str = "Remarks: no faults, but perhaps not meant";
const REMARKS_HEADER: [&str; 3] = ["OBJECT", "FIELD", "WHAT"];

fn remark_row(remark: &Remark) -> [String; 3] {
    [
        remark.object.clone().unwrap_or_default(),
        remark.field.clone().unwrap_or_default(),
        remark.message.clone(),
    ]
}

/// What is no fault, but may not be meant.
pub fn show_remarks(remarks: &[Remark]) {
    if remarks.is_empty() {
        return;
    }
    output::heading(REMARKS);
    output::table(REMARKS_HEADER, remarks.iter().map(remark_row));
}

/// A problem as a row: where, object, field, what.
pub fn problem_row(problem: &Problem) -> [String; 4] {
    let place = match (&problem.file, problem.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.clone(),
        (None, _) => problem.source.clone(),
    };
    [
        place,
        problem.object.clone().unwrap_or_default(),
        problem.field.clone().unwrap_or_default(),
        problem.message.clone(),
    ]
}

#[cfg(test)]
mod tests;
