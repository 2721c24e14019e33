//! The packet's way.
//!
//! This library is the packet logic of Weir: what the programs in `src/bin/dataplane` do to a
//! packet or a socket call, without the kernel. It knows neither aya nor a map, allocates
//! nothing, contains no `unsafe`, and is tested on any host.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod addr;
pub mod tables;
