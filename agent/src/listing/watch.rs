//! Which flow events someone asks for, as it is written on the command line and in the query of
//! the agent's socket.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::explain::FlowRecord;
use crate::explain::record::{Outcome, Place};

use super::filter::Destination;

/// What an event must have to be shown. The default is met by every event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchFilter {
    /// What became of it, one of these; none: anything.
    pub verdicts: Vec<Outcome>,
    /// The pod at either end.
    pub pod: Option<End>,
    /// Who opened the connection.
    pub from: Option<End>,
    /// To whom.
    pub to: Option<End>,
    /// The protocol, by its name in the record.
    pub protocol: Option<String>,
    /// The destination's port.
    pub port: Option<u16>,
}

/// An end of a connection: a pod, all pods of a namespace, or addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// `NAMESPACE/POD`
    Pod(String),
    /// `NAMESPACE/`
    Namespace(String),
    /// `ADDRESS[/LENGTH][:PORT]`
    Addresses(Destination, String),
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(destination) = text.parse() {
            return Ok(Self::Addresses(destination, text.to_owned()));
        }
        match text.split_once('/') {
            Some((namespace, "")) if !namespace.is_empty() => {
                Ok(Self::Namespace(namespace.to_owned()))
            }
            Some((namespace, name))
                if !namespace.is_empty()
                    && !name.contains(['/', ':'])
                    && !namespace.contains(':') =>
            {
                Ok(Self::Pod(text.to_owned()))
            }
            Some(_) | None => Err(format!(
                "{text:?} is neither NAMESPACE/POD, NAMESPACE/ nor ADDRESS[/LENGTH][:PORT]"
            )),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(text) | Self::Addresses(_, text) => f.write_str(text),
            Self::Namespace(namespace) => write!(f, "{namespace}/"),
        }
    }
}

impl End {
    fn has(&self, place: &Place) -> bool {
        let pod = place.pod.as_deref();
        match self {
            Self::Pod(name) => pod == Some(name),
            Self::Namespace(namespace) => {
                pod.and_then(|pod| pod.split_once('/')).map(|(it, _)| it) == Some(namespace)
            }
            Self::Addresses(addresses, _) => {
                addresses.contains(SocketAddr::new(place.address, place.port.unwrap_or(0)))
            }
        }
    }
}

impl WatchFilter {
    /// Is this one of those that are asked for?
    #[must_use]
    pub fn lets_through(&self, record: &FlowRecord) -> bool {
        let Self {
            verdicts,
            pod,
            from,
            to,
            protocol,
            port,
        } = self;
        let called = record.service.as_ref().map(|service| Place {
            pod: None,
            node: None,
            address: service.address.ip(),
            port: Some(service.address.port()),
        });
        (verdicts.is_empty() || verdicts.contains(&record.verdict))
            && pod
                .as_ref()
                .is_none_or(|pod| pod.has(&record.from) || pod.has(&record.to))
            && from.as_ref().is_none_or(|from| from.has(&record.from))
            && to.as_ref().is_none_or(|to| {
                to.has(&record.to) || called.as_ref().is_some_and(|called| to.has(called))
            })
            && protocol
                .as_ref()
                .is_none_or(|protocol| protocol.eq_ignore_ascii_case(&record.protocol))
            && port.is_none_or(|port| record.to.port == Some(port))
    }

    /// As a query, without the question mark.
    #[must_use]
    pub fn query(&self) -> String {
        let verdicts: Vec<_> = self.verdicts.iter().map(ToString::to_string).collect();
        let verdicts = (!verdicts.is_empty()).then(|| verdicts.join(","));
        let ends = [("pod", &self.pod), ("from", &self.from), ("to", &self.to)];
        let ends = ends
            .into_iter()
            .map(|(name, end)| (name, end.as_ref().map(ToString::to_string)));
        let pairs = [
            ("verdict", verdicts),
            ("protocol", self.protocol.clone()),
            ("port", self.port.map(|port| port.to_string())),
        ];
        let pairs: Vec<_> = pairs
            .into_iter()
            .chain(ends)
            .filter_map(|(name, value)| Some(format!("{name}={}", escaped(&value?))))
            .collect();
        pairs.join("&")
    }

