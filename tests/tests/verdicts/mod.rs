//! Random clusters under policy, packets between their pods, and the comparison of what becomes of
//! them with what the reference evaluator says, reasons included.
//!
//! [`histories`] makes clusters that change and what happens in them, [`place`] says where in the
//! node that is, [`record`] what is remembered of conversations by the text, and [`comparison`]
//! sends every packet and judges it.

mod comparison;
mod histories;
mod met;
mod place;
mod record;
mod segment;

pub use comparison::{Extent, compare};
pub use histories::history;
pub use met::Met;
