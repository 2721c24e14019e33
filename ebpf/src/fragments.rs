//! Datagrams in fragments: the later ones follow the first, which alone carries ports.
//!
//! Promises: a later fragment gets the addresses that the first one of the same datagram got, if
//! that came before it and not longer ago than [`LIFETIME`]; nothing else decides about it. Of a
//! pod under policy those that get through are noted even if they keep their addresses, and what
//! is not noted is not let through. The checksum over the whole datagram lies in the first
//! fragment, and is that one's business.

use crate::{
    addr::{Port, Protocol},
    conntrack::SECOND,
    packet::Headers,
    tables::{Fragment, FragmentKey, Nanos, Tables, Tuple},
};

/// How long a first fragment speaks for the later ones: as long as Linux waits for the rest of a
/// datagram (`net.ipv4.ipfrag_time`).
pub const LIFETIME: Nanos = 30 * SECOND;

/// Notes what a first fragment is translated to, or let through as; `None`: neither, and then
/// nothing may be left of an earlier datagram with the same identification.
#[inline(never)]
pub fn remember<T: Tables>(headers: &Headers, tables: &T, is_entering: bool, to: Option<&Tuple>) {
    let key = key(headers, is_entering);
    let Some(to) = to else {
        tables.remove_fragment(&key);
        return;
    };
    let fragment = Fragment {
        src: to.src,
        dst: to.dst,
        first_seen: tables.now(),
    };
    tables.put_fragment(&key, &fragment);
}

/// Puts into `to` what a later fragment becomes. `false`: nothing is known of its first one.
#[inline(never)]
pub fn follow<T: Tables>(headers: &Headers, tables: &T, is_entering: bool, to: &mut Tuple) -> bool {
    let Some(fragment) = tables.fragment(&key(headers, is_entering)) else {
        return false;
    };
    if tables.now().saturating_sub(fragment.first_seen) > LIFETIME {
        return false;
    }
    *to = Tuple {
        src: fragment.src,
        dst: fragment.dst,
        src_port: Port(0),
        dst_port: Port(0),
        protocol: headers.tuple.protocol,
        is_beside: 0,
        reserved: [0; 2],
    };
    true
}

#[inline(always)]
fn key(headers: &Headers, is_entering: bool) -> FragmentKey {
    FragmentKey {
        src: headers.tuple.src,
        dst: headers.tuple.dst,
        identification: headers.identification,
        protocol: if headers.is_v4 {
            headers.tuple.protocol
        } else {
            Protocol(0)
        },
        is_entering: u8::from(is_entering),
        reserved: [0; 2],
    }
}
