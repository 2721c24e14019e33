//! Is the proxy healthy, and may the node have traffic from load balancers? Pure: the time is an
//! argument.
//!
//! As in kube-proxy (`pkg/proxy/healthcheck/proxy_health.go`), with one difference: an update is
//! late after [`LATE`] also before the first one was ever written. One thread of work serves both
//! address families here, so that both always have the same health.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::model::{Family, Node};

/// Twice kube-proxy's synchronisation period: an update that waits for longer is late.
pub const LATE: Duration = Duration::from_secs(60);

/// By which the cluster autoscaler marks a node that it is about to remove.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// The present, by the clock that never steps and by the one that people read.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Lateness is measured by this.
    pub instant: Instant,
    /// Shown.
    pub time: Timestamp,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            time: Timestamp::now(),
        }
    }
}

/// What is known of the proxy's health.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Since when an update has been waiting.
    waiting_since: Option<Instant>,
    last_updated: Option<Timestamp>,
    node: OwnNode,
}

/// What the cluster says of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OwnNode {
    /// Nothing so far; where objects come from files it may never be more.
    #[default]
    NeverSeen,
    /// It is there to stay.
    Eligible,
    /// It is about to go, or gone.
    Leaving,
}

/// An answer to a health check: whether all is well, and what there is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Status 200 instead of 503.
    pub is_well: bool,
    /// JSON.
    pub body: String,
}

impl Health {
    /// Something has to be written to the kernel.
    pub fn queued(&mut self, now: Now) {
        self.waiting_since.get_or_insert(now.instant);
    }

    /// All of it was written.
    pub const fn updated(&mut self, now: Now) {
        self.waiting_since = None;
        self.last_updated = Some(now.time);
    }

    /// This node as the cluster has it now. One that was there and is not any more is gone.
    pub fn see_node(&mut self, node: Option<&Node>) {
        self.node = match node {
            Some(node) if node.is_being_deleted || node.taints.contains(TO_BE_DELETED_TAINT) => {
                OwnNode::Leaving
            }
            Some(_) => OwnNode::Eligible,
            None if self.node == OwnNode::NeverSeen => OwnNode::NeverSeen,
            None => OwnNode::Leaving,
        };
    }

    /// Is the proxy healthy, whatever becomes of the node?
    #[must_use]
    pub fn is_healthy(&self, now: Now) -> bool {
        self.waiting_since
            .is_none_or(|since| now.instant.saturating_duration_since(since) < LATE)
    }

    /// Should load balancers use this node?
    #[must_use]
    pub fn is_node_eligible(&self) -> bool {
        self.node != OwnNode::Leaving
    }

    /// `/healthz`: for load balancers, so a node that is about to go is not well.
    #[must_use]
    pub fn healthz(&self, now: Now) -> Checked {
        let is_eligible = self.is_node_eligible();
        self.checked(self.is_healthy(now) && is_eligible, Some(is_eligible), now)
    }

    /// `/livez`: for whoever restarts the proxy, which the node's fate is no reason for.
    #[must_use]
    pub fn livez(&self, now: Now) -> Checked {
        self.checked(self.is_healthy(now), None, now)
    }

    fn checked(&self, is_well: bool, node_eligible: Option<bool>, now: Now) -> Checked {
        let healthy = self.is_healthy(now);
        let status = self.last_updated.map(|last_updated| FamilyBody {
            last_updated,
            healthy,
        });
        let body = Body {
            // While all is well this means "now", though nothing had to be written for long: so
            // said kube-proxies of old, and clouds rely on it.
            last_updated: if is_well {
                now.time
            } else {
                self.last_updated.unwrap_or_else(never)
            },
            current_time: now.time,
            node_eligible,
            healthy,
            status: [Family::V4, Family::V6]
                .into_iter()
                .filter_map(|family| Some((family.to_string(), status?)))
                .collect(),
        };
        Checked {
            is_well,
            body: serde_json::to_string(&body).expect("names, numbers and times become JSON"),
        }
    }
}

