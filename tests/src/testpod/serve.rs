//! What a pod serves: a few words over TCP and UDP, told apart by their first line.
//!
//! | client says | server answers |
//! |---|---|
//! | TCP `ASK` | a [`Said`] in a line; then the next word |
//! | TCP `SINK` and bytes to the end of the stream | a [`Counted`] in a line |
//! | TCP `SOURCE n` | `n` bytes of the [`Pattern`](super::pattern::Pattern) |
//! | TCP `GET …` | a web page |
//! | UDP, a number in the first eight bytes | a [`Said`] that repeats it, filled up to the question's length |

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::http;
use super::pattern::{Account, CHUNK, Pattern};
use super::protocol::{Amount, Failure};

/// A server's view of a question.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// Its name.
    pub server: String,
    /// Where it was asked.
    pub at: SocketAddr,
    /// Who asked.
    pub client: SocketAddr,
    /// The question's number; zero over TCP.
    pub number: u64,
    /// CRC-32 of the question.
    pub checksum: u32,
}

/// A server's account of a stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Its name.
    pub server: String,
    /// What it received.
    pub received: Amount,
}

/// The longest datagram.
pub const DATAGRAM_MAX: usize = 65_507;

/// Serves TCP until its task is ended.
pub async fn serve_tcp(listener: TcpListener, name: Arc<str>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let name = Arc::clone(&name);
                tokio::spawn(async move {
                    // The client sees what went wrong, at its own end.
                    let _ = converse(stream, client, &name).await;
                });
            }
            // Of one connection, or of too many: the next may work.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, name: &str) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line
            .trim_end()
            .split_once(' ')
            .unwrap_or((line.trim_end(), ""))
        {
            ("ASK", _) => {
                let said = Said {
                    server: name.to_owned(),
                    at: local,
                    client,
                    number: 0,
                    checksum: 0,
                };
                write_line(&mut stream, &said).await?;
            }
            ("SINK", _) => {
                let received = count(&mut stream).await?;
                let server = name.to_owned();
                return write_line(&mut stream, &Counted { server, received }).await;
            }
            ("SOURCE", length) => {
                let length = length.parse().map_err(|_| Failure::Garbled(line.clone()))?;
                return pour(&mut stream, length).await;
            }
            ("GET", _) => return http::answer(&mut stream, name, client, local).await,
            _ => return Err(Failure::Garbled(line)),
        }
    }
}

async fn write_line(
    stream: &mut (impl AsyncWriteExt + Unpin),
    value: &impl Serialize,
) -> Result<(), Failure> {
    let mut line =
        serde_json::to_vec(value).map_err(|error| Failure::Garbled(error.to_string()))?;
    line.push(b'\n');
    Ok(stream.write_all(&line).await?)
}

async fn count(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Amount, Failure> {
    let mut account = Account::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(account.total()),
            length => account.add(&buffer[..length]),
        }
    }
}

async fn pour(stream: &mut (impl AsyncWriteExt + Unpin), length: u64) -> Result<(), Failure> {
    let mut pattern = Pattern::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let now = left.min(CHUNK as u64) as usize;
        pattern.fill(&mut buffer);
        stream.write_all(&buffer[..now]).await?;
        left -= now as u64;
    }
    Ok(stream.shutdown().await?)
}

/// Serves UDP at an address until its task is ended.
pub async fn serve_udp(socket: UdpSocket, local: SocketAddr, name: Arc<str>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        // An error is that of an earlier answer, whose client has gone.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let question = &buffer[..length];
        let Some(number) = question.first_chunk() else {
            continue;
        };
        let said = Said {
            server: name.to_string(),
            at: local,
            client,
            number: u64::from_be_bytes(*number),
            checksum: crc32fast::hash(question),
        };
        if let Ok(mut answer) = serde_json::to_vec(&said) {
            // White space at the end is still JSON.
            answer.resize(answer.len().max(length), b' ');
            let _ = socket.send_to(&answer, client).await;
        }
    }
}
