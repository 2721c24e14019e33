//! Why a connection is allowed or refused, in names, and what other policies would change.
//!
//! The verdict is the datapath's: the same compiler fills tables in memory, and the same code that
//! judges packets in the kernel judges there ([`tables`]). What the numbers in the tables do not
//! say is asked of the objects: which rules match, all of them, and which comes nearest where
//! none does ([`reasons`]). Where the two disagree, which is a bug, the answer says so.
//!
//! [`scene`] is the cluster as policies see it, [`rules`] what one rule says, [`wording`] the words.
//!
//! Pure: no clock, file, socket or kernel.
#![forbid(unsafe_code)]

pub mod reasons;
pub mod rules;
pub mod scene;
pub mod wording;

pub use reasons::{End, Missed, NearMiss, Reasons, RuleName, reasons};
pub use scene::Scene;

use crate::model::Protocol;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// To a port.
    Ports {
        /// The protocol.
        protocol: Protocol,
        /// The destination's port.
        port: u16,
    },
    /// Of a protocol without ports, by its number.
    Other {
        /// The number that IANA gave it.
        protocol: u8,
    },
}

#[cfg(test)]
mod tests;
