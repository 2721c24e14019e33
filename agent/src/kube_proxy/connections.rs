//! The connections that the kernel translates: what kube-proxy's rules have begun goes on with
//! them.

use anyhow::{Context as _, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::message::{Answer, Attributes, Message};
use crate::attach::netlink::Netlink;

// include/uapi/linux/netfilter/{nfnetlink_conntrack,nf_conntrack_common,nf_conntrack_tcp}.h
const SUBSYSTEM: u8 = 1;
const GET: u8 = 1;
const ORIGINAL: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const STATUS: u16 = 3;
const STATUS_DNAT: u32 = 1 << 5;
const PROTOCOL_INFO: u16 = 4;
const INFO_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_TIME_WAIT: u8 = 7;
const TCP: u8 = 6;
const SCTP: u8 = 132;

/// How many connections are open whose destination the kernel translates, in the calling thread's
/// network namespace.
///
/// Whoever has a port of the node lead to a pod (`hostPort`) has such connections, too.
///
/// # Errors
/// The kernel does not tell.
pub fn translated() -> Result<usize> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER).context("open a netlink socket")?;
    let question = Message::new(SUBSYSTEM, GET, 0, Vec::new());
    let all: Vec<Answer> = netlink
        .list(&question)
        .context("list tracked connections (the kernel's module nf_conntrack_netlink)")?;
    Ok(all.iter().filter(|one| is_open(one.attributes())).count())
}

fn is_open(connection: Attributes<'_>) -> bool {
    let is_translated = connection
        .number(STATUS)
        .is_some_and(|status| status & STATUS_DNAT != 0);
    let protocol = connection
        .within(ORIGINAL)
        .and_then(|tuple| tuple.within(TUPLE_PROTOCOL))
        .and_then(|protocol| protocol.byte(PROTOCOL_NUMBER));
    let is_alive = match protocol {
        Some(TCP) => connection
            .within(PROTOCOL_INFO)
            .and_then(|info| info.within(INFO_TCP))
            .and_then(|tcp| tcp.byte(TCP_STATE))
            .is_none_or(|state| state < TCP_TIME_WAIT),
        Some(SCTP) => true,
        // Datagrams are translated here from now on.
        _ => false,
    };
    is_translated && is_alive
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{
        NetlinkDeserializable as _, NetlinkHeader, NetlinkSerializable as _,
    };

    use super::super::message::{byte, nested, number};
    use super::*;

    fn connection(protocol: u8, status: u32, state: u8) -> Answer {
        let message = Message::new(
            SUBSYSTEM,
            0,
            2,
            vec![
                nested(
                    ORIGINAL,
                    &[nested(TUPLE_PROTOCOL, &[byte(PROTOCOL_NUMBER, protocol)])],
                ),
                number(STATUS, status),
                nested(
                    PROTOCOL_INFO,
                    &[nested(INFO_TCP, &[byte(TCP_STATE, state)])],
                ),
            ],
        );
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Answer::deserialize(&NetlinkHeader::default(), &bytes).unwrap()
    }

    #[test]
    fn only_open_connections_whose_destination_is_translated_count() {
        let established = 3;
        for (protocol, status, state, expected) in [
            (TCP, STATUS_DNAT, established, true),
            (TCP, STATUS_DNAT, TCP_TIME_WAIT, false),
            (TCP, 1 << 4, established, false),
            (17, STATUS_DNAT, established, false),
            (SCTP, STATUS_DNAT, 0, true),
        ] {
            let connection = connection(protocol, status, state);
            assert_eq!(
                is_open(connection.attributes()),
                expected,
                "{protocol} {status} {state}"
            );
        }
    }
}