/// Go's zero time, which programs that read kube-proxy's answer know.
fn never() -> Timestamp {
    Timestamp::from_second(-62_135_596_800).expect("the first second of year 1 is a time")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyBody>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: Timestamp,
    healthy: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that moves when it is told to.
    struct Clock {
        start: Now,
    }

    impl Clock {
        fn new() -> Self {
            Self {
                start: Now {
                    instant: Instant::now(),
                    time: "2026-11-21T07:00:00Z".parse().unwrap(),
                },
            }
        }

        fn at(&self, seconds: u64) -> Now {
            let since = Duration::from_secs(seconds);
            Now {
                instant: self.start.instant + since,
                time: self.start.time + since,
            }
        }
    }

    fn node(taints: &[&str], is_being_deleted: bool) -> Node {
        Node {
            name: "worker-0".to_owned(),
            taints: taints.iter().map(|&key| key.to_owned()).collect(),
            is_being_deleted,
            ..Node::default()
        }
    }

    #[test]
    fn one_that_starts_is_healthy() {
        let clock = Clock::new();
        let health = Health::default();
        let expected =
            "{\"lastUpdated\":\"2026-11-21T08:00:00Z\",\"currentTime\":\"2026-11-21T08:00:00Z\"";
        let checked = health.healthz(clock.at(3600));
        assert_eq!(
            (checked.is_well, checked.body),
            (
                true,
                format!("{expected},\"nodeEligible\":true,\"healthy\":true}}")
            )
        );
        let checked = health.livez(clock.at(3600));
        assert_eq!(
            (checked.is_well, checked.body),
            (true, format!("{expected},\"healthy\":true}}"))
        );
    }

    #[test]
    fn an_update_may_wait_for_a_minute() {
        let clock = Clock::new();
        let mut health = Health::default();
        health.queued(clock.at(0));
        health.updated(clock.at(1));
        assert!(health.is_healthy(clock.at(10_000)));
        health.queued(clock.at(10_000));
        // The oldest counts.
        health.queued(clock.at(10_059));
        assert!(health.is_healthy(clock.at(10_059)));
        let checked = health.livez(clock.at(10_060));
        assert!(!checked.is_well);
        assert_eq!(
            checked.body,
            "{\"lastUpdated\":\"2026-11-21T07:00:01Z\",\"currentTime\":\"2026-11-21T09:47:40Z\",\
             \"healthy\":false,\"status\":{\
             \"IPv4\":{\"lastUpdated\":\"2026-11-21T07:00:01Z\",\"healthy\":false},\
             \"IPv6\":{\"lastUpdated\":\"2026-11-21T07:00:01Z\",\"healthy\":false}}}"
        );
        assert!(!health.healthz(clock.at(10_060)).is_well);
        health.updated(clock.at(10_070));
        let checked = health.healthz(clock.at(10_080));
        assert!(checked.is_well);
        assert_eq!(
            checked.body,
            "{\"lastUpdated\":\"2026-11-21T09:48:00Z\",\"currentTime\":\"2026-11-21T09:48:00Z\",\
             \"nodeEligible\":true,\"healthy\":true,\"status\":{\
             \"IPv4\":{\"lastUpdated\":\"2026-11-21T09:47:50Z\",\"healthy\":true},\
             \"IPv6\":{\"lastUpdated\":\"2026-11-21T09:47:50Z\",\"healthy\":true}}}"
        );
    }

    #[test]
    fn the_first_update_may_be_late_too() {
        let clock = Clock::new();
        let mut health = Health::default();
        health.queued(clock.at(0));
        assert!(health.healthz(clock.at(59)).is_well);
        let checked = health.healthz(clock.at(60));
        assert!(!checked.is_well);
        assert_eq!(
            checked.body,
            "{\"lastUpdated\":\"0001-01-01T00:00:00Z\",\"currentTime\":\"2026-11-21T07:01:00Z\",\
             \"nodeEligible\":true,\"healthy\":false}"
        );
    }

    #[test]
    fn a_clock_that_steps_makes_nothing_late() {
        let clock = Clock::new();
        let mut health = Health::default();
        health.queued(clock.at(0));
        let next_year = Now {
            time: "2027-11-21T07:00:00Z".parse().unwrap(),
            ..clock.at(1)
        };
        assert!(health.is_healthy(next_year));
    }

    #[test]
    fn a_node_that_is_about_to_go_gets_no_more_traffic() {
        let now = Clock::new().at(0);
        let mut health = Health::default();
        health.see_node(None);
        assert!(health.healthz(now).is_well, "where nodes are unknown");
        for (seen, is_eligible) in [
            (Some(node(&[], false)), true),
            (Some(node(&[TO_BE_DELETED_TAINT], false)), false),
            (Some(node(&["node.kubernetes.io/not-ready"], false)), true),
            (Some(node(&[], true)), false),
            (Some(node(&[], false)), true),
            (None, false),
            (None, false),
            (Some(node(&[], false)), true),
        ] {
            health.see_node(seen.as_ref());
            let checked = health.healthz(now);
            assert_eq!(checked.is_well, is_eligible, "{seen:?}");
            assert!(
                checked
                    .body
                    .contains(&format!("\"nodeEligible\":{is_eligible},\"healthy\":true")),
                "{}",
                checked.body
            );
            assert!(health.livez(now).is_well, "{seen:?}");
        }
    }
}
