//! Packets that would only be right in a connection that was allowed, and is not there.

use anyhow::{Context as _, Result, ensure};
use weir_ebpf::packet::TcpFlags;
use weir_tests::scenario::packet::Chunk;

use super::{Player, Scene, packets};

pub const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
const FIN_ACK: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0);
const RST_ACK: TcpFlags = TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0);
/// RFC 9293 section 3.1
const PSH_ACK: TcpFlags = TcpFlags(0x08 | TcpFlags::ACK.0);

/// As a client's to a port that is served, and as a server's to a client's port; likewise out of
/// the victim.
fn lone(scene: &Scene<'_>, sender: &Player<'_>, flags: &[TcpFlags]) -> Result<()> {
    let victim = &scene.victim;
    for (index, &flags) in (0_u16..).zip(flags) {
        let port = 5200 + index;
        for (from, to) in [(port, 80), (80, port), (port, port + 100)] {
            let packet = packets::tcp(sender.at(from), victim.at(to), flags)?;
            // Not even the second time: what was refused has opened nothing.
            for _ in 0..2 {
                sender.is_kept_from(victim, &packet)?;
            }
            let packet = packets::tcp(victim.at(to + 1), sender.at(from), flags)?;
            victim.is_kept_from(sender, &packet).context("out")?;
        }
    }
    Ok(())
}

pub fn lone_ack(scene: &Scene<'_>) -> Result<()> {
    lone(scene, &scene.evil, &[TcpFlags::ACK, PSH_ACK])
}

pub fn lone_syn_ack(scene: &Scene<'_>) -> Result<()> {
    lone(scene, &scene.evil, &[SYN_ACK])
}

pub fn lone_fin(scene: &Scene<'_>) -> Result<()> {
    lone(scene, &scene.evil, &[TcpFlags::FIN, FIN_ACK])
}

pub fn lone_rst(scene: &Scene<'_>) -> Result<()> {
    lone(scene, &scene.evil, &[TcpFlags::RST, RST_ACK])
}

pub fn lone_ack_from_far(scene: &Scene<'_>) -> Result<()> {
    lone(scene, &scene.far, &[TcpFlags::ACK, SYN_ACK, FIN_ACK])
}

pub fn lone_sctp(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, evil, .. } = scene;
    for chunk in [Chunk::INIT_ACK, Chunk::COOKIE_ACK, Chunk::DATA] {
        for (from, to) in [(5300, 80), (80, 5300)] {
            let packet = packets::sctp(evil.at(from), victim.at(to), chunk)?;
            evil.is_kept_from(victim, &packet)?;
        }
    }
    Ok(())
}

/// A connection of the victim's to the friend's port 80, which its policy allows; the friend may
/// use it, and may not open another one by the same ports.
pub fn syn_from_the_servers_port(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, friend, .. } = scene;
    let ends = victim.pod.connect(friend.at(80))?;
    victim.pod.ask(ends.handle)?;
    let syn = packets::tcp(friend.at(80), ends.local, TcpFlags::SYN)?;
    friend.is_kept_from(victim, &syn)?;
    friend.is_kept_from(victim, &syn)?;
    let answer = victim.pod.ask(ends.handle)?;
    ensure!(answer.server == friend.pod.name(), "{answer:?}");
    Ok(victim.pod.close(ends.handle)?)
}

/// Once it is closed, its ports are anybody's: the victim's side is judged as ingress again.
pub fn port_used_again(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, friend, .. } = scene;
    let ends = victim.pod.connect(friend.at(80))?;
    victim.pod.ask(ends.handle)?;
    victim.pod.close(ends.handle)?;
    let syn = packets::tcp(friend.at(80), ends.local, TcpFlags::SYN)?;
    friend.is_kept_from(victim, &syn)?;
    // The other way round: the friend's connection to the victim, which is over, lets the victim
    // not open one to the friend's port.
    let ends = friend.pod.connect(victim.at(80))?;
    friend.pod.ask(ends.handle)?;
    friend.pod.close(ends.handle)?;
    let syn = packets::tcp(victim.at(80), ends.local, TcpFlags::SYN)?;
    victim.is_kept_from(friend, &syn)
}

/// The victim answers to whom it was not allowed to be asked by: as if somebody in it helped.
pub fn answer_to_a_refused_syn(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, evil, .. } = scene;
    let (client, server) = (evil.at(5400), victim.at(80));
    for _ in 0..2 {
        evil.is_kept_from(victim, &packets::tcp(client, server, TcpFlags::SYN)?)?;
        victim.is_kept_from(evil, &packets::tcp(server, client, SYN_ACK)?)?;
        evil.is_kept_from(victim, &packets::tcp(client, server, TcpFlags::ACK)?)?;
    }
    let (client, server) = (evil.at(5401), victim.at(80));
    evil.is_kept_from(victim, &packets::udp(client, server, b"question")?)?;
    victim.is_kept_from(evil, &packets::udp(server, client, b"answer")?)?;
    evil.is_kept_from(victim, &packets::udp(client, server, b"question")?)
}

pub fn udp_from_another_port(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, friend, .. } = scene;
    let client = victim.at(5500);
    victim.reaches(friend, &packets::udp(client, friend.at(80), b"question")?)?;
    friend.is_kept_from(victim, &packets::udp(friend.at(81), client, b"answer")?)?;
    friend.is_kept_from(
        victim,
        &packets::udp(friend.at(80), victim.at(5501), b"answer")?,
    )?;
    friend.reaches(victim, &packets::udp(friend.at(80), client, b"answer")?)
}

pub fn udp_from_another_pod(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        friend,
        evil,
        ..
    } = scene;
    let client = victim.at(5502);
    victim.reaches(friend, &packets::udp(client, friend.at(80), b"question")?)?;
    evil.is_kept_from(victim, &packets::udp(evil.at(80), client, b"answer")?)?;
    friend.reaches(victim, &packets::udp(friend.at(80), client, b"answer")?)
}

pub fn error_about_nothing(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        friend,
        evil,
        ..
    } = scene;
    let said =
        |who: &Player<'_>, port| packets::unreachable(who.addr, (victim.at(port), friend.at(80)));
    evil.is_kept_from(victim, &said(evil, 5600)?)?;
    friend.is_kept_from(victim, &said(friend, 5600)?)?;
    // The same about a question that was asked.
    let question = packets::udp(victim.at(5601), friend.at(80), b"question")?;
    victim.reaches(friend, &question)?;
    friend.reaches(victim, &said(friend, 5601)?)
}

pub fn error_about_a_refused_packet(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, evil, .. } = scene;
    let about = (victim.at(5602), evil.at(80));
    victim.is_kept_from(evil, &packets::udp(about.0, about.1, b"question")?)?;
    evil.is_kept_from(victim, &packets::unreachable(evil.addr, about)?)
}
