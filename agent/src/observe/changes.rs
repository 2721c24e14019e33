//! Changes that have been seen and are not in force yet. Pure: the time is an argument.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use crate::model::{Cluster, Family, Kind, Object, ObjectRef};

/// Changes since the last synchronisation that succeeded.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What happened before says nothing of how fast this agent is.
    started: Timestamp,
    services: BTreeSet<ObjectRef>,
    endpoints: BTreeSet<ObjectRef>,
    triggered: Vec<(Family, Timestamp)>,
}

/// How many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services.
    pub services: usize,
    /// Objects with endpoints.
    pub endpoints: usize,
}

impl Pending {
    /// Nothing, for an agent that starts at this time.
    #[must_use]
    pub const fn new(started: Timestamp) -> Self {
        Self {
            started,
            services: BTreeSet::new(),
            endpoints: BTreeSet::new(),
            triggered: Vec::new(),
        }
    }

    /// These objects have changed, and are now as the cluster has them. Tells how many changes
    /// that were.
    pub fn note(&mut self, objects: &BTreeSet<ObjectRef>, cluster: &Cluster) -> Counts {
        let mut seen = Counts::default();
        for object in objects {
            match object.kind {
                Kind::Service => {
                    seen.services += 1;
                    self.services.insert(object.clone());
                }
                Kind::EndpointSlice | Kind::Endpoints => {
                    seen.endpoints += 1;
                    self.endpoints.insert(object.clone());
                    self.triggered.extend(
                        triggered(object, cluster).filter(|(_, time)| *time > self.started),
                    );
                }
                Kind::Node
                | Kind::ServiceCidr
                | Kind::Namespace
                | Kind::Pod
                | Kind::NetworkPolicy => {}
            }
        }
        seen
    }

    /// How many objects have changed.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            services: self.services.len(),
            endpoints: self.endpoints.len(),
        }
    }

    /// All of it is in force now. Gives how long each change of endpoints took from what made it.
    pub fn synchronised(&mut self, now: Timestamp) -> Vec<(Family, Duration)> {
        self.services.clear();
        self.endpoints.clear();
        self.triggered
            .drain(..)
            .map(|(family, time)| {
                // The writer's clock may be ahead of ours.
                let took = Duration::try_from(now.duration_since(time)).unwrap_or(Duration::ZERO);
                (family, took)
            })
            .collect()
    }
}

/// What made these endpoints change, if they are still there and it is known.
fn triggered(object: &ObjectRef, cluster: &Cluster) -> impl Iterator<Item = (Family, Timestamp)> {
    let triggered = match cluster.get(object) {
        Some(Object::EndpointSlice(slice)) => {
            slice.triggered.map(|time| (slice.group.family, time))
        }
        Some(_) | None => None,
    };
    triggered.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compile::testing::{service, service_ref},
        model::{EndpointGroup, EndpointSlice, Protocol},
    };

    fn slice(name: &str, family: Family, triggered: Option<Timestamp>) -> Object {
        Object::EndpointSlice(EndpointSlice {
            name: name.to_owned(),
            triggered,
            service: service_ref("web"),
            group: EndpointGroup {
                family,
                ports: Vec::new(),
                endpoints: Vec::new(),
            },
        })
    }

    #[test]
    fn changes_are_counted_and_measured_from_their_cause() {
        let start: Timestamp = "2026-11-21T07:00:00Z".parse().unwrap();
        let at = |seconds: i64| Timestamp::from_second(start.as_second() + seconds).unwrap();
        let objects = [
            Object::Service(service("web", &["10.32.0.140"], &[("", 80, Protocol::Tcp)])),
            slice("web-1", Family::V4, Some(at(10))),
            slice("web-2", Family::V6, Some(at(20))),
            slice("web-3", Family::V4, None),
            slice("web-4", Family::V4, Some(start)),
            slice("web-5", Family::V4, Some(at(99))),
        ];
        let names: BTreeSet<ObjectRef> = objects.iter().map(Object::reference).collect();
        let cluster = Cluster::from_objects(objects);
        let all = Counts {
            services: 1,
            endpoints: 5,
        };
        let mut pending = Pending::new(start);
        assert_eq!(pending.note(&names, &cluster), all);
        // Of the same object again: two changes of one object.
        let again: BTreeSet<ObjectRef> = names
            .iter()
            .filter(|object| object.name == "web-1")
            .cloned()
            .collect();
        assert_eq!(pending.note(&again, &cluster).endpoints, 1);
        assert_eq!(pending.counts(), all);

        let mut took = pending.synchronised(at(30));
        took.sort();
        let seconds = Duration::from_secs;
        assert_eq!(
            took,
            [
                (Family::V4, seconds(0)),
                (Family::V4, seconds(20)),
                (Family::V4, seconds(20)),
                (Family::V6, seconds(10)),
            ]
        );
        assert_eq!(pending.counts(), Counts::default());
        assert_eq!(pending.synchronised(at(31)), []);
    }

    #[test]
    fn an_object_that_is_gone_is_a_change_without_a_cause() {
        let gone = BTreeSet::from([ObjectRef::new(Kind::EndpointSlice, "default", "web-1")]);
        let mut pending = Pending::new(Timestamp::UNIX_EPOCH);
        assert_eq!(pending.note(&gone, &Cluster::default()).endpoints, 1);
        assert_eq!(pending.synchronised(Timestamp::UNIX_EPOCH), []);
    }
}
