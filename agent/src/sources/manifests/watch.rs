//! The watched directory.
//!
//! The kernel tells of changes (inotify); they are read once the directory has been quiet for a
//! moment and no file in it is still open for writing, so that a file that is emptied and then
//! written is seen whole. Names and times are also compared every now and then, which finds
//! what inotify cannot tell of: a directory that is removed and made again, the target of a
//! symbolic link, a network file system.
//!
//! What the files say is [`Files`]' business.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::files::{Files, Scan};
use crate::model::{Change, Event, Report, SourceId};

/// No change for this long: what is there can be read.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never cease are read after this long all the same.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often names and times are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
/// A larger file is not a manifest.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Sends what the directory holds, and from then on what changes, until nobody listens.
///
/// # Errors
/// When the directory cannot be read at first. Once it has been, faults are reported as problems
/// and what was last read stays in force.
pub async fn run(directory: PathBuf, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let (signals, mut told) = mpsc::unbounded_channel();
    let mut source = Source::new(directory, signals)?;
    let mut changes;
    (source, changes) = source.refresh_apart().await?;
    if let Some(fault) = &source.fault {
        return Err(anyhow!("{fault}; create it or name another directory"));
    }

    let mut compare = tokio::time::interval(COMPARE_EVERY);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if !changes.is_empty() {
            let event = Event {
                source: SourceId::MANIFESTS,
                changes,
            };
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        let mut burst = Burst::default();
        loop {
            let due = burst.due();
            tokio::select! {
                signal = told.recv() => {
                    let signal = signal.context("the watch of the directory has ended")?;
                    burst.note(signal, Instant::now());
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    break;
                }
                _ = compare.tick(), if due.is_none() => {
                    if source.looks_different() {
                        burst.note(Signal::Changed, Instant::now());
                    }
                }
                () = events.closed() => return Ok(()),
            }
        }
        (source, changes) = source.refresh_apart().await?;
    }
}

/// What inotify tells, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signal {
    /// Something is different.
    Changed,
    /// This file is being written.
    Writing(PathBuf),
    /// This file has been written and closed.
    Written(PathBuf),
}

/// Changes close together.
#[derive(Debug, Default)]
struct Burst {
    /// The first and the last of them.
    span: Option<(Instant, Instant)>,
    /// Files written to and not closed since.
    writing: BTreeSet<PathBuf>,
}

impl Burst {
    fn note(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Changed => {}
            Signal::Writing(path) => {
                self.writing.insert(path);
            }
            Signal::Written(path) => {
                self.writing.remove(&path);
            }
        }
        let (first, _) = self.span.unwrap_or((now, now));
        self.span = Some((first, now));
    }

    /// When to read; `None` while there is nothing to read.
    fn due(&self) -> Option<Instant> {
        let (first, last) = self.span?;
        let at_last = first + PATIENCE;
        if self.writing.is_empty() {
            Some(at_last.min(last + QUIET))
        } else {
            Some(at_last)
        }
    }
}

/// The directory, and what is known of it.
struct Source {
    directory: PathBuf,
    files: Files,
    watcher: RecommendedWatcher,
    /// The directory that is watched, by device and inode: a path may come to mean another.
    watched: Option<(u64, u64)>,
    /// What names and times were before the last reading.
    seen: Option<Fingerprint>,
    /// Why the directory could not be read the last time.
    fault: Option<String>,
}

