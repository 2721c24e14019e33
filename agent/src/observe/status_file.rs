//! The status in its file, for those who come when no agent answers.
//!
//! It is written beside the agent's loop, which may change it hundreds of times a second, and not
//! more often than someone could read it: what is news at once, or `GAP` after the last time;
//! that everything goes on, with what has been counted meanwhile, `SELDOM` after it. Ending this
//! writes what is so then. Whoever asks the agent itself always hears what is so now.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tracing::warn;

use super::account::Told;

/// From one writing to the next.
const GAP: Duration = Duration::from_millis(500);
/// From one writing to the next, where there is no news but that everything goes on. Whoever reads
/// the file wants to know what was wrong with an agent that does not answer, and since when.
const SELDOM: Duration = Duration::from_secs(15);

/// What the file does not say yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unwritten {
    /// Nothing.
    #[default]
    Nothing,
    /// That everything goes on: how often, how much, and since when there was nothing else.
    Progress,
    /// News.
    News,
}

impl Unwritten {
    /// How long after the last writing this is written.
    const fn gap(self) -> Duration {
        match self {
            Self::News => GAP,
            Self::Progress | Self::Nothing => SELDOM,
        }
    }
}

/// Who writes. Dropping it waits for the last writing.
#[derive(Debug)]
pub struct StatusFile {
    work: Arc<Work>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Work {
    todo: Mutex<Todo>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Todo {
    unwritten: Unwritten,
    is_ending: bool,
    /// What whoever writes is not to be woken for: he looks himself when his rest is over.
    ignored: Unwritten,
}

impl StatusFile {
    /// Writes what is told into this run directory, whenever it is said to have changed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn keep(run_dir: PathBuf, told: Told) -> Result<Self> {
        let work = Arc::new(Work::default());
        let write = {
            let work = Arc::clone(&work);
            move || keep(&work, &told, &run_dir)
        };
        let thread = thread::Builder::new()
            .name("status".to_owned())
            .spawn(write)
            .context("start the thread that writes the status")?;
        Ok(Self {
            work,
            thread: Some(thread),
        })
    }

    /// What is told has changed, as much as this.
    pub fn changed(&self, how: Unwritten) {
        let mut todo = self.work.lock();
        // One who was told need not be told again.
        let is_more = how > todo.unwritten;
        todo.unwritten = todo.unwritten.max(how);
        if is_more && how > todo.ignored {
            self.work.changed.notify_one();
        }
    }
}

impl Drop for StatusFile {
    fn drop(&mut self) {
        self.work.lock().is_ending = true;
        self.work.changed.notify_one();
        // It panicked and said so: there is nobody to wait for.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Work {
    /// Whoever panicked with it left it whole: it is changed by single assignments.
    fn lock(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to write; says whether it is the last time.
    fn next(&self) -> bool {
        let idle = |todo: &mut Todo| todo.unwritten == Unwritten::Nothing && !todo.is_ending;
        let mut todo = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        todo.unwritten = Unwritten::Nothing;
        todo.is_ending
    }

    /// Waits after a writing, but not in the way of the end: first whatever happens, and then for
    /// as long as there are no news.
    fn rest(&self) {
        let mut todo = self.lock();
        let mut passed = Duration::ZERO;
        for ignored in [Unwritten::News, Unwritten::Progress] {
            todo.ignored = ignored;
            let gap = ignored.gap() - passed;
            passed = ignored.gap();
            let rests = |todo: &mut Todo| !todo.is_ending && todo.unwritten <= ignored;
            let waited = self.changed.wait_timeout_while(todo, gap, rests);
            (todo, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        todo.ignored = Unwritten::Nothing;
    }
}

fn keep(work: &Work, told: &Told, run_dir: &std::path::Path) {
    let mut has_failed = false;
    loop {
        let is_last = work.next();
        if let Some(status) = told.now() {
            match status.write(run_dir) {
                Ok(()) => has_failed = false,
                // Said once, not at each change: the tables matter more than what is said of them.
                Err(error) if !has_failed => {
                    has_failed = true;
                    warn!("without an agent `weir status` will show old news: {error:#}");
                }
                Err(_) => {}
            }
        }
        if is_last {
            return;
        }
        work.rest();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::observe::status::Status;

    fn status(generation: u64) -> Status {
        serde_json::from_value(serde_json::json!({
            "node": "n", "version": "1", "pid": 1, "started": "2026-01-01T00:00:00Z",
            "ready": true, "generation": generation, "lastSync": null, "error": null,
            "servicePorts": 0, "tables": [], "interfaces": [], "programs": [],
            "unknownKinds": [], "skipped": [], "problems": [],
        }))
        .unwrap()
    }

    fn written(run_dir: &std::path::Path) -> Option<u64> {
        Status::read(run_dir)
            .unwrap()
            .map(|status| status.generation)
    }

    #[test]
    fn what_changed_last_is_in_the_file_though_nothing_follows() {
        let directory = tempfile::tempdir().unwrap();
        let told = Told::default();
        let file = StatusFile::keep(directory.path().to_owned(), told.clone()).unwrap();
        for generation in 0..1_000 {
            told.tell(status(generation));
            file.changed(Unwritten::News);
        }
        let start = Instant::now();
        while written(directory.path()) != Some(999) {
            assert!(start.elapsed() < Duration::from_secs(60), "it never came");
            thread::sleep(Duration::from_millis(5));
        }
        drop(file);
    }

    #[test]
    fn news_do_not_wait_for_as_long_as_progress() {
        let directory = tempfile::tempdir().unwrap();
        let told = Told::default();
        let file = StatusFile::keep(directory.path().to_owned(), told.clone()).unwrap();
        told.tell(status(1));
        file.changed(Unwritten::Progress);
        let start = Instant::now();
        let wait_for = |generation| {
            while written(directory.path()) != Some(generation) {
                assert!(start.elapsed() < Duration::from_secs(60), "{generation}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        // The first in a long time.
        wait_for(1);
        told.tell(status(2));
        file.changed(Unwritten::Progress);
        told.tell(status(3));
        file.changed(Unwritten::News);
        file.changed(Unwritten::Progress);
        wait_for(3);
        drop(file);
    }

    #[test]
    fn the_end_writes_what_is_so_then() {
        let directory = tempfile::tempdir().unwrap();
        let told = Told::default();
        let file = StatusFile::keep(directory.path().to_owned(), told.clone()).unwrap();
        told.tell(status(1));
        file.changed(Unwritten::News);
        told.tell(status(2));
        drop(file);
        assert_eq!(written(directory.path()), Some(2));
    }

    #[test]
    fn a_directory_that_is_gone_ends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let told = Told::default();
        let file = StatusFile::keep(path.clone(), told.clone()).unwrap();
        told.tell(status(1));
        file.changed(Unwritten::News);
        std::fs::create_dir(&path).unwrap();
        drop(file);
        assert_eq!(written(&path), Some(1));
    }
}
