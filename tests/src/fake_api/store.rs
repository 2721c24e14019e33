//! The objects, and how they came to be what they are.
//!
//! Promises: one version counts the changes of all kinds, and every object bears that of its last
//! change; whoever follows [`Store::changes_after`] from the version of a list sees each change
//! once, in order. What is older than the window cannot be followed any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::resource::Resource;
use super::selector::Selectors;

/// Changes that can be followed, to begin with.
const WINDOW: usize = 10_000;
/// Changes that are kept for watches that run already, beyond the window.
const KEPT: usize = 100_000;
/// Lists of which further pages can be asked for.
const SNAPSHOTS: usize = 32;

/// An object's namespace, empty where it has none, and its name. Lists are in this order.
pub type Key = (String, String);
/// The objects of one kind.
pub type Objects = BTreeMap<Key, Arc<Value>>;

/// All objects.
#[derive(Debug)]
pub struct Store {
    version: u64,
    objects: BTreeMap<Resource, Objects>,
    history: VecDeque<Change>,
    /// Whoever knows less than this cannot follow.
    oldest: u64,
    window: usize,
    /// The last change that is not kept any more, even for watches that run.
    dropped: u64,
    /// Lists that were begun, by kind and version.
    snapshots: VecDeque<(Resource, u64, Objects)>,
}

/// What happened to one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number.
    pub version: u64,
    /// Of what kind the object is.
    pub resource: Resource,
    key: Key,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// What a watch tells of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `ADDED`, `MODIFIED` or `DELETED`
    pub kind: &'static str,
    /// With the change's version, also where it is gone.
    pub object: Value,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            // Versions are opaque; clients that take 0 or 1 for special should show.
            version: 1_000,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            oldest: 1_000,
            window: WINDOW,
            dropped: 0,
            snapshots: VecDeque::new(),
        }
    }
}

impl Store {
    /// The version of everything.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The oldest version that can be followed.
    #[must_use]
    pub const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The objects of a kind.
    #[must_use]
    pub fn objects(&self, resource: Resource) -> Objects {
        self.objects.get(&resource).cloned().unwrap_or_default()
    }

    /// An object.
    #[must_use]
    pub fn get(&self, resource: Resource, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(&resource)?.get(key).cloned()
    }

