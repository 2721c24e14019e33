//! The rules that kube-proxy 1.36 writes for a [`Cluster`](super::cluster::Cluster), and how they are
//! loaded: by the distribution's own tools, on a node of a bed.
//!
//! Of each mode the shape that decides what a packet costs: the hooks and what they ask in which
//! order, maps and chains, masquerading. What the measured services do not have is left out: session
//! affinity, source ranges, policies Local, and in nftables mode the rules for them.

mod iptables;
mod load;
mod nftables;

pub use iptables::rules as iptables_rules;
pub use load::{Iptables, load_iptables, load_nftables};
pub use nftables::rules as nftables_rules;
