//! The objects of one source, in the order of their names and found by the hash of a name.
//!
//! There are tens of thousands of them, of which one changes now and then: nothing of them is in
//! the processor's caches by then. A search by order reads dozens of names for one object; by hash
//! it reads that object. The order is for whoever wants all of them. No name is kept beside the
//! object that has it: they would take more room than all else here.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use hashbrown::{HashTable, hash_table::Entry};

use super::super::{Kind, Object, ObjectRef};

/// A kind, a namespace and a name.
type Identity<'a> = (Kind, &'a str, &'a str);

/// Objects, each under its own name.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    places: Places,
    order: Order,
    by_hash: HashTable<u32>,
    hasher: RandomState,
}

/// Where the objects of each kind and namespace are, in the order of their names. Nothing is empty.
type Order = BTreeMap<Kind, BTreeMap<Box<str>, Vec<u32>>>;

/// Where objects are.
#[derive(Clone, Debug, Default)]
struct Places {
    objects: Vec<Option<Arc<Object>>>,
    free: Vec<u32>,
}

/// What becomes of an object that is put.
enum Put {
    /// It is as it was.
    Same,
    /// It takes the place of another version.
    Changed,
    /// It has a place of its own, and none in the order yet.
    New(u32),
}

impl Objects {
    /// The object of this name.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Object> {
        self.at(reference.identity())
    }

    fn at(&self, identity: Identity<'_>) -> Option<&Object> {
        let is_it = |place: &u32| self.places.is(*place, identity);
        let hash = self.hasher.hash_one(identity);
        self.places.get(*self.by_hash.find(hash, is_it)?)
    }

    /// Is there an object of this name?
    pub fn contains(&self, reference: &ObjectRef) -> bool {
        self.get(reference).is_some()
    }

    /// Is there an object of the name that this one of another list has?
    pub fn contains_like(&self, object: &Object) -> bool {
        self.like(object).is_some()
    }

    /// The object of the name that this one of another list has.
    pub fn like(&self, object: &Object) -> Option<&Object> {
        self.at(object.identity())
    }

    /// Takes in an object. Gives its name if that is news.
    pub fn put(&mut self, object: impl Into<Arc<Object>>) -> Option<ObjectRef> {
        let object = object.into();
        let reference = object.reference();
        match self.put_as(reference.identity(), object) {
            Put::Same => return None,
            Put::Changed => {}
            Put::New(place) => {
                let (kind, namespace, name) = reference.identity();
                let places = places_of(&mut self.order, kind, namespace);
                let end = self.places.rank(places, name).unwrap_or_else(|end| end);
                places.insert(end, place);
            }
        }
        Some(reference)
    }

    fn put_as(&mut self, identity: Identity<'_>, object: Arc<Object>) -> Put {
        let Self {
            places,
            order: _,
            by_hash,
            hasher,
        } = self;
        let is_it = |place: &u32| places.is(*place, identity);
        let hash_of = |place: &u32| {
            let object = places.get(*place);
            object.map_or(0, |object| hasher.hash_one(object.identity()))
        };
        let hash = hasher.hash_one(identity);
        match by_hash.entry(hash, is_it, hash_of) {
            Entry::Occupied(known) => places.change(*known.get(), object),
            Entry::Vacant(vacant) => {
                let place = places.fill(object);
                vacant.insert(place);
                Put::New(place)
            }
        }
    }

    /// Takes away the object of this name, and gives it if it was there.
    pub fn remove(&mut self, reference: &ObjectRef) -> Option<Arc<Object>> {
        let (kind, namespace, name) = reference.identity();
        let place = self.forget((kind, namespace, name))?;
        if let Some(namespaces) = self.order.get_mut(&kind)
            && let Some(places) = namespaces.get_mut(namespace)
        {
            if let Ok(rank) = self.places.rank(places, name) {
                places.remove(rank);
            }
            if places.is_empty() {
                namespaces.remove(namespace);
            }
            if namespaces.is_empty() {
                self.order.remove(&kind);
            }
        }
        self.places.take(place)
    }

    /// From now on it is not found. Gives where it is.
    fn forget(&mut self, identity: Identity<'_>) -> Option<u32> {
        let is_it = |place: &u32| self.places.is(*place, identity);
        let hash = self.hasher.hash_one(identity);
        let known = self.by_hash.find_entry(hash, is_it).ok()?;
        Some(known.remove().0)
    }

    /// Takes away the objects of a kind.
    pub fn take_kind(&mut self, kind: Kind) -> Self {
        let namespaces = self.order.remove(&kind).unwrap_or_default();
        let mut taken = Vec::new();
        for place in namespaces.into_values().flatten() {
            let is_it = |known: &u32| *known == place;
            let object = self.places.take(place);
            if let Some(object) = &object {
                let hash = self.hasher.hash_one(object.identity());
                if let Ok(known) = self.by_hash.find_entry(hash, is_it) {
                    known.remove();
                }
            }
            taken.extend(object);
        }
        taken.into_iter().collect()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Every object, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.order.values().flat_map(|it| self.all_of(it))
    }

    /// The objects of a kind, in the order of their names.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let namespaces = self.order.get(&kind).into_iter();
        namespaces.flat_map(|it| self.all_of(it))
    }

    /// How many objects there are of each kind of which there are any.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        let of_all = |namespaces: &BTreeMap<_, Vec<u32>>| namespaces.values().map(Vec::len).sum();
        let kinds = self.order.iter();
        kinds.map(move |(kind, namespaces)| (*kind, of_all(namespaces)))
    }

    fn all_of<'a>(
        &'a self,
        namespaces: &'a BTreeMap<Box<str>, Vec<u32>>,
    ) -> impl Iterator<Item = &'a Object> {
        let places = namespaces.values().flatten();
        places.filter_map(|place| self.places.get(*place))
    }
}

