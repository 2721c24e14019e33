//! One question to the kernel over netlink, and its answers.
//!
//! Synchronous: attaching happens in the order of a plan, each step in microseconds.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};

/// How often a list that keeps changing is asked for.
const LIST_ATTEMPTS: usize = 16;

/// A netlink socket of the calling thread's network namespace.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// `protocol` is one of `netlink_sys::protocols`.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The same; `None` where the kernel does not have the protocol.
    pub(crate) fn open_if_there(protocol: isize) -> io::Result<Option<Self>> {
        match Self::open(protocol) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Has the kernel heed all that a question says (Linux 4.20): else it tells, of some lists, what
    /// was not asked for, too.
    pub(crate) fn check_strictly(&mut self) -> io::Result<()> {
        self.socket.set_netlink_get_strict_chk(true)
    }

    /// Asks for a change, with `flags` beside the usual ones.
    pub(crate) fn change<Q: NetlinkSerializable>(
        &mut self,
        question: Q,
        flags: u16,
    ) -> io::Result<()> {
        self.ask::<Q, Ignored>(question, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(drop)
    }

    /// Asks for a list, again when it changed while the kernel wrote it.
    pub(crate) fn list<Q: NetlinkSerializable + Clone, A: NetlinkDeserializable>(
        &mut self,
        question: &Q,
    ) -> io::Result<Vec<A>> {
        for _ in 0..LIST_ATTEMPTS {
            match self.ask(question.clone(), NLM_F_REQUEST | NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
        Err(io::Error::other("the list changed each time it was read"))
    }

    /// Asks for what one message answers.
    pub(crate) fn get<Q: NetlinkSerializable, A: NetlinkDeserializable>(
        &mut self,
        question: Q,
    ) -> io::Result<Vec<A>> {
        self.ask(question, NLM_F_REQUEST | NLM_F_ACK)
    }

    /// Sends messages that the kernel takes as a whole or not at all. It acknowledges the one with
    /// the number `last` after all errors of the others.
    pub(crate) fn transact(&mut self, messages: &[u8], last: u32) -> io::Result<()> {
        // All go in one piece, of which the kernel keeps its own account.
        setsockopt(
            &self.socket,
            sockopt::SndBufForce,
            &(2 * messages.len() + 4_096),
        )?;
        self.socket.send(messages, 0)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let (answer, after) = first::<Ignored>(rest)?;
                rest = after;
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) if answer.header.sequence_number == last => {
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
    }

    fn ask<Q: NetlinkSerializable, A: NetlinkDeserializable>(
        &mut self,
        question: Q,
        flags: u16,
    ) -> io::Result<Vec<A>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let (answer, after) = first::<A>(rest)?;
                rest = after;
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::other("netlink lost an answer"));
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The first message of some, and those behind it.
fn first<A: NetlinkDeserializable>(messages: &[u8]) -> io::Result<(NetlinkMessage<A>, &[u8])> {
    let length = NetlinkBuffer::new_checked(messages)
        .map_err(io::Error::other)?
        .length() as usize;
    let first = NetlinkMessage::deserialize(&messages[..length]).map_err(io::Error::other)?;
    // Messages are aligned to four bytes.
    let rest = messages
        .get(length.next_multiple_of(4)..)
        .unwrap_or_default();
    Ok((first, rest))
}

/// An answer that nobody reads.
struct Ignored;

impl NetlinkDeserializable for Ignored {
    type Error = std::convert::Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self)
    }
}
