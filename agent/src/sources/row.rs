//! How a source is that lists no kinds of the API's: one row of the status.
//!
//! Whoever watches the source says what came of each look; whoever shows it is told when that is
//! different, and not of each look.

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    model::SourceId,
    observe::status::{Source, SourceState},
};

/// What one source tells of itself.
#[derive(Clone, Debug)]
pub struct Row(watch::Sender<Source>);

impl Row {
    /// A source that has told nothing yet, and what it has.
    #[must_use]
    pub fn new(source: SourceId, kind: &str) -> Self {
        Self(watch::Sender::new(Source::new(source, kind.to_owned())))
    }

    /// It was read: so many things are there.
    pub fn read(&self, objects: usize) {
        self.set(SourceState::Synced, Some(objects), None);
    }

    /// There is no such source on this node, which is no fault.
    pub fn absent(&self) {
        self.set(SourceState::Absent, Some(0), None);
    }

    /// It cannot be read; what was known stays in force, and it is tried again.
    pub fn failed(&self, error: String) {
        self.set(SourceState::Failing, None, Some(error));
    }

    /// What it has told, as of now and whenever that is different.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<Source> {
        self.0.subscribe()
    }

    fn set(&self, state: SourceState, objects: Option<usize>, error: Option<String>) {
        self.0.send_if_modified(|row| {
            let objects = objects.unwrap_or(row.objects);
            let is_news = row.state != state || row.objects != objects || row.error != error;
            let now = Timestamp::now();
            if row.state != state {
                row.since = now;
            }
            if state == SourceState::Synced {
                row.last_news = Some(now);
            }
            (row.state, row.objects, row.error) = (state, objects, error);
            is_news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_finds_the_same_is_news_of_the_source_and_nothing_to_show() {
        let row = Row::new(SourceId::CNI, "Record");
        let mut told = row.told();
        assert_eq!(told.borrow_and_update().state, SourceState::Listing);
        row.read(3);
        assert!(told.has_changed().unwrap());
        let first = told.borrow_and_update().clone();
        assert_eq!((first.state, first.objects), (SourceState::Synced, 3));
        row.read(3);
        assert!(!told.has_changed().unwrap());
        let again = told.borrow().clone();
        assert!(again.last_news >= first.last_news && again.since == first.since);
    }

    #[test]
    fn a_fault_leaves_what_was_known_and_when() {
        let row = Row::new(SourceId::CNI, "Record");
        row.read(3);
        let before = row.told().borrow().clone();
        row.failed("Permission denied".to_owned());
        let after = row.told().borrow().clone();
        assert_eq!((after.state, after.objects), (SourceState::Failing, 3));
        assert_eq!(after.error.as_deref(), Some("Permission denied"));
        assert_eq!(after.last_news, before.last_news);
        row.absent();
        let gone = row.told().borrow().clone();
        assert_eq!((gone.state, gone.objects), (SourceState::Absent, 0));
        assert_eq!(gone.error, None);
    }
}
