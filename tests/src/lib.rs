//! Scenarios and their executors, the test bed, and the demonstration.

pub mod scenario;
