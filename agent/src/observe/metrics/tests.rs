use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    tables::{Frontend, FrontendFlags, FrontendKey, Service, ServiceFlags, name},
    verdict::{COUNTERS, DropReason, Hook, LOST_EVENTS, RejectReason, Verdict, counter},
};

use super::*;
use crate::{maps::Contents, model::Family, observe::changes::Counts};

/// The samples of a text, by name and labels; comments are left out.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name, value.parse().unwrap())
        })
        .collect()
}

/// The bounds of a histogram's buckets.
fn buckets(text: &str, histogram: &str) -> Vec<String> {
    let prefix = format!("{histogram}_bucket{{ip_family=\"IPv4\",le=\"");
    text.lines()
        .filter_map(|line| Some(line.strip_prefix(&prefix)?.split('"').next()?.to_owned()))
        .collect()
}

#[test]
fn names_labels_buckets_and_help_are_kube_proxys() {
    let metrics = Metrics::new();
    let now: Timestamp = "2026-11-21T07:00:00.5Z".parse().unwrap();
    let of = |services, endpoints| Counts {
        services,
        endpoints,
    };
    let kube_proxy = &metrics.kube_proxy;
    kube_proxy.changed(of(2, 3), of(2, 3));
    kube_proxy.changed(of(1, 1), of(2, 4));
    kube_proxy.queued(now);
    kube_proxy.ended(Extent::Full, Duration::from_millis(3));
    kube_proxy.ended(Extent::Partial, Duration::from_micros(900));
    kube_proxy.answered_healthz("200");
    kube_proxy.answered_healthz("503");
    kube_proxy.answered_livez("200");
    let text = metrics.text().unwrap();
    let before = samples(&text);
    assert_eq!(
        before["kubeproxy_sync_proxy_rules_service_changes_pending"],
        2.0
    );
    assert_eq!(
        before["kubeproxy_sync_proxy_rules_endpoint_changes_pending"],
        4.0
    );

    kube_proxy.synchronised(now, &[(Family::V4, Duration::from_millis(700))]);
    kube_proxy.set_no_local_endpoints(&Contents::default(), &Dropping::default());
    let text = metrics.text().unwrap();
    let found = samples(&text);
    for (sample, value) in [
        ("kubeproxy_sync_proxy_rules_service_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 3.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 4.0),
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}",
            2.0,
        ),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
            1.0,
        ),
        (
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.001\"}",
            1.0,
        ),
        (
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"1\"}",
            1.0,
        ),
        (
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.5\"}",
            0.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
            1_795_244_400.5,
        ),
        (
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv6\"}",
            1_795_244_400.5,
        ),
        (
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"}",
            0.0,
        ),
        ("kubeproxy_proxy_healthz_total{code=\"200\"}", 1.0),
        ("kubeproxy_proxy_healthz_total{code=\"503\"}", 1.0),
        ("kubeproxy_proxy_livez_total{code=\"200\"}", 1.0),
    ] {
        assert_eq!(found.get(sample), Some(&value), "{sample}\n{text}");
    }
    for line in [
        "# HELP kubeproxy_sync_proxy_rules_duration_seconds [ALPHA] SyncProxyRules latency in seconds",
        "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
        "# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(
        buckets(&text, "kubeproxy_sync_proxy_rules_duration_seconds").join(" "),
        "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 8.192 16.384 +Inf"
    );
    let programming = buckets(&text, "kubeproxy_network_programming_duration_seconds");
    assert_eq!(programming.len(), 1 + 2 + 59 + 12 + 7 + 1);
    assert_eq!(programming[..5], ["0", "0.25", "0.5", "1", "2"]);
    assert_eq!(programming[61..64], ["59", "60", "65"]);
    assert_eq!(programming[73..76], ["115", "120", "150"]);
}

#[test]
fn the_process_and_its_version_are_told() {
    let text = Metrics::new().text().unwrap();
    let found = samples(&text);
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(found.contains_key(name), "{name}\n{text}");
    }
    assert!(found["process_resident_memory_bytes"] > 0.0);
    let version = format!(
        "weir_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(found[version.as_str()], 1.0);
}

