//! What the programs tell of packets, put into names and handed to everybody who watches.
//!
//! Promises: no packet waits for a reader, no reader for a slower one, and the agent's loop for
//! none of them. What is lost is counted and told: by the programs, where the ring buffer was full
//! (`weir_lost_events_total`), and for each watcher, where it read too slowly.
//!
//! Without a watcher an event costs a copy: names are found when somebody wants to know them. New
//! connections are told by the programs only while somebody watches those.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, warn};
use weir_ebpf::{event::Event, tables::Nanos, tables::PolicyFlags};

use crate::{
    attach::EventReader,
    explain::{FlowRecord, Snapshot, record},
    news,
};

/// Records that a watcher may be behind.
const BEHIND: usize = 4_096;
/// Events that are kept for those who ask what has just happened.
const KEPT: usize = 1_024;
/// How often the programs' own losses are read, while somebody watches.
const LOSSES: Duration = Duration::from_secs(1);

/// Asks the agent's loop for the present.
pub type Ask = oneshot::Sender<Arc<Snapshot>>;

/// Counts the events for which the ring buffer had no room. May block.
pub type ReadLost = Arc<dyn Fn() -> Result<u64> + Send + Sync>;

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// Of a packet.
    Packet(Arc<FlowRecord>),
    /// That so many were lost.
    Lost(u64),
}

/// Where watchers come to, and where the agent's loop says that something has changed.
#[derive(Clone, Debug)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    records: broadcast::Sender<Told>,
    watchers: Mutex<Watchers>,
    wanted: watch::Sender<PolicyFlags>,
    is_watched: watch::Sender<bool>,
    /// The last events that were refused or dropped.
    kept: Mutex<VecDeque<Event>>,
    /// Raised with each change of what numbers and addresses stand for.
    generation: AtomicU64,
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug, Default)]
struct Watchers {
    all: usize,
    of_opened: usize,
}

/// Somebody who watches. Dropping it ends that.
#[derive(Debug)]
pub struct Watcher {
    events: Events,
    records: broadcast::Receiver<Told>,
    wants_opened: bool,
}

impl Events {
    /// With nobody who watches yet. The other end gets the questions about the present.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, questions) = mpsc::channel(16);
        let shared = Shared {
            records: broadcast::channel(BEHIND).0,
            watchers: Mutex::default(),
            wanted: watch::channel(PolicyFlags::EVENTS_DENIED).0,
            is_watched: watch::channel(false).0,
            kept: Mutex::default(),
            generation: AtomicU64::new(0),
            asks,
        };
        (Self(Arc::new(shared)), questions)
    }

    /// What the programs are to tell.
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<PolicyFlags> {
        self.0.wanted.subscribe()
    }

    /// What numbers and addresses stand for may have changed.
    pub fn changed(&self) {
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// The present, as the agent's loop sees it. `None`: the agent ends.
    pub async fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let (sender, answer) = oneshot::channel();
        self.0.asks.send(sender).await.ok()?;
        answer.await.ok()
    }

    /// Watches what comes, and gets the last so many that were kept.
    pub async fn watch(&self, wants_opened: bool, last: usize) -> (Watcher, Vec<FlowRecord>) {
        let watcher = self.subscribe(wants_opened);
        let kept: Vec<Event> = {
            let kept = lock(&self.0.kept);
            let skipped = kept.len().saturating_sub(last);
            kept.iter().skip(skipped).copied().collect()
        };
        let now = if kept.is_empty() {
            None
        } else {
            self.snapshot().await
        };
        let records = now.map_or_else(Vec::new, |now| {
            let clock = Clock::read();
            kept.iter()
                .filter_map(|event| record(event, clock.at(event.time), &now, None))
                .collect()
        });
        (watcher, records)
    }

    fn subscribe(&self, wants_opened: bool) -> Watcher {
        let records = self.0.records.subscribe();
        let mut watchers = lock(&self.0.watchers);
        watchers.all += 1;
        watchers.of_opened += usize::from(wants_opened);
        self.want(&watchers);
        drop(watchers);
        Watcher {
            events: self.clone(),
            records,
            wants_opened,
        }
    }

    fn want(&self, watchers: &Watchers) {
        let flags = if watchers.of_opened > 0 {
            PolicyFlags::EVENTS_DENIED.with(PolicyFlags::EVENTS_OPENED)
        } else {
            PolicyFlags::EVENTS_DENIED
        };
        news::tell(&self.0.wanted, flags);
        news::tell(&self.0.is_watched, watchers.all > 0);
    }

    fn is_watched(&self) -> bool {
        *self.0.is_watched.borrow()
    }

    /// Reads events for as long as the runtime lives.
    ///
    /// # Errors
    /// The ring buffer cannot be read any more.
    pub async fn run(self, mut reader: EventReader, read_lost: ReadLost) -> Result<()> {
        let mut namer = Namer::default();
        let mut losses = interval(LOSSES);
        losses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lost = None;
        let mut events = Vec::new();
        let mut watched = self.0.is_watched.subscribe();
        loop {
            let is_watched = *watched.borrow_and_update();
            tokio::select! {
                read = reader.read(&mut events) => read?,
                _ = losses.tick(), if is_watched => {
                    lost = self.tell_lost(lost, &read_lost).await;
                    continue;
                }
                // What was lost while nobody watched is nobody's loss.
                Ok(()) = watched.changed() => {
                    lost = None;
                    losses.reset_immediately();
                    continue;
                }
            }
            if self.is_watched() {
                namer.tell(&self, &events).await;
            }
            self.keep(&events);
            events.clear();
        }
    }

    /// Tells of what the programs have lost since this was asked last.
    async fn tell_lost(&self, before: Option<u64>, read_lost: &ReadLost) -> Option<u64> {
        let read_lost = Arc::clone(read_lost);
        let read = tokio::task::spawn_blocking(move || read_lost()).await;
        match read.map_err(anyhow::Error::from).and_then(|read| read) {
            Ok(now) => {
                let lost = now.saturating_sub(before.unwrap_or(now));
                if lost > 0 {
                    self.send(Told::Lost(lost));
                }
                Some(now)
            }
            Err(error) => {
                warn!("it is not known whether events were lost: {error:#}");
                before
            }
        }
    }

    fn keep(&self, events: &[Event]) {
        let mut kept = lock(&self.0.kept);
        for event in events {
            // New connections are for those who watch.
            if is_forwarded(event) {
                continue;
            }
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(*event);
        }
    }

    fn send(&self, told: Told) {
        // Nobody watches any more: then nobody misses it.
        let _ = self.0.records.send(told);
    }
}

