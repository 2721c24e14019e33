//! Who talks to which service: flows and sockets in one list, and services by how much comes.
//!
//! Tables do not tell when an entry was made. What was not there at the last reading is new; how
//! often that happens is the rate at which connections are opened. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use weir_ebpf::tables::Nanos;

use crate::listing::{
    flows::{FlowRow, ServiceName},
    sockets::SocketRow,
};

/// A conversation with a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// `TCP`, `UDP` or `SCTP`
    pub protocol: String,
    /// Who opened it.
    pub client: Client,
    /// The service; `None` if none has this address any more.
    pub service: Option<ServiceName>,
    /// What the client called.
    pub address: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// `OPENING` and so on; of a socket nothing is known.
    pub state: Option<&'static str>,
    /// Seconds since it was last used.
    pub idle_seconds: u64,
}

/// Who opened a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// Its packets are translated one by one.
    Address(SocketAddr),
    /// It was translated at the socket with this cookie.
    Socket(u64),
}

/// What makes a conversation one.
pub type Key = (String, Client, SocketAddr, SocketAddr);

impl Conversation {
    /// What makes it one.
    pub fn key(&self) -> Key {
        (
            self.protocol.clone(),
            self.client,
            self.address,
            self.backend,
        )
    }

    /// `shop/cart:http`
    pub fn service_text(&self) -> String {
        match &self.service {
            None => "<none>".to_owned(),
            Some(ServiceName {
                namespace,
                name,
                port_name,
            }) if port_name.is_empty() => format!("{namespace}/{name}"),
            Some(ServiceName {
                namespace,
                name,
                port_name,
            }) => format!("{namespace}/{name}:{port_name}"),
        }
    }

    /// `10.200.0.9:4711`, `socket 12`
    pub fn client_text(&self) -> String {
        match self.client {
            Client::Address(address) => address.to_string(),
            Client::Socket(cookie) => format!("socket {cookie}"),
        }
    }
}

/// Joins both lists. An expired socket's next datagram begins anew: it is not there.
pub fn conversations(flows: Vec<FlowRow>, sockets: Vec<SocketRow>) -> Vec<Conversation> {
    let flows = flows.into_iter().map(|flow| Conversation {
        protocol: flow.protocol,
        client: Client::Address(flow.client),
        service: flow.service,
        address: flow.address,
        backend: flow.backend,
        state: Some(flow.state),
        idle_seconds: flow.idle_seconds,
    });
    let sockets = sockets.into_iter().filter(|socket| !socket.expired);
    let sockets = sockets.map(|socket| Conversation {
        protocol: socket.protocol,
        client: Client::Socket(socket.cookie),
        service: socket.service,
        address: socket.address,
        backend: socket.backend,
        state: None,
        idle_seconds: socket.last_used_seconds,
    });
    flows.chain(sockets).collect()
}

/// Which conversations are there, and since when.
#[derive(Clone, Debug, Default)]
pub struct Tracked {
    /// When each was first seen. `None`: it was there before the first reading.
    first_seen: BTreeMap<Key, Option<Nanos>>,
    /// When the last reading was.
    last: Option<Nanos>,
}

impl Tracked {
    /// Takes in a reading. Gives those that are new since the one before, and how long ago that
    /// was; `None` at the first one.
    pub fn see(&mut self, now: Nanos, all: &[Conversation]) -> Option<(BTreeSet<Key>, Nanos)> {
        let last = self.last.replace(now);
        let mut before = std::mem::take(&mut self.first_seen);
        let mut new = BTreeSet::new();
        for conversation in all {
            let key = conversation.key();
            let seen = match before.remove(&key) {
                Some(seen) => seen,
                None if last.is_some() => {
                    new.insert(key.clone());
                    Some(now)
                }
                None => None,
            };
            self.first_seen.insert(key, seen);
        }
        Some((new, now.saturating_sub(last?)))
    }

    /// When a conversation was first seen; those that were there before come before all others.
    pub fn first_seen(&self, key: &Key) -> Option<Nanos> {
        self.first_seen.get(key).copied().flatten()
    }
}

/// A service port by what comes.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRow {
    /// `shop/cart:http`
    pub service: String,
    /// `TCP`, `UDP` or `SCTP`
    pub protocol: String,
    /// Conversations that were opened each second; `None`: not known yet.
    pub new_per_second: Option<f64>,
    /// Conversations whose packets are translated one by one.
    pub flows: usize,
    /// Those of them that nobody has answered yet.
    pub opening: usize,
    /// Conversations that were translated at their sockets, and are remembered.
    pub sockets: usize,
    /// Backends that any of them has.
    pub backends: usize,
    /// Seconds since any of them was last used.
    pub idle_seconds: u64,
}

