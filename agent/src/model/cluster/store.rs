//! The objects of one source, in the order of their names and found by the hash of a name.
//!
//! There are tens of thousands of them, of which one changes now and then: nothing of them is in
//! the processor's caches by then. A search by order reads dozens of names for one object; by hash
//! it reads that object. The order is for whoever wants all of them.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
};

use hashbrown::{HashTable, hash_table::Entry};

use super::super::{Kind, Object, ObjectRef};

/// Objects, each under its own name.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    places: Places,
    order: BTreeMap<ObjectRef, u32>,
    by_hash: HashTable<u32>,
    hasher: RandomState,
}

/// Where objects are.
#[derive(Clone, Debug, Default)]
struct Places {
    objects: Vec<Option<Box<Object>>>,
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
        let is_it = |place: &u32| self.places.is(*place, reference);
        let hash = self.hasher.hash_one(reference.identity());
        self.places.get(*self.by_hash.find(hash, is_it)?)
    }

    /// Is there an object of this name?
    pub fn contains(&self, reference: &ObjectRef) -> bool {
        self.get(reference).is_some()
    }

    /// Takes in an object. Gives its name if that is news.
    pub fn put(&mut self, object: Object) -> Option<ObjectRef> {
        let reference = object.reference();
        match self.put_as(&reference, object) {
            Put::Same => return None,
            Put::Changed => {}
            Put::New(place) => {
                self.order.insert(reference.clone(), place);
            }
        }
        Some(reference)
    }

    fn put_as(&mut self, reference: &ObjectRef, object: Object) -> Put {
        let Self {
            places,
            order: _,
            by_hash,
            hasher,
        } = self;
        let is_it = |place: &u32| places.is(*place, reference);
        let hash_of = |place: &u32| {
            let object = places.get(*place);
            object.map_or(0, |object| hasher.hash_one(object.identity()))
        };
        let hash = hasher.hash_one(reference.identity());
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
    pub fn remove(&mut self, reference: &ObjectRef) -> Option<Object> {
        let is_it = |place: &u32| self.places.is(*place, reference);
        let hash = self.hasher.hash_one(reference.identity());
        let known = self.by_hash.find_entry(hash, is_it).ok()?;
        let (place, _) = known.remove();
        self.order.remove(reference);
        self.places.take(place)
    }

    /// Takes away the objects of a kind.
    pub fn take_kind(&mut self, kind: Kind) -> Self {
        let of_kind = self.references_from(kind);
        let names: Vec<ObjectRef> = of_kind.map(|(reference, _)| reference.clone()).collect();
        names.iter().filter_map(|name| self.remove(name)).collect()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Every object with its name, in the order of these.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectRef, &Object)> {
        let order = self.order.iter();
        order.filter_map(|(reference, place)| Some((reference, self.places.get(*place)?)))
    }

    /// The name of every object, in order.
    pub fn references(&self) -> impl Iterator<Item = &ObjectRef> {
        self.order.keys()
    }

    /// The objects of a kind with their names, in order.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Object)> {
        let places = self.references_from(kind);
        places.filter_map(|(reference, place)| Some((reference, self.places.get(place)?)))
    }

    fn references_from(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, u32)> {
        // Kinds are the first thing by which references are ordered.
        self.order
            .range(ObjectRef::new(kind, "", "")..)
            .take_while(move |(reference, _)| reference.kind == kind)
            .map(|(reference, place)| (reference, *place))
    }
}

impl PartialEq for Objects {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Objects {}

/// Many at once: their order is made once.
impl Extend<Object> for Objects {
    fn extend<I: IntoIterator<Item = Object>>(&mut self, objects: I) {
        let mut new = Vec::new();
        for object in objects {
            let reference = object.reference();
            match self.put_as(&reference, object) {
                Put::Same | Put::Changed => {}
                Put::New(place) => new.push((reference, place)),
            }
        }
        self.order.append(&mut new.into_iter().collect());
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
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
    fn is(&self, place: u32, reference: &ObjectRef) -> bool {
        let object = self.get(place);
        object.is_some_and(|object| object.identity() == reference.identity())
    }

    /// Gives an object the place that was last freed, or a new one.
    fn fill(&mut self, object: Object) -> u32 {
        let object = Some(Box::new(object));
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

    fn change(&mut self, place: u32, object: Object) -> Put {
        match &mut self.objects[index(place)] {
            Some(known) if **known == object => return Put::Same,
            Some(known) => **known = object,
            none => *none = Some(Box::new(object)),
        }
        Put::Changed
    }

    fn take(&mut self, place: u32) -> Option<Object> {
        self.free.push(place);
        let object = self.objects.get_mut(index(place))?.take();
        object.map(|object| *object)
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
        let reference = ObjectRef::new(kind, "default", &format!("o-{name}"));
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
                        prop_assert_eq!(objects.remove(&reference), known.remove(&reference));
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
                        prop_assert!(taken.iter().eq(pods.iter()));
                    }
                }
                prop_assert!(objects.iter().eq(known.iter()));
                prop_assert!(objects.references().eq(known.keys()));
                prop_assert_eq!(objects.is_empty(), known.is_empty());
                let services = known.iter().filter(|(it, _)| it.kind == Kind::Service);
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
