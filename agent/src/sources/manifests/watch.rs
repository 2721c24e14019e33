//! The watched directory.
//!
//! The kernel tells of changes (inotify). A file that has been written and closed, or has been
//! renamed to its name, is whole: it is read at once. All else waits until the directory has been
//! quiet for a moment and no file in it is still open for writing: so a file that is emptied and
//! then written is seen whole.
//!
//! What a file says counts at once, unless there is something that it no longer says: that may be
//! on its way to another file, and would be gone between the two. Then this and all that follows
//! counts when the directory is quiet: what was written later never counts before what was removed.
//!
//! Names and times are also compared every now and then, which finds what inotify cannot tell of: a
//! directory that is removed and made again, the target of a symbolic link, a network file system.
//!
//! What the files say is [`Files`]' business.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::files::{Files, Scan};
use crate::model::{Event, Report, SourceId};

/// No change for this long: what is there can be read, and what is not there is gone.
const QUIET: Duration = Duration::from_millis(50);
/// Changes that never cease are read after this long all the same.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often names and times are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
/// A file may change twice within one tick of the clock that gives it its times: of a file this
/// young they do not show it. Network file systems have clocks of whole seconds.
const TICK: Duration = Duration::from_secs(2);
/// A larger file is not a manifest.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The first list is told in parts of so many objects, so that it is not in memory twice.
const PART: usize = 1_000;

/// Sends what the directory holds, and from then on what changes, until nobody listens.
///
/// # Errors
/// When the directory cannot be read at first. Once it has been, faults are reported as problems
/// and what was last read stays in force.
pub async fn run(directory: PathBuf, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let (signals, mut told) = mpsc::unbounded_channel();
    let mut source = Source::new(directory, signals, events.clone())?;
    source = source.apart(Source::refresh).await?;
    if let Some(fault) = &source.fault {
        return Err(anyhow!("{fault}; create it or name another directory"));
    }

    let mut compare = tokio::time::interval(COMPARE_EVERY);
    compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut burst = Burst::default();
    loop {
        let due = burst.due();
        tokio::select! {
            signal = told.recv() => {
                let signal = signal.context("the watch of the directory has ended")?;
                burst.note(signal, Instant::now());
                while let Ok(signal) = told.try_recv() {
                    burst.note(signal, Instant::now());
                }
                let whole = std::mem::take(&mut burst.whole);
                if whole.is_empty() {
                    continue;
                }
                let unsettled = burst.unsettled.keys().cloned().collect();
                source = source.apart(move |it| it.read_whole(&whole, &unsettled)).await?;
                if source.files.has_leaving() {
                    burst.note(Signal::Changed(source.directory.clone()), Instant::now());
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                burst = Burst::default();
                source = source.apart(Source::refresh).await?;
            }
            _ = compare.tick(), if due.is_none() => {
                if source.looks_different() {
                    burst.note(Signal::Changed(source.directory.clone()), Instant::now());
                }
            }
            () = events.closed() => return Ok(()),
        }
    }
}

/// What inotify tells of a path, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signal {
    /// Something is different.
    Changed(PathBuf),
    /// This file is being written.
    Writing(PathBuf),
    /// This is as it is meant to be.
    Whole(PathBuf),
}

/// Changes close together.
#[derive(Debug, Default)]
struct Burst {
    /// What may change further.
    unsettled: BTreeMap<PathBuf, Unsettled>,
    /// What can be read at once.
    whole: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Unsettled {
    first: Instant,
    last: Instant,
    /// It has been written to and not been closed since.
    is_open: bool,
}

impl Burst {
    fn note(&mut self, signal: Signal, now: Instant) {
        let (path, is_written) = match signal {
            Signal::Whole(path) => {
                self.unsettled.remove(&path);
                self.whole.insert(path);
                return;
            }
            Signal::Writing(path) => (path, true),
            Signal::Changed(path) => (path, false),
        };
        if is_written {
            self.whole.remove(&path);
        }
        let unsettled = self.unsettled.entry(path).or_insert(Unsettled {
            first: now,
            last: now,
            is_open: false,
        });
        unsettled.last = now;
        unsettled.is_open |= is_written;
    }

