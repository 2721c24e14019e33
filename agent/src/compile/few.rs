//! A few services that are compiled again, where nothing else has changed.
//!
//! Endpoints come and go all the time, in a cluster of any size; services now and then; policies
//! and nodes seldom. What follows from endpoints alone are the sets of backends of their service:
//! these are chosen again. What follows from a service itself are its addresses, its numbers and
//! its sets, as long as there is room for all and nobody wants what another has. Everything else
//! stays as it was compiled. The result is what [`compile`](super::compile) gives, for work that
//! follows the size of the change.
//!
//! Whether others are concerned is found out before anything is touched.

use std::collections::BTreeSet;

use weir_ebpf::tables::{FrontendKey, PodAddr, ServiceName, SourceRange};

use crate::maps::{Contents, service_ports};
use crate::model::{Cluster, EndpointGroup, ObjectRef, Service, ServiceRef};

use super::choice::Place;
use super::endpoints::Slices;
use super::frontends::Kind;
use super::health_checks::local_endpoints;
use super::names::{Subject, padded};
use super::services::{Draft, Drafts, by_age, entries, number, write};
use super::sets::{self, POLICIES, Set};
use super::{Account, Capacities, Desired, HealthCheck, Ids, Reason, ranges};

/// What of the services has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Few {
    /// These themselves: they came, went, or say something else.
    pub services: BTreeSet<ServiceRef>,
    /// The endpoints of these.
    pub endpoints: BTreeSet<ServiceRef>,
}

/// What was compiled again.
pub(super) struct Recompiled {
    /// The numbers that the services had or have.
    pub numbers: BTreeSet<u32>,
    /// Where those are or were reached that have changed themselves; `None`: none has.
    pub frontends: Option<BTreeSet<FrontendKey>>,
    /// What tables held of both.
    pub before: Contents,
}

