//! How fresh the objects are that the API server told of, kind by kind.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{add, gauge};
use crate::model::Kind;

/// Metrics of the API server as a source.
#[derive(Clone, Debug)]
pub struct Sources {
    objects: IntGaugeVec,
    connected: IntGaugeVec,
    errors: IntCounterVec,
    relists: IntCounterVec,
}

impl Sources {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name, help| {
            let options = Opts::new(name, help);
            add(registry, IntGaugeVec::new(options, &["kind"]))
        };
        let counter = |name, help, labels: &[&str]| {
            let options = Opts::new(name, help);
            add(registry, IntCounterVec::new(options, labels))
        };
        Self {
            objects: gauge("weir_source_objects", "Objects that the API server has"),
            connected: gauge(
                "weir_source_connected",
                "Whether the API server tells of changes now: 1 or 0",
            ),
            errors: counter(
                "weir_source_errors_total",
                "Lists and watches that failed; what was known stayed in force",
                &["kind", "reason"],
            ),
            relists: counter(
                "weir_source_relists_total",
                "Lists after the first, because a watch could not go on from where it was",
                &["kind"],
            ),
        }
    }

    /// How many objects of a kind there are.
    pub fn set_objects(&self, kind: Kind, objects: usize) {
        self.objects
            .with_label_values(&[kind.name()])
            .set(gauge(objects));
    }

    /// Whether a kind's changes are told.
    pub fn set_connected(&self, kind: Kind, is_connected: bool) {
        self.connected
            .with_label_values(&[kind.name()])
            .set(is_connected.into());
    }

    /// A list or watch has failed.
    pub fn failed(&self, kind: Kind, reason: &str) {
        self.errors.with_label_values(&[kind.name(), reason]).inc();
    }

    /// A kind was listed once more.
    pub fn listed_again(&self, kind: Kind) {
        self.relists.with_label_values(&[kind.name()]).inc();
    }
}
