//! Where objects and facts come from.

pub mod node;