/// Compiles these services again; `None`: nothing was done, since more has to be looked at than
/// these.
pub(super) fn recompile(
    desired: &mut Desired,
    cluster: &Cluster,
    slices: &Slices,
    few: &Few,
    (place, ids, capacities): (Place<'_>, &mut Ids, &Capacities),
) -> Option<Recompiled> {
    // Of two sources, the order of slices is not the order of their names.
    if concerns_others(desired, &few.services) || cluster.has_several_sources() {
        return None;
    }
    let mut seen = Seen::default();
    for id in few.endpoints.difference(&few.services) {
        if let Some(service) = cluster.service(id) {
            let groups = slices.groups(id, cluster)?;
            let account = seen.choose(service, &groups, place, ids);
            seen.note(service, &groups, place, account);
        }
    }
    let mut change = None;
    if !few.services.is_empty() {
        let services = few.services.iter().filter_map(|id| cluster.service(id));
        let mut services: Vec<&Service> = services.collect();
        by_age(&mut services);
        let mut drafts = Drafts::new(place, capacities);
        for service in services {
            let groups = slices.groups(&service.id, cluster)?;
            let account = drafts.add(service, &groups);
            seen.note(service, &groups, place, account);
        }
        if !drafts.skipped.is_empty() {
            return None;
        }
        let known = Known::of(&few.services, &desired.contents);
        change = Some(Change::new(known, drafts.drafts, &desired.contents)?);
    }
    let drafts = || change.iter().flat_map(|change| &change.drafts);
    let mut numbers: BTreeSet<u32> = seen.numbered.iter().map(|(number, _)| *number).collect();
    numbers.extend(change.iter().flat_map(|change| &change.known.numbers));
    let slots = |number: &u32| desired.contents.slots_of(*number).count();
    let going: usize = numbers.iter().map(slots).sum();
    let sets = seen.numbered.iter().map(|(_, set)| set);
    let sets = sets.chain(drafts().flat_map(|draft| &draft.sets));
    let coming: usize = sets.map(|set| set.backends.len()).sum();
    let room = entries(capacities.backends);
    let fits = desired.contents.backends.len() - going + coming <= room
        && change
            .iter()
            .all(|change| change.fits(&desired.contents, ids, capacities));
    if !fits {
        return None;
    }

    for id in &few.services {
        desired.unchosen.remove(id);
        desired.health_checks.remove(id);
    }
    let (before, frontends) = match change {
        None => (desired.contents.of_numbers(&numbers), None),
        Some(change) => {
            let frontends = change.frontends();
            let parts = (&mut numbers, &frontends, &mut seen.numbered);
            let before = change.make(desired, ids, capacities, parts);
            (before, Some(frontends))
        }
    };
    for (number, set) in &seen.numbered {
        ids.set_flags(*number, set.flags);
        ids.place(*number, &set.backends, room);
    }
    for number in &numbers {
        ids.rewrite(*number, &mut desired.contents);
    }
    for (service, account) in seen.accounts {
        if account.is_empty() {
            desired.unchosen.remove(service);
        } else {
            desired.unchosen.insert(service.clone(), account);
        }
    }
    let checks = seen.checks.into_iter();
    let checks = checks.map(|(service, check)| (service.clone(), check));
    desired.health_checks.extend(checks);
    Some(Recompiled {
        numbers,
        frontends,
        before,
    })
}

/// Has one of these services lost an address to another one, or another one to it? Or is room short?
/// Who gets how much then depends on everybody.
fn concerns_others(desired: &Desired, services: &BTreeSet<ServiceRef>) -> bool {
    let references: BTreeSet<ObjectRef> = services.iter().map(ServiceRef::reference).collect();
    let mut skipped = desired.skipped.iter();
    skipped.any(|skipped| match &skipped.reason {
        Reason::AddressTaken { by, .. } | Reason::NodePortTaken { by, .. } => {
            let mut concerned = by.iter().chain([&skipped.object]);
            concerned.any(|object| references.contains(object))
        }
        Reason::NoRoom { .. }
        | Reason::NoRoomForBackends { .. }
        | Reason::NoRoomForRules { .. }
        | Reason::NoRoomForRanges { .. } => true,
    })
}

/// What is found out about services and their endpoints.
#[derive(Default)]
struct Seen<'a> {
    /// Sets of endpoints, by number.
    numbered: Vec<(u32, Set)>,
    accounts: Vec<(&'a ServiceRef, Account)>,
    checks: Vec<(&'a ServiceRef, HealthCheck)>,
}

impl<'a> Seen<'a> {
    /// Notes what does not reach the tables of services.
    fn note(
        &mut self,
        service: &'a Service,
        groups: &[&EndpointGroup],
        place: Place<'_>,
        account: Account,
    ) {
        self.accounts.push((&service.id, account));
        // Few services have one.
        if let Some(port) = service.health_check_node_port {
            let check = HealthCheck {
                port,
                local_endpoints: local_endpoints(groups, place.node),
            };
            self.checks.push((&service.id, check));
        }
    }

    /// Chooses the endpoints of a service that is itself what it was.
    fn choose(
        &mut self,
        service: &Service,
        groups: &[&EndpointGroup],
        place: Place<'_>,
        ids: &Ids,
    ) -> Account {
        let mut account = Account::default();
        account.add_unused(service, groups);
        let mut taken = BTreeSet::new();
        for subject in Subject::all(service) {
            // Which sets there are follows from the service's addresses.
            let number = |policy| Some((ids.known(&subject.name(policy))?, policy));
            let (numbers, policies): (Vec<u32>, Vec<_>) =
                POLICIES.into_iter().filter_map(number).unzip();
            // Of two ports that are called the same the first has the addresses.
            if numbers.iter().all(|number| taken.contains(number)) {
                continue;
            }
            taken.extend(numbers.iter().copied());
            let sets = sets::sets(&subject, &policies, groups, place, &mut account);
            self.numbered.extend(numbers.into_iter().zip(sets));
        }
        account
    }
}

/// What tables hold of services.
struct Known {
    numbers: BTreeSet<u32>,
    names: BTreeSet<ServiceName>,
    frontends: BTreeSet<FrontendKey>,
}

impl Known {
    fn of(services: &BTreeSet<ServiceRef>, contents: &Contents) -> Self {
        let services: BTreeSet<_> = services
            .iter()
            .map(|id| (padded(&id.namespace), padded(&id.name)))
            .collect();
        let names = contents.service_names.iter();
        let (numbers, names): (BTreeSet<u32>, BTreeSet<ServiceName>) = names
            .filter(|(_, name)| services.contains(&(name.namespace, name.name)))
            .unzip();
        let frontends = contents.frontends.iter();
        let frontends = frontends.filter(|(_, frontend)| {
            numbers.contains(&frontend.service) || numbers.contains(&frontend.from_outside)
        });
        let frontends = frontends.map(|(key, _)| *key).collect();
        Self {
            numbers,
            names,
            frontends,
        }
    }
}

/// Other services, or the same ones otherwise.
struct Change<'a> {
    known: Known,
    drafts: Vec<Draft<'a>>,
    /// All of their frontends, and the addresses alone.
    coming: BTreeSet<FrontendKey>,
    /// Those that tables hold of them.
    going: BTreeSet<FrontendKey>,
}

impl<'a> Change<'a> {
    /// `None`: an address is, or remains, another service's, or it is one of a pod of this node:
    /// whether packets are handed over there follows from whether it is a service's.
    fn new(known: Known, drafts: Vec<Draft<'a>>, contents: &Contents) -> Option<Self> {
        let claims = || drafts.iter().flat_map(|draft| &draft.claims);
        let present = &contents.frontends;
        let mut coming: BTreeSet<FrontendKey> = claims().map(|claim| claim.key).collect();
        let is_others =
            |key: &FrontendKey| present.contains_key(key) && !known.frontends.contains(key);
        if coming.iter().any(is_others) {
            return None;
        }
        let cluster_ips = claims().filter(|claim| claim.kind == Kind::ClusterIp);
        coming.extend(cluster_ips.map(|claim| FrontendKey::address_only(claim.key.addr)));
        let mut going = known.frontends.clone();
        for key in &known.frontends {
            let alone = FrontendKey::address_only(key.addr);
            if !present.contains_key(&alone) || coming.contains(&alone) {
                continue;
            }
            // It sorts before the address with a port.
            let beside = present.range(alone..).map(|(key, _)| key);
            let mut beside = beside.take_while(|beside| beside.addr == key.addr);
            if beside.any(|beside| *beside != alone && is_others(beside)) {
                return None;
            }
            going.insert(alone);
        }
        let changing = || going.iter().chain(&coming);
        let is_changing = |pod: &PodAddr| changing().any(|key| key.addr == pod.addr);
        if contents.pod_addrs.iter().any(is_changing) {
            return None;
        }
        Some(Self {
            known,
            drafts,
            coming,
            going,
        })
    }

    /// Is there room for it?
    fn fits(&self, contents: &Contents, ids: &Ids, capacities: &Capacities) -> bool {
        let stays = contents.frontends.len() - self.going.len();
        let is_more =
            |key: &&FrontendKey| self.going.contains(key) || !contents.frontends.contains_key(key);
        let frontends = stays + self.coming.iter().filter(is_more).count();
        let names = self.drafts.iter().flat_map(|draft| &draft.names);
        let ranges = self.drafts.iter().filter_map(Draft::restricted);
        let ranges: usize = ranges.map(|(_, ranges)| ranges.len()).sum();
        frontends <= entries(capacities.frontends)
            && ids.suffice(names, capacities.services)
            && contents.source_ranges.len() + ranges <= entries(capacities.source_ranges)
    }

    /// Where tables may be different, and what else decides what is found there.
    fn frontends(&self) -> BTreeSet<FrontendKey> {
        let changing = self.going.union(&self.coming);
        changing
            .flat_map(|key| {
                let alone = FrontendKey::address_only(key.addr);
                let at_node = FrontendKey::node_port(key.addr.is_v4(), key.port, key.protocol);
                [*key, alone, at_node]
            })
            .collect()
    }

    /// Writes everything but the backends, which are added to `numbered` with their numbers. Gives
    /// what tables held of all numbers and frontends.
    fn make(
        self,
        desired: &mut Desired,
        ids: &mut Ids,
        capacities: &Capacities,
        (numbers, frontends, numbered): (
            &mut BTreeSet<u32>,
            &BTreeSet<FrontendKey>,
            &mut Vec<(u32, Set)>,
        ),
    ) -> Contents {
        let Self {
            known,
            drafts,
            going,
            ..
        } = self;
        let wanted: BTreeSet<&ServiceName> = drafts.iter().flat_map(|it| &it.names).collect();
        ids.release(known.names.iter().filter(|name| !wanted.contains(name)));
        desired.service_ports += drafts.len();
        desired.service_ports -= service_ports(&known.names);
        let drafts = number(drafts, ids, capacities, &mut desired.skipped);
        let given = drafts.iter().flat_map(|(_, numbers)| &numbers.0);
        numbers.extend(given.map(|(_, number)| *number));
        let contents = &mut desired.contents;
        let before = contents.of_parts(numbers, frontends);

        for key in &going {
            contents.frontends.remove(key);
        }
        let is_known = |range: &&SourceRange| known.numbers.contains(&range.service);
        for range in before.source_ranges.iter().filter(is_known) {
            contents.source_ranges.remove(range);
        }
        for number in &known.numbers {
            contents.service_names.remove(number);
        }
        for (draft, numbers) in drafts {
            let names = draft.names.iter();
            let names = names.zip(&numbers.0);
            let names = names.map(|(name, (_, number))| (*number, *name));
            desired.contents.service_names.extend(names);
            write(&draft, &numbers, capacities, desired);
            let numbers = numbers.0.into_iter().map(|(_, number)| number);
            numbered.extend(numbers.zip(draft.sets));
        }
        ranges::compile_guards(&mut desired.contents);
        before
    }
}
