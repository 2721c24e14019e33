//! Whether packets of this node's pods may pass the node's IP layer by (`--fast-path`).
//!
//! What is handed over meets none of the node's own rules for what it forwards. So by default
//! (`auto`) it is done only where there are none: no rules of netfilter where packets are forwarded,
//! no virtual servers, no IPsec policies, no programs of others at the interfaces, no routes that
//! programs are told only half of. That is looked at again and again, at once when nftables tell of a
//! change, and the way past is closed as soon as there is something. Not to be able to look is not to
//! know, and closes it, too.
//!
//! | file | |
//! |---|---|
//! | `judge` | what was found → may packets be handed over, and why not (pure) |
//! | `netfilter` | the kernel's rules, over netlink and as `iptables-legacy` has them |
//! | `rules`, `routes` | what its routes go by that programs are not told of |
//! | `look` | everything that may have a say, as it is now |
//! | `task` | the task beside the agent's loop that looks |

mod judge;
mod look;
mod netfilter;
mod routes;
mod rules;
mod task;

pub use judge::{Choice, Family, Found, LegacyHook, NftChain, State, judge};
pub use look::{Places, look};
pub use task::FastPath;
