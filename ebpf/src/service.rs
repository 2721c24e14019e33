//! From a frontend to one of its backends.

use crate::tables::{
    Backend, BackendKey, Frontend, FrontendKey, Service, ServiceFlags, ServingKey, Tables, Tuple,
};

/// What stands behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No service has this address.
    NotAService,
    /// Some service has this cluster IP, and none has this port and protocol of it.
    NoSuchPort,
    /// A service port has it, and nobody serves that anywhere.
    NoBackend,
    /// There are endpoints, and the traffic policy Local forbids each of them.
    NoLocalEndpoint,
    /// This backend was chosen.
    Chosen(Choice),
}

/// A backend and the edition of the service port it was chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// As in [`Frontend`].
    pub service: u32,
    /// As in [`crate::tables::Service`].
    pub revision: u32,
    /// Where the packet goes.
    pub backend: Backend,
}

/// Looks up the destination of a packet and chooses among its backends, each as likely as the
/// others.
///
/// What is addressed to no service port costs two lookups: the address alone is asked for after
/// the exact key has missed, some 15 ns more for a packet that has no flow.
#[inline(always)]
pub fn select<T: Tables>(tables: &T, key: &FrontendKey) -> Lookup {
    let Some(Frontend { service, .. }) = tables.frontend(key) else {
        return match tables.frontend(&FrontendKey::address_only(key.addr)) {
            Some(_) => Lookup::NoSuchPort,
            None => Lookup::NotAService,
        };
    };
    let Some(entry) = tables.service(service) else {
        return Lookup::NoBackend;
    };
    if entry.backend_count == 0 {
        return without_backend(&entry);
    }
    // The upper half of the product is uniform over 0..count, without a division.
    let product = u64::from(tables.random()) * u64::from(entry.backend_count);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a product of two u32, shifted by 32"
    )]
    let slot = (product >> 32) as u32;
    let backend = match tables.backend(&BackendKey { service, slot }) {
        Some(backend) => backend,
        // The count was read before the agent lowered it and removed the slot: the first slot is
        // the last to go.
        None => match tables.backend(&BackendKey { service, slot: 0 }) {
            Some(backend) => backend,
            None => return without_backend(&entry),
        },
    };
    Lookup::Chosen(Choice {
        service,
        revision: entry.revision,
        backend,
    })
}

/// Why a service port has nobody to send a packet to.
#[inline(always)]
const fn without_backend(entry: &Service) -> Lookup {
    if entry.flags.contains(ServiceFlags::DROPS_WITHOUT_BACKEND) {
        Lookup::NoLocalEndpoint
    } else {
        Lookup::NoBackend
    }
}

/// The frontend a packet with this tuple is addressed to.
#[inline(always)]
#[must_use]
pub const fn frontend_key(tuple: &Tuple) -> FrontendKey {
    FrontendKey::new(tuple.dst, tuple.dst_port, tuple.protocol)
}

/// What has become of a backend since it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The set of backends is the same.
    Unchanged,
    /// It has changed to this revision, and the backend still is in it.
    StillServing(u32),
    /// The backend is not in it any more.
    Gone,
}

/// Asks whether a backend chosen under a revision still serves.
#[inline(always)]
pub fn standing<T: Tables>(tables: &T, service: u32, revision: u32, backend: Backend) -> Standing {
    let Some(entry) = tables.service(service) else {
        return Standing::Gone;
    };
    if entry.revision == revision {
        return Standing::Unchanged;
    }
    if tables.is_serving(&ServingKey { service, backend }) {
        Standing::StillServing(entry.revision)
    } else {
        Standing::Gone
    }
}
