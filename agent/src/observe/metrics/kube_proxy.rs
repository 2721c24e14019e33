//! kube-proxy's metrics (`pkg/proxy/metrics/metrics.go`, Kubernetes 1.36).
//!
//! One pass of work brings both address families up to date: it is observed for each of them, so
//! that panels that choose one family show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, exponential_buckets, linear_buckets,
};
use weir_ebpf::tables::{Service, ServiceFlags};

use super::add;
use crate::{maps::Contents, model::Family, observe::changes::Counts};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// kube-proxy's metrics.
#[derive(Debug)]
pub struct KubeProxy {
    sync_duration: HistogramVec,
    sync_full_duration: HistogramVec,
    sync_partial_duration: HistogramVec,
    network_programming_duration: HistogramVec,
    last_timestamp: GaugeVec,
    last_queued_timestamp: GaugeVec,
    endpoint_changes_pending: IntGauge,
    endpoint_changes: IntCounter,
    service_changes_pending: IntGauge,
    service_changes: IntCounter,
    no_local_endpoints: IntGaugeVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
}

/// What a synchronisation compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The tables as the kernel has them.
    Full,
    /// The tables as they were last written.
    Partial,
}

/// Service ports of a traffic policy Local that have endpoints, but none on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoLocalEndpoints {
    /// At their cluster IPs.
    pub internal: i64,
    /// At their other addresses.
    pub external: i64,
}

/// The numbers that drop what comes, because the traffic policy is Local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropping(BTreeSet<u32>);

impl KubeProxy {
    pub(super) fn new(registry: &Registry) -> Self {
        let histogram = |name, help, buckets: &[f64]| {
            let options = HistogramOpts::new(name, alpha(help)).buckets(buckets.to_vec());
            add(registry, HistogramVec::new(options, &["ip_family"]))
        };
        let gauge = |name, help| {
            let options = Opts::new(name, alpha(help));
            add(registry, GaugeVec::new(options, &["ip_family"]))
        };
        let counter = |name, help| add(registry, IntCounter::new(name, alpha(help)));
        let pending = |name, help| add(registry, IntGauge::new(name, alpha(help)));
        let by_code = |name, help| {
            let options = Opts::new(name, alpha(help));
            add(registry, IntCounterVec::new(options, &["code"]))
        };
        let sync_buckets =
            exponential_buckets(0.001, 2.0, 15).expect("a positive start and a factor above one");
        Self {
            sync_duration: histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds",
                &sync_buckets,
            ),
            sync_full_duration: histogram(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                &sync_buckets,
            ),
            sync_partial_duration: histogram(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                &sync_buckets,
            ),
            network_programming_duration: histogram(
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                &network_programming_buckets(),
            ),
            last_timestamp: gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            ),
            last_queued_timestamp: gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            ),
            endpoint_changes_pending: pending(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Pending proxy rules Endpoint changes",
            ),
            endpoint_changes: counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Cumulative proxy rules Endpoint changes",
            ),
            service_changes_pending: pending(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Pending proxy rules Service changes",
            ),
            service_changes: counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Cumulative proxy rules Service changes",
            ),
            no_local_endpoints: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                        alpha("Number of services with a Local traffic policy and no endpoints"),
                    ),
                    &["ip_family", "traffic_policy"],
                ),
            ),
            healthz: by_code(
                "kubeproxy_proxy_healthz_total",
                "Cumulative proxy healthz HTTP status",
            ),
            livez: by_code(
                "kubeproxy_proxy_livez_total",
                "Cumulative proxy livez HTTP status",
            ),
        }
    }

    /// Objects have changed.
    pub fn changed(&self, seen: Counts, pending: Counts) {
        self.service_changes.inc_by(seen.services as u64);
        self.endpoint_changes.inc_by(seen.endpoints as u64);
        self.set_pending(pending);
    }

    /// Something has to be written.
    pub fn queued(&self, now: Timestamp) {
        set_time(&self.last_queued_timestamp, now);
    }

    /// A synchronisation has ended, well or not.
    pub fn ended(&self, extent: Extent, took: Duration) {
        let part = match extent {
            Extent::Full => &self.sync_full_duration,
            Extent::Partial => &self.sync_partial_duration,
        };
        for family in FAMILIES {
            for histogram in [&self.sync_duration, part] {
                histogram
                    .with_label_values(&[family.name()])
                    .observe(took.as_secs_f64());
            }
        }
    }

    /// What had changed is in force: each change of endpoints so long after what made it.
    pub fn synchronised(&self, now: Timestamp, latencies: &[(Family, Duration)]) {
        set_time(&self.last_timestamp, now);
        self.set_pending(Counts::default());
        for (family, latency) in latencies {
            self.network_programming_duration
                .with_label_values(&[family.name()])
                .observe(latency.as_secs_f64());
        }
    }

    /// These tables are in force, in which these numbers drop what comes.
    pub fn set_no_local_endpoints(&self, contents: &Contents, dropping: &Dropping) {
        for (family, count) in NoLocalEndpoints::of(contents, dropping) {
            for (policy, count) in [("internal", count.internal), ("external", count.external)] {
                self.no_local_endpoints
                    .with_label_values(&[family.name(), policy])
                    .set(count);
            }
        }
    }

    /// `/healthz` was answered with this status.
    pub fn answered_healthz(&self, code: &str) {
        self.healthz.with_label_values(&[code]).inc();
    }

    /// `/livez` likewise.
    pub fn answered_livez(&self, code: &str) {
        self.livez.with_label_values(&[code]).inc();
    }

    fn set_pending(&self, pending: Counts) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.service_changes_pending.set(number(pending.services));
        self.endpoint_changes_pending.set(number(pending.endpoints));
    }
}

