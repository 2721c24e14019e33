//! The packet's way.
//!
//! This library is the packet logic of Weir: what the programs in `src/bin/dataplane` do to a
//! packet or a socket call, without the kernel. It knows neither aya nor a map, allocates
//! nothing, contains no `unsafe`, and is tested on any host.
//!
//! ```text
//!  hook (tc, cgroup)        src/bin/dataplane   thin: context in, verdict out
//!   └ datapath │ socket     the order of the steps, for packets and for socket calls
//!      └ packet             bytes → Headers
//!         └ conntrack       known flow? how it stands, how long it lives
//!            └ service      frontend → backend
//!               └ policy    whose packet it is, and whether rules allow it
//!                  └ nat    which bytes change        reject: the answer instead
//!                     └ verdict, counters, events
//! ```
//!
//! Everything is generic over two small traits, [`packet::Packet`] and [`tables::Tables`], each
//! with two implementations: the kernel's, and one in memory ([`buffer`], and the agent's
//! `maps::memory`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod buffer;
pub mod checksum;
pub mod conntrack;
pub mod crc32c;
pub mod datapath;
pub mod event;
pub mod fragments;
pub mod icmp;
pub mod nat;
pub mod packet;
pub mod policy;
pub mod reject;
pub mod service;
pub mod socket;
pub mod tables;
pub mod verdict;
