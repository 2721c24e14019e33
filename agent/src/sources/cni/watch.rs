//! The watched directory of records.
//!
//! libcni writes a record in place, so that one may be seen cut short: it is read when it is
//! closed, and what could not be read is read again whenever something happens to it. Names and
//! times are also compared every now and then, which finds what inotify cannot tell of, such as
//! something mounted over the directory; what cannot be read then is in the middle of being written
//! unless it was the same the time before. The directory may be missing, and come later.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::super::row::Row;
use super::Record;
use super::record::parse;
use crate::model::{Change, Event, Problem, Report, SourceId};
use crate::news;

/// How often names and times are compared: seldom, since inotify misses next to nothing.
const COMPARE_EVERY: Duration = Duration::from_secs(15);
/// A larger file is not a record.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Tells the directory's records, the older ones first, at once and after each change, for as
/// long as anyone listens; to `events`, what is wrong with them; to `row`, how the directory is.
///
/// # Errors
/// The kernel offers no way to watch files.
pub async fn run(
    directory: PathBuf,
    records: watch::Sender<Option<Vec<Record>>>,
    events: mpsc::Sender<Event>,
    row: Row,
) -> Result<()> {
    let (signals, mut told) = mpsc::unbounded_channel();
    let mut source = Source::new(directory, signals)?;
    source.compare();
    let mut compare = tokio::time::interval_at(Instant::now() + COMPARE_EVERY, COMPARE_EVERY);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Report::default();
    loop {
        source.tell(&row);
        news::tell(&records, Some(source.records()));
        let report = source.report();
        if report != known {
            log(&known, &report);
            known = report.clone();
            let event = Event {
                source: SourceId::CNI,
                changes: vec![Change::Report(report)],
            };
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            signal = told.recv() => {
                source.note(&signal.context("the watch of the CNI's records has ended")?);
                while let Ok(signal) = told.try_recv() {
                    source.note(&signal);
                }
            }
            _ = compare.tick() => source.compare(),
            () = records.closed() => return Ok(()),
        }
    }
}

fn log(before: &Report, after: &Report) {
    for problem in &after.problems {
        if !before.problems.contains(problem) {
            tracing::warn!(%problem, "the CNI's record cannot be used");
        }
    }
}

/// What inotify tells, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signal {
    /// Something may be different anywhere.
    Anything,
    /// This file is there, and may be in the middle of being written.
    Touched(PathBuf),
    /// This file is as it will stay, or gone.
    Finished(PathBuf),
}

/// The directory, and what is known of it.
struct Source {
    directory: PathBuf,
    watcher: RecommendedWatcher,
    /// What is watched: the directory or, while it is missing, the nearest one above it.
    watched: Option<(PathBuf, Identity)>,
    /// By name.
    files: BTreeMap<String, Seen>,
    /// What could not be read when all was last compared; before the first time all that cannot be
    /// read is as it will stay.
    unfinished: Option<BTreeMap<OsString, Stamp>>,
    /// Why the directory cannot be read.
    fault: Option<Fault>,
}

/// Why a directory cannot be read.
enum Fault {
    /// It is not there: it may come later, or never.
    Missing,
    Unreadable(String),
}

/// Device and inode: a path may come to mean another directory.
type Identity = (u64, u64);

/// Device, inode, size and time of a file. The time comes first: files are ordered by it.
type Stamp = (i64, i64, u64, u64, u64);

struct Seen {
    stamp: Stamp,
    content: Content,
}

enum Content {
    /// Nothing has been written yet.
    Empty,
    Record(Record),
    /// It is of no pod's interface.
    Other,
    Unreadable(Problem),
}

