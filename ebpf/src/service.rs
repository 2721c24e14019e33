//! From a frontend to one of its backends.

use crate::tables::{Backend, BackendKey, Frontend, FrontendKey, ServingKey, Tables, Tuple};

/// What stands behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// No service port has this address, port and protocol.
    NotAService,
    /// One has, and nobody serves it.
    NoBackend,
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
#[inline(always)]
pub fn select<T: Tables>(tables: &T, key: &FrontendKey) -> Lookup {
    let Some(Frontend { service }) = tables.frontend(key) else {
        return Lookup::NotAService;
    };
    let Some(entry) = tables.service(service) else {
        return Lookup::NoBackend;
    };
    if entry.backend_count == 0 {
        return Lookup::NoBackend;
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
            None => return Lookup::NoBackend,
        },
    };
    Lookup::Chosen(Choice {
        service,
        revision: entry.revision,
        backend,
    })
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
