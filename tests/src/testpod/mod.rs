//! The process that lives in every pod, node and host of a test bed.
//!
//! It is told what to do by JSON lines on its input and answers on its output: who it serves,
//! which sockets it opens and keeps, what it asks whom. [`client`] is the other end. Commands run
//! side by side; a socket lives from its opening to its closing, across commands.

pub mod client;
mod dns;
pub mod first;
mod http;
mod inquiry;
mod pattern;
mod probe;
pub mod protocol;
mod pulse;
pub mod room;
mod run;
mod sctp;
mod serve;
mod sockets;
mod sweep;
mod transfer;

pub use run::run;
