//! Service ports: where they are reached, and who answers.
//!
//! Older services come first: they keep a disputed address, and they get room when there is not
//! enough for all. Where it is backends that there are too many of, the service port with the most
//! goes without some of them, and the others are served whole. What does not fit is named.
//!
//! A cluster IP at which some service port is reached is known as an address, too: what is sent
//! to another port of it is refused. Other addresses are not the services' own: their other
//! ports are left alone.

use ipnetwork::IpNetwork;
use weir_ebpf::addr::Addr;
use weir_ebpf::tables::{Frontend, FrontendKey, ServiceName, SourceRange};

use crate::maps::{Contents, service_ports};
use crate::model::{Cluster, EndpointGroup, Service};

use super::choice::Place;
use super::frontends::{Claim, Full, Kind, Owners};
use super::names::Subject;
use super::sets::{self, Numbers, Set};
use super::{Account, Capacities, Desired, Ids, Reason, Skipped, Table, Why, ranges};

/// Fills every table that holds services.
pub(super) fn compile_services(
    cluster: &Cluster,
    place: Place<'_>,
    ids: &mut Ids,
    capacities: &Capacities,
) -> Desired {
    let mut desired = Desired::default();
    let drafts = drafts(cluster, place, capacities, &mut desired);
    let names = drafts.iter().flat_map(|draft| &draft.names);
    ids.release_all_but(names.collect());
    let numbered = number(drafts, ids, capacities, &mut desired.skipped);
    give_slots(&numbered, ids, capacities, &mut desired);
    for (draft, numbers) in &numbered {
        write(draft, numbers, capacities, &mut desired);
    }
    // Put in as they came, they have half of the room to themselves.
    let frontends = &mut desired.contents.frontends;
    *frontends = std::mem::take(frontends).into_iter().collect();
    ids.write_to(&mut desired.contents);
    desired.service_ports = service_ports(desired.contents.service_names.values());
    desired
}

/// A service port of one family, before its sets have numbers.
pub(super) struct Draft<'a> {
    pub subject: Subject<'a>,
    /// At least one.
    pub claims: Vec<Claim>,
    pub sets: Vec<Set>,
    /// What each of the sets is called.
    pub names: Vec<ServiceName>,
}

impl<'a> Draft<'a> {
    /// Of a service port with these addresses and endpoints.
    fn new(
        subject: Subject<'a>,
        claims: Vec<Claim>,
        groups: &[&EndpointGroup],
        place: Place<'_>,
        account: &mut Account,
    ) -> Self {
        let policies = sets::policies(&subject, &claims);
        Self {
            subject,
            sets: sets::sets(&subject, &policies, groups, place, account),
            names: policies.iter().map(|it| subject.name(*it)).collect(),
            claims,
        }
    }

    /// The address to which not everybody may come, and who may.
    pub fn restricted(&self) -> Option<(&Claim, &'a [IpNetwork])> {
        let mut claims = self.claims.iter();
        let claim = claims.find(|claim| claim.is_restricted(&self.subject))?;
        let ranges = &self.subject.service.source_ranges;
        Some((claim, ranges.of(self.subject.family).unwrap_or_default()))
    }
}

/// The service ports that can be reached, service by service.
pub(super) struct Drafts<'a> {
    place: Place<'a>,
    /// Of `FRONTENDS`.
    capacity: u32,
    owners: Owners<'a>,
    pub drafts: Vec<Draft<'a>>,
    /// What of the services is left out.
    pub skipped: Vec<Skipped>,
}

impl<'a> Drafts<'a> {
    pub fn new(place: Place<'a>, capacities: &Capacities) -> Self {
        Self {
            place,
            capacity: capacities.frontends,
            owners: Owners::new(capacities.frontends),
            drafts: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Adds a service with these endpoints; those before are older: see [`by_age`]. Says which
    /// endpoints nobody is led to.
    pub fn add(&mut self, service: &'a Service, groups: &[&EndpointGroup]) -> Account {
        let mut account = Account::default();
        account.add_unused(service, groups);
        for subject in Subject::all(service) {
            match self.owners.claim(subject, &mut self.skipped) {
                Ok(claims) if claims.is_empty() => {}
                Ok(claims) => {
                    let draft = Draft::new(subject, claims, groups, self.place, &mut account);
                    self.drafts.push(draft);
                }
                Err(Full) => self.skipped.push(subject.skipped(Reason::NoRoom {
                    table: Table::Frontends,
                    capacity: self.capacity,
                })),
            }
        }
        account
    }
}

/// Puts the oldest service first. One that has no time of creation has not been through an API
/// server: it comes last.
pub(super) fn by_age(services: &mut [&Service]) {
    services.sort_by_key(|service| (service.created.is_none(), service.created, &service.id));
}

/// Every service port that can be reached, the oldest service first.
fn drafts<'a>(
    cluster: &'a Cluster,
    place: Place<'a>,
    capacities: &Capacities,
    desired: &mut Desired,
) -> Vec<Draft<'a>> {
    let groups = sets::groups_by_service(cluster);
    let mut services: Vec<&Service> = cluster.services().collect();
    by_age(&mut services);
    let mut drafts = Drafts::new(place, capacities);
    for service in services {
        let groups = groups.get(&service.id).map_or(&[][..], Vec::as_slice);
        let account = drafts.add(service, groups);
        if !account.is_empty() {
            desired.unchosen.insert(service.id.clone(), account);
        }
    }
    desired.skipped = drafts.skipped;
    let alone = drafts.owners.disputed().into_iter();
    let alone = alone.map(|addr| (FrontendKey::address_only(addr), Frontend::ADDRESS_ONLY));
    desired.contents.frontends.extend(alone);
    drafts.drafts
}

