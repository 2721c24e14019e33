//! Random clusters under policy.
//!
//! [`plan`] says who has which address, label and port, few of each, so that they collide;
//! [`worlds`] makes clusters of them, [`rules`] their policies, and [`connections`] what is asked
//! of them.

pub mod connections;
pub mod plan;
pub mod rules;
pub mod worlds;