    /// When to read everything; `None` while there is no need to.
    fn due(&self) -> Option<Instant> {
        let unsettled = || self.unsettled.values();
        let at_last = unsettled().map(|it| it.first).min()? + PATIENCE;
        if unsettled().any(|it| it.is_open) {
            return Some(at_last);
        }
        let quiet = unsettled().map(|it| it.last).max()? + QUIET;
        Some(at_last.min(quiet))
    }
}

/// The directory, and what is known of it.
struct Source {
    directory: PathBuf,
    files: Files,
    events: mpsc::Sender<Event>,
    watcher: RecommendedWatcher,
    /// The directory that is watched, by device and inode: a path may come to mean another.
    watched: Option<(u64, u64)>,
    /// What each file was before it was last read; nothing of one that could not be looked at.
    /// `None` where the directory could not be read.
    seen: Option<BTreeMap<PathBuf, Option<Stamp>>>,
    /// Why the directory could not be read the last time.
    fault: Option<String>,
}

impl Source {
    fn new(
        directory: PathBuf,
        signals: mpsc::UnboundedSender<Signal>,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let watched = directory.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let signal = match event {
                Ok(event) => signal(event, &watched),
                // Whatever was lost is found by comparing everything.
                Err(_) => Some(Signal::Changed(watched.clone())),
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
            events,
            watcher,
            watched: None,
            seen: None,
            fault: None,
        })
    }

