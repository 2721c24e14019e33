//! What must be true of a frame that the datapath has changed, whatever the scenario expects.
//!
//! A frame is never inspected field by field: the packet it should be is described, built by
//! [`frame`] with every checksum taken anew, and compared byte by byte. So nothing but what is
//! described can have changed.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use weir_ebpf::packet::TcpFlags;
use weir_ebpf::verdict::Verdict;

use super::frame::{self, ETHERNET};
use super::notation::{BodyText, Notation, Place, PortText};
use super::packet::{Body, Damage, Extension, Network, Packet, Tcp};
use super::runner::Sent;

/// The packet in the frame that came out for a packet that was sent as `input`; one that was
/// dropped is nowhere, and given as it was.
///
/// # Errors
/// The frame is not right for the verdict.
pub fn became(packet: &Packet, input: &[u8], sent: &Sent) -> Result<Packet> {
    match sent.verdict {
        Verdict::Translate => translated(packet, &sent.frame),
        Verdict::Reject(_) => refused(packet, input, &sent.frame),
        Verdict::Pass | Verdict::PassFragment => {
            frame::compare(&sent.frame, input)
                .with_context(|| format!("{packet} passed, changed"))?;
            Ok(packet.clone())
        }
        Verdict::Drop(_) => Ok(packet.clone()),
    }
}

/// The packet in the frame that a packet was translated to: the same but for source and
/// destination.
///
/// # Errors
/// Anything else is different, or a checksum is wrong.
pub fn translated(sent: &Packet, output: &[u8]) -> Result<Packet> {
    let (src, dst) = frame::places(output, sent)?;
    let mut expected = Packet {
        src,
        dst,
        ..sent.clone()
    };
    if let Body::Error(_, quote) = &mut expected.body {
        // As if the quoted packet had a frame of its own.
        let start = frame::transport_offset(sent) + 8 - ETHERNET;
        let quoted = output.get(start..).context("the error is cut short")?;
        (quote.src, quote.dst) = frame::places(quoted, quote)?;
    }
    frame::compare(output, &frame::build(&expected)?)
        .with_context(|| format!("{sent} was not rightly translated to {expected}"))?;
    Ok(expected)
}

/// The packet in the frame that refuses a packet.
///
/// # Errors
/// It is not the answer that the protocol's standard asks for, or a checksum is wrong.
pub fn refused(sent: &Packet, input: &[u8], output: &[u8]) -> Result<Packet> {
    let expected = refusal(sent, input, output)?;
    frame::compare(output, &frame::build(&expected)?)
        .with_context(|| format!("{sent} was not rightly refused by {expected}"))?;
    Ok(expected)
}

fn refusal(sent: &Packet, input: &[u8], output: &[u8]) -> Result<Packet> {
    let header = if sent.is_v4() { 20 } else { 40 };
    ensure!(
        output.len() >= ETHERNET + header,
        "the answer is cut short: {}",
        frame::hex(output)
    );
    let body = match &sent.body {
        Body::Tcp(tcp) if !is_authenticated(sent) => Body::Tcp(reset(tcp, sent.payload)?),
        Body::Tcp(_)
        | Body::Udp { .. }
        | Body::Sctp(_)
        | Body::Echo(_)
        | Body::Message(_)
        | Body::Other(_) => {
            let quoted = output
                .len()
                .checked_sub(ETHERNET + header + 8)
                .context("the answer is no ICMP error")?;
            // RFC 792: the header and 64 bits behind it, which are the ports.
            let behind = match sent.body {
                Body::Other(_) => usize::from(sent.payload).min(8),
                _ => 8,
            };
            let transport = if is_authenticated(sent) {
                header
            } else {
                frame::transport_offset(sent) - ETHERNET
            };
            ensure!(
                quoted >= (transport + behind) & !3,
                "the answer quotes only {quoted} bytes"
            );
            let quote = input.get(ETHERNET..ETHERNET + quoted);
            Body::PortUnreachable(quote.context("the answer quotes too much")?.to_vec())
        }
        Body::PortUnreachable(_) | Body::Error(..) => {
            anyhow::bail!("{sent} must not be answered")
        }
    };
    let place = |place: SocketAddr| match body {
        Body::PortUnreachable(_) => SocketAddr::new(place.ip(), 0),
        Body::Tcp(_)
        | Body::Udp { .. }
        | Body::Sctp(_)
        | Body::Echo(_)
        | Body::Message(_)
        | Body::Error(..)
        | Body::Other(_) => place,
    };
    let (src, dst) = (place(sent.dst), place(sent.src));
    Ok(Packet {
        network: free_fields(sent, output)?,
        payload: 0,
        damage: Damage::default(),
        is_answer: !sent.is_answer,
        ..Packet::new(src, dst, body)
    })
}

