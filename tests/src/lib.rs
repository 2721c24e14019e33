//! What shows that Weir works: the test bed, the scenarios, and the demonstration.
//!
//! - [`scenario`] reads scenario files and runs them in memory, in the loaded programs and in a
//!   bed;
//! - [`mod@reference`] says a second time what becomes of a connection, for random worlds;
//! - [`bed`] builds nodes, pods and outside hosts from network namespaces and runs the real
//!   `weir` in them;
//! - [`testpod`] is the process that lives in each of them and sends, serves and measures;
//! - [`fake_api`] is an API server that holds what a test says, and misbehaves on command;
//! - [`mod@bench`] is what measurements share: samples in turns, ratios, tables;
//! - [`demo`] puts both together into the lesson's cluster;
//! - [`kernel_test`] puts them together on another kernel, in a virtual machine.

#![forbid(unsafe_code)]

pub mod bed;
pub mod bench;
pub mod demo;
pub mod fake_api;
pub mod kernel_test;
pub mod reference;
pub mod scenario;
pub mod testpod;
