//! The objects of all sources together.
//!
//! Promises: applying an event twice is applying it once; the order of events about different
//! objects does not matter; a complete list that follows a reset leaves what a new cluster would
//! hold after that list. A partial list is never in force, and an object that a source could not
//! read keeps its last good version.

mod objects;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Event, Kind, Object, ObjectRef, Problem, Report, SourceId};
use store::Objects;

/// What the cluster says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    sources: BTreeMap<SourceId, Source>,
}

/// What has to be done about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// What is reported of a source is different; the objects are not.
    Report,
    /// These objects are different or gone, or a source's first list, which may be empty, is
    /// complete: compile.
    Objects(BTreeSet<ObjectRef>),
}

impl Changed {
    /// What has to be done about two changes.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) | (other, Self::Nothing) => other,
            (Self::Report, Self::Report) => Self::Report,
            (Self::Objects(objects), Self::Report) | (Self::Report, Self::Objects(objects)) => {
                Self::Objects(objects)
            }
            (Self::Objects(mut objects), Self::Objects(others)) => {
                objects.extend(others);
                Self::Objects(objects)
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    is_ready: bool,
    objects: Objects,
    /// A list that is not complete yet.
    listing: Option<Objects>,
    report: Report,
}

impl Cluster {
    /// A cluster with one source that has delivered these objects: for tests and commands.
    #[must_use]
    pub fn from_objects(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut cluster = Self::default();
        let changes = objects
            .into_iter()
            .map(Change::apply)
            .chain([Change::Ready]);
        cluster.apply(Event {
            source: SourceId::MANIFESTS,
            changes: changes.collect(),
        });
        cluster
    }

    /// This cluster, if no source had an object of this name.
    #[must_use]
    pub fn without(mut self, reference: &ObjectRef) -> Self {
        for source in self.sources.values_mut() {
            source.objects.remove(reference);
        }
        self
    }

    /// Takes in what a source says.
    pub fn apply(&mut self, event: Event) -> Changed {
        let source = self.sources.entry(event.source).or_insert_with(Source::new);
        event
            .changes
            .into_iter()
            .map(|change| source.apply(change))
            .fold(Changed::Nothing, Changed::and)
    }

    /// Has this source delivered a complete list?
    #[must_use]
    pub fn is_ready(&self, source: SourceId) -> bool {
        self.sources
            .get(&source)
            .is_some_and(|source| source.is_ready)
    }

    /// Do objects come from more than one source?
    #[must_use]
    pub fn has_several_sources(&self) -> bool {
        let with_objects = self.sources.values().filter(|it| !it.objects.is_empty());
        with_objects.count() > 1
    }

    /// Has this source told anything at all?
    #[must_use]
    pub fn has(&self, source: SourceId) -> bool {
        self.sources.contains_key(&source)
    }

    /// How many objects of each kind a source has, of those kinds of which it has any.
    #[must_use]
    pub fn counts(&self, source: SourceId) -> BTreeMap<Kind, usize> {
        let objects = self.sources.get(&source).map(|source| &source.objects);
        objects.into_iter().flat_map(Objects::counts).collect()
    }

    /// The object of this name that is in force.
    #[must_use]
    pub fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        self.sources
            .values()
            .find_map(|source| source.objects.get(reference))
    }

    /// Is there nothing that a source cannot use, and only one that has objects?
    #[must_use]
    pub fn is_faultless(&self) -> bool {
        let mut reports = self.sources.values().map(|source| &source.report);
        reports.all(|report| *report == Report::default()) && !self.has_several_sources()
    }

    /// What each source cannot use, and the objects that come from two.
    #[must_use]
    pub fn reports(&self) -> BTreeMap<SourceId, Report> {
        self.sources
            .iter()
            .map(|(&id, source)| {
                let mut report = source.report.clone();
                let mut earlier = self.sources.range(..id);
                let is_alone = earlier.all(|(_, earlier)| earlier.objects.is_empty());
                let disputed = (!is_alone).then_some(&source.objects).into_iter();
                report.problems.extend(
                    disputed
                        .flat_map(Objects::iter)
                        .filter_map(|object| {
                            let (first, _) = self
                                .sources
                                .range(..id)
                                .find(|(_, earlier)| earlier.objects.contains_like(object))?;
                            Some((object, first))
                        })
                        .map(|(object, first)| {
                            Problem::new(format!(
                                "comes from {first} as well, whose version is in force; \
                                 remove one of the two"
                            ))
                            .about(object.reference())
                        }),
                );
                (id, report)
            })
            .collect()
    }