    /// The objects of all kinds, as they are given to clients.
    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.objects
            .values()
            .flat_map(BTreeMap::values)
            .map(|it| &**it)
    }

    /// Puts an object in its place: adds what the server adds, keeps what an object is born with.
    /// Gives it as it is now. An object that says nothing new changes nothing.
    ///
    /// # Errors
    /// It has no name or is of no kind that the server holds.
    pub fn apply(&mut self, mut object: Value) -> Result<Arc<Value>> {
        let (resource, key) = identify(&object)?;
        let before = self.get(resource, &key);
        let version = self.version + 1;
        let metadata = object["metadata"]
            .as_object_mut()
            .context("an object has metadata")?;
        if resource.is_namespaced() {
            metadata.insert("namespace".to_owned(), json!(key.0));
        }
        let born = before.as_deref().map(|it| &it["metadata"]);
        let mut keep = |field: &str, new: String| {
            let value = match born {
                Some(born) => born[field].clone(),
                None => metadata.get(field).cloned().unwrap_or(json!(new)),
            };
            metadata.insert(field.to_owned(), value);
        };
        keep("uid", format!("5f0c0ffe-0000-4000-8000-{version:012x}"));
        keep("creationTimestamp", timestamp(version));
        metadata.insert("managedFields".to_owned(), managed_fields(resource));
        if let Some(before) = &before {
            let same = before["metadata"]["resourceVersion"].clone();
            metadata.insert("resourceVersion".to_owned(), same);
            if **before == object {
                return Ok(Arc::clone(before));
            }
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = Arc::new(object);
        let all = self.objects.entry(resource).or_default();
        all.insert(key.clone(), Arc::clone(&object));
        self.note(resource, key, before, Some(Arc::clone(&object)));
        Ok(object)
    }

    /// Takes an object away; gives what it was.
    pub fn delete(&mut self, resource: Resource, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.get_mut(&resource)?.remove(key)?;
        self.note(resource, key.clone(), Some(Arc::clone(&before)), None);
        Some(before)
    }

    fn note(
        &mut self,
        resource: Resource,
        key: Key,
        before: Option<Arc<Value>>,
        after: Option<Arc<Value>>,
    ) {
        self.version += 1;
        self.history.push_back(Change {
            version: self.version,
            resource,
            key,
            before,
            after,
        });
        let outside = self.history.len().saturating_sub(self.window);
        if let Some(change) = outside.checked_sub(1).and_then(|it| self.history.get(it)) {
            self.oldest = self.oldest.max(change.version);
        }
        while self.history.len() > KEPT.max(self.window) {
            let dropped = self.history.pop_front();
            self.dropped = dropped.map_or(self.dropped, |change| change.version);
        }
    }

    /// From now on only this many changes can be followed.
    pub fn set_window(&mut self, changes: usize) {
        self.window = changes;
    }

    /// Nothing that has happened can be followed any more, and no list be read on: whoever comes
    /// back lists anew. The version moves, as it does with changes of kinds that nobody asks for.
    pub fn forget(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.snapshots.clear();
    }

    /// What happened to a kind since, and the version up to which that is all. `None` where that
    /// was forgotten.
    #[must_use]
    pub fn changes_after(&self, resource: Resource, version: u64) -> Option<(Vec<Change>, u64)> {
        if version < self.dropped {
            return None;
        }
        let start = self.history.partition_point(|it| it.version <= version);
        let changes = self
            .history
            .range(start..)
            .filter(|change| change.resource == resource);
        Some((changes.cloned().collect(), self.version.max(version)))
    }

    /// Keeps a list, so that its further pages are of the same moment.
    pub fn keep_snapshot(&mut self, resource: Resource) -> u64 {
        let is_kept = |(kind, version, _): &(Resource, u64, Objects)| {
            *kind == resource && *version == self.version
        };
        if !self.snapshots.iter().any(is_kept) {
            let objects = self.objects(resource);
            self.snapshots.push_back((resource, self.version, objects));
        }
        if self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.version
    }

    /// A list that was kept.
    #[must_use]
    pub fn snapshot(&self, resource: Resource, version: u64) -> Option<Objects> {
        let mut all = self.snapshots.iter();
        all.find(|(kind, of, _)| *kind == resource && *of == version)
            .map(|(_, _, objects)| objects.clone())
    }
}

impl Change {
    /// What a watch with these selectors in this namespace tells of it: an object that stops being
    /// selected is gone for whoever sees selected ones only.
    #[must_use]
    pub fn event(&self, namespace: Option<&str>, selectors: &Selectors) -> Option<Event> {
        if namespace.is_some_and(|it| it != self.key.0) {
            return None;
        }
        let selected = |state: &Option<Arc<Value>>| {
            let object = state.as_ref().filter(|object| selectors.select(object));
            object.map(|object| Value::clone(object))
        };
        let (kind, mut object) = match (selected(&self.before), selected(&self.after)) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
        };
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(Event { kind, object })
    }
}

/// The kind and the name of an object. Where none is given the namespace is `default`.
///
/// # Errors
/// It has no name or is of no kind that the server holds.
pub fn identify(object: &Value) -> Result<(Resource, Key)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let resource = Resource::of(&api_version, &kind)
        .with_context(|| format!("the server holds no {api_version}/{kind}"))?;
    let name = object["metadata"]["name"].as_str();
    let name = name.filter(|name| !name.is_empty());
    let name = name.with_context(|| format!("a {kind} without a name"))?;
    let namespace = match object["metadata"]["namespace"].as_str() {
        _ if !resource.is_namespaced() => "",
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    Ok((resource, (namespace.to_owned(), name.to_owned())))
}

