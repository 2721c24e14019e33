//! Whose endpoints a slice holds, and which slices a service has.

use std::collections::BTreeSet;

use crate::lookup::Lookup;
use crate::model::{Cluster, EndpointGroup, Kind, Object, ObjectRef, ServiceRef};

/// The slices of each service, by name: they are in the service's namespace.
///
/// There are as many as services, and most services have one: kept small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slices {
    /// The names of each service's slices, in order, by the service's namespace and name.
    of: Lookup<Box<str>, Box<[Box<str>]>>,
    /// The name of each slice's service, by the slice's namespace and name, but of those that are
    /// called as the API's controller calls them: see [`service_by_name`].
    services: Lookup<Box<str>, Box<str>>,
}

/// Neither a namespace nor a name has a slash in it.
fn key(namespace: &str, name: &str) -> String {
    [namespace, "/", name].concat()
}

/// Whose slice this is if it is called as the API's controller calls a service's slices: by the
/// service's name, a hyphen, and letters and digits.
fn service_by_name(slice: &ObjectRef) -> Option<&str> {
    Some(slice.name.rsplit_once('-')?.0)
}

impl Slices {
    /// These objects are now as the cluster has them. Gives the services whose endpoints changed
    /// with those that are slices.
    pub fn note(
        &mut self,
        objects: &BTreeSet<ObjectRef>,
        cluster: &Cluster,
    ) -> BTreeSet<ServiceRef> {
        let mut services = BTreeSet::new();
        let is_slice = |object: &&ObjectRef| object.kind == Kind::EndpointSlice;
        for object in objects.iter().filter(is_slice) {
            let after = match cluster.get(object) {
                Some(Object::EndpointSlice(slice)) => Some(&slice.service),
                Some(_) | None => None,
            };
            let before = self.service_of(object);
            if before.as_ref() != after {
                if let Some(service) = &before {
                    self.remove(service, object);
                }
                if let Some(service) = after {
                    self.insert(service, object);
                }
            }
            services.extend(before);
            services.extend(after.cloned());
        }
        services
    }

    /// The service that a slice was noted with.
    fn service_of(&self, slice: &ObjectRef) -> Option<ServiceRef> {
        let by_name = || {
            let service = service_by_name(slice)?;
            let key = key(&slice.namespace, service);
            let is_listed = place_of(self.of.get(key.as_str())?, &slice.name).is_ok();
            is_listed.then_some(service)
        };
        // Few are called otherwise.
        let other = match self.services.is_empty() {
            true => None,
            false => {
                let key = key(&slice.namespace, &slice.name);
                self.services.get(key.as_str())
            }
        };
        let name = other.map(|name| &**name).or_else(by_name)?;
        Some(ServiceRef {
            namespace: slice.namespace.clone(),
            name: name.to_owned(),
        })
    }

    fn remove(&mut self, service: &ServiceRef, slice: &ObjectRef) {
        if service_by_name(slice) != Some(&service.name) {
            let key = key(&slice.namespace, &slice.name);
            self.services.remove(key.as_str());
        }
        let key = key(&service.namespace, &service.name);
        let names = self.of.remove(key.as_str()).unwrap_or_default();
        let left = names.into_iter().filter(|name| **name != *slice.name);
        let left: Box<[Box<str>]> = left.collect();
        if !left.is_empty() {
            self.of.insert(key.into(), left);
        }
    }

    fn insert(&mut self, service: &ServiceRef, slice: &ObjectRef) {
        if service_by_name(slice) != Some(&service.name) {
            let key = key(&slice.namespace, &slice.name);
            self.services
                .insert(key.into(), service.name.as_str().into());
        }
        let names = self.of.entry(key(&service.namespace, &service.name).into());
        let names = names.or_default();
        let mut all = std::mem::take(names).into_vec();
        if let Err(place) = place_of(&all, &slice.name) {
            all.insert(place, slice.name.as_str().into());
        }
        *names = all.into();
    }

    /// The endpoints of a service's slices, in order; `None`: it has no slices, and core Endpoints
    /// count.
    pub fn groups<'a>(
        &self,
        service: &ServiceRef,
        cluster: &'a Cluster,
    ) -> Option<Vec<&'a EndpointGroup>> {
        match self.of_slices(service, cluster) {
            Some(groups) => Some(groups),
            None if cluster.has_endpoints(service) => None,
            None => Some(Vec::new()),
        }
    }

    fn of_slices<'a>(
        &self,
        service: &ServiceRef,
        cluster: &'a Cluster,
    ) -> Option<Vec<&'a EndpointGroup>> {
        let key = key(&service.namespace, &service.name);
        let names = self.of.get(key.as_str())?;
        let groups: Vec<_> = names
            .iter()
            .filter_map(|name| {
                let slice = ObjectRef::new(Kind::EndpointSlice, &service.namespace, name);
                match cluster.get(&slice) {
                    Some(Object::EndpointSlice(slice)) => Some(&slice.group),
                    Some(_) | None => None,
                }
            })
            .collect();
        (!groups.is_empty()).then_some(groups)
    }
}

/// Where a name is among others, or where it would be.
fn place_of(names: &[Box<str>], name: &str) -> Result<usize, usize> {
    names.binary_search_by(|known| (**known).cmp(name))
}
