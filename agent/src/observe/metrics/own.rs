//! What only Weir has to tell of the agent's work.

use std::collections::BTreeMap;

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

use super::{add, gauge};

/// Weir's own metrics of the agent.
#[derive(Debug)]
pub struct Own {
    sync_failures: IntCounter,
    table_writes: IntCounter,
    table_entries: IntGaugeVec,
    table_capacity: IntGaugeVec,
    interfaces: IntGaugeVec,
    pods: IntGaugeVec,
    skipped: IntGauge,
    fast_path: IntGauge,
    problems: IntGauge,
}

impl Own {
    pub(super) fn new(registry: &Registry) -> Self {
        let build_info = add(
            registry,
            IntGaugeVec::new(
                Opts::new("weir_build_info", "Always 1; the label tells the version"),
                &["version"],
            ),
        );
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let by_table = |name, help| {
            let options = Opts::new(name, help);
            add(registry, IntGaugeVec::new(options, &["table"]))
        };
        Self {
            sync_failures: add(
                registry,
                IntCounter::new(
                    "weir_sync_failures_total",
                    "Synchronisations that failed; what was programmed stayed in force",
                ),
            ),
            table_writes: add(
                registry,
                IntCounter::new(
                    "weir_table_writes_total",
                    "Entries of tables that the agent wrote or removed",
                ),
            ),
            table_entries: by_table("weir_table_entries", "Entries that a table holds"),
            table_capacity: by_table("weir_table_capacity", "Entries that a table holds at most"),
            interfaces: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "weir_attached_interfaces",
                        "Network interfaces that carry programs, by where they lead",
                    ),
                    &["role"],
                ),
            ),
            pods: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "weir_pod_interfaces",
                        "Pods' interfaces, by what is known of the pod: unknown (nobody knows \
                         whose it is), isolated (its labels are not known yet), programmed",
                    ),
                    &["state"],
                ),
            ),
            fast_path: add(
                registry,
                IntGauge::new(
                    "weir_fast_path_enabled",
                    "Do packets of this node's pods go past its IP layer? weir status tells why not",
                ),
            ),
            skipped: add(
                registry,
                IntGauge::new(
                    "weir_skipped_entries",
                    "What was left out of the tables; weir status names it",
                ),
            ),
            problems: add(
                registry,
                IntGauge::new(
                    "weir_source_problems",
                    "What the sources of objects cannot use; weir status names it",
                ),
            ),
        }
    }

    /// A synchronisation has failed.
    pub fn failed(&self) {
        self.sync_failures.inc();
    }

    /// One has succeeded, with so many writes.
    pub fn synchronised(&self, writes: usize, skipped: usize) {
        self.table_writes.inc_by(writes as u64);
        self.skipped.set(gauge(skipped));
    }

    /// Are packets handed over to pods?
    pub fn set_fast_path(&self, is_on: bool) {
        self.fast_path.set(i64::from(is_on));
    }

    /// How many interfaces of a role carry programs.
    pub fn set_interfaces(&self, role: &str, interfaces: usize) {
        self.interfaces
            .with_label_values(&[role])
            .set(gauge(interfaces));
    }

    /// At how many pods' interfaces so much is known of the pod.
    pub fn set_pods(&self, state: &str, interfaces: usize) {
        self.pods.with_label_values(&[state]).set(gauge(interfaces));
    }

    /// How many entries a table has.
    pub fn set_entries(&self, table: &str, entries: usize) {
        self.table_entries
            .with_label_values(&[table])
            .set(gauge(entries));
    }

    /// How many entries each table holds at most.
    pub fn set_capacities(&self, capacities: &BTreeMap<&'static str, u32>) {
        for (table, capacity) in capacities {
            self.table_capacity
                .with_label_values(&[*table])
                .set(i64::from(*capacity));
        }
    }

    /// How much of the sources cannot be used.
    pub fn set_problems(&self, problems: usize) {
        self.problems.set(gauge(problems));
    }
}