/// What an authentication header protects is a protocol like any other without ports.
fn is_authenticated(packet: &Packet) -> bool {
    packet
        .network
        .extensions
        .contains(&Extension::Authentication)
}

/// RFC 9293 section 3.10.7.1: "If the ACK bit is off, sequence number zero is used,
/// <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>. If the ACK bit is on, <SEQ=SEG.ACK><CTL=RST>."
fn reset(tcp: &Tcp, payload: u16) -> Result<Tcp> {
    let has = |flag| tcp.flags.contains(flag);
    ensure!(!has(TcpFlags::RST), "a reset must not be answered");
    let length = u32::from(payload) + u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
    let reset = Tcp {
        window: 0,
        ..Tcp::new(TcpFlags::RST)
    };
    Ok(if has(TcpFlags::ACK) {
        Tcp {
            sequence: tcp.acknowledgement,
            acknowledgement: 0,
            ..reset
        }
    } else {
        Tcp {
            flags: TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0),
            sequence: 0,
            acknowledgement: tcp.sequence.wrapping_add(length),
            ..reset
        }
    })
}

/// What an answer may choose: taken from it, so that it counts as expected.
fn free_fields(sent: &Packet, output: &[u8]) -> Result<Network> {
    let ip = &output[ETHERNET..];
    let network = if sent.is_v4() {
        Network {
            ttl: ip[8],
            dont_fragment: ip[6] & 0x40 != 0,
            identification: u16::from_be_bytes([ip[4], ip[5]]),
            ..Network::default()
        }
    } else {
        Network {
            ttl: ip[7],
            flow_label: u32::from_be_bytes([0, ip[1] & 0x0f, ip[2], ip[3]]),
            ..Network::default()
        }
    };
    ensure!(
        network.ttl >= 32,
        "the answer lives for {} hops only",
        network.ttl
    );
    Ok(network)
}

/// Is everything that a text says true of a packet? `any_port` is what `*` stands for.
#[must_use]
pub fn matches(text: &Notation, packet: &Packet, any_port: (u16, u16)) -> bool {
    let is_place = |place: Place, actual: SocketAddr| {
        place.addr == actual.ip()
            && match place.port {
                PortText::None => actual.port() == 0,
                PortText::Number(number) => actual.port() == number,
                PortText::Any => (any_port.0..=any_port.1).contains(&actual.port()),
            }
    };
    let is_body = match (text.body, &packet.body) {
        (BodyText::Tcp(None), Body::Tcp(_))
        | (BodyText::Sctp(None), Body::Sctp(_))
        | (BodyText::Udp, Body::Udp { .. })
        | (BodyText::PortUnreachable, Body::PortUnreachable(_)) => true,
        (BodyText::Tcp(Some(flags)), Body::Tcp(tcp)) => flags == tcp.flags,
        (BodyText::Sctp(Some(chunk)), Body::Sctp(actual)) => chunk == *actual,
        (BodyText::Echo { is_reply }, Body::Echo(echo)) => is_reply == echo.is_reply,
        (BodyText::Message(number), Body::Message(actual)) => number == *actual,
        (BodyText::Other(number), Body::Other(actual)) => number == *actual,
        (
            BodyText::Tcp(_)
            | BodyText::Udp
            | BodyText::Sctp(_)
            | BodyText::Echo { .. }
            | BodyText::Message(_)
            | BodyText::PortUnreachable
            | BodyText::Other(_),
            _,
        ) => false,
    };
    let mut stated = packet.clone();
    is_place(text.src, packet.src)
        && is_place(text.dst, packet.dst)
        && is_body
        && text.settings.apply_to(&mut stated).is_ok()
        && stated == *packet
}
