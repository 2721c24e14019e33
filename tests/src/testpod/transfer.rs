//! Long streams whose two ends are compared.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::pattern::{Account, CHUNK, Pattern};
use super::protocol::{Amount, Failure, Transferred};
use super::serve::Counted;
use super::sockets;

/// Between two chunks of a paced stream, so that it leaves the machine to the rest of the test.
const PACE: Duration = Duration::from_millis(2);
/// Length of these chunks.
const PACED_CHUNK: usize = 16 * 1024;

/// A stream that goes on until it is told to finish.
#[derive(Debug)]
pub struct Transfer {
    progress: Arc<AtomicU64>,
    finish: Arc<Notify>,
    task: JoinHandle<Result<Transferred, Failure>>,
}

impl Transfer {
    /// Opens a connection and begins to send.
    pub async fn start(to: SocketAddr) -> Result<(Self, TcpEnds), Failure> {
        let mut stream = sockets::connect(to, None).await?;
        let ends = (stream.local_addr()?, stream.peer_addr()?);
        let progress = Arc::new(AtomicU64::new(0));
        let finish = Arc::new(Notify::new());
        let (counter, finished) = (Arc::clone(&progress), Arc::clone(&finish));
        let task = tokio::spawn(async move {
            stream.write_all(b"SINK\n").await?;
            let mut pattern = Pattern::new();
            let mut account = Account::default();
            let mut buffer = [0; PACED_CHUNK];
            loop {
                tokio::select! {
                    biased;
                    () = finished.notified() => break,
                    () = tokio::time::sleep(PACE) => {}
                }
                pattern.fill(&mut buffer);
                stream.write_all(&buffer).await?;
                account.add(&buffer);
                counter.store(account.total().bytes, Ordering::Relaxed);
            }
            settle(stream, account.total()).await
        });
        let transfer = Self {
            progress,
            finish,
            task,
        };
        Ok((transfer, ends))
    }

    /// Bytes sent so far; the failure, if it has ended by one.
    pub async fn progress(&mut self) -> Result<u64, Failure> {
        if self.task.is_finished() {
            (&mut self.task)
                .await
                .map_err(|error| Failure::Garbled(error.to_string()))??;
        }
        Ok(self.progress.load(Ordering::Relaxed))
    }

    /// Ends the stream; gives both ends' accounts.
    pub async fn finish(self) -> Result<Transferred, Failure> {
        self.finish.notify_one();
        self.task
            .await
            .map_err(|error| Failure::Garbled(error.to_string()))?
    }
}

/// `getsockname` and `getpeername`.
pub type TcpEnds = (SocketAddr, SocketAddr);

/// Sends `bytes`, then fetches as many, as fast as it goes; the account is of both together.
pub async fn bulk(to: SocketAddr, bytes: u64) -> Result<Transferred, Failure> {
    let up = upload(to, bytes).await?;
    let expected = up.sent;
    let down = download(to, bytes).await?;
    if down != expected {
        return Ok(Transferred {
            server: up.server,
            sent: expected,
            received: down,
        });
    }
    Ok(up)
}

async fn upload(to: SocketAddr, bytes: u64) -> Result<Transferred, Failure> {
    let mut stream = sockets::connect(to, None).await?;
    stream.write_all(b"SINK\n").await?;
    let mut pattern = Pattern::new();
    let mut account = Account::default();
    let mut buffer = vec![0; CHUNK];
    while account.total().bytes < bytes {
        let now = (bytes - account.total().bytes).min(CHUNK as u64) as usize;
        pattern.fill(&mut buffer);
        stream.write_all(&buffer[..now]).await?;
        account.add(&buffer[..now]);
    }
    settle(stream, account.total()).await
}

async fn download(to: SocketAddr, bytes: u64) -> Result<Amount, Failure> {
    let mut stream = sockets::connect(to, None).await?;
    stream
        .write_all(format!("SOURCE {bytes}\n").as_bytes())
        .await?;
    let mut account = Account::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(account.total()),
            length => account.add(&buffer[..length]),
        }
    }
}

/// Ends the sending direction and reads what the server counted.
async fn settle(mut stream: TcpStream, sent: Amount) -> Result<Transferred, Failure> {
    stream.shutdown().await?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).await? == 0 {
        return Err(Failure::Closed);
    }
    let counted: Counted = serde_json::from_str(&line).map_err(|_| Failure::Garbled(line))?;
    Ok(Transferred {
        server: counted.server,
        sent,
        received: counted.received,
    })
}
