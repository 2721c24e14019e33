//! Sockets whose peers are translated: one row for each socket, service address and backend.
//!
//! No packet shows whether such a socket still lives: an entry goes when the table needs its
//! room, and the time in it is that of the last datagram, or of the call that opened the
//! connection or asked for its peer.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;
use weir_ebpf::{
    addr::Protocol,
    conntrack::{self, SECOND},
    tables::{FlowRole, FlowState, FrontendKey, Nanos, SocketFlow, SocketKey},
};

use super::{filter::Filter, flows::ServiceName};
use crate::maps::{Contents, text::endpoint};

/// What a socket calls its peer, and who that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketRow {
    /// `TCP` or `UDP`
    pub protocol: String,
    /// `SO_COOKIE`, as `ss -e` shows it (there in hexadecimal, behind `sk:`).
    pub cookie: u64,
    /// The service; `null` if none has this address any more.
    pub service: Option<ServiceName>,
    /// What the application called.
    pub address: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// Seconds since the entry was last used.
    pub last_used_seconds: u64,
    /// An unconnected UDP socket that was silent for so long that its next datagram chooses a
    /// backend anew.
    pub expired: bool,
}

/// What makes a row one: the entries of both directions have it in common.
type Identity = (Protocol, u64, SocketAddr, SocketAddr);

/// What is known of it.
struct Seen {
    last_seen: Nanos,
    service: u32,
    frontend: FrontendKey,
    /// When the next datagram's direction was last seen, where there is an entry for it.
    asked: Option<Nanos>,
}

/// The rows of all sockets that the filter lets through, in order. A client's address and a
/// state are nothing that a socket's entry knows: these two filters are not looked at.
#[must_use]
pub fn sockets(
    contents: &Contents,
    entries: &BTreeMap<SocketKey, SocketFlow>,
    now: Nanos,
    filter: &Filter,
) -> Vec<SocketRow> {
    let mut seen: BTreeMap<Identity, Seen> = BTreeMap::new();
    for (key, flow) in entries {
        let is_request = key.role == FlowRole::FORWARD;
        let here = (key.addr, key.port);
        let there = (flow.addr, flow.port);
        let (frontend, backend) = if is_request {
            (here, there)
        } else {
            (there, here)
        };
        let identity = (
            key.protocol,
            key.cookie,
            endpoint(frontend.0, frontend.1),
            endpoint(backend.0, backend.1),
        );
        let row = seen.entry(identity).or_insert(Seen {
            last_seen: flow.last_seen,
            service: flow.service,
            frontend: FrontendKey::new(frontend.0, frontend.1, key.protocol),
            asked: None,
        });
        row.last_seen = row.last_seen.max(flow.last_seen);
        if is_request {
            row.asked = Some(flow.last_seen);
        }
    }
    seen.into_iter()
        .map(|(identity, seen)| row(contents, identity, &seen, now))
        .filter(|row| passes(filter, row))
        .collect()
}

fn row(
    contents: &Contents,
    (protocol, cookie, address, backend): Identity,
    seen: &Seen,
    now: Nanos,
) -> SocketRow {
    let lifetime = conntrack::lifetime(Protocol::UDP, FlowState::ESTABLISHED);
    SocketRow {
        protocol: protocol.to_string(),
        cookie,
        service: ServiceName::at(contents, &seen.frontend, seen.service),
        address,
        backend,
        last_used_seconds: now.saturating_sub(seen.last_seen) / SECOND,
        expired: seen
            .asked
            .is_some_and(|asked| now.saturating_sub(asked) > lifetime),
    }
}

fn passes(filter: &Filter, row: &SocketRow) -> bool {
    let Filter {
        from: _,
        to,
        service,
        protocol,
        states: _,
        expired,
    } = filter;
    to.is_none_or(|to| to.contains(row.address) || to.contains(row.backend))
        && service.as_ref().is_none_or(|service| {
            row.service
                .as_ref()
                .is_some_and(|present| present.is_of(service))
        })
        && protocol.is_none_or(|protocol| row.protocol == protocol.to_string())
        && (*expired || !row.expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::testing::{World, addr, socket};

    const NOW: Nanos = 1_000 * SECOND;
    const SERVICE: &str = "10.32.0.140:80";
    const BACKEND: &str = "10.200.0.2:8080";

    fn list(entries: &[(SocketKey, SocketFlow)], filter: &Filter) -> Vec<SocketRow> {
        let contents = World::default()
            .service(3, "default/web:http", SERVICE, &[BACKEND])
            .contents;
        sockets(&contents, &entries.iter().copied().collect(), NOW, filter)
    }

    fn entry(
        protocol: Protocol,
        role: FlowRole,
        here: &str,
        there: &str,
        silent: u64,
    ) -> (SocketKey, SocketFlow) {
        let ((here, here_port), (there, there_port)) = (addr(socket(here)), addr(socket(there)));
        (
            SocketKey {
                cookie: 17,
                addr: here,
                port: here_port,
                protocol,
                role,
                reserved: 0,
            },
            SocketFlow {
                addr: there,
                port: there_port,
                reserved: 0,
                service: 3,
                revision: 1,
                reserved_tail: 0,
                last_seen: NOW - silent * SECOND,
            },
        )
    }

    #[test]
    fn both_directions_of_a_conversation_are_one_row() {
        let entries = [
            entry(Protocol::UDP, FlowRole::FORWARD, SERVICE, BACKEND, 7),
            entry(Protocol::UDP, FlowRole::REPLY, BACKEND, SERVICE, 5),
        ];
        assert_eq!(
            serde_json::to_value(list(&entries, &Filter::default())).unwrap(),
            serde_json::json!([{
                "protocol": "UDP",
                "cookie": 17,
                "service": null,
                "address": SERVICE,
                "backend": BACKEND,
                "lastUsedSeconds": 5,
                "expired": false,
            }]),
            "the service there is one for TCP"
        );
    }

    #[test]
    fn a_connection_is_a_row_with_its_service_however_long_ago_it_was_opened() {
        let entries = [entry(Protocol::TCP, FlowRole::REPLY, BACKEND, SERVICE, 900)];
        let rows = list(&entries, &Filter::default());
        let name = rows[0].service.as_ref().map(|service| &*service.name);
        assert_eq!((name, rows[0].expired), (Some("web"), false));
        let other = Filter {
            service: "default/other".parse().ok(),
            ..Filter::default()
        };
        assert_eq!(list(&entries, &other), []);
    }

    #[test]
    fn a_silent_conversation_shows_only_when_asked_for() {
        let entries = [entry(
            Protocol::UDP,
            FlowRole::FORWARD,
            SERVICE,
            BACKEND,
            121,
        )];
        assert_eq!(list(&entries, &Filter::default()), []);
        let all = Filter {
            expired: true,
            ..Filter::default()
        };
        assert!(list(&entries, &all)[0].expired);
    }
}
