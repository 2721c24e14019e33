//! New endpoints of a few services, where nothing else has changed.
//!
//! Endpoints come and go all the time, in a cluster of any size; services, policies and nodes do
//! not. What follows from endpoints alone are the sets of backends of their service, so these are
//! chosen again and everything else stays as it was compiled. The result is what
//! [`compile`](super::compile) gives, for work that follows the size of the change.

use std::collections::BTreeSet;

use crate::lookup::Lookup;
use crate::maps::Contents;
use crate::model::{Cluster, EndpointGroup, Family, Kind, Object, ObjectRef, Service, ServiceRef};

use super::choice::Place;
use super::health_checks::local_endpoints;
use super::names::Subject;
use super::services::entries;
use super::sets::{self, POLICIES, Set};
use super::{Account, Capacities, Desired, HealthCheck, Ids, Reason};

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

    /// The endpoints of a service's slices, in order; `None`: it has no slices, so that core
    /// Endpoints may count.
    fn groups<'a>(
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

/// A set of endpoints, and its number.
type Numbered = (u32, Set);

/// Chooses the endpoints of these services again. Gives the numbers that they have, and what those
/// had before; `None`: nothing was done, since more has to be looked at than these services.
pub(super) fn recompile(
    desired: &mut Desired,
    cluster: &Cluster,
    slices: &Slices,
    services: &BTreeSet<ServiceRef>,
    (place, ids, capacities): (Place<'_>, &mut Ids, &Capacities),
) -> Option<(BTreeSet<u32>, Contents)> {
    // Where room is short, who gets how much depends on everybody. Of two sources, the order of
    // slices is not the order of their names.
    let is_short = |reason: &Reason| match reason {
        Reason::AddressTaken { .. } | Reason::NodePortTaken { .. } => false,
        Reason::NoRoom { .. }
        | Reason::NoRoomForBackends { .. }
        | Reason::NoRoomForRules { .. }
        | Reason::NoRoomForRanges { .. } => true,
    };
    if desired.skipped.iter().any(|it| is_short(&it.reason)) || cluster.has_several_sources() {
        return None;
    }
    let mut numbered: Vec<Numbered> = Vec::new();
    let mut accounts = Vec::new();
    let mut checks = Vec::new();
    for id in services {
        let Some(service) = cluster.service(id) else {
            continue;
        };
        let Some(groups) = slices.groups(id, cluster) else {
            if cluster.has_endpoints(id) {
                return None;
            }
            chosen(service, &[], place, ids, &mut numbered, &mut accounts);
            checks.extend(service.health_check_node_port.map(|port| (id, port, 0)));
            continue;
        };
        chosen(service, &groups, place, ids, &mut numbered, &mut accounts);
        // Few services have one.
        if let Some(port) = service.health_check_node_port {
            checks.push((id, port, local_endpoints(&groups, place.node)));
        }
    }
    let numbers: BTreeSet<u32> = numbered.iter().map(|(number, _)| *number).collect();
    let before = desired.contents.of_numbers(&numbers);
    let after: usize = numbered.iter().map(|(_, set)| set.backends.len()).sum();
    let room = entries(capacities.backends);
    if desired.contents.backends.len() - before.backends.len() + after > room {
        return None;
    }

    for (number, set) in &numbered {
        ids.set_flags(*number, set.flags);
        ids.place(*number, &set.backends, room);
        ids.rewrite(*number, &mut desired.contents);
    }
    for (service, account) in accounts {
        if account.is_empty() {
            desired.unchosen.remove(&service.id);
        } else {
            desired.unchosen.insert(service.id.clone(), account);
        }
    }
    for (service, port, local_endpoints) in checks {
        let check = HealthCheck {
            port,
            local_endpoints,
        };
        desired.health_checks.insert(service.clone(), check);
    }
    Some((numbers, before))
}

/// The sets that a service's ports have, with the endpoints that are chosen now, and those that are
/// not.
fn chosen<'a>(
    service: &'a Service,
    groups: &[&EndpointGroup],
    place: Place<'_>,
    ids: &Ids,
    numbered: &mut Vec<Numbered>,
    accounts: &mut Vec<(&'a Service, Account)>,
) {
    let mut account = Account::default();
    account.add_unused(service, groups);
    for port in &service.ports {
        for family in [Family::V4, Family::V6] {
            let subject = Subject {
                service,
                port,
                family,
            };
            // Which sets there are follows from the service's addresses, which are what they were.
            let number = |policy| Some((ids.known(&subject.name(policy))?, policy));
            let (numbers, policies): (Vec<u32>, Vec<_>) =
                POLICIES.into_iter().filter_map(number).unzip();
            // Of two ports that are called the same the first has the addresses.
            let is_taken = |number: &u32| numbered.iter().any(|(taken, _)| taken == number);
            if numbers.iter().all(is_taken) {
                continue;
            }
            let sets = sets::sets(&subject, &policies, groups, place, &mut account);
            numbered.extend(numbers.into_iter().zip(sets));
        }
    }
    accounts.push((service, account));
}