impl Dropping {
    /// Those of these tables.
    #[must_use]
    pub fn of(contents: &Contents) -> Self {
        let dropping = contents.services.iter().filter(|(_, it)| drops(it));
        Self(dropping.map(|(number, _)| *number).collect())
    }

    /// Is one of these numbers in these tables what it was not?
    #[must_use]
    pub fn is_different(&self, contents: &Contents, numbers: &BTreeSet<u32>) -> bool {
        numbers.iter().any(|number| {
            let is_dropping = contents.services.get(number).is_some_and(drops);
            is_dropping != self.0.contains(number)
        })
    }
}

/// Has it no endpoint on this node, though others have?
fn drops(service: &Service) -> bool {
    service.backend_count == 0 && service.flags.contains(ServiceFlags::DROPS_WITHOUT_BACKEND)
}

impl NoLocalEndpoints {
    /// Counts them in the tables. Clients beyond the node are led elsewhere than those on it only
    /// where the external traffic policy is Local.
    #[must_use]
    pub fn of(contents: &Contents, Dropping(dropping): &Dropping) -> BTreeMap<Family, Self> {
        let mut counts = BTreeMap::from(FAMILIES.map(|family| (family, Self::default())));
        if dropping.is_empty() {
            // As most often: there is no need to look through all addresses.
            return counts;
        }
        // A number is of one family, whatever addresses lead to it.
        let mut seen = BTreeSet::new();
        for (key, frontend) in &contents.frontends {
            let number = frontend.from_outside;
            let is_internal = number == frontend.service;
            if !dropping.contains(&number) || !seen.insert((number, is_internal)) {
                continue;
            }
            let family = if key.addr.is_v4() {
                Family::V4
            } else {
                Family::V6
            };
            let count = counts.entry(family).or_default();
            if is_internal {
                count.internal += 1;
            } else {
                count.external += 1;
            }
        }
        counts
    }
}

/// As kube-proxy's: they begin with zero.
fn network_programming_buckets() -> Vec<f64> {
    let linear = |start, width, count| {
        linear_buckets(start, width, count).expect("a positive width and count")
    };
    [
        vec![0.0],
        linear(0.25, 0.25, 2),
        linear(1.0, 1.0, 59),
        linear(60.0, 5.0, 12),
        linear(120.0, 30.0, 7),
    ]
    .concat()
}

/// A help text as kube-proxy prints it, with how stable it calls the metric.
fn alpha(help: &str) -> String {
    format!("[ALPHA] {help}")
}

fn set_time(gauges: &GaugeVec, time: Timestamp) {
    let seconds = time.as_second() as f64 + f64::from(time.subsec_nanosecond()) / 1e9;
    for family in FAMILIES {
        let gauge: Gauge = gauges.with_label_values(&[family.name()]);
        gauge.set(seconds);
    }
}