    /// The objects of a kind that are in force, ordered by namespace and name within a source.
    fn objects(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.sources.iter().flat_map(move |(&id, source)| {
            source.objects.of_kind(kind).filter(move |object| {
                !self
                    .sources
                    .range(..id)
                    .any(|(_, earlier)| earlier.objects.contains_like(object))
            })
        })
    }
}

impl Source {
    fn new() -> Self {
        Self {
            is_ready: false,
            objects: Objects::default(),
            listing: Some(Objects::default()),
            report: Report {
                problems: Vec::new(),
                unknown_kinds: BTreeSet::new(),
            },
        }
    }

    fn apply(&mut self, change: Change) -> Changed {
        match change {
            Change::Reset => {
                self.listing = Some(Objects::default());
                Changed::Nothing
            }
            Change::Apply(object) => match &mut self.listing {
                Some(listing) => {
                    listing.put(object);
                    Changed::Nothing
                }
                None => match self.objects.put(object) {
                    Some(reference) => Changed::Objects(BTreeSet::from([reference])),
                    None => Changed::Nothing,
                },
            },
            Change::Delete(reference) => match &mut self.listing {
                Some(listing) => {
                    listing.remove(&reference);
                    Changed::Nothing
                }
                None if self.objects.remove(&reference).is_some() => {
                    Changed::Objects(BTreeSet::from([reference]))
                }
                None => Changed::Nothing,
            },
            Change::Replace(kind, objects) => self.replace(kind, objects),
            Change::Report(report) if self.report == report => Changed::Nothing,
            Change::Report(report) => {
                self.report = report;
                Changed::Report
            }
            Change::Ready => self.complete(),
        }
    }

    fn replace(&mut self, kind: Kind, listed: Vec<Object>) -> Changed {
        let is_listing = self.listing.is_some();
        let held = self.listing.as_mut().unwrap_or(&mut self.objects);
        let before = held.take_kind(kind);
        held.extend(listed);
        keep_rejected(&self.report, &before, held);
        if is_listing {
            return Changed::Nothing;
        }
        match differences(&before, held.of_kind(kind), held) {
            none if none.is_empty() => Changed::Nothing,
            differences => Changed::Objects(differences),
        }
    }

    fn complete(&mut self) -> Changed {
        let Some(mut listing) = self.listing.take() else {
            return Changed::Nothing;
        };
        keep_rejected(&self.report, &self.objects, &mut listing);
        let is_first = !std::mem::replace(&mut self.is_ready, true);
        let before = std::mem::replace(&mut self.objects, listing);
        let differences = differences(&before, self.objects.iter(), &self.objects);
        if is_first || !differences.is_empty() {
            Changed::Objects(differences)
        } else {
            Changed::Nothing
        }
    }
}

/// What cannot be read now stays as it was when it could.
fn keep_rejected(report: &Report, before: &Objects, listed: &mut Objects) {
    let rejected = report.problems.iter().filter_map(|it| it.object.as_ref());
    for reference in rejected {
        if let Some(object) = before.get(reference)
            && !listed.contains(reference)
        {
            listed.put(object.clone());
        }
    }
}

