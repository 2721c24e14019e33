//! What the agent shows of itself.

pub mod health;
pub mod http;
pub mod report;
pub mod status;
