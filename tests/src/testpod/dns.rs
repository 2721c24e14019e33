//! The cluster's resolver, and questions to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::protocol::{Failure, Transport};
use super::sockets;

const ZONE: &str = "cluster.local.";
/// As kube-dns gives them.
const TTL: u32 = 30;
const SERIAL: u32 = 1;
/// A connection that asks nothing is closed after.
const IDLE: Duration = Duration::from_secs(10);
const RESPONSE_BUFFER: usize = 32;

/// A resolver of the zone, at an address. It ends when dropped.
pub async fn serve(
    address: SocketAddr,
    records: &BTreeMap<String, Vec<IpAddr>>,
) -> Result<Server<Catalog>, Failure> {
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::new(&name(ZONE)?), vec![Arc::new(zone(records)?)]);
    let mut server = Server::new(catalog);
    server.register_socket(UdpSocket::bind(address).await?);
    server.register_listener(TcpListener::bind(address).await?, IDLE, RESPONSE_BUFFER);
    Ok(server)
}

fn zone(
    records: &BTreeMap<String, Vec<IpAddr>>,
) -> Result<InMemoryZoneHandler<TokioRuntimeProvider>, Failure> {
    let origin = name(ZONE)?;
    let mut zone = InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let soa = SOA::new(
        name("ns.dns.cluster.local.")?,
        name("hostmaster.cluster.local.")?,
        SERIAL,
        7200,
        1800,
        86_400,
        TTL,
    );
    let start = Record::from_rdata(origin, TTL, RData::SOA(soa));
    zone.upsert_mut(start, SERIAL);
    for (label, addresses) in records {
        for &address in addresses {
            let data = match address {
                IpAddr::V4(address) => RData::A(address.into()),
                IpAddr::V6(address) => RData::AAAA(address.into()),
            };
            let record = Record::from_rdata(name(&format!("{label}.{ZONE}"))?, TTL, data);
            zone.upsert_mut(record, SERIAL);
        }
    }
    Ok(zone)
}

/// Asks a server for a name's addresses.
pub async fn resolve(
    server: SocketAddr,
    wanted: &str,
    transport: Transport,
    ipv6: bool,
) -> Result<Vec<IpAddr>, Failure> {
    let kind = if ipv6 {
        RecordType::AAAA
    } else {
        RecordType::A
    };
    let mut question = Message::new(0x5745, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(name(wanted)?, kind));
    let bytes = question.to_vec().map_err(garbled)?;
    let answer = match transport {
        Transport::Udp => ask_udp(server, &bytes).await?,
        Transport::Tcp => ask_tcp(server, &bytes).await?,
    };
    let answer = Message::from_vec(&answer).map_err(garbled)?;
    if answer.metadata.response_code != ResponseCode::NoError {
        return Err(Failure::Garbled(answer.metadata.response_code.to_string()));
    }
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        });
    Ok(addresses.collect())
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>, Failure> {
    let any = match server {
        SocketAddr::V4(_) => "0.0.0.0:0".parse(),
        SocketAddr::V6(_) => "[::]:0".parse(),
    };
    // Connected, as resolvers do it: an answer from another address is not taken.
    let any = any.map_err(garbled)?;
    let socket = sockets::open_udp(any, Some(server), false).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Over TCP a message is preceded by its length (RFC 1035 section 4.2.2).
async fn ask_tcp(server: SocketAddr, question: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut stream = sockets::connect(server, None).await?;
    let length = u16::try_from(question.len()).map_err(garbled)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn name(text: &str) -> Result<Name, Failure> {
    Name::from_str(text).map_err(garbled)
}

fn garbled(error: impl std::fmt::Display) -> Failure {
    Failure::Garbled(error.to_string())
}