/// Those of a kind and namespace, which get one more.
fn places_of<'a>(order: &'a mut Order, kind: Kind, namespace: &str) -> &'a mut Vec<u32> {
    let namespaces = order.entry(kind).or_default();
    namespaces.entry(namespace.into()).or_default()
}

impl PartialEq for Objects {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Objects {}

/// Many at once: their order is made once.
impl<T: Into<Arc<Object>>> Extend<T> for Objects {
    fn extend<I: IntoIterator<Item = T>>(&mut self, objects: I) {
        let mut kinds = BTreeSet::new();
        for object in objects {
            let object = object.into();
            let reference = object.reference();
            let (kind, namespace, _) = reference.identity();
            match self.put_as(reference.identity(), object) {
                Put::Same | Put::Changed => {}
                Put::New(place) => {
                    places_of(&mut self.order, kind, namespace).push(place);
                    kinds.insert(kind);
                }
            }
        }
        let Self {
            places,
            order,
            by_hash: _,
            hasher: _,
        } = self;
        for kind in kinds {
            for of_namespace in order.entry(kind).or_default().values_mut() {
                of_namespace.sort_by_key(|place| places.name(*place));
                of_namespace.shrink_to_fit();
            }
        }
    }
}

impl<T: Into<Arc<Object>>> FromIterator<T> for Objects {
    fn from_iter<I: IntoIterator<Item = T>>(objects: I) -> Self {
        let mut all = Self::default();
        all.extend(objects);
        all
    }
}

impl Places {
    fn get(&self, place: u32) -> Option<&Object> {
        self.objects.get(index(place))?.as_deref()
    }

    /// Is this the place of the object of this name?
    fn is(&self, place: u32, identity: Identity<'_>) -> bool {
        let object = self.get(place);
        object.is_some_and(|object| object.identity() == identity)
    }

    /// What the object there is called within its namespace.
    fn name(&self, place: u32) -> Option<&str> {
        self.get(place).map(|object| object.identity().2)
    }

    /// Which of these places, all of one kind and namespace and in order, is that of this name, or
    /// which it would be.
    fn rank(&self, places: &[u32], name: &str) -> Result<usize, usize> {
        places.binary_search_by(|place| self.name(*place).cmp(&Some(name)))
    }

    /// Gives an object the place that was last freed, or a new one.
    fn fill(&mut self, object: Arc<Object>) -> u32 {
        let object = Some(object);
        match self.free.pop() {
            Some(place) => {
                self.objects[index(place)] = object;
                place
            }
            None => {
                let end = u32::try_from(self.objects.len());
                self.objects.push(object);
                end.expect("there is no memory for so many objects")
            }
        }
    }

