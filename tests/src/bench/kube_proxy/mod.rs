//! The rules that kube-proxy 1.36 writes for a [`Cluster`](super::cluster::Cluster), and how they are
//! loaded: by the distribution's own tools, on a node of a bed.
//!
//! They were compared, chain by chain, with what `pkg/proxy/nftables` and `pkg/proxy/iptables` of
//! kubernetes/kubernetes write (the proxiers' own tests and the tables of running clusters): hooks and
//! their priorities, what they ask in which order, maps and chains, masquerading. What the measured
//! services do not have is left out: session affinity, source ranges, policies Local; so are the
//! comments and, in iptables mode, two counters that no measured packet reaches.

mod iptables;
mod load;
mod nftables;

pub use iptables::rules as iptables_rules;
pub use load::{Iptables, load_iptables, load_nftables};
pub use nftables::{Rules as NftablesRules, of_endpoints as nftables_endpoints};
