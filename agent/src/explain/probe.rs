//! The packet that opens a connection.

use std::net::IpAddr;

use weir_ebpf::addr::{Addr, Port, Protocol as Number};
use weir_ebpf::buffer::Buffer;
use weir_ebpf::packet::{Ipv4Header, Ipv6Header, SctpHeader, TcpFlags, TcpHeader, UdpHeader};

use super::Traffic;
use crate::model::Protocol;

/// Where connections come from: any port will do.
const SOURCE_PORT: u16 = 40_000;
/// Echo requests (RFC 792, RFC 4443 section 4.1).
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;
const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// An SCTP chunk of type INIT (RFC 9260 section 3.3.2).
const INIT: u8 = 1;
const HOP_LIMIT: u8 = 64;

/// The first packet of a connection between two addresses of one family. Nobody looks at its
/// checksums.
pub(super) fn packet(from: IpAddr, to: IpAddr, traffic: Traffic) -> Buffer<128> {
    let (protocol, payload) = transport(traffic);
    let mut frame = vec![0; 12];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = Ipv4Header {
                version_length: 0x45,
                total_length: length(size_of::<Ipv4Header>() + payload.len()),
                ttl: HOP_LIMIT,
                protocol: protocol.0,
                src: u32::from_ne_bytes(from.octets()),
                dst: u32::from_ne_bytes(to.octets()),
                ..Ipv4Header::default()
            };
            frame.extend(ETHER_TYPE_IPV4);
            frame.extend(bytemuck::bytes_of(&header));
        }
        (from, to) => {
            let header = Ipv6Header {
                version_class_flow: (6_u32 << 28).to_be(),
                payload_length: length(payload.len()),
                next_header: protocol.0,
                hop_limit: HOP_LIMIT,
                src: Addr::from(from),
                dst: Addr::from(to),
            };
            frame.extend(ETHER_TYPE_IPV6);
            frame.extend(bytemuck::bytes_of(&header));
        }
    }
    frame.extend(payload);
    Buffer::new(&frame).expect("headers of fewer than 128 bytes")
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be()
}

fn transport(traffic: Traffic) -> (Number, Vec<u8>) {
    let (protocol, port) = match traffic {
        Traffic::Ports { protocol, port } => (protocol, Port::new(port)),
        Traffic::Other { protocol } => {
            let kind = match Number(protocol) {
                Number::ICMP => ECHO,
                Number::ICMPV6 => ECHO_V6,
                _ => 0,
            };
            return (Number(protocol), vec![kind, 0, 0, 0, 0, 1, 0, 1]);
        }
    };
    let src_port = Port::new(SOURCE_PORT);
    match protocol {
        Protocol::Tcp => {
            let header = TcpHeader {
                src_port,
                dst_port: port,
                data_offset: 5 << 4,
                flags: TcpFlags::SYN,
                ..TcpHeader::default()
            };
            (Number::TCP, bytemuck::bytes_of(&header).to_vec())
        }
        Protocol::Udp => {
            let header = UdpHeader {
                src_port,
                dst_port: port,
                length: length(size_of::<UdpHeader>()),
                checksum: 0,
            };
            (Number::UDP, bytemuck::bytes_of(&header).to_vec())
        }
        Protocol::Sctp => {
            let header = SctpHeader {
                src_port,
                dst_port: port,
                chunk: INIT,
                // The chunk without parameters (RFC 9260 section 3.3.2).
                chunk_length: length(20),
                ..SctpHeader::default()
            };
            let mut bytes = bytemuck::bytes_of(&header).to_vec();
            bytes.extend([0; 16]);
            (Number::SCTP, bytes)
        }
    }
}