    /// Takes in one pair of a query. `false`: it is none of a filter's.
    ///
    /// # Errors
    /// Says what is wrong with the value.
    pub fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "verdict" => {
                self.verdicts.clear();
                for name in value.split(',') {
                    match name {
                        "all" => self.verdicts.clear(),
                        "dropped" => self.verdicts.push(Outcome::Dropped),
                        "rejected" => self.verdicts.push(Outcome::Rejected),
                        "forwarded" => self.verdicts.push(Outcome::Forwarded),
                        other => {
                            return Err(format!(
                                "{other:?} is not dropped, rejected, forwarded or all"
                            ));
                        }
                    }
                }
            }
            "pod" => self.pod = Some(value.parse()?),
            "from" => self.from = Some(value.parse()?),
            "to" => self.to = Some(value.parse()?),
            "protocol" => self.protocol = Some(value.to_owned()),
            "port" => {
                let port = value.parse();
                self.port = Some(port.map_err(|_| format!("{value:?} is not a port"))?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The pairs of a query, with `%2F` and the like put back.
pub fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescaped(name), unescaped(value))
        })
}

/// RFC 3986 section 2.3 leaves these as they are; `/` and `:` may stand in a query, too.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b',' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = text
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                plain.push(code);
                at += 3;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::record::Way;

    fn record() -> FlowRecord {
        let place = |pod: Option<&str>, address: &str, port| Place {
            pod: pod.map(ToOwned::to_owned),
            node: None,
            address: address.parse().unwrap(),
            port,
        };
        FlowRecord {
            time: String::new(),
            verdict: Outcome::Dropped,
            direction: Way::Egress,
            reason: "egress_policy".to_owned(),
            from: place(Some("shop/cart-1"), "10.200.0.2", Some(40_000)),
            to: place(Some("db/pg-0"), "fd00:10:200::307", Some(5432)),
            protocol: "TCP".to_owned(),
            service: None,
            interface: 7,
            isolated_by: Vec::new(),
            rule: None,
            nearest: None,
            why: String::new(),
        }
    }

    fn filter(query: &str) -> WatchFilter {
        let mut filter = WatchFilter::default();
        for (name, value) in pairs(query) {
            assert_eq!(filter.take(&name, &value), Ok(true), "{query}");
        }
        filter
    }

    #[test]
    fn a_filter_lets_through_what_meets_all_of_it() {
        for (query, expected) in [
            ("", true),
            ("verdict=dropped&pod=shop/cart-1", true),
            ("verdict=forwarded", false),
            ("verdict=dropped,rejected", true),
            ("verdict=all", true),
            ("pod=db/", true),
            ("pod=db%2Fpg-0&protocol=tcp&port=5432", true),
            ("from=db/pg-0", false),
            ("from=10.200.0.0/16&to=[fd00:10:200::/64]:5432", true),
            ("to=[fd00:10:200::/64]:5433", false),
            ("port=80", false),
        ] {
            assert_eq!(filter(query).lets_through(&record()), expected, "{query}");
        }
    }

    #[test]
    fn a_filter_survives_being_a_query() {
        for query in [
            "",
            "verdict=dropped,rejected&protocol=ICMPv6&pod=a/b",
            "from=a/&to=[fd00::1]:80&port=1",
        ] {
            let filter = filter(query);
            assert_eq!(self::filter(&filter.query()), filter, "{query}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut filter = WatchFilter::default();
        assert_eq!(filter.take("sample", "3"), Ok(false));
        for (name, value) in [
            ("verdict", "lost"),
            ("pod", "a"),
            ("port", "http"),
            ("to", "/"),
        ] {
            assert!(filter.take(name, value).is_err(), "{name}={value}");
        }
    }
}
