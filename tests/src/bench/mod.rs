//! What the measurements of `tests/benches` share: how samples are taken, what is made of them, and
//! how they are told.
//!
//! # Method
//!
//! A figure is never compared with one of another run. The things to compare (a *variant* each: no
//! proxy, Weir, kube-proxy's rules) are all there at once, and samples of some tenths of a second
//! alternate between them ([`rounds`]): each round takes one of every variant, beginning with another
//! one each time. What is told of a variant is the median of its samples and, beside it, the median
//! of the ratios to *direct* within the same round ([`statistics`]), each with its quartiles. What
//! disturbs the machine for seconds disturbs both sides of such a ratio.
//!
//! Rates by the clock say as much about what else the machine does as about what is measured. So the
//! processor time is taken that client, server and the kernel's threads for soft interrupts have used
//! ([`load`]), and work is told for each second of that. What the kernel does for a packet on the way is
//! in it, since it is done in the sender's time, as long as the kernel is not built to account for
//! interrupts apart (`CONFIG_IRQ_TIME_ACCOUNTING`). Client and server share one processor, the last:
//! between two, rates vary by half, and are told by the clock. Cycles are steadier still, but few virtual
//! machines let them be counted; where one does, they are told for each piece of work. `cargo xtask bench`
//! gives the programs a higher priority (`nice`): a cache that somebody else has filled meanwhile costs
//! long programs more than short ones.
//!
//! On one processor a server of datagrams would be woken for each of them in the middle of the client's
//! work, and two fifths of the time were switches between the two, more or fewer of them as the
//! scheduler sees fit. It runs as `SCHED_BATCH`, and takes what has come when the client waits, as
//! one does that has enough to do.
//!
//! | steady | noisy |
//! |---|---|
//! | ratios to *direct*, for each second of processor time, on one processor: 1 to 2 % | rates by the clock, while others use the machine: up to a factor |
//! | ratios of TCP connections and UDP packets | of TCP requests, where the two processes change places all the time: 3 to 5 % |
//! | medians and quartiles | the 99th percentile, and each minimum or maximum |
//! | single programs, by many short calls | rates between two processors |
//!
//! A node whose kernel tracks connections pays for that without any service, some 1.2 times as much for a
//! connection and 1.4 times for a packet. So each figure of traffic says how many the node's kernel
//! tracked: none where nobody has loaded rules that ask for it.
//!
//! What a variant must not share with another is its clients ([`site`]), and the tables of connections of
//! its node.
//!
//! # What is measured, and how long that takes
//!
//! | program | a whole run | `--quick` |
//! |---|---|---|
//! | `packets`: 1 to 10,000 services, 0 to 500 policies, on one processor and between two | 15 minutes | 1 service, 0 and 10 policies, on one: 1 minute |
//! | `control`: 1 to 10,000 services, told by an API server and by files | 12 minutes | 1 and 10,000: 1 minute |
//! | `programs` | 1 minute | some seconds |
//! | `pure` ([Criterion](https://docs.rs/criterion)) | 4 minutes | half a minute |
//!
//! Those are times of measuring; a cluster of 10,000 services takes each contender some seconds to load.
//! The programs of traffic and of the control plane say at first what they will do and how long that
//! will take, and leave out nothing silently.
//!
//! Each program writes its [`Figure`]s to the file that [`report::RESULTS`] names; `cargo xtask
//! bench` collects them.

pub mod cases;
pub mod cluster;
pub mod empty;
pub mod exchange;
pub mod figure;
pub mod kube_proxy;
pub mod lanes;
pub mod load;
pub mod report;
pub mod rounds;
pub mod site;
pub mod statistics;
mod table;

pub use figure::{Figure, Goal, Subject};
pub use report::Report;
pub use statistics::Summary;
