//! Where objects and facts come from.
//!
//! A source of objects turns what it sees into [`Event`]s with valid objects, and reports what it
//! cannot use. Its first complete list ends with [`Change::Ready`]; nothing is written to the
//! kernel before every source has said that. What to do about events is the model's business.

pub mod api;
pub mod cni;
pub mod decode;
pub mod manifests;
pub mod node;
pub mod row;

pub use crate::model::{Change, Event, Problem, Report, SourceId};