#[test]
fn packets_are_counted_by_what_became_of_them() {
    let metrics = Metrics::new();
    let mut counters = vec![0; COUNTERS as usize];
    let mut count = |hook, verdict, packets| counters[counter(hook, verdict) as usize] = packets;
    count(Hook::FromPod, Verdict::Pass, 7);
    count(Hook::FromPod, Verdict::Drop(DropReason::Malformed), 2);
    count(Hook::FromPod, Verdict::Drop(DropReason::NoSourcePort), 3);
    count(Hook::Socket, Verdict::Reject(RejectReason::NoBackend), 4);
    counters[LOST_EVENTS as usize] = 9;
    let readings = Readings {
        counters,
        entries: BTreeMap::from([(name::FLOWS, 12)]),
    };
    metrics.read_datapath_by(Box::new(move || Ok(readings.clone())));
    // Twice, since they are read and not added.
    for _ in 0..2 {
        let text = metrics.text().unwrap();
        let found = samples(&text);
        for (sample, value) in [
            (
                "weir_packets_total{hook=\"from_pod\",verdict=\"pass\"}",
                7.0,
            ),
            (
                "weir_packets_total{hook=\"from_pod\",verdict=\"drop\"}",
                5.0,
            ),
            (
                "weir_packets_total{hook=\"socket\",verdict=\"reject\"}",
                4.0,
            ),
            (
                "weir_packets_total{hook=\"socket\",verdict=\"translate\"}",
                0.0,
            ),
            (
                "weir_drops_total{hook=\"from_pod\",reason=\"no_source_port\"}",
                3.0,
            ),
            (
                "weir_rejects_total{hook=\"socket\",reason=\"no_backend\"}",
                4.0,
            ),
            ("weir_table_entries{table=\"FLOWS\"}", 12.0),
            ("weir_lost_events_total", 9.0),
        ] {
            assert_eq!(found.get(sample), Some(&value), "{sample}\n{text}");
        }
    }
}

#[test]
fn counters_that_cannot_be_read_are_left_out() {
    let metrics = Metrics::new();
    metrics.read_datapath_by(Box::new(|| anyhow::bail!("no such table")));
    let text = metrics.text().unwrap();
    assert!(!text.contains("weir_packets_total{"), "{text}");
    assert!(text.contains("process_open_fds"), "{text}");
}

#[test]
fn service_ports_without_local_endpoints_are_counted_by_policy_and_family() {
    let drops = Service {
        flags: ServiceFlags::DROPS_WITHOUT_BACKEND,
        ..Service::default()
    };
    let served = Service {
        backend_count: 1,
        ..Service::default()
    };
    let key = |addr: &str, port| {
        let addr: std::net::IpAddr = addr.parse().unwrap();
        FrontendKey::new(Addr::from(addr), Port::new(port), Protocol::TCP)
    };
    let to = |service, from_outside| Frontend {
        from_outside,
        ..Frontend::to(service, FrontendFlags::NONE)
    };
    let contents = Contents {
        services: BTreeMap::from([(1, served), (2, drops), (3, drops), (4, drops)]),
        frontends: BTreeMap::from([
            // Served for everyone.
            (key("10.32.0.1", 80), to(1, 1)),
            // Internal policy Local, at two cluster IPs of one family.
            (key("10.32.0.2", 80), to(2, 2)),
            (key("10.32.0.3", 80), to(2, 2)),
            // External policy Local: node port and load balancer IP of one service port.
            (
                FrontendKey::node_port(true, Port::new(30_080), Protocol::TCP),
                to(1, 3),
            ),
            (key("203.0.113.5", 80), to(1, 3)),
            // The other family.
            (key("fd00:10:32::2", 80), to(4, 4)),
            (key("2001:db8::5", 80), to(1, 4)),
        ]),
        ..Contents::default()
    };
    let count = |internal, external| NoLocalEndpoints { internal, external };
    let counts = NoLocalEndpoints::of(&contents, &Dropping::of(&contents));
    assert_eq!(counts[&Family::V4], count(1, 1));
    assert_eq!(counts[&Family::V6], count(1, 1));
    let dropping = Dropping::of(&contents);
    assert!(!dropping.is_different(&contents, &BTreeSet::from([1, 2, 3, 4, 5])));
    assert!(dropping.is_different(&Contents::default(), &BTreeSet::from([1, 2])));
    assert!(Dropping::default().is_different(&contents, &BTreeSet::from([2])));
    let counts = NoLocalEndpoints::of(&Contents::default(), &Dropping::default());
    assert_eq!(counts[&Family::V4], count(0, 0));
}
