//! The server: a thread for TCP, one for UDP. The first byte of a connection says what it is for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::processor;

/// Answer one byte and close.
pub(super) const ONCE: u8 = b'c';
/// Answer each byte.
pub(super) const ECHO: u8 = b'r';
/// Take bytes until the client has no more.
pub(super) const SINK: u8 = b'b';

/// A datagram: the number of its group, its place there, and how many the group has. The answer is
/// the group's number and how many of it came.
pub(super) const DATAGRAM: usize = 16;

/// A client that has gone without a word is not waited for longer.
const SILENCE: Duration = Duration::from_secs(5);
/// Room for what comes in one call.
const BUFFER: usize = 256 * 1024;

/// Serves from now on.
pub(super) fn start(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("listen at {at}"))?;
    let socket = UdpSocket::bind(at).with_context(|| format!("bind to {at}"))?;
    thread::Builder::new()
        .name("connections".to_owned())
        .spawn(move || accept(&listener))
        .context("start a thread")?;
    // The next one would be woken for each datagram in the middle of the client's work: two fifths
    // of the time were switches from one to the other.
    processor::interrupt_nobody()?;
    thread::Builder::new()
        .name("datagrams".to_owned())
        .spawn(move || count(&socket))
        .context("start a thread")?;
    Ok(())
}

/// One client after the other: there is one at a time.
fn accept(listener: &TcpListener) {
    let mut buffer = vec![0; BUFFER];
    for stream in listener.incoming().flatten() {
        // What went wrong, the client tells: its work is not done.
        let _ = serve(stream, &mut buffer);
    }
}

fn serve(mut stream: TcpStream, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut first = [0];
    stream.read_exact(&mut first)?;
    match first {
        [ONCE] => stream.write_all(&first),
        [ECHO] => {
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_nodelay(true)?;
            stream.write_all(&first)?;
            loop {
                match stream.read(&mut first)? {
                    0 => return Ok(()),
                    _ => stream.write_all(&first)?,
                }
            }
        }
        [SINK] => {
            stream.set_read_timeout(Some(SILENCE))?;
            while stream.read(buffer)? > 0 {}
            Ok(())
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn count(socket: &UdpSocket) {
    let mut datagram = [0; DATAGRAM];
    let (mut group, mut came) = (0, 0_u32);
    loop {
        let Ok((DATAGRAM, from)) = socket.recv_from(&mut datagram) else {
            continue;
        };
        let [number, place, size] = fields(&datagram);
        if number != group {
            (group, came) = (number, 0);
        }
        came += 1;
        if place + 1 == size {
            // A lost answer is a lost group, which the client notices.
            let _ = socket.send_to(&write([group, came, 0]), from);
        }
    }
}

/// The three numbers of a datagram.
pub(super) fn fields(datagram: &[u8; DATAGRAM]) -> [u32; 3] {
    [0, 4, 8].map(|at| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&datagram[at..at + 4]);
        u32::from_be_bytes(bytes)
    })
}

/// A datagram of three numbers.
pub(super) fn write(fields: [u32; 3]) -> [u8; DATAGRAM] {
    let mut datagram = [0; DATAGRAM];
    for (place, field) in datagram.chunks_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_tells_what_was_written() {
        assert_eq!(fields(&write([7, 31, 32])), [7, 31, 32]);
    }
}