    /// Does this where it may block.
    async fn apart(
        mut self,
        work: impl FnOnce(&mut Self) + Send + 'static,
    ) -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(move || {
            work(&mut self);
            self
        })
        .await
        .context("read the directory of manifests")
    }

    /// Reads all that is different from when it was last read, and says what that changes. What is
    /// gone from all files is gone. Watches first, so that nothing is missed.
    fn refresh(&mut self) {
        self.watch();
        self.read_different();
        if self.fault.is_none() {
            self.files.forget();
        }
        self.tell();
    }

    /// Reads these, which have just become what they are meant to be, and says what that changes,
    /// unless something is gone from them, or of those that are unsettled one is: that may still
    /// come with another.
    fn read_whole(&mut self, whole: &BTreeSet<PathBuf>, unsettled: &BTreeSet<PathBuf>) {
        let is_manifest = |path: &PathBuf| path.file_name().is_some_and(is_manifest);
        if !whole.iter().all(is_manifest) {
            // A link that others lead through.
            self.read_different();
            return self.tell_unless_leaving();
        }
        let gone = unsettled.iter().filter(|path| is_manifest(path));
        for path in gone.filter(|path| is_not_there(path)) {
            self.files.take(&name(path), None);
            if let Some(seen) = &mut self.seen {
                seen.remove(path);
            }
        }
        for path in whole {
            let stamp = stamp(path);
            self.files.take(&name(path), read(path));
            if let Some(seen) = &mut self.seen {
                seen.insert(path.clone(), stamp);
            }
        }
        self.tell_unless_leaving();
    }

    fn read_different(&mut self) {
        let found = match stamps(&self.directory) {
            Ok(found) => found,
            Err(error) => {
                let fault = format!("directory {}: {error}", self.directory.display());
                self.files.cannot_be_listed(fault.clone());
                self.fault = Some(fault);
                self.seen = None;
                return;
            }
        };
        self.fault = None;
        let seen = self.seen.take().unwrap_or_default();
        for (path, stamp) in &found {
            let before = seen.get(path).and_then(Option::as_ref);
            if before.is_some_and(|before| before.shows_that_nothing_changed(stamp.as_ref())) {
                continue;
            }
            self.files.take(&name(path), read(path));
            if !self.files.is_ready() && self.files.untold() >= PART {
                self.tell();
            }
        }
        self.files
            .listed(&found.keys().map(|path| name(path)).collect());
        self.seen = Some(found);
    }

    fn tell_unless_leaving(&mut self) {
        if !self.files.has_leaving() {
            self.tell();
        }
    }

    /// Says what changes by what has been read.
    fn tell(&mut self) {
        let before = self.files.report().clone();
        let changes = self.files.changes();
        log(&before, self.files.report());
        if !changes.is_empty() {
            let event = Event {
                source: SourceId::MANIFESTS,
                changes,
            };
            // Nobody listens any more: the source is about to end.
            self.events.blocking_send(event).ok();
        }
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
        let is_same = match (stamps(&self.directory), &self.seen) {
            (Ok(now), Some(seen)) => {
                let is_same = |(one, other): (&Option<Stamp>, &Option<Stamp>)| {
                    one.as_ref().map(|it| it.of) == other.as_ref().map(|it| it.of)
                };
                now.keys().eq(seen.keys()) && now.values().zip(seen.values()).all(is_same)
            }
            (now, seen) => now.is_err() && seen.is_none(),
        };
        !is_same || identity(&self.directory).ok() != self.watched
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

fn signal(event: notify::Event, directory: &Path) -> Option<Signal> {
    let path = match event.paths.as_slice() {
        [path] => path.clone(),
        // Each of the two names of what is renamed has been told of already.
        [_, _] => return None,
        // Some events have been lost.
        _ => return Some(Signal::Changed(directory.to_owned())),
    };
    let name = path.file_name().unwrap_or_default();
    // Names that begin with two dots are those behind the links of a mounted ConfigMap.
    let is_behind_links = name.as_encoded_bytes().starts_with(b"..");
    if is_hidden(name) && !is_behind_links {
        // An editor's scratch file.
        return None;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_manifest(name) => {
            Some(Signal::Whole(path))
        }
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Signal::Changed(path)),
        // Our own reading is an access too.
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_)) => Some(Signal::Writing(path)),
        EventKind::Modify(ModifyKind::Name(RenameMode::To))
            if is_manifest(name) || is_behind_links =>
        {
            Some(Signal::Whole(path))
        }
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => Some(Signal::Changed(path)),
    }
}

/// What a file was, links followed.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    /// Device, inode, size, and the times of its content and of its inode.
    of: [i128; 5],
    /// It is that young that a further change may not show.
    is_young: bool,
}

impl Stamp {
    fn shows_that_nothing_changed(&self, since: Option<&Self>) -> bool {
        !self.is_young && since.is_some_and(|since| since.of == self.of)
    }
}

fn stamps(directory: &Path) -> io::Result<BTreeMap<PathBuf, Option<Stamp>>> {
    let paths = manifests(directory)?.into_iter();
    Ok(paths.map(|path| (path.clone(), stamp(&path))).collect())
}

fn stamp(path: &Path) -> Option<Stamp> {
    let stat = fs::metadata(path).ok()?;
    let time = |seconds: i64, nanoseconds: i64| {
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    };
    let changed = time(stat.ctime(), stat.ctime_nsec());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    let age = i128::try_from(now.as_nanos()).ok()? - changed;
    Some(Stamp {
        of: [
            stat.dev().into(),
            stat.ino().into(),
            stat.len().into(),
            time(stat.mtime(), stat.mtime_nsec()),
            changed,
        ],
        is_young: age < i128::try_from(TICK.as_nanos()).ok()?,
    })
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
        if let Some(content) = read(&path) {
            scan.insert(name(&path), content);
        }
    }
    Ok(scan)
}

/// What a file is called.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
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
        Err(error) if error.kind() == ErrorKind::NotFound && is_not_there(path) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Neither a file nor a link, not even one to nothing.
fn is_not_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests;
