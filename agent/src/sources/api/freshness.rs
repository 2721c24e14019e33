//! How fresh is what the API server told, kind by kind.
//!
//! Followers say what happens to them; the agent's loop shows it in the status, and metrics count
//! it. What changes with each object is not announced, only how a kind *is*: whoever shows it
//! asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    model::{Kind, SourceId},
    observe::{
        metrics::Sources,
        status::{Source, SourceState},
    },
};

/// Shared by all who follow the API server, and by those who show it.
#[derive(Clone, Debug)]
pub struct Freshness {
    kinds: Arc<Mutex<BTreeMap<Kind, Source>>>,
    metrics: Sources,
    changed: watch::Sender<()>,
}

impl Freshness {
    /// Nothing is known of any kind.
    #[must_use]
    pub fn new(metrics: Sources) -> Self {
        Self {
            kinds: Arc::default(),
            metrics,
            changed: watch::Sender::new(()),
        }
    }

    /// Every kind that is asked for, as it is now.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.lock().values().cloned().collect()
    }

    /// How a kind is, if it is asked for.
    #[must_use]
    pub fn state(&self, kind: Kind) -> Option<SourceState> {
        Some(self.lock().get(&kind)?.state)
    }

    /// Tells whenever a kind's state or error is different.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// A kind is asked for.
    pub fn listing(&self, kind: Kind) {
        self.set(kind, SourceState::Listing, None);
    }

    /// A complete list has come.
    pub fn listed(&self, kind: Kind, objects: usize, version: &str) {
        self.heard(kind, objects, Some(version));
    }

    /// A complete list comes again, because the watch could not go on from where it was.
    pub fn listed_again(&self, kind: Kind) {
        self.metrics.listed_again(kind);
    }

    /// Its changes are told; what is odd about that, if anything is.
    pub fn synced(&self, kind: Kind, oddity: Option<String>) {
        self.set(kind, SourceState::Synced, oddity);
    }

    /// Something was told, if only that nothing has changed.
    pub fn heard(&self, kind: Kind, objects: usize, version: Option<&str>) {
        let mut kinds = self.lock();
        let source = kinds.entry(kind).or_insert_with(|| fresh(kind));
        source.objects = objects;
        source.last_news = Some(Timestamp::now());
        if let Some(version) = version {
            source.resource_version = Some(version.to_owned());
        }
        self.metrics.set_objects(kind, objects);
    }

    /// It was interrupted, which is no fault of anybody's.
    pub fn interrupted(&self, kind: Kind, reason: &str) {
        self.metrics.failed(kind, reason);
    }

    /// It could not be read: why, in a word and in a sentence. That a kind is not served is no
    /// error.
    pub fn failed(&self, kind: Kind, state: SourceState, reason: &str, error: String) {
        if state != SourceState::Absent {
            self.metrics.failed(kind, reason);
        }
        self.set(kind, state, Some(error));
    }

    fn set(&self, kind: Kind, state: SourceState, error: Option<String>) {
        let mut kinds = self.lock();
        let is_first = !kinds.contains_key(&kind);
        let source = kinds.entry(kind).or_insert_with(|| fresh(kind));
        let is_news = is_first || source.state != state || source.error != error;
        if source.state != state {
            source.state = state;
            source.since = Timestamp::now();
        }
        source.error = error;
        self.metrics
            .set_connected(kind, state == SourceState::Synced);
        drop(kinds);
        if is_news {
            self.changed.send_replace(());
        }
    }

    /// Whoever panicked with it left each kind whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Source>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh(kind: Kind) -> Source {
    Source::new(SourceId::API, kind.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    #[test]
    fn a_state_is_told_of_when_it_changes_and_lasts_since_then() {
        let metrics = Metrics::new();
        let freshness = Freshness::new(metrics.sources.clone());
        let mut changes = freshness.changes();
        freshness.listing(Kind::Pod);
        assert!(changes.has_changed().unwrap());
        freshness.listed(Kind::Pod, 3, "17");
        freshness.synced(Kind::Pod, None);
        changes.mark_unchanged();
        freshness.heard(Kind::Pod, 4, Some("18"));
        freshness.synced(Kind::Pod, None);
        assert!(
            !changes.has_changed().unwrap(),
            "an object is no change of state"
        );

        let before = freshness.sources().remove(0);
        assert_eq!((before.objects, before.state), (4, SourceState::Synced));
        assert_eq!(before.resource_version.as_deref(), Some("18"));
        let gone = "gone".to_owned();
        freshness.failed(Kind::Pod, SourceState::Failing, "unreachable", gone);
        assert!(changes.has_changed().unwrap());
        let after = freshness.sources().remove(0);
        assert_eq!(after.objects, 4, "what was known stays");
        assert_eq!(after.error.as_deref(), Some("gone"));
        assert!(after.since >= before.since);

        let text = metrics.text().unwrap();
        for line in [
            "weir_source_connected{kind=\"Pod\"} 0",
            "weir_source_objects{kind=\"Pod\"} 4",
            "weir_source_errors_total{kind=\"Pod\",reason=\"unreachable\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}:\n{text}");
        }
    }
}
