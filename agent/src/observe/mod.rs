//! What the agent shows of itself.

pub mod report;
pub mod status;
