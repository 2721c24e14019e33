//! Policies in random clusters: the evaluator that was written from the API's text, and the compiler
//! and the explanations against it. They are one program: what they share is compiled once.

#[path = "../policies/mod.rs"]
mod policies;

mod compile;
mod model;
mod reasons;
