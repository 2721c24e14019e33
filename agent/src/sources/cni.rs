//! The records that tell which pod an interface was made for.
//!
//! Every container runtime calls CNI plugins through libcni, and that keeps a record of each
//! interface that it added (`/var/lib/cni/results`): the pod's name, its addresses, the ends of
//! the pair. It is there before the first container of the pod starts, earlier than the API
//! server tells of the pod's addresses.
//!
//! [`record`] reads one, [`claims()`] finds the interface that it is of: both pure. [`watch`]
//! follows the directory.

pub mod claims;
pub mod record;
pub mod watch;

pub use claims::{Claim, claims};
pub use record::Record;
