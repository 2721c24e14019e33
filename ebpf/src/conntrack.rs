//! How a flow lives: from one state to the next, and for how long.
//!
//! There is no window checking: a packet that the peers' own stacks would refuse is theirs to
//! refuse, and none is called invalid here.

use crate::{
    addr::Protocol,
    packet::{TcpFlags, Transport},
    tables::{Flow, FlowState, Nanos},
};

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// A flow is written about at most once in this time where nothing else changes: its entry notes
/// that it lives, and the other direction is told. Lifetimes are exact to this.
pub const REFRESH: Nanos = SECOND;

/// How long a flow may be silent before its entry counts for nothing.
///
/// The defaults of Linux's connection tracking (`nf_conntrack_proto_{tcp,udp,sctp}.c`), which
/// kube-proxy's users know.
#[inline(always)]
#[must_use]
pub const fn lifetime(protocol: Protocol, state: FlowState) -> Nanos {
    let seconds = match (protocol, state) {
        (Protocol::TCP, FlowState::ESTABLISHED) => 432_000,
        (Protocol::TCP, FlowState::CLOSED) => 10,
        (Protocol::TCP, _) => 120,
        (Protocol::SCTP, FlowState::ESTABLISHED) => 210,
        (Protocol::SCTP, FlowState::OPENING) => 30,
        (Protocol::SCTP, _) => 10,
        (_, FlowState::OPENING) => 30,
        _ => 120,
    };
    seconds * SECOND
}

/// Has the flow been silent for too long?
#[inline(always)]
#[must_use]
pub const fn is_expired(flow: &Flow, now: Nanos) -> bool {
    is_silent(flow.to.protocol, flow.state, flow.last_seen, now)
}

/// Has a conversation that stands like this, and was last heard of then, been silent for too long?
#[inline(always)]
#[must_use]
pub const fn is_silent(protocol: Protocol, state: FlowState, last_seen: Nanos, now: Nanos) -> bool {
    now.saturating_sub(last_seen) > lifetime(protocol, state)
}

/// The state after a packet, `is_original` telling whether it goes the way the flow was opened.
///
/// A flow only moves forward; it begins anew only as a new flow ([`begins_anew`]).
#[inline(always)]
#[must_use]
pub const fn advance(state: FlowState, kind: Transport, is_original: bool) -> FlowState {
    let seen = match kind {
        Transport::Tcp(flags) if flags.contains(TcpFlags::RST) => FlowState::CLOSED,
        Transport::Tcp(flags) if flags.contains(TcpFlags::FIN) => FlowState::CLOSING,
        Transport::Sctp(SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE) => FlowState::CLOSED,
        Transport::Sctp(SCTP_SHUTDOWN | SCTP_SHUTDOWN_ACK) => FlowState::CLOSING,
        _ if !is_original => FlowState::ESTABLISHED,
        _ => FlowState::OPENING,
    };
    if seen.0 > state.0 { seen } else { state }
}

/// Is this a packet in the middle of a conversation, one like another: a datagram, or a segment
/// that neither opens nor ends a connection?
#[inline(always)]
#[must_use]
pub const fn is_plain(kind: Transport) -> bool {
    match kind {
        Transport::Tcp(flags) => !flags.intersects(TcpFlags(
            TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0,
        )),
        Transport::Udp => true,
        Transport::Sctp(_)
        | Transport::LaterFragment
        | Transport::IcmpError(_)
        | Transport::Echo
        | Transport::EchoReply
        | Transport::Discovery
        | Transport::Other => false,
    }
}

/// Is a [plain](is_plain) packet no news to the flow: neither the time nor the state is to be noted?
/// Then the flow is not silent for long either.
#[inline(always)]
#[must_use]
pub const fn is_current(flow: &Flow, now: Nanos) -> bool {
    now.saturating_sub(flow.last_seen) < REFRESH
        && (flow.role.is_original() || flow.state.0 != FlowState::OPENING.0)
}

/// Does this packet open a new flow though an old one has the same tuple? A client may use a
/// port again as soon as its last connection from there has ended (RFC 9293 section 3.6.1).
#[inline(always)]
#[must_use]
pub const fn begins_anew(state: FlowState, kind: Transport) -> bool {
    is_opening(kind) && state.0 >= FlowState::CLOSING.0
}

/// May the flow be given another backend? Not once two stacks share a connection's state; but a
/// client that opens a connection says that it has none.
#[inline(always)]
#[must_use]
pub const fn may_choose_again(state: FlowState, kind: Transport) -> bool {
    may_plainly_choose_again(state, matches!(kind, Transport::Udp)) || is_opening(kind)
}

/// [`may_choose_again`] for a [plain](is_plain) packet: a datagram, or a segment.
#[inline(always)]
#[must_use]
pub const fn may_plainly_choose_again(state: FlowState, is_datagram: bool) -> bool {
    is_datagram || state.0 == FlowState::OPENING.0
}

