//! What all kinds tell together, as changes of one source.
//!
//! Pure. Promises: nothing is ready before every kind that is needed was listed and of every other
//! kind either that is known or that it cannot be had; a list replaces what was known of its kind,
//! and of no other; what cannot be read is reported until it can be, or is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    protocol::{Heard, Told},
    resources::{Need, RESOURCES},
};
use crate::model::{Change, Kind, Object, ObjectRef, Problem, Report};

/// What is told of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All objects of it.
    Listed(Vec<Heard>),
    /// What changed since, in order.
    Changed(Vec<Told>),
    /// The agent may not read it.
    Forbidden,
    /// It is not served.
    Absent,
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Merge {
    known: BTreeMap<Kind, Known>,
    faults: BTreeMap<Kind, Faults>,
    /// What was last reported.
    reported: Vec<Problem>,
    is_ready: bool,
}

/// How much is known of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Listed,
    Forbidden,
    Absent,
}

/// What is wrong with a kind's objects.
#[derive(Debug, Default)]
struct Faults {
    of_objects: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Of objects without a name.
    nameless: Vec<Problem>,
}

impl Merge {
    /// The changes that come of news. What is wrong is told before what it is about.
    pub fn take_in(&mut self, news: impl IntoIterator<Item = (Kind, News)>) -> Vec<Change> {
        let mut changes = vec![];
        for (kind, news) in news {
            match news {
                News::Listed(objects) => {
                    self.known.insert(kind, Known::Listed);
                    self.faults.remove(&kind);
                    let objects = objects.into_iter().filter_map(|it| self.object(kind, it));
                    let objects = objects.collect();
                    // The model asks the report which objects of its own to keep.
                    changes.extend(self.report());
                    changes.push(Change::Replace(kind, objects));
                }
                News::Changed(told) => {
                    changes.reserve(told.len());
                    for told in told {
                        changes.extend(self.change(kind, told));
                    }
                }
                News::Forbidden => self.cannot_be_had(kind, Known::Forbidden),
                News::Absent => self.cannot_be_had(kind, Known::Absent),
            }
        }
        changes.extend(self.report());
        if !self.is_ready && self.is_complete() {
            self.is_ready = true;
            changes.push(Change::Ready);
        }
        changes
    }

    /// What was listed before stays known.
    fn cannot_be_had(&mut self, kind: Kind, how: Known) {
        let known = self.known.entry(kind).or_insert(how);
        if *known != Known::Listed {
            *known = how;
        }
    }

    fn change(&mut self, kind: Kind, told: Told) -> Option<Change> {
        match told {
            Told::Put(heard) => self.object(kind, heard).map(Change::apply),
            Told::Gone(reference) => {
                let faults = self.faults.entry(kind).or_default();
                faults.of_objects.remove(&reference);
                Some(Change::Delete(reference))
            }
        }
    }

    /// The object, if it can be read; what is wrong with it takes the place of what was.
    fn object(&mut self, kind: Kind, heard: Heard) -> Option<Object> {
        let Heard { reference, outcome } = heard;
        let faults = self.faults.entry(kind).or_default();
        let (object, wrong) = match outcome {
            Ok(object) => {
                let wrong = object.ignored().to_vec();
                (Some(object), wrong)
            }
            Err(invalid) => (None, vec![invalid]),
        };
        let problems: Vec<_> = wrong
            .into_iter()
            .map(|invalid| Problem::invalid(reference.clone(), invalid))
            .collect();
        match reference {
            Some(reference) if problems.is_empty() => {
                faults.of_objects.remove(&reference);
            }
            Some(reference) => {
                faults.of_objects.insert(reference, problems);
            }
            None => {
                for mut problem in problems {
                    problem.message = format!("a {kind} that has no name: {}", problem.message);
                    if !faults.nameless.contains(&problem) {
                        faults.nameless.push(problem);
                    }
                }
            }
        }
        object
    }

    /// All that is wrong, if it is not what was last reported.
    fn report(&mut self) -> Option<Change> {
        let problems: Vec<Problem> = self
            .faults
            .values()
            .flat_map(|faults| faults.of_objects.values().flatten().chain(&faults.nameless))
            .cloned()
            .collect();
        if problems == self.reported {
            return None;
        }
        self.reported.clone_from(&problems);
        Some(Change::Report(Report {
            problems,
            unknown_kinds: BTreeSet::new(),
        }))
    }

