//! What `deploy/` holds: that it is what the API, the agent and each other understand, and that the
//! image runs as it says.
//!
//! What needs no program but this one runs everywhere. The rest renders with the real Helm and
//! kubectl, or starts the image on a node of a test bed as root: `cargo xtask test deploy`, which
//! gets the tools, builds the image and names them in the environment.

#![forbid(unsafe_code)]

mod agent;
mod committed;
mod contained;
mod image;
mod monitoring;
mod objects;
mod pod;
mod rendered;
