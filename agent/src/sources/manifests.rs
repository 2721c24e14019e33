//! Objects from a directory of manifests.
//!
//! Every `*.yaml`, `*.yml` and `*.json` file of the directory, hidden ones apart, may hold any
//! number of documents and lists. What is read follows the files as they change; what cannot be
//! read is reported by file, line and field, and its last good version stays in force.
//!
//! [`parse`](parse::parse) reads one file, `Files` knows all of them: both are
//! pure. `directory` is what the file system says, `burst` when to ask it; `run` of `watch` does.
#![forbid(unsafe_code)]

mod burst;
pub mod directory;
pub mod files;
pub mod parse;
pub mod watch;
mod yaml;