/// A time that grows with the version.
fn timestamp(version: u64) -> String {
    let (day, hour) = (1 + version / 86_400 % 28, version / 3_600 % 24);
    let (minute, second) = (version / 60 % 60, version % 60);
    format!("2026-01-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What every real object carries and nobody here needs.
fn managed_fields(resource: Resource) -> Value {
    json!([{
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": resource.api_version(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:labels": {".": {}}}, "f:spec": {}},
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, app: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": app}},
        })
    }

    fn key(name: &str) -> Key {
        ("default".to_owned(), name.to_owned())
    }

    /// The kinds of events and the names in them.
    fn told(store: &Store, after: u64, labels: &str) -> Vec<(&'static str, String)> {
        let selectors = Selectors::parse(Some(labels), None).expect("a selector");
        let (changes, _) = store
            .changes_after(Resource::Pods, after)
            .expect("not forgotten");
        changes
            .iter()
            .filter_map(|change| change.event(None, &selectors))
            .map(|event| {
                let name = event.object["metadata"]["name"].as_str();
                (event.kind, name.expect("a name").to_owned())
            })
            .collect()
    }

    #[test]
    fn every_change_has_a_version_of_its_own_that_its_object_bears() {
        let mut store = Store::default();
        let first = store.apply(pod("a", "web")).expect("a pod");
        let second = store.apply(pod("b", "web")).expect("a pod");
        let again = store.apply(pod("a", "db")).expect("a pod");
        let version = |object: &Value| {
            let text = object["metadata"]["resourceVersion"].as_str();
            text.and_then(|text| text.parse::<u64>().ok())
                .expect("a version")
        };
        assert!(version(&first) < version(&second) && version(&second) < version(&again));
        assert_eq!(version(&again), store.version());
        assert_eq!(first["metadata"]["uid"], again["metadata"]["uid"]);
        assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    }

    #[test]
    fn what_is_as_it_was_is_no_change() {
        let mut store = Store::default();
        store.apply(pod("a", "web")).expect("a pod");
        let before = store.version();
        store.apply(pod("a", "web")).expect("a pod");
        assert_eq!(store.version(), before);
    }

    #[test]
    fn an_object_that_is_selected_no_more_is_gone() {
        let mut store = Store::default();
        let start = store.version();
        store.apply(pod("a", "web")).expect("a pod");
        store.apply(pod("a", "db")).expect("a pod");
        store.apply(pod("b", "db")).expect("a pod");
        store.delete(Resource::Pods, &key("a"));
        let of = |kind, name: &str| (kind, name.to_owned());
        assert_eq!(
            told(&store, start, "app=web"),
            [of("ADDED", "a"), of("DELETED", "a")]
        );
        assert_eq!(
            told(&store, start, ""),
            [
                of("ADDED", "a"),
                of("MODIFIED", "a"),
                of("ADDED", "b"),
                of("DELETED", "a")
            ]
        );
    }

    #[test]
    fn what_left_the_window_cannot_be_followed() {
        let mut store = Store::default();
        store.set_window(2);
        let start = store.version();
        for app in ["a", "b", "c"] {
            store.apply(pod("a", app)).expect("a pod");
        }
        assert!(start < store.oldest());
        assert_eq!(store.oldest(), store.version() - 2);
        store.forget();
        assert_eq!(store.oldest(), store.version());
    }

    #[test]
    fn a_kept_list_stays_as_it_was() {
        let mut store = Store::default();
        store.apply(pod("a", "web")).expect("a pod");
        let version = store.keep_snapshot(Resource::Pods);
        store.apply(pod("b", "web")).expect("a pod");
        let kept = store.snapshot(Resource::Pods, version).expect("kept");
        assert_eq!(kept.len(), 1);
        assert_eq!(store.objects(Resource::Pods).len(), 2);
        assert!(store.snapshot(Resource::Services, version).is_none());
    }
}
