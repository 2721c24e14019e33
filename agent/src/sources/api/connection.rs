//! A connection to the API server that is not listened to all the time.
//!
//! Whatever arrives at a connection that is listened to wakes the agent, whether anybody wants it
//! yet or not. One that is told something again and again is therefore left alone for a while, as
//! [`Pace`] says: the runtime does not know of it then, and what came meanwhile is read at once. What
//! comes in bulk, as lists do, never waits, nor does what is sent.

use std::{
    io::{self, ErrorKind, Read as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::pace::Pace;

/// So much at once is no single change: the next of it is on its way.
const BULK: usize = 16 << 10;
/// So much that came during a rest is more than changes are: ten of a few thousand bytes each may
/// have come. It is less than what a list sends before the one who sends it has to wait.
const BULK_OF_A_REST: usize = 32 << 10;

/// A connection that was made.
#[derive(Debug)]
pub struct Paced {
    stream: Stream,
    pace: Pace,
    /// Bytes that came since there were none.
    heard: usize,
}

#[derive(Debug)]
enum Stream {
    /// The runtime tells when something comes.
    Heard(TcpStream),
    /// It does not: whoever reads finds what is there, once the rest is over.
    Unheard(std::net::TcpStream, Pin<Box<Sleep>>),
    /// It could not be passed from one to the other, and is closed.
    Lost,
}

impl Paced {
    /// Listens.
    fn new(stream: TcpStream) -> Self {
        Self {
            stream: Stream::Heard(stream),
            pace: Pace::default(),
            heard: 0,
        }
    }

    /// Takes a connection that was just made.
    #[must_use]
    pub fn made(connection: TokioIo<TcpStream>) -> TokioIo<Self> {
        TokioIo::new(Self::new(connection.into_inner()))
    }

    /// Nothing more is there for now: leaves it alone, if it is time for that. Otherwise it is
    /// listened to from now on. Tells whether that is something else than before.
    fn rest(&mut self) -> io::Result<bool> {
        let heard = std::mem::take(&mut self.heard);
        let bulk = match self.stream {
            Stream::Heard(_) | Stream::Lost => BULK,
            Stream::Unheard(..) => BULK_OF_A_REST,
        };
        let rest = if heard == 0 {
            self.pace.ceased();
            None
        } else if heard < bulk {
            self.pace.looked(Instant::now())
        } else {
            None
        };
        let (stream, is_news) = match (self.take(), rest) {
            (Stream::Heard(stream), Some(rest)) => {
                let rest = Box::pin(sleep(rest));
                (Stream::Unheard(stream.into_std()?, rest), true)
            }
            (Stream::Unheard(stream, mut over), Some(rest)) => {
                over.as_mut().reset(tokio::time::Instant::now() + rest);
                (Stream::Unheard(stream, over), true)
            }
            (Stream::Unheard(stream, _), None) => {
                (Stream::Heard(TcpStream::from_std(stream)?), true)
            }
            (stream @ (Stream::Heard(_) | Stream::Lost), _) => (stream, false),
        };
        self.stream = stream;
        Ok(is_news)
    }

    /// The connection, listened to. Whoever waits for its rest to be over is woken.
    fn listened(&mut self, context: &Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        if let Stream::Unheard(..) = self.stream
            && let Stream::Unheard(stream, _) = self.take()
        {
            self.stream = Stream::Heard(TcpStream::from_std(stream)?);
            context.waker().wake_by_ref();
        }
        match &mut self.stream {
            Stream::Heard(stream) => Ok(Pin::new(stream)),
            Stream::Unheard(..) | Stream::Lost => Err(lost()),
        }
    }

    const fn take(&mut self) -> Stream {
        std::mem::replace(&mut self.stream, Stream::Lost)
    }
}

fn lost() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the connection was given up")
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let before = buffer.filled().len();
            match &mut self.stream {
                Stream::Heard(stream) => {
                    let result = Pin::new(stream).poll_read(context, buffer);
                    if result.is_ready() {
                        self.heard += buffer.filled().len() - before;
                        return result;
                    }
                }
                Stream::Unheard(stream, over) => {
                    ready!(over.as_mut().poll(context));
                    match stream.read(buffer.initialize_unfilled()) {
                        Ok(length) => {
                            buffer.advance(length);
                            self.heard += length;
                            return Poll::Ready(Ok(()));
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                Stream::Lost => return Poll::Ready(Err(lost())),
            }
            if !self.rest()? {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.listened(context)?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.listened(context)?.poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written has been sent.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.listened(context)?.poll_shutdown(context)
    }
}

impl Connection for Paced {
    fn connected(&self) -> Connected {
        match &self.stream {
            Stream::Heard(stream) => stream.connected(),
            Stream::Unheard(..) | Stream::Lost => Connected::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// One end of a connection, and the other.
    async fn connection() -> (Paced, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Paced::new(near.unwrap()), far.unwrap().0)
    }

    async fn read(paced: &mut Paced, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = timeout(PATIENCE, paced.read_exact(&mut bytes)).await;
        read.expect("it never came").unwrap();
        bytes
    }

    /// Whether something is there to be read.
    async fn look(paced: &mut Paced) -> bool {
        let poll = std::future::poll_fn(|context| {
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            Poll::Ready(Pin::new(&mut *paced).poll_read(context, &mut buffer))
        });
        poll.await.is_ready()
    }

    /// Has it told something once too often: it is left alone now.
    async fn tire(paced: &mut Paced, far: &mut TcpStream) {
        far.write_all(b"again").await.unwrap();
        assert_eq!(read(paced, 5).await, b"again");
        paced.pace = Pace::UNCEASING;
        assert!(!look(paced).await);
        assert!(matches!(paced.stream, Stream::Unheard(..)), "{paced:?}");
    }

    #[tokio::test]
    async fn what_came_while_nobody_listened_is_read() {
        let (mut paced, mut far) = connection().await;
        for _ in 0..3 {
            tire(&mut paced, &mut far).await;
            far.write_all(b"late").await.unwrap();
            assert_eq!(read(&mut paced, 4).await, b"late");
        }
    }

    #[tokio::test]
    async fn what_comes_after_the_rest_is_read() {
        let (mut paced, mut far) = connection().await;
        tire(&mut paced, &mut far).await;
        let listened = async {
            while !matches!(paced.stream, Stream::Heard(_)) {
                assert!(!look(&mut paced).await);
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, listened).await.unwrap();
        far.write_all(b"later").await.unwrap();
        assert_eq!(read(&mut paced, 5).await, b"later");
    }

    #[tokio::test]
    async fn what_is_sent_does_not_wait_and_is_answered() {
        let (mut paced, mut far) = connection().await;
        tire(&mut paced, &mut far).await;
        let question = async {
            let mut question = [0; 8];
            far.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"question");
            far.write_all(b"answer").await.unwrap();
        };
        let ask = async {
            paced.write_all(b"question").await.unwrap();
            read(&mut paced, 6).await
        };
        let both = async { tokio::join!(ask, question) };
        assert_eq!(timeout(PATIENCE, both).await.unwrap().0, b"answer");
    }

    #[tokio::test]
    async fn bulk_arrives_whole_and_so_does_its_end() {
        let (mut paced, mut far) = connection().await;
        let bulk: Vec<u8> = (0_u32..4 << 20).map(|it| it.to_le_bytes()[1]).collect();
        let sent = bulk.clone();
        let sending = tokio::spawn(async move {
            send(&mut far, &sent).await;
        });
        let mut got = Vec::new();
        let read = timeout(PATIENCE, paced.read_to_end(&mut got)).await;
        read.expect("it never ended").unwrap();
        sending.await.unwrap();
        assert!(got == bulk, "{} bytes came", got.len());
    }

    /// Sends pieces of all sizes, and closes.
    async fn send(far: &mut TcpStream, bytes: &[u8]) {
        let mut rest = bytes;
        for size in [1, 100, 10_000, 1 << 20].into_iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(size));
            far.write_all(piece).await.unwrap();
            rest = behind;
            if rest.is_empty() {
                return;
            }
        }
    }
}
