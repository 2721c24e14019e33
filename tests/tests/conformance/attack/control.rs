//! That the other tests could fail: without a policy all their packets arrive.

use anyhow::{Context as _, Result};
use weir_ebpf::packet::TcpFlags;
use weir_tests::scenario::packet::{Chunk, Fragment};

use super::connections::SYN_ACK;
use super::{Scene, packets};

/// One packet of each kind, from an address that is the sender's own.
pub fn every_packet_arrives(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim, evil, far, ..
    } = scene;
    for sender in [evil, far] {
        let (from, to) = (sender.at(5000), victim.at(80));
        let all = [
            packets::udp(from, to, b"hello")?,
            packets::tcp(from, to, TcpFlags::SYN)?,
            packets::tcp(from, to, TcpFlags::ACK)?,
            packets::tcp(from, to, TcpFlags::FIN)?,
            packets::tcp(from, to, TcpFlags::RST)?,
            packets::tcp(from, to, SYN_ACK)?,
            packets::sctp(from, to, Chunk::INIT_ACK)?,
            packets::sctp(from, to, Chunk::COOKIE_ACK)?,
            packets::echo(sender.addr, victim.addr, true, 77)?,
            packets::echo(sender.addr, victim.addr, false, 77)?,
            packets::unreachable(sender.addr, (victim.at(5001), sender.at(80)))?,
            packets::fragment(from, to, Fragment::First, 61)?,
            packets::fragment(from, to, Fragment::Later, 61)?,
            packets::fragment(from, to, Fragment::Later, 62)?,
        ];
        for packet in &all {
            sender
                .reaches(victim, packet)
                .with_context(|| format!("from {}", sender.pod.name()))?;
        }
    }
    Ok(())
}
