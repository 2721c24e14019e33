//! What the tables say, as people and programs want to read it: rows made of their contents.
//!
//! Everything here is a pure function of what was read from the tables and of the time given;
//! [`maps::kernel`](crate::maps::kernel) reads and [`cli`](crate::cli) shows. The names of
//! fields are those of the JSON output and do not change.

pub mod filter;
pub mod flows;
pub mod policies;
pub mod services;
pub mod sockets;
pub mod watch;

#[cfg(test)]
mod testing;