/// The services that anyone talks to, by name.
pub fn services(all: &[Conversation], new: Option<&(BTreeSet<Key>, Nanos)>) -> Vec<ServiceRow> {
    let mut by_name: BTreeMap<(String, &str), Vec<&Conversation>> = BTreeMap::new();
    for conversation in all {
        let name = (conversation.service_text(), &*conversation.protocol);
        by_name.entry(name).or_default().push(conversation);
    }
    let row = |((service, protocol), all): ((String, &str), Vec<&Conversation>)| {
        let count = |is: &dyn Fn(&Conversation) -> bool| all.iter().filter(|it| is(it)).count();
        let backends: BTreeSet<SocketAddr> = all.iter().map(|it| it.backend).collect();
        let new_per_second = new.map(|(keys, elapsed)| {
            let opened = count(&|it| keys.contains(&it.key()));
            if *elapsed == 0 {
                0.0
            } else {
                opened as f64 * 1e9 / *elapsed as f64
            }
        });
        ServiceRow {
            service,
            protocol: protocol.to_owned(),
            new_per_second,
            flows: count(&|it| matches!(it.client, Client::Address(_))),
            opening: count(&|it| it.state == Some("OPENING")),
            sockets: count(&|it| matches!(it.client, Client::Socket(_))),
            backends: backends.len(),
            idle_seconds: all.iter().map(|it| it.idle_seconds).min().unwrap_or(0),
        }
    };
    by_name.into_iter().map(row).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    pub fn flow(client: &str, service: &str, state: &'static str, idle: u64) -> Conversation {
        let (namespace, name) = service.split_once('/').unwrap();
        Conversation {
            protocol: "TCP".to_owned(),
            client: Client::Address(client.parse().unwrap()),
            service: Some(ServiceName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port_name: String::new(),
            }),
            address: "10.32.0.140:80".parse().unwrap(),
            backend: "10.200.0.2:8080".parse().unwrap(),
            state: Some(state),
            idle_seconds: idle,
        }
    }

    pub fn socket(cookie: u64, service: &str, idle: u64) -> Conversation {
        Conversation {
            client: Client::Socket(cookie),
            state: None,
            ..flow("10.200.0.1:1", service, "", idle)
        }
    }

    #[test]
    fn what_was_there_before_the_first_look_is_not_new() {
        let mut tracked = Tracked::default();
        let old = flow("10.200.0.9:1", "shop/cart", "ESTABLISHED", 3);
        assert_eq!(tracked.see(5 * SECOND, std::slice::from_ref(&old)), None);
        let new = socket(7, "shop/cart", 0);
        let both = [old.clone(), new.clone()];
        let (keys, elapsed) = tracked.see(7 * SECOND, &both).unwrap();
        assert_eq!(keys, BTreeSet::from([new.key()]));
        assert_eq!(elapsed, 2 * SECOND);
        assert_eq!(tracked.first_seen(&old.key()), None);
        assert_eq!(tracked.first_seen(&new.key()), Some(7 * SECOND));
        let (keys, _) = tracked.see(8 * SECOND, &both).unwrap();
        assert!(keys.is_empty(), "nothing came");
        assert_eq!(tracked.first_seen(&new.key()), Some(7 * SECOND));
    }

    #[test]
    fn what_went_and_comes_again_is_new_again() {
        let mut tracked = Tracked::default();
        let one = [flow("10.200.0.9:1", "shop/cart", "OPENING", 0)];
        tracked.see(SECOND, &one);
        tracked.see(2 * SECOND, &[]);
        let (keys, _) = tracked.see(3 * SECOND, &one).unwrap();
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn a_services_rate_is_of_its_own_conversations() {
        let all = [
            flow("10.200.0.9:1", "shop/cart", "OPENING", 9),
            flow("10.200.0.9:2", "shop/cart", "ESTABLISHED", 4),
            socket(7, "shop/cart", 6),
            socket(8, "shop/pay", 2),
        ];
        let new = BTreeSet::from([all[1].key(), all[2].key()]);
        let rows = services(&all, Some(&(new, SECOND / 2)));
        let [cart, pay] = &rows[..] else {
            panic!("{rows:?}")
        };
        assert_eq!(
            *cart,
            ServiceRow {
                service: "shop/cart".to_owned(),
                protocol: "TCP".to_owned(),
                new_per_second: Some(4.0),
                flows: 2,
                opening: 1,
                sockets: 1,
                backends: 1,
                idle_seconds: 4,
            }
        );
        assert_eq!((&*pay.service, pay.new_per_second), ("shop/pay", Some(0.0)));
        assert_eq!(services(&all, None)[0].new_per_second, None);
    }

    #[test]
    fn an_expired_socket_is_no_conversation() {
        let row = |cookie, expired| SocketRow {
            protocol: "UDP".to_owned(),
            cookie,
            service: None,
            address: "10.32.0.140:80".parse().unwrap(),
            backend: "10.200.0.2:8080".parse().unwrap(),
            last_used_seconds: 1,
            expired,
        };
        let all = conversations(Vec::new(), vec![row(1, true), row(2, false)]);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].client_text(), "socket 2");
        assert_eq!(all[0].service_text(), "<none>");
    }
}