/// Is this the first packet of a connection, or its repetition?
#[inline(always)]
#[must_use]
pub const fn is_opening(kind: Transport) -> bool {
    match kind {
        Transport::Tcp(flags) => flags.is_opening(),
        Transport::Sctp(chunk) => chunk == SCTP_INIT,
        Transport::Udp
        | Transport::LaterFragment
        | Transport::IcmpError(_)
        | Transport::Echo
        | Transport::EchoReply
        | Transport::Discovery
        | Transport::Other => false,
    }
}

/// May a conversation be taken for open because of this packet, where none is known? Not for what
/// answers or ends one.
#[inline(always)]
#[must_use]
pub const fn may_continue(kind: Transport) -> bool {
    match kind {
        Transport::Tcp(flags) => {
            !flags.intersects(TcpFlags(TcpFlags::FIN.0 | TcpFlags::RST.0)) && {
                flags.is_opening() || !flags.contains(TcpFlags::SYN)
            }
        }
        Transport::Sctp(chunk) => !matches!(
            chunk,
            SCTP_INIT_ACK | SCTP_ABORT | SCTP_SHUTDOWN | SCTP_SHUTDOWN_ACK | SCTP_SHUTDOWN_COMPLETE
        ),
        Transport::Udp | Transport::Echo | Transport::Other => true,
        Transport::LaterFragment
        | Transport::IcmpError(_)
        | Transport::EchoReply
        | Transport::Discovery => false,
    }
}

// Chunk types, RFC 9260 section 3.2.
const SCTP_INIT: u8 = 1;
const SCTP_INIT_ACK: u8 = 2;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN: u8 = 7;
const SCTP_SHUTDOWN_ACK: u8 = 8;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tables::FlowRole;

    fn any_transport() -> impl Strategy<Value = Transport> {
        prop_oneof![
            any::<u8>().prop_map(|flags| Transport::Tcp(TcpFlags(flags))),
            Just(Transport::Udp),
            any::<u8>().prop_map(Transport::Sctp),
        ]
    }

    proptest! {
        #[test]
        fn a_flow_only_moves_forward(state in 0_u8..=3, kind in any_transport(), original: bool) {
            prop_assert!(advance(FlowState(state), kind, original).0 >= state);
        }

        #[test]
        fn a_flow_that_lives_does_not_begin_anew(kind in any_transport()) {
            prop_assert!(!begins_anew(FlowState::OPENING, kind));
            prop_assert!(!begins_anew(FlowState::ESTABLISHED, kind));
        }
    }

    proptest! {
        #[test]
        fn a_plain_packet_that_is_no_news_changes_nothing(
            state in 0_u8..=3, role in 0_u8..=3, kind in any_transport(), silent in 0..2 * SECOND,
        ) {
            prop_assume!(is_plain(kind));
            let mut flow: Flow = bytemuck::Zeroable::zeroed();
            (flow.state, flow.role, flow.last_seen) = (FlowState(state), FlowRole(role), SECOND);
            let now = SECOND + silent;
            let is_news = advance(flow.state, kind, flow.role.is_original()) != flow.state
                || silent >= REFRESH;
            prop_assert_eq!(is_current(&flow, now), !is_news);
            let is_datagram = matches!(kind, Transport::Udp);
            prop_assert_eq!(
                may_plainly_choose_again(flow.state, is_datagram),
                may_choose_again(flow.state, kind)
            );
            if !is_news {
                prop_assert!(!is_expired(&flow, now) && !begins_anew(flow.state, kind));
            }
        }
    }

    #[test]
    fn only_an_answer_establishes_a_flow() {
        let (opening, established) = (FlowState::OPENING, FlowState::ESTABLISHED);
        assert_eq!(advance(opening, Transport::Udp, true), opening);
        assert_eq!(advance(opening, Transport::Udp, false), established);
        assert_eq!(
            advance(established, Transport::Tcp(TcpFlags::FIN), true),
            FlowState::CLOSING
        );
        assert_eq!(
            advance(established, Transport::Tcp(TcpFlags::RST), false),
            FlowState::CLOSED
        );
    }

    #[test]
    fn only_a_client_that_has_no_connection_chooses_again() {
        let (opening, established) = (FlowState::OPENING, FlowState::ESTABLISHED);
        for flags in [TcpFlags::ACK, TcpFlags::FIN, TcpFlags::RST] {
            assert!(!may_choose_again(established, Transport::Tcp(flags)));
            assert!(may_choose_again(opening, Transport::Tcp(flags)));
        }
        assert!(may_choose_again(established, Transport::Tcp(TcpFlags::SYN)));
        assert!(may_choose_again(established, Transport::Udp));
    }

    #[test]
    fn a_retransmitted_first_segment_belongs_to_its_flow() {
        assert!(!begins_anew(
            FlowState::OPENING,
            Transport::Tcp(TcpFlags::SYN)
        ));
        assert!(begins_anew(
            FlowState::CLOSED,
            Transport::Tcp(TcpFlags::SYN)
        ));
        let answer = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
        assert!(!begins_anew(FlowState::CLOSED, Transport::Tcp(answer)));
    }
}