/// The objects that are in one of the two lists only, or not the same in both; of what is held now,
/// `listed` is what may be in the other list.
fn differences<'a>(
    before: &'a Objects,
    listed: impl Iterator<Item = &'a Object>,
    held: &Objects,
) -> BTreeSet<ObjectRef> {
    let changed = listed.filter(|object| before.like(object) != Some(*object));
    let gone = before.iter().filter(|object| !held.contains_like(object));
    changed.chain(gone).map(Object::reference).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Node, NotOurs};
    use super::*;

    const SOURCE: SourceId = SourceId("a");
    const LATER: SourceId = SourceId("b");

    fn event(source: SourceId, changes: impl IntoIterator<Item = Change>) -> Event {
        Event {
            source,
            changes: changes.into_iter().collect(),
        }
    }

    fn reference(name: u8) -> ObjectRef {
        ObjectRef::new(Kind::Service, "default", &format!("web-{name}"))
    }

    /// Versions of an object are told apart by what they say.
    fn object(name: u8, version: u8) -> Object {
        Object::NotOurs(reference(name), NotOurs::OtherProxy(version.to_string()))
    }

    fn node(name: &str) -> Object {
        Object::Node(Node {
            name: name.to_owned(),
            ..Node::default()
        })
    }

    fn node_changed(name: &str) -> Changed {
        Changed::Objects(BTreeSet::from([ObjectRef::new(Kind::Node, "", name)]))
    }

    #[test]
    fn a_partial_list_is_not_in_force() {
        let mut cluster = Cluster::default();
        let changed = cluster.apply(event(SOURCE, [Change::apply(node("worker-0"))]));
        assert_eq!(changed, Changed::Nothing);
        assert!(cluster.node("worker-0").is_none() && !cluster.is_ready(SOURCE));
        assert_eq!(
            cluster.apply(event(SOURCE, [Change::Ready])),
            node_changed("worker-0")
        );
        assert!(cluster.node("worker-0").is_some() && cluster.is_ready(SOURCE));

        cluster.apply(event(SOURCE, [Change::Reset]));
        assert!(cluster.node("worker-0").is_some());
        let changed = cluster.apply(event(SOURCE, [Change::Ready]));
        assert_eq!(changed, node_changed("worker-0"));
        assert!(cluster.node("worker-0").is_none());
    }

    #[test]
    fn what_changed_is_named_once() {
        let mut cluster = Cluster::from_objects([object(0, 0), object(1, 0), node("worker-0")]);
        let report = Report {
            unknown_kinds: ["v1/Secret".to_owned()].into(),
            ..Report::default()
        };
        let changed = cluster.apply(event(
            SourceId::MANIFESTS,
            [
                Change::apply(object(0, 1)),
                Change::Report(report),
                Change::apply(object(0, 2)),
                Change::apply(object(1, 0)),
                Change::Delete(ObjectRef::new(Kind::Node, "", "worker-0")),
                Change::Delete(reference(7)),
            ],
        ));
        let expected = [reference(0), ObjectRef::new(Kind::Node, "", "worker-0")];
        assert_eq!(changed, Changed::Objects(expected.into()));

        let list = [object(0, 3), object(2, 0)].map(Change::apply);
        let changed = cluster.apply(event(
            SourceId::MANIFESTS,
            [Change::Reset]
                .into_iter()
                .chain(list)
                .chain([Change::Ready]),
        ));
        let expected = [reference(0), reference(1), reference(2)];
        assert_eq!(changed, Changed::Objects(expected.into()));
    }

    #[test]
    fn an_empty_list_is_news_once() {
        let mut cluster = Cluster::default();
        let changed = cluster.apply(event(SOURCE, [Change::Ready]));
        assert_eq!(changed, Changed::Objects(BTreeSet::new()));
        let changed = cluster.apply(event(SOURCE, [Change::Reset, Change::Ready]));
        assert_eq!(changed, Changed::Nothing);
    }

    #[test]
    fn an_object_that_a_new_list_cannot_read_keeps_its_last_good_version() {
        let mut cluster = Cluster::from_objects([]);
        cluster.apply(event(
            SOURCE,
            [Change::apply(node("worker-0")), Change::Ready],
        ));
        let report = Report {
            problems: vec![Problem::new("broken").about(ObjectRef::new(
                Kind::Node,
                "",
                "worker-0",
            ))],
            ..Report::default()
        };
        let changed = cluster.apply(event(
            SOURCE,
            [Change::Reset, Change::Report(report), Change::Ready],
        ));
        assert_eq!(changed, Changed::Report);
        assert!(cluster.node("worker-0").is_some());
    }

    #[test]
    fn the_same_object_from_two_sources_is_reported_and_the_first_is_believed() {
        let mut cluster = Cluster::default();
        let labelled = |value: &str| {
            let Object::Node(mut node) = node("worker-0") else {
                unreachable!("a node")
            };
            node.labels.insert("from".to_owned(), value.to_owned());
            Object::Node(node)
        };
        cluster.apply(event(LATER, [Change::apply(labelled("b")), Change::Ready]));
        cluster.apply(event(SOURCE, [Change::apply(labelled("a")), Change::Ready]));
        assert_eq!(cluster.node("worker-0").unwrap().labels["from"], "a");
        let reports = cluster.reports();
        assert!(reports[&SOURCE].problems.is_empty());
        assert_eq!(
            reports[&LATER].problems[0].to_string(),
            "comes from a as well, whose version is in force; remove one of the two \
             (Node worker-0)"
        );
        cluster.apply(event(
            SOURCE,
            [Change::Delete(ObjectRef::new(Kind::Node, "", "worker-0"))],
        ));
        assert_eq!(cluster.node("worker-0").unwrap().labels["from"], "b");
        assert!(cluster.reports()[&LATER].problems.is_empty());
    }

    #[test]
    fn the_list_of_a_kind_replaces_that_kind_alone() {
        let mut cluster = Cluster::default();
        let first = [
            Change::Replace(Kind::Service, vec![object(0, 0), object(1, 0)]),
            Change::Replace(Kind::Node, vec![node("worker-0")]),
        ];
        assert_eq!(cluster.apply(event(SOURCE, first)), Changed::Nothing);
        assert!(cluster.node("worker-0").is_none(), "not complete yet");
        cluster.apply(event(SOURCE, [Change::Ready]));
        assert!(cluster.node("worker-0").is_some());

        let changed = cluster.apply(event(
            SOURCE,
            [Change::Replace(
                Kind::Service,
                vec![object(1, 0), object(2, 0)],
            )],
        ));
        let expected = [reference(0), reference(2)];
        assert_eq!(changed, Changed::Objects(expected.into()));
        assert!(cluster.node("worker-0").is_some());
        let again = Change::Replace(Kind::Service, vec![object(2, 0), object(1, 0)]);
        assert_eq!(cluster.apply(event(SOURCE, [again])), Changed::Nothing);

        let report = Report {
            problems: vec![Problem::new("broken").about(reference(1))],
            ..Report::default()
        };
        let changed = cluster.apply(event(
            SOURCE,
            [
                Change::Report(report),
                Change::Replace(Kind::Service, Vec::new()),
            ],
        ));
        assert_eq!(changed, Changed::Objects([reference(2)].into()));
        assert!(cluster.get(&reference(1)).is_some(), "the last good one");
    }

    /// Changes about objects, each named by its number: the last about an object counts.
    fn changes() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
        proptest::collection::vec((0_u8..6, proptest::option::of(0_u8..3)), 0..20)
    }

    fn to_change(&(name, version): &(u8, Option<u8>)) -> Change {
        match version {
            Some(version) => Change::apply(object(name, version)),
            None => Change::Delete(reference(name)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_order_of_events_about_different_objects_does_not_matter(
            changes in changes(),
            seed in any::<u64>(),
        ) {
            let mut in_order = Cluster::from_objects([]);
            in_order.apply(event(SourceId::MANIFESTS, changes.iter().map(to_change)));

            // A shuffle that keeps the order of changes to each object.
            let mut queues: Vec<Vec<_>> = (0..6)
                .map(|name| {
                    changes.iter().rev().filter(|(n, _)| *n == name).collect()
                })
                .collect();
            let mut shuffled = Cluster::from_objects([]);
            let mut state = seed;
            while queues.iter().any(|queue| !queue.is_empty()) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = usize::try_from(state >> 33).unwrap() % queues.len();
                if let Some(change) = queues[pick].pop() {
                    shuffled.apply(event(SourceId::MANIFESTS, [to_change(change)]));
                }
            }
            prop_assert_eq!(in_order, shuffled);
        }

        #[test]
        fn an_event_twice_is_an_event_once(changes in changes(), again in changes()) {
            let mut cluster = Cluster::from_objects([]);
            cluster.apply(event(SourceId::MANIFESTS, changes.iter().map(to_change)));
            for change in &again {
                cluster.apply(event(SourceId::MANIFESTS, [to_change(change)]));
                let once = cluster.clone();
                let changed = cluster.apply(event(SourceId::MANIFESTS, [to_change(change)]));
                prop_assert_eq!(changed, Changed::Nothing);
                prop_assert_eq!(&once, &cluster);
            }
        }

        #[test]
        fn the_list_of_a_kind_equals_a_reset_with_it(before in changes(), after in changes()) {
            let mut afresh = Cluster::default();
            let held = [Change::Reset].into_iter().chain(after.iter().map(to_change));
            afresh.apply(event(SOURCE, held.chain([Change::Ready])));
            let objects = afresh.sources[&SOURCE].objects.iter();
            let objects = objects.cloned().collect();
            let mut replaced = Cluster::default();
            replaced.apply(event(SOURCE, before.iter().map(to_change).chain([Change::Ready])));
            replaced.apply(event(SOURCE, [Change::Replace(Kind::Service, objects)]));
            prop_assert_eq!(afresh, replaced);
        }

        #[test]
        fn a_reset_equals_starting_afresh(before in changes(), after in changes()) {
            let list = || {
                [Change::Reset]
                    .into_iter()
                    .chain(after.iter().map(to_change))
                    .chain([Change::Ready])
            };
            let mut afresh = Cluster::default();
            afresh.apply(event(SOURCE, list()));
            let mut reset = Cluster::default();
            reset.apply(event(SOURCE, before.iter().map(to_change).chain([Change::Ready])));
            reset.apply(event(SOURCE, list()));
            prop_assert_eq!(afresh, reset);
        }
    }
}
