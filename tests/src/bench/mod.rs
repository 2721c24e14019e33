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
//! | steady | noisy |
//! |---|---|
//! | ratios to *direct*, client and server on one processor | rates between two processors: they vary by half |
//! | work for each second of processor time | work for each second of the clock, while others use the machine |
//! | medians and quartiles | the 99th percentile, and each minimum or maximum |
//!
//! Each program writes its [`Figure`]s to the file that [`report::RESULTS`] names; `cargo xtask
//! bench` collects them.

pub mod cluster;
pub mod empty;
pub mod figure;
pub mod kube_proxy;
pub mod load;
pub mod report;
pub mod rounds;
pub mod site;
pub mod statistics;
mod table;

pub use figure::{Figure, Goal, Subject};
pub use report::Report;
pub use statistics::Summary;