    fn is_complete(&self) -> bool {
        let known = |kind| self.known.get(&kind).copied();
        RESOURCES.iter().all(|resource| {
            let is_replaced = known(resource.kind) == Some(Known::Absent)
                && RESOURCES
                    .iter()
                    .any(|other| other.need == Need::InsteadOf(resource.kind));
            match resource.need {
                Need::Optional => known(resource.kind).is_some(),
                Need::Needed => known(resource.kind) == Some(Known::Listed) || is_replaced,
                Need::InsteadOf(kind) => {
                    known(kind) != Some(Known::Absent)
                        || known(resource.kind) == Some(Known::Listed)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::protocol::{Line, line};
    use super::*;
    use crate::model::{Cluster, Event, SourceId};

    /// An object as a watch tells of it.
    fn heard(kind: Kind, object: &serde_json::Value) -> Heard {
        let text = json!({"type": "ADDED", "object": object}).to_string();
        match line(kind, &text).unwrap() {
            Line::Told(Told::Put(heard), _) => heard,
            other => panic!("{other:?}"),
        }
    }

    fn namespace(name: &str) -> Heard {
        heard(Kind::Namespace, &json!({"metadata": {"name": name}}))
    }

    fn broken(name: &str) -> Heard {
        let labels = json!({"a": 1});
        heard(
            Kind::Namespace,
            &json!({"metadata": {"name": name, "labels": labels}}),
        )
    }

    fn nothing() -> News {
        News::Listed(Vec::new())
    }

    struct World {
        merge: Merge,
        cluster: Cluster,
    }

    impl World {
        /// Every kind but these was listed, and is empty.
        fn without(kinds: &[Kind]) -> Self {
            let mut world = Self {
                merge: Merge::default(),
                cluster: Cluster::default(),
            };
            let others = Kind::ALL.into_iter().filter(|kind| !kinds.contains(kind));
            let others = others.filter(|kind| *kind != Kind::Endpoints);
            world.tell(others.map(|kind| (kind, nothing())));
            world
        }

        fn tell(&mut self, news: impl IntoIterator<Item = (Kind, News)>) {
            let changes = self.merge.take_in(news);
            self.cluster.apply(Event {
                source: SourceId::API,
                changes,
            });
        }

        fn is_ready(&self) -> bool {
            self.cluster.is_ready(SourceId::API)
        }

        fn problems(&self) -> Vec<String> {
            let reports = self.cluster.reports();
            let problems = &reports[&SourceId::API].problems;
            problems.iter().map(ToString::to_string).collect()
        }

        fn namespaces(&self) -> Vec<&str> {
            self.cluster
                .namespaces()
                .map(|it| it.name.as_str())
                .collect()
        }
    }

    #[test]
    fn nothing_is_ready_before_every_kind_was_listed() {
        for missing in Kind::ALL.into_iter().filter(|it| *it != Kind::Endpoints) {
            let mut world = World::without(&[missing]);
            assert!(!world.is_ready(), "{missing}");
            world.tell([(missing, nothing())]);
            assert!(world.is_ready(), "{missing}");
        }
    }

    #[test]
    fn what_may_not_be_read_or_is_not_served_keeps_the_rest_from_nothing() {
        for refused in [News::Forbidden, News::Absent] {
            for kind in [
                Kind::NetworkPolicy,
                Kind::ServiceCidr,
                Kind::Pod,
                Kind::Namespace,
                Kind::Node,
            ] {
                let mut world = World::without(&[kind]);
                world.tell([(kind, refused.clone())]);
                assert!(world.is_ready(), "{kind}");
            }
            let mut world = World::without(&[Kind::Service]);
            world.tell([(Kind::Service, refused)]);
            assert!(!world.is_ready(), "without services there is nothing to do");
        }
    }

    #[test]
    fn endpoints_stand_in_for_slices_only_where_these_are_not_served() {
        let mut world = World::without(&[Kind::EndpointSlice]);
        world.tell([(Kind::Endpoints, nothing())]);
        assert!(!world.is_ready());
        world.tell([(Kind::EndpointSlice, News::Forbidden)]);
        assert!(!world.is_ready());
        world.tell([(Kind::EndpointSlice, News::Absent)]);
        assert!(world.is_ready());

        let mut world = World::without(&[Kind::EndpointSlice]);
        world.tell([(Kind::EndpointSlice, News::Absent)]);
        assert!(!world.is_ready());
        world.tell([(Kind::Endpoints, nothing())]);
        assert!(world.is_ready());
    }

    #[test]
    fn a_kind_that_is_forbidden_later_keeps_what_was_listed() {
        let mut world = World::without(&[Kind::Namespace]);
        world.tell([(Kind::Namespace, News::Listed(vec![namespace("shop")]))]);
        world.tell([(Kind::Namespace, News::Forbidden)]);
        assert_eq!(world.namespaces(), ["shop"]);
        assert!(world.is_ready());
    }

    #[test]
    fn an_object_that_cannot_be_read_keeps_its_last_good_version() {
        let mut world = World::without(&[Kind::Namespace]);
        let both = || vec![namespace("a"), namespace("b")];
        world.tell([(Kind::Namespace, News::Listed(both()))]);
        let told = News::Changed(vec![Told::Put(broken("a")), Told::Put(broken("new"))]);
        world.tell([(Kind::Namespace, told)]);
        assert_eq!(world.namespaces(), ["a", "b"]);
        let problems = world.problems();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].starts_with("metadata.labels.a: ")
                && problems[0].ends_with("(Namespace a)"),
            "{problems:?}"
        );

        // The same in a list: what it cannot read stays, what it does not have goes.
        world.tell([(Kind::Namespace, News::Listed(vec![broken("a")]))]);
        assert_eq!(world.namespaces(), ["a"]);
        assert_eq!(world.problems().len(), 1);

        let gone = Told::Gone(ObjectRef::new(Kind::Namespace, "", "a"));
        world.tell([(Kind::Namespace, News::Changed(vec![gone]))]);
        assert!(world.namespaces().is_empty() && world.problems().is_empty());
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_one_that_isolates() {
        let mut world = World::without(&[Kind::NetworkPolicy]);
        let policy = json!({"metadata": {"name": "deny", "namespace": "shop"},
                            "spec": {"podSelector": {}, "ingress": "everything"}});
        let policy = heard(Kind::NetworkPolicy, &policy);
        world.tell([(Kind::NetworkPolicy, News::Listed(vec![policy]))]);
        let policy = world.cluster.network_policies().next().unwrap();
        assert!(!policy.problems().is_empty());
        assert!(world.problems()[0].starts_with("spec.ingress: "));
    }

    #[test]
    fn an_object_without_a_name_is_reported_until_the_next_list() {
        let mut world = World::without(&[]);
        let nameless = heard(Kind::Pod, &json!({"metadata": {"name": ""}}));
        world.tell([(Kind::Pod, News::Listed(vec![nameless]))]);
        let problems = world.problems();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].contains("a Pod that has no name"),
            "{problems:?}"
        );
        world.tell([(Kind::Pod, nothing())]);
        assert!(world.problems().is_empty());
    }
}