impl Source {
    fn new(directory: PathBuf, signals: mpsc::UnboundedSender<Signal>) -> anyhow::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let signal = match event {
                Ok(event) => signal(event),
                // Whatever was lost is found by reading everything.
                Err(_) => Some(Signal::Changed),
            };
            if let Some(signal) = signal {
                // Nobody listens any more: the watch is about to end.
                signals.send(signal).ok();
            }
        })
        .context("watch the directory of manifests")?;
        Ok(Self {
            directory,
            files: Files::default(),
            watcher,
            watched: None,
            seen: None,
            fault: None,
        })
    }

    /// [`Source::refresh`] where it may block.
    async fn refresh_apart(mut self) -> anyhow::Result<(Self, Vec<Change>)> {
        tokio::task::spawn_blocking(move || {
            let changes = self.refresh();
            (self, changes)
        })
        .await
        .context("read the directory of manifests")
    }

    /// Reads everything and says what that changes. Watches first, so that nothing is missed.
    fn refresh(&mut self) -> Vec<Change> {
        self.watch();
        self.seen = fingerprint(&self.directory).ok();
        let scan = scan(&self.directory);
        self.fault = scan.as_ref().err().cloned();
        let before = self.files.report().clone();
        let changes = self.files.update(scan);
        log(&before, self.files.report());
        changes
    }

    fn watch(&mut self) {
        let identity = identity(&self.directory).ok();
        if identity == self.watched {
            return;
        }
        if self.watched.take().is_some() {
            // Fails when the directory has gone and the watch with it, as it should.
            self.watcher.unwatch(&self.directory).ok();
        }
        if identity.is_none() {
            return;
        }
        match self
            .watcher
            .watch(&self.directory, RecursiveMode::NonRecursive)
        {
            Ok(()) => self.watched = identity,
            Err(error) => tracing::warn!(
                directory = %self.directory.display(),
                %error,
                "cannot watch the directory of manifests; changes are found by comparing times"
            ),
        }
    }

    fn looks_different(&self) -> bool {
        fingerprint(&self.directory).ok() != self.seen
            || identity(&self.directory).ok() != self.watched
    }
}

fn log(before: &Report, after: &Report) {
    for problem in &after.problems {
        if !before.problems.contains(problem) {
            tracing::warn!(%problem, "manifest cannot be used");
        }
    }
    for kind in after.unknown_kinds.difference(&before.unknown_kinds) {
        tracing::info!(%kind, "manifests of this kind are not read");
    }
}

fn signal(event: notify::Event) -> Option<Signal> {
    let path = match event.paths.as_slice() {
        [path] => Some(path),
        _ => None,
    };
    if let Some(name) = path.and_then(|path| path.file_name())
        && is_hidden(name)
        && !name.as_encoded_bytes().starts_with(b"..")
    {
        // An editor's scratch file. Names that begin with two dots are those behind the links of
        // a mounted ConfigMap.
        return None;
    }
    match (event.kind, path) {
        (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(path)) => {
            Some(Signal::Written(path.clone()))
        }
        // Our own reading is an access too.
        (EventKind::Access(_), _) => None,
        (EventKind::Modify(ModifyKind::Data(_)), Some(path)) => Some(Signal::Writing(path.clone())),
        (
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other,
            _,
        ) => Some(Signal::Changed),
    }
}

/// Device, inode, size and time of each manifest's file, links followed.
type Fingerprint = BTreeMap<PathBuf, Option<(u64, u64, u64, i64, i64)>>;

fn fingerprint(directory: &Path) -> io::Result<Fingerprint> {
    let mut found = Fingerprint::new();
    for path in manifests(directory)? {
        let stat = fs::metadata(&path).ok().map(|stat| {
            let time = (stat.mtime(), stat.mtime_nsec());
            (stat.dev(), stat.ino(), stat.len(), time.0, time.1)
        });
        found.insert(path, stat);
    }
    Ok(found)
}

fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(directory).map(|stat| (stat.dev(), stat.ino()))
}

/// Reads every manifest of the directory once. What cannot be read is said in the result.
pub fn scan(directory: &Path) -> Scan {
    let paths = manifests(directory)
        .map_err(|error| format!("directory {}: {error}", directory.display()))?;
    let mut scan = BTreeMap::new();
    for path in paths {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if let Some(content) = read(&path) {
            scan.insert(name, content);
        }
    }
    Ok(scan)
}

/// The paths that have a manifest's name.
fn manifests(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(is_manifest) {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn is_manifest(name: &OsStr) -> bool {
    !is_hidden(name)
        && Path::new(name).extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        })
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// The text of a file or why it cannot be read; `None` for what is no file, or not any more.
fn read(path: &Path) -> Option<Result<String, String>> {
    let text = |stat: fs::Metadata| {
        if stat.len() > MAX_FILE_BYTES {
            return Err(format!("is larger than {} MiB", MAX_FILE_BYTES >> 20));
        }
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("is not UTF-8 text (byte {at})")
        })
    };
    match fs::metadata(path) {
        Ok(stat) if stat.is_file() => Some(text(stat)),
        Ok(_) => None,
        Err(error)
            if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() =>
        {
            None
        }
        Err(error) => Some(Err(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
