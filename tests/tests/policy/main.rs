//! Policies in random clusters: the evaluator that was written from the API's text, and the compiler
//! and the explanations against it. They are one program: what they share is compiled once.

#[path = "../policies/mod.rs"]
mod policies;

mod compile;
mod model;
mod reasons;

use proptest::prelude::ProptestConfig;

/// So many random cases; what fails is printed, and not kept.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
