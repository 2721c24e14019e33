//! Tables of who reaches whom: a cell for each family, protocol, port, client and server.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use weir_tests::bed::{Addresses, Family, NodePlan, plan};
use weir_tests::testpod::protocol::Carrier;

use crate::cluster::{PODS, PodId};

/// The ports that every pod serves, by every protocol.
pub const PORTS: [u16; 2] = [80, 81];

/// Who asks, and who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A process in a pod.
    Pod(PodId),
    /// A process of `worker-0` itself, `10.240.0.11`.
    Node,
    /// One beyond the nodes, `203.0.113.10`.
    Outside,
}

impl Party {
    /// How many there are.
    pub const COUNT: usize = PODS + 2;

    /// Everyone.
    pub fn all() -> impl Iterator<Item = Self> {
        PodId::all()
            .map(Self::Pod)
            .chain([Self::Node, Self::Outside])
    }

    /// As in a case.
    pub fn name(self) -> String {
        match self {
            Self::Pod(id) => id.name(),
            Self::Node => "node".to_owned(),
            Self::Outside => "outside".to_owned(),
        }
    }

    /// As its process answers.
    pub fn process(self) -> String {
        match self {
            Self::Pod(id) => id.process(),
            Self::Node => NodePlan::new(0).name,
            Self::Outside => self.name(),
        }
    }

    /// Its address of a family.
    pub fn addr(self, family: Family) -> IpAddr {
        let NodePlan { v4, v6, .. } = NodePlan::new(0);
        match (self, family) {
            (Self::Pod(id), _) => id.addr(family),
            (Self::Node, _) => Addresses { v4, v6 }.of(family),
            (Self::Outside, Family::V4) => plan::OUTSIDE_V4.into(),
            (Self::Outside, Family::V6) => plan::OUTSIDE_V6.into(),
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Pod(PodId(place)) => place,
            Self::Node => PODS,
            Self::Outside => PODS + 1,
        }
    }
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub family: Family,
    pub carrier: Carrier,
    pub port: u16,
    pub client: Party,
    pub server: Party,
}

impl Cell {
    /// Every cell, in the order of a table.
    pub fn all() -> impl Iterator<Item = Self> {
        Family::ALL.into_iter().flat_map(|family| {
            columns().flat_map(move |(carrier, port)| {
                Party::all().flat_map(move |client| {
                    Party::all().map(move |server| Self {
                        family,
                        carrier,
                        port,
                        client,
                        server,
                    })
                })
            })
        })
    }

    fn place(self) -> usize {
        let family = usize::from(self.family == Family::V6);
        let carrier = self.carrier as usize;
        let port = usize::from(self.port == PORTS[1]);
        let column = carrier * PORTS.len() + port;
        let rows = (family * Carrier::ALL.len() * PORTS.len() + column) * Party::COUNT;
        (rows + self.client.place()) * Party::COUNT + self.server.place()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, server) = (self.client.name(), self.server.name());
        let (carrier, port) = (self.carrier.name(), self.port);
        write!(
            f,
            "{client} > {server} {carrier} {port} {}",
            family_name(self.family)
        )
    }
}

/// Each protocol with each port.
pub fn columns() -> impl Iterator<Item = (Carrier, u16)> {
    Carrier::ALL
        .into_iter()
        .flat_map(|carrier| PORTS.map(|port| (carrier, port)))
}

pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Something for each cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<T>(Vec<T>);

impl<T> Table<T> {
    pub fn from_fn(of: impl FnMut(Cell) -> T) -> Self {
        Self(Cell::all().map(of).collect())
    }

    pub fn get(&self, cell: Cell) -> &T {
        &self.0[cell.place()]
    }

    pub fn set(&mut self, cell: Cell, value: T) {
        self.0[cell.place()] = value;
    }
}

/// Some cells, as a case says them: `FROM > TO [PROTOCOL] [PORT] [FAMILY]`.
///
/// `FROM` and `TO` are `x/a`, `x/*`, `*/a` or `*` (every pod), `node` or `outside`. What is not
/// said is all of them. With an asterisk no pod is meant with itself.
#[derive(Debug)]
pub struct Spot {
    from: String,
    to: String,
    carrier: Option<Carrier>,
    port: Option<u16>,
    family: Option<Family>,
}

impl Spot {
    /// Reads the text of one.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text)
            .with_context(|| format!("{text:?} is not `FROM > TO [PROTOCOL] [PORT] [FAMILY]`"))
    }

    fn read(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let from = words.next().context("nobody asks")?.to_owned();
        ensure!(words.next() == Some(">"), "there is no `>`");
        let to = words.next().context("nobody is asked")?.to_owned();
        let mut spot = Self {
            from,
            to,
            carrier: None,
            port: None,
            family: None,
        };
        for word in words {
            let mut carriers = Carrier::ALL.into_iter();
            let mut families = Family::ALL.into_iter();
            if let Some(carrier) = carriers.find(|carrier| carrier.name() == word) {
                spot.carrier = Some(carrier);
            } else if let Some(family) = families.find(|family| family_name(*family) == word) {
                spot.family = Some(family);
            } else {
                let port = word
                    .parse()
                    .with_context(|| format!("{word:?} is unknown"))?;
                ensure!(PORTS.contains(&port), "nobody serves port {port}");
                spot.port = Some(port);
            }
        }
        ensure!(Cell::all().any(|cell| spot.has(cell)), "no cell is meant");
        Ok(spot)
    }

    /// Is this cell meant?
    pub fn has(&self, cell: Cell) -> bool {
        let has_asterisk = self.from.contains('*') || self.to.contains('*');
        let is_itself = cell.client == cell.server;
        self.carrier.is_none_or(|carrier| carrier == cell.carrier)
            && self.port.is_none_or(|port| port == cell.port)
            && self.family.is_none_or(|family| family == cell.family)
            && is_meant(&self.from, &cell.client.name())
            && is_meant(&self.to, &cell.server.name())
            && !(has_asterisk && is_itself)
    }
}

fn is_meant(pattern: &str, name: &str) -> bool {
    match (pattern.split_once('/'), name.split_once('/')) {
        (None, Some(_)) => pattern == "*",
        (None, None) => pattern == name,
        (Some((namespace, pod)), Some((own_namespace, own_pod))) => {
            (namespace == "*" || namespace == own_namespace) && (pod == "*" || pod == own_pod)
        }
        (Some(_), None) => false,
    }
}
