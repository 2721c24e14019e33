//! What the programs count, and how full the tables are that they fill.
//!
//! Read from the kernel when somebody asks, at no cost to a packet or to the agent's loop. The
//! counters are pinned with the tables: they go on when an agent is replaced.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tracing::warn;
use weir_ebpf::verdict::{Hook, LOST_EVENTS, Verdict, counter};

use super::{Own, add};

/// What is read from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// The table of counters.
    pub counters: Vec<u64>,
    /// Entries of the tables that programs fill, by name.
    pub entries: BTreeMap<&'static str, usize>,
}

/// Reads it. May block.
pub type Read = Box<dyn Fn() -> Result<Readings> + Send + Sync>;

/// Metrics of the programs.
pub(super) struct Datapath {
    read: Read,
    packets: IntCounterVec,
    rejects: IntCounterVec,
    drops: IntCounterVec,
    lost_events: IntCounter,
    /// The last reading failed, and that was said.
    has_failed: AtomicBool,
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath").finish_non_exhaustive()
    }
}

impl Datapath {
    pub(super) fn new(registry: &Registry, read: Read) -> Self {
        let counter = |name, help, labels: &[&str]| {
            add(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        Self {
            read,
            packets: counter(
                "weir_packets_total",
                "Packets, or at the hook socket calls, by what became of them",
                &["hook", "verdict"],
            ),
            rejects: counter(
                "weir_rejects_total",
                "Packets or calls that were refused with an answer, by reason",
                &["hook", "reason"],
            ),
            drops: counter(
                "weir_drops_total",
                "Packets or calls that were dropped in silence, by reason",
                &["hook", "reason"],
            ),
            lost_events: add(
                registry,
                IntCounter::new(
                    "weir_lost_events_total",
                    "Packets that nobody was told of, because the ring buffer of events was full",
                ),
            ),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Reads the kernel. Callers take turns. Where it cannot be read there are no counters: old
    /// ones would show that nothing happens.
    pub(super) fn refresh(&self, own: &Own) {
        for vector in [&self.packets, &self.rejects, &self.drops] {
            vector.reset();
        }
        self.lost_events.reset();
        match (self.read)() {
            Ok(readings) => {
                self.has_failed.store(false, Ordering::Relaxed);
                self.count(&readings.counters);
                for (table, entries) in readings.entries {
                    own.set_entries(table, entries);
                }
            }
            Err(error) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    warn!("the metrics lack what the programs count: {error:#}");
                }
            }
        }
    }

    fn count(&self, counters: &[u64]) {
        let count_of = |index| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            counters.get(index).copied().unwrap_or(0)
        };
        self.lost_events.inc_by(count_of(LOST_EVENTS));
        for hook in Hook::ALL {
            for verdict in Verdict::ALL {
                let count = count_of(counter(hook, verdict));
                self.packets
                    .with_label_values(&[hook.name(), verdict.name()])
                    .inc_by(count);
                let (vector, reason) = match verdict {
                    Verdict::Pass | Verdict::Translate | Verdict::PassFragment => continue,
                    Verdict::Reject(reason) => (&self.rejects, reason.name()),
                    Verdict::Drop(reason) => (&self.drops, reason.name()),
                };
                vector
                    .with_label_values(&[hook.name(), reason])
                    .inc_by(count);
            }
        }
    }
}