impl Source {
    fn new(directory: PathBuf, signals: mpsc::UnboundedSender<Signal>) -> Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let told = event.map_or_else(|_| vec![Signal::Anything], signals_of);
            for signal in told {
                // Nobody listens any more: the watch is about to end.
                signals.send(signal).ok();
            }
        })
        .context("watch the directory of the CNI's records")?;
        Ok(Self {
            directory,
            watcher,
            watched: None,
            files: BTreeMap::new(),
            unfinished: None,
            fault: None,
        })
    }

    fn note(&mut self, signal: &Signal) {
        match signal {
            Signal::Touched(path) | Signal::Finished(path)
                if path.parent() == Some(self.directory.as_path()) =>
            {
                let is_finished = matches!(signal, Signal::Finished(_));
                if let Some(name) = path.file_name() {
                    self.look(name, is_finished);
                }
            }
            // The directory itself, or one above it.
            Signal::Touched(_) | Signal::Finished(_) => {
                if self.directory_differs() {
                    self.compare();
                }
            }
            Signal::Anything => self.compare(),
        }
    }

    /// Reads whatever is different from what is known.
    fn compare(&mut self) {
        self.watch();
        let found = match list(&self.directory) {
            Ok(found) => found,
            Err(error) => {
                self.files.clear();
                self.unfinished = Some(BTreeMap::new());
                self.fault = Some(match error.kind() {
                    ErrorKind::NotFound => Fault::Missing,
                    _ => Fault::Unreadable(error.to_string()),
                });
                return;
            }
        };
        self.fault = None;
        let gone = |name: &String| !found.contains_key(OsStr::new(name));
        self.files.retain(|name, _| !gone(name));
        let before = self.unfinished.take();
        let mut unfinished = BTreeMap::new();
        for (name, stamp) in found {
            let known = name.to_str().and_then(|name| self.files.get(name));
            if known.is_some_and(|known| known.stamp == stamp) {
                continue;
            }
            let is_finished = before
                .as_ref()
                .is_none_or(|before| before.get(&name) == Some(&stamp));
            if !self.look(&name, is_finished) {
                unfinished.insert(name, stamp);
            }
        }
        self.unfinished = Some(unfinished);
    }

    /// Reads a file. What was known of it stays until it can be read, or is finished and cannot:
    /// else this is `false`.
    fn look(&mut self, name: &OsStr, is_finished: bool) -> bool {
        let path = self.directory.join(name);
        let name = name.to_string_lossy().into_owned();
        match read(&path) {
            None => {
                self.files.remove(&name);
            }
            Some((stamp, Ok(content))) => {
                self.files.insert(name, Seen { stamp, content });
            }
            Some((stamp, Err(problem))) if is_finished => {
                let problem = problem.in_file(&path.display().to_string());
                let content = Content::Unreadable(problem);
                self.files.insert(name, Seen { stamp, content });
            }
            Some((_, Err(_))) => return false,
        }
        true
    }

    fn tell(&self, row: &Row) {
        match &self.fault {
            None => row.read(self.records().len()),
            Some(Fault::Missing) => row.absent(),
            Some(Fault::Unreadable(fault)) => row.failed(fault.clone()),
        }
    }

    fn records(&self) -> Vec<Record> {
        let mut records: Vec<(Stamp, &Record)> = self
            .files
            .values()
            .filter_map(|seen| match &seen.content {
                Content::Record(record) => Some((seen.stamp, record)),
                Content::Empty | Content::Other | Content::Unreadable(_) => None,
            })
            .collect();
        records.sort_by_key(|(stamp, _)| *stamp);
        records.into_iter().map(|(_, it)| it.clone()).collect()
    }

    fn report(&self) -> Report {
        let fault = match &self.fault {
            Some(Fault::Unreadable(fault)) => Some(
                Problem::new(format!("cannot be read: {fault}"))
                    .in_file(&self.directory.display().to_string()),
            ),
            Some(Fault::Missing) | None => None,
        };
        let unreadable = self.files.values().filter_map(|seen| match &seen.content {
            Content::Unreadable(problem) => Some(problem.clone()),
            Content::Empty | Content::Record(_) | Content::Other => None,
        });
        Report {
            problems: fault.into_iter().chain(unreadable).collect(),
            ..Report::default()
        }
    }

    fn directory_differs(&self) -> bool {
        let watched = self.watched.as_ref();
        watched.map(|(path, identity)| (path.as_path(), *identity)) != nearest(&self.directory)
    }

    /// Watches the directory or what there is on the way to it.
    fn watch(&mut self) {
        // What is made between a look and its watch is found by another look.
        while self.directory_differs() {
            if let Some((path, _)) = self.watched.take() {
                // Fails when the directory has gone and the watch with it, as it should.
                self.watcher.unwatch(&path).ok();
            }
            let Some((path, identity)) = nearest(&self.directory) else {
                return;
            };
            if let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) {
                tracing::warn!(
                    directory = %path.display(),
                    %error,
                    "cannot be watched; new records of the CNI are found by comparing times"
                );
                return;
            }
            self.watched = Some((path.to_path_buf(), identity));
        }
    }
}

/// The directory itself or the nearest above it that exists.
fn nearest(directory: &Path) -> Option<(&Path, Identity)> {
    directory.ancestors().find_map(|path| {
        let status = fs::metadata(path).ok()?;
        Some((path, (status.dev(), status.ino())))
    })
}

fn list(directory: &Path) -> io::Result<BTreeMap<OsString, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Ok(status) = fs::metadata(entry.path())
            && status.is_file()
        {
            found.insert(entry.file_name(), stamp(&status));
        }
    }
    Ok(found)
}

fn stamp(status: &fs::Metadata) -> Stamp {
    let time = (status.mtime(), status.mtime_nsec());
    (time.0, time.1, status.len(), status.dev(), status.ino())
}

/// What a file holds or why that cannot be read; `None` for what is no file, or not any more.
fn read(path: &Path) -> Option<(Stamp, Result<Content, Problem>)> {
    let status = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let stamp = stamp(&status);
    if status.len() > MAX_FILE_BYTES {
        let problem = format!("is larger than {} MiB", MAX_FILE_BYTES >> 20);
        return Some((stamp, Err(Problem::new(problem))));
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => return Some((stamp, Err(Problem::new(error.to_string())))),
    };
    if text.is_empty() {
        return Some((stamp, Ok(Content::Empty)));
    }
    let content = parse(&text)
        .map(|record| record.map_or(Content::Other, Content::Record))
        .map_err(|invalid| Problem::invalid(None, invalid));
    Some((stamp, content))
}

fn signals_of(event: notify::Event) -> Vec<Signal> {
    if event.need_rescan() {
        return vec![Signal::Anything];
    }
    let signal: fn(PathBuf) -> Signal = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_)) => Signal::Finished,
        EventKind::Create(_) | EventKind::Modify(_) => Signal::Touched,
        // Our own reading is an access too.
        EventKind::Access(_) => return Vec::new(),
        EventKind::Any | EventKind::Other => return vec![Signal::Anything],
    };
    event.paths.into_iter().map(signal).collect()
}

#[cfg(test)]
mod tests;
