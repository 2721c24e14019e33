//! Random clusters' services.

#[path = "../clusters/plan.rs"]
#[allow(
    dead_code,
    reason = "of what makes random services only the clusters are used here"
)]
mod plan;
#[path = "../clusters/worlds.rs"]
pub mod worlds;
