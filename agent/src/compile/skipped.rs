//! What does not reach the tables, and why.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Serialize, Serializer};

use crate::model::{Family, ObjectRef, Protocol, TrafficPolicy};

/// An object, or something of it, that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The object.
    pub object: ObjectRef,
    /// The part of it that this is about, where it is not the whole.
    pub part: Option<Part>,
    /// Why.
    pub reason: Reason,
}

/// A service port of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The port's name; empty in a service of one port.
    pub port_name: String,
    /// The port.
    pub port: NonZeroU16,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of its addresses.
    pub family: Family,
}

/// Why something was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another service has the same address, port and protocol and is older, or has the name that
    /// sorts first where both are of the same age.
    AddressTaken {
        /// The address.
        addr: IpAddr,
        /// The service that answers there; `None`: another port of the same.
        by: Option<ObjectRef>,
    },
    /// Another service port has the same node port and protocol, and is older as above.
    NodePortTaken {
        /// The node port.
        port: u16,
        /// The service that answers there; `None`: another port of the same.
        by: Option<ObjectRef>,
    },
    /// There is no room for the whole of it.
    NoRoom {
        /// The table that is full.
        table: Table,
        /// What it holds.
        capacity: u32,
    },
    /// There is no room for all of its backends. The others serve.
    NoRoomForBackends {
        /// For which traffic.
        policy: TrafficPolicy,
        /// How many are left out.
        left_out: usize,
        /// How many there are.
        of: usize,
        /// What the table holds.
        capacity: u32,
    },
    /// There is no room for all that a policy says. It isolates, and allows nothing.
    NoRoomForRules {
        /// The table that is full.
        table: Table,
        /// What it holds.
        capacity: u32,
    },
    /// There is no room for all ranges of clients that may come. Those in the others are served.
    NoRoomForRanges {
        /// How many are left out.
        left_out: usize,
        /// How many there are.
        of: usize,
        /// What the table holds.
        capacity: u32,
    },
}

/// A table that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `FRONTENDS`
    Frontends,
    /// `SERVICES`
    Services,
    /// `SERVICE_CIDRS`
    ServiceCidrs,
    /// `PODS`
    Pods,
    /// `POD_ADDRS`
    PodAddrs,
    /// `PEERS`
    Peers,
    /// `PEER_RANGES`
    PeerRanges,
    /// `RULES`
    Rules,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Frontends => weir_ebpf::tables::name::FRONTENDS,
            Self::Services => weir_ebpf::tables::name::SERVICES,
            Self::ServiceCidrs => weir_ebpf::tables::name::SERVICE_CIDRS,
            Self::Pods => weir_ebpf::tables::name::PODS,
            Self::PodAddrs => weir_ebpf::tables::name::POD_ADDRS,
            Self::Peers => weir_ebpf::tables::name::PEERS,
            Self::PeerRanges => weir_ebpf::tables::name::PEER_RANGES,
            Self::Rules => weir_ebpf::tables::name::RULES,
        })
    }
}

impl Skipped {
    /// `Service default/web port http 80/TCP IPv4`
    #[must_use]
    pub fn subject(&self) -> String {
        let Some(Part {
            port_name,
            port,
            protocol,
            family,
        }) = &self.part
        else {
            return self.object.to_string();
        };
        let object = &self.object;
        let space = if port_name.is_empty() { "" } else { " " };
        format!("{object} port {port_name}{space}{port}/{protocol} {family}")
    }
}

/// `Service default/web port http 80/TCP IPv4: …`
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject(), self.reason)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressTaken { addr, by } => {
                write!(f, "{addr} with this port and protocol {}", belongs_to(by))
            }
            Self::NodePortTaken { port, by } => {
                write!(f, "node port {port} with this protocol {}", belongs_to(by))
            }
            Self::NoRoom { table, capacity } => {
                write!(
                    f,
                    "left out, because the table {table} is full ({capacity} entries)"
                )?;
                match table {
                    Table::Frontends => f.write_str("; a larger --max-frontends makes room"),
                    Table::Services | Table::ServiceCidrs | Table::PeerRanges | Table::Rules => {
                        Ok(())
                    }
                    Table::Pods => f.write_str("; its interface is one that nobody knows"),
                    Table::PodAddrs => {
                        f.write_str("; what it sends from some of its addresses is dropped")
                    }
                    Table::Peers => f.write_str("; no selector finds some of its addresses"),
                }
            }
            Self::NoRoomForBackends {
                policy,
                left_out,
                of,
                capacity,
            } => {
                let for_policy = match policy {
                    TrafficPolicy::Cluster => "",
                    TrafficPolicy::Local => " for the traffic policy Local",
                };
                write!(
                    f,
                    "{left_out} of {of} endpoints{for_policy} are left out, because the table \
                     BACKENDS is full ({capacity} entries); a larger --max-backends makes room"
                )
            }
            Self::NoRoomForRules { table, capacity } => write!(
                f,
                "its rules are left out, because the table {table} is full ({capacity} entries); \
                 it isolates the pods that it selects and allows nothing"
            ),
            Self::NoRoomForRanges {
                left_out,
                of,
                capacity,
            } => write!(
                f,
                "{left_out} of {of} source ranges are left out, whose clients are refused, because \
                 the table SOURCE_RANGES is full ({capacity} entries)"
            ),
        }
    }
}

fn belongs_to(by: &Option<ObjectRef>) -> String {
    match by {
        Some(by) => format!("belongs to {by}, which came first"),
        None => "belongs to another port of it".to_owned(),
    }
}

impl Serialize for Skipped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
