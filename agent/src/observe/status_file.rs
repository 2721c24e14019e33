//! The status in its file, for those who come when no agent answers.
//!
//! It is written beside the agent's loop, which may change it hundreds of times a second, and not
//! more often than someone could read it: at once when it has been the same for a while, else
//! `GAP` after the last time. Ending this writes what is so then. Whoever asks the agent itself
//! always hears what is so now.

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
    is_stale: bool,
    is_ending: bool,
    is_resting: bool,
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

    /// What is told has changed.
    pub fn changed(&self) {
        let mut todo = self.work.lock();
        // One who rests looks when the rest is over, and one who was told need not be told again.
        let is_news = !std::mem::replace(&mut todo.is_stale, true);
        if is_news && !todo.is_resting {
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
        let idle = |todo: &mut Todo| !todo.is_stale && !todo.is_ending;
        let mut todo = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        todo.is_stale = false;
        todo.is_ending
    }

    /// Waits for the gap, but not in the way of the end.
    fn rest(&self) {
        let mut todo = self.lock();
        todo.is_resting = true;
        let waited = self
            .changed
            .wait_timeout_while(todo, GAP, |todo| !todo.is_ending);
        let (mut todo, _) = waited.unwrap_or_else(PoisonError::into_inner);
        todo.is_resting = false;
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
            file.changed();
        }
        let start = Instant::now();
        while written(directory.path()) != Some(999) {
            assert!(start.elapsed() < Duration::from_secs(60), "it never came");
            thread::sleep(Duration::from_millis(5));
        }
        drop(file);
    }

    #[test]
    fn the_end_writes_what_is_so_then() {
        let directory = tempfile::tempdir().unwrap();
        let told = Told::default();
        let file = StatusFile::keep(directory.path().to_owned(), told.clone()).unwrap();
        told.tell(status(1));
        file.changed();
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
        file.changed();
        std::fs::create_dir(&path).unwrap();
        drop(file);
        assert_eq!(written(&path), Some(1));
    }
}