fn is_forwarded(event: &Event) -> bool {
    use weir_ebpf::verdict::Verdict;
    let verdict = Verdict::ALL.get(usize::from(event.verdict));
    matches!(
        verdict,
        Some(Verdict::Pass | Verdict::Translate | Verdict::PassFragment)
    )
}

impl Watcher {
    /// What comes next. `None`: the agent ends.
    pub async fn next(&mut self) -> Option<Told> {
        match self.records.recv().await {
            Ok(told) => Some(told),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Told::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watchers = lock(&self.events.0.watchers);
        watchers.all -= 1;
        watchers.of_opened -= usize::from(self.wants_opened);
        self.events.want(&watchers);
    }
}

/// Finds names, and keeps what it needs for that as long as it is true.
#[derive(Default)]
struct Namer {
    now: Option<(u64, Arc<Snapshot>)>,
    /// The state before: an event may be older than its names.
    before: Option<Arc<Snapshot>>,
}

impl Namer {
    async fn tell(&mut self, events: &Events, told: &[Event]) {
        let generation = events.0.generation.load(Ordering::Acquire);
        if self
            .now
            .as_ref()
            .is_none_or(|(known, _)| *known != generation)
        {
            let Some(snapshot) = events.snapshot().await else {
                return;
            };
            let before = self.now.replace((generation, snapshot));
            self.before = before.map(|(_, snapshot)| snapshot);
        }
        let Some((_, now)) = &self.now else { return };
        let clock = Clock::read();
        for event in told {
            match record(event, clock.at(event.time), now, self.before.as_deref()) {
                Some(record) => events.send(Told::Packet(Arc::new(record))),
                None => debug!(?event, "an event that means nothing"),
            }
        }
    }
}

/// What the clock on the wall shows when the monotonic one shows something.
struct Clock {
    now: Timestamp,
    monotonic: Nanos,
}

impl Clock {
    fn read() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        let nanos = monotonic.unwrap_or_default().as_nanos();
        Self {
            now: Timestamp::now(),
            monotonic: Nanos::try_from(nanos).unwrap_or(Nanos::MAX),
        }
    }

    /// By RFC 3339, to the microsecond.
    fn at(&self, monotonic: Nanos) -> String {
        let ago = self.monotonic.saturating_sub(monotonic);
        let ago = SignedDuration::from_nanos(i64::try_from(ago).unwrap_or(i64::MAX));
        let time = self.now.checked_sub(ago).unwrap_or(self.now);
        format!("{time:.6}")
    }
}

/// Whoever panicked with one of these left it whole: they are changed by single assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn new_connections_are_told_only_while_somebody_watches_them() {
        let (events, _questions) = Events::new();
        let wanted = events.wanted();
        let opened = |wanted: &watch::Receiver<PolicyFlags>| {
            wanted.borrow().contains(PolicyFlags::EVENTS_OPENED)
        };
        let (denied, _) = events.watch(false, 0).await;
        assert!(!opened(&wanted));
        let (all, _) = events.watch(true, 0).await;
        assert!(opened(&wanted));
        drop(all);
        assert!(!opened(&wanted) && events.is_watched());
        drop(denied);
        assert!(!events.is_watched());
        assert!(wanted.borrow().contains(PolicyFlags::EVENTS_DENIED));
    }

    #[tokio::test]
    async fn a_watcher_that_is_too_slow_is_told_how_much_it_missed() {
        let (events, _questions) = Events::new();
        let (mut watcher, _) = events.watch(false, 0).await;
        for number in 0..u64::try_from(BEHIND).unwrap() + 3 {
            events.send(Told::Lost(number));
        }
        assert!(matches!(watcher.next().await, Some(Told::Lost(3))));
    }
}
