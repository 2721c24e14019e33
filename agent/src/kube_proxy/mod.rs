//! Taking a node over from kube-proxy.
//!
//! Its rules serve until the tables here are complete. Then, where no kube-proxy runs any more
//! (`--cleanup-kube-proxy`), they are removed in one transaction per kind, so that no packet meets
//! half of them; what belongs to the kubelet or to anybody else stays.
//!
//! **Connections that it translated go on.** The kernel keeps their translation with the
//! connection, not with the rule, but only performs it while some rule of the network namespace
//! uses translation; so a table of ours, [`HOLDER`], keeps it at work for as long as such
//! connections live. The programs leave to the kernel what continues one
//! ([`PolicyFlags::LEAVE_TRACKED`](weir_ebpf::tables::PolicyFlags::LEAVE_TRACKED)).
//!
//! | file | |
//! |---|---|
//! | `names` | which chains and sets are kube-proxy's (pure) |
//! | `ruleset` | which rules have to go, in which order (pure) |
//! | `nftables` | nf_tables over netlink |
//! | `connections` | which connections were translated |
//! | `legacy` | its rules in `iptables-legacy` |
//! | `ipvs`, `ipsets` | its IPVS mode |
//! | `leavings` | all of these: what is there, and its removal |
//! | `presence` | does a kube-proxy run? |
//! | `takeover` | the task that does all this beside the agent's loop |

mod connections;
mod ipsets;
mod ipvs;
mod leavings;
mod legacy;
pub(crate) mod message;
mod names;
pub(crate) mod nftables;
mod presence;
mod ruleset;
mod takeover;

pub(crate) use ipvs::servers as virtual_servers;
pub use leavings::{Leavings, release, survey};
pub use presence::{HEALTH, Presence, presence};
pub use ruleset::{Family, HOLDER, TableName};
pub use takeover::{CleanUp, State, Takeover};
