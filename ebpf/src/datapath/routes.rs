//! Where the node's routes lead a packet that may be [handed over](super::hand_over): the kernel's
//! answer, which counts for those that follow with the same tuple.
//!
//! Promises:
//! - A route that changes, a rule, forwarding turned off or a neighbour that does not answer is
//!   heeded within [`Route::LIFETIME`].
//! - What comes from beyond the node has been asked about both ways, as the kernel's reverse path
//!   filter asks where it is strict. Where a pod sent it, its tables have told that the source is its
//!   own.

use super::hand_over::{Entry, longest, traffic_class};
use crate::{
    addr::Addr,
    packet::{Headers, Packet},
    tables::{Place, Route, Tables},
};

/// Lets `read` see where a packet with these headers is led that entered by the interface `from`.
/// Where it is not known, `ask` asks the kernel: it is given the question, and fills in
/// [`Route::to`] and [`Route::next_hop`], or leaves them as they are.
#[inline(always)]
pub fn lead<P: Packet, T: Tables, R>(
    packet: &P,
    tables: &T,
    headers: &Headers,
    (from, entry): (u32, Entry),
    ask: impl FnOnce(&mut Route),
    read: impl FnOnce(&Route) -> R,
) -> Option<R> {
    let question = Route {
        tuple: headers.tuple,
        found: tables.now(),
        next_hop: Addr::UNSPECIFIED,
        from,
        to: 0,
        longest: longest(packet, headers),
        traffic_class: traffic_class(packet, headers),
        is_asked_back: (entry == Entry::FromNetwork) as u8,
        reserved: [0; 2],
    };
    tables.route_cache(Place::of(&headers.tuple), |route| {
        if !route.is_of(&question) || !route.counts(question.found, question.longest) {
            *route = question;
            ask(route);
        }
        read(route)
    })
}
