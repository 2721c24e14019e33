//! What a conversation consists of: the packets of its two sides.

use std::net::{IpAddr, SocketAddr};

use weir_ebpf::packet::TcpFlags;
use weir_tests::reference::policy::world::Protocol;
use weir_tests::reference::policy::{Connection, Traffic};
use weir_tests::scenario::packet::{Body, Chunk, Echo, ErrorKind, Packet, Tcp};

/// A packet of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// What opens it: SYN, INIT, a request, a datagram.
    Opening,
    /// What answers that: SYN-ACK, INIT-ACK, a reply, a datagram.
    Answer,
    /// Later data.
    Data,
    /// The end of what one side has to say: FIN, SHUTDOWN.
    End,
    /// The end of everything: RST, ABORT.
    Reset,
}

/// A conversation, and what its client speaks by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conversation {
    /// Who wants to speak with whom, where and how.
    pub connection: Connection,
    /// The client's port; of an echo its identifier.
    pub client_port: u16,
}

impl Conversation {
    /// The protocol's number.
    pub fn protocol(&self) -> u8 {
        match self.connection.traffic {
            Traffic::Ports { protocol, .. } => match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            },
            Traffic::Other { protocol } => protocol,
        }
    }

    /// Is it an echo?
    pub fn is_echo(&self) -> bool {
        let own = if self.connection.to.is_ipv4() { 1 } else { 58 };
        self.connection.traffic == Traffic::Other { protocol: own }
    }

    /// The ports of client and server, as a conversation is known by them.
    pub fn ports(&self) -> (u16, u16) {
        match self.connection.traffic {
            Traffic::Ports { port, .. } => (self.client_port, port),
            Traffic::Other { .. } if self.is_echo() => (self.client_port, 0),
            Traffic::Other { .. } => (0, 0),
        }
    }

    /// A packet of one of its sides.
    pub fn packet(&self, segment: Segment, is_of_client: bool) -> Packet {
        let (client, server) = (self.connection.from.addr(), self.connection.to);
        let (client_port, server_port) = match self.connection.traffic {
            Traffic::Ports { port, .. } => (self.client_port, port),
            Traffic::Other { .. } => (0, 0),
        };
        let place = |addr: IpAddr, port| SocketAddr::new(addr, port);
        let (src, dst) = (place(client, client_port), place(server, server_port));
        let (src, dst) = if is_of_client { (src, dst) } else { (dst, src) };
        let packet = Packet::new(src, dst, self.body(segment, is_of_client));
        // An error about it quotes so much (RFC 792).
        Packet {
            payload: 8,
            ..packet
        }
    }

    /// An error about a packet of one of its sides, to that side.
    pub fn error(&self, segment: Segment, is_of_client: bool, from: IpAddr) -> Packet {
        let quoted = self.packet(segment, is_of_client);
        Packet::new(
            SocketAddr::new(from, 0),
            SocketAddr::new(quoted.src.ip(), 0),
            Body::Error(ErrorKind::TimeExceeded, Box::new(quoted)),
        )
    }

    fn body(&self, segment: Segment, is_of_client: bool) -> Body {
        match self.connection.traffic {
            Traffic::Ports { protocol, .. } => match protocol {
                Protocol::Tcp => Body::Tcp(Tcp::new(flags(segment))),
                Protocol::Udp => Body::Udp { has_checksum: true },
                Protocol::Sctp => Body::Sctp(chunk(segment)),
            },
            Traffic::Other { .. } if self.is_echo() => Body::Echo(Echo {
                is_reply: !is_of_client,
                identifier: self.client_port,
            }),
            Traffic::Other { protocol } => Body::Other(protocol),
        }
    }
}

fn flags(segment: Segment) -> TcpFlags {
    let with_ack = |flags: TcpFlags| TcpFlags(flags.0 | TcpFlags::ACK.0);
    match segment {
        Segment::Opening => TcpFlags::SYN,
        Segment::Answer => with_ack(TcpFlags::SYN),
        Segment::Data => TcpFlags::ACK,
        Segment::End => with_ack(TcpFlags::FIN),
        Segment::Reset => TcpFlags::RST,
    }
}

const fn chunk(segment: Segment) -> Chunk {
    match segment {
        Segment::Opening => Chunk::INIT,
        Segment::Answer => Chunk::INIT_ACK,
        Segment::Data => Chunk::DATA,
        Segment::End => Chunk(7),
        Segment::Reset => Chunk(6),
    }
}
