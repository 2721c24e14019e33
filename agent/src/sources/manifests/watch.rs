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
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::burst::{Burst, Signal, signal};
use super::directory::{Stamp, identity, is_manifest, is_not_there, name, read, stamp, stamps};
use super::files::Files;
use crate::model::{Event, Report, SourceId};

/// How often names and times are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
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
    if let Some(fault) = source.files.directory_fault() {
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
        self.files.forget();
        self.tell();
    }

    /// Reads these, which have just become what they are meant to be, and says what that changes,
    /// unless something is gone from them, or of those that are unsettled one is: that may still
    /// come with another.
    fn read_whole(&mut self, whole: &BTreeSet<PathBuf>, unsettled: &BTreeSet<PathBuf>) {
        if !whole.iter().all(|path| is_manifest(path)) {
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
            Err(fault) => {
                self.files.cannot_be_listed(fault);
                self.seen = None;
                return;
            }
        };
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
        if before != *self.files.report() {
            log(&before, self.files.report());
        }
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
        stamps(&self.directory).ok() != self.seen || identity(&self.directory).ok() != self.watched
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

#[cfg(test)]
mod tests;