    fn change(&mut self, place: u32, object: Arc<Object>) -> Put {
        let known = &mut self.objects[index(place)];
        if known.as_ref() == Some(&object) {
            return Put::Same;
        }
        *known = Some(object);
        Put::Changed
    }

    fn take(&mut self, place: u32) -> Option<Arc<Object>> {
        self.free.push(place);
        self.objects.get_mut(index(place))?.take()
    }
}

/// An address has at least as many bits here.
const fn index(place: u32) -> usize {
    place as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::NotOurs;
    use super::*;

    fn object((kind, name, version): (bool, u8, u8)) -> Object {
        let kind = if kind { Kind::Service } else { Kind::Pod };
        let namespace = ["default", "shop", "team"][usize::from(name % 3)];
        let reference = ObjectRef::new(kind, namespace, &format!("o-{name}"));
        Object::NotOurs(reference, NotOurs::OtherProxy(version.to_string()))
    }

    #[derive(Clone, Debug)]
    enum Act {
        Put((bool, u8, u8)),
        Remove((bool, u8)),
        Extend(Vec<(bool, u8, u8)>),
        TakePods,
    }

    fn act() -> impl Strategy<Value = Act> {
        let one = || (any::<bool>(), 0_u8..20, 0_u8..3);
        prop_oneof![
            8 => one().prop_map(Act::Put),
            4 => (any::<bool>(), 0_u8..20).prop_map(Act::Remove),
            2 => proptest::collection::vec(one(), 0..20).prop_map(Act::Extend),
            1 => Just(Act::TakePods),
        ]
    }

    fn put(known: &mut BTreeMap<ObjectRef, Object>, object: Object) -> Option<ObjectRef> {
        let reference = object.reference();
        let before = known.insert(reference.clone(), object);
        (before.as_ref() != known.get(&reference)).then_some(reference)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_is_held_is_what_an_ordered_map_would_hold(
            acts in proptest::collection::vec(act(), 0..60),
        ) {
            let mut objects = Objects::default();
            let mut known = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Put(one) => {
                        let expected = put(&mut known, object(one));
                        prop_assert_eq!(objects.put(object(one)), expected);
                    }
                    Act::Remove((kind, name)) => {
                        let reference = object((kind, name, 0)).reference();
                        let (removed, expected) =
                            (objects.remove(&reference), known.remove(&reference));
                        prop_assert_eq!(removed.as_deref(), expected.as_ref());
                    }
                    Act::Extend(some) => {
                        objects.extend(some.iter().copied().map(object));
                        for one in some {
                            put(&mut known, object(one));
                        }
                    }
                    Act::TakePods => {
                        let taken = objects.take_kind(Kind::Pod);
                        let pods = known.extract_if(.., |it, _| it.kind == Kind::Pod);
                        let pods: BTreeMap<ObjectRef, Object> = pods.collect();
                        prop_assert!(taken.iter().eq(pods.values()));
                    }
                }
                prop_assert!(objects.iter().eq(known.values()));
                let mut counts = BTreeMap::new();
                for reference in known.keys() {
                    *counts.entry(reference.kind).or_default() += 1;
                }
                prop_assert!(objects.counts().eq(counts));
                prop_assert_eq!(objects.is_empty(), known.is_empty());
                let services = known.iter().filter(|(it, _)| it.kind == Kind::Service);
                let services = services.map(|(_, object)| object);
                prop_assert!(objects.of_kind(Kind::Service).eq(services));
                for name in 0..20 {
                    for kind in [false, true] {
                        let reference = object((kind, name, 0)).reference();
                        prop_assert_eq!(objects.get(&reference), known.get(&reference));
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_objects_are_the_same_however_they_came() {
        let all = |names: &[u8]| -> Objects {
            names.iter().map(|name| object((true, *name, 0))).collect()
        };
        let mut others = all(&[3, 2, 1]);
        others.remove(&object((true, 3, 0)).reference());
        assert_eq!(all(&[1, 2]), others);
        others.put(object((true, 1, 1)));
        assert_ne!(all(&[1, 2]), others);
    }
}