/// Gives numbers to the sets of each service port, or leaves it out where it gets not all of them.
pub(super) fn number<'a>(
    drafts: Vec<Draft<'a>>,
    ids: &mut Ids,
    capacities: &Capacities,
    skipped: &mut Vec<Skipped>,
) -> Vec<(Draft<'a>, Numbers)> {
    let mut numbered = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let Some(numbers) = ids.numbers(&draft.names, capacities.services) else {
            skipped.push(draft.subject.skipped(Reason::NoRoom {
                table: Table::Services,
                capacity: capacities.services,
            }));
            continue;
        };
        ids.set_affinity(
            &numbers,
            sets::affinity_timeout(draft.subject.service.affinity),
        );
        for (set, number) in draft.sets.iter().zip(&numbers) {
            ids.set_flags(*number, set.flags);
        }
        let policies = draft.sets.iter().map(|set| set.policy);
        let numbers = Numbers(policies.zip(numbers).collect());
        numbered.push((draft, numbers));
    }
    numbered
}

/// Gives slots to backends. Service ports with few come first: where there is not enough room, it
/// is the largest that goes without some, and no other.
fn give_slots(
    numbered: &[(Draft<'_>, Numbers)],
    ids: &mut Ids,
    capacities: &Capacities,
    desired: &mut Desired,
) {
    let mut by_size: Vec<&(Draft<'_>, Numbers)> = numbered.iter().collect();
    let size = |set: &Set| set.backends.len();
    by_size.sort_by_key(|(draft, _)| draft.sets.iter().map(size).sum::<usize>());
    let mut room = entries(capacities.backends);
    for (Draft { subject, sets, .. }, numbers) in by_size {
        for set in sets {
            let number = numbers.of(set.policy);
            let placed = ids.place(number, &set.backends, room);
            room -= placed;
            if placed == set.backends.len() {
                continue;
            }
            let account = desired.unchosen.entry(subject.service.id.clone());
            let account = account.or_default();
            for target in ids.without_slot(number, &set.backends) {
                account.add(subject, Some(set.policy), target, None, Why::NoRoom);
            }
            desired
                .skipped
                .push(subject.skipped(Reason::NoRoomForBackends {
                    policy: set.policy,
                    left_out: set.backends.len() - placed,
                    of: set.backends.len(),
                    capacity: capacities.backends,
                }));
        }
    }
}

/// Writes where a service port is reached, and who may come to its load balancer IPs. Clients in a
/// range without room are refused.
pub(super) fn write(
    draft: &Draft<'_>,
    numbers: &Numbers,
    capacities: &Capacities,
    desired: &mut Desired,
) {
    let Draft {
        subject, claims, ..
    } = draft;
    let Contents {
        frontends,
        source_ranges,
        ..
    } = &mut desired.contents;
    for claim in claims {
        frontends.insert(claim.key, claim.frontend(subject, numbers));
        if claim.kind == Kind::ClusterIp {
            let alone = FrontendKey::address_only(claim.key.addr);
            frontends.insert(alone, Frontend::ADDRESS_ONLY);
        }
    }
    let Some((claim, wanted)) = draft.restricted() else {
        return;
    };
    let service = claim.frontend(subject, numbers).service;
    let room = entries(capacities.source_ranges) - source_ranges.len();
    let placed = wanted.len().min(room);
    source_ranges.extend(wanted.iter().take(placed).map(|range| SourceRange {
        prefix_len: u32::BITS + ranges::mapped_length(range),
        service,
        addr: Addr::from(range.network()),
    }));
    if placed < wanted.len() {
        desired
            .skipped
            .push(subject.skipped(Reason::NoRoomForRanges {
                left_out: wanted.len() - placed,
                of: wanted.len(),
                capacity: capacities.source_ranges,
            }));
    }
}

pub(super) fn entries(capacity: u32) -> usize {
    usize::try_from(capacity).unwrap_or(usize::MAX)
}
