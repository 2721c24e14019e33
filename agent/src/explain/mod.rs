//! Why a connection is allowed or refused, in names, and what other policies would change.
//!
//! The verdict is the datapath's: the same compiler fills tables in memory, and the same code that
//! judges packets in the kernel judges there ([`tables`]). What the numbers in the tables do not
//! say is asked of the objects: which rules match, all of them, and which comes nearest where
//! none does ([`mod@reasons`]). Where the two disagree, which would be a fault of Weir's, the answer
//! says so.
//!
//! [`explanation`] puts both together, [`mod@answer`] and [`mod@record`] into words: of a question, and
//! of a packet that the programs tell of. [`changes`] compares two states of a cluster. [`scene`] is
//! the cluster as policies see it, [`rules`] what one rule says, [`wording`] the words.
//!
//! Pure: no clock, file, socket or kernel.
#![forbid(unsafe_code)]

pub mod answer;
pub mod changes;
pub mod explanation;
pub mod party;
mod probe;
pub mod proposal;
pub mod reasons;
pub mod record;
pub mod rules;
pub mod scene;
pub mod tables;
pub mod wording;

use std::sync::Arc;

use weir_ebpf::addr::Protocol as Number;

pub use explanation::{Connection, Explainer, Explanation, Judgement, Sender};
pub use reasons::{End, Missed, NearMiss, Reasons, reasons};
pub use record::{FlowRecord, record};
pub use scene::Scene;

use crate::compile::Desired;
use crate::model::Protocol;

/// What an agent knows at a moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The cluster.
    pub scene: Arc<Scene>,
    /// What the node's tables hold, and what the numbers in them stand for.
    pub desired: Arc<Desired>,
    /// The node's name.
    pub node: String,
}

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

impl Traffic {
    /// What a packet of this protocol to this port is.
    #[must_use]
    pub const fn of(protocol: Number, port: u16) -> Self {
        let protocol = match protocol {
            Number::TCP => Protocol::Tcp,
            Number::UDP => Protocol::Udp,
            Number::SCTP => Protocol::Sctp,
            other => return Self::Other { protocol: other.0 },
        };
        Self::Ports { protocol, port }
    }

    /// The protocol as packets have it.
    #[must_use]
    pub const fn protocol(self) -> Number {
        match self {
            Self::Ports { protocol, .. } => match protocol {
                Protocol::Tcp => Number::TCP,
                Protocol::Udp => Number::UDP,
                Protocol::Sctp => Number::SCTP,
            },
            Self::Other { protocol } => Number(protocol),
        }
    }

    /// The port, where the protocol has ports.
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::Ports { port, .. } => Some(port),
            Self::Other { .. } => None,
        }
    }

    /// The same to another port; without ports it stays as it is.
    #[must_use]
    pub const fn to_port(self, port: u16) -> Self {
        match self {
            Self::Ports { protocol, .. } => Self::Ports { protocol, port },
            Self::Other { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests;
