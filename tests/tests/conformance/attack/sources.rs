//! Sources that are not the sender's.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use weir_ebpf::packet::TcpFlags;

use super::{Player, Scene, packets};

/// To the isolated pod that would let its owner in, and to one that lets in everybody.
fn is_kept_out(scene: &Scene<'_>, source: IpAddr) -> Result<()> {
    for receiver in [&scene.victim, &scene.friend, &scene.far] {
        if receiver.addr == source {
            continue;
        }
        let from = SocketAddr::new(source, 5100);
        for packet in [
            packets::udp(from, receiver.at(80), b"forged")?,
            packets::tcp(from, receiver.at(80), TcpFlags::SYN)?,
            packets::tcp(from, receiver.at(80), TcpFlags::ACK)?,
            packets::echo(source, receiver.addr, false, 51)?,
        ] {
            scene
                .evil
                .is_kept_from(receiver, &packet)
                .with_context(|| format!("to {}", receiver.pod.name()))?;
        }
    }
    Ok(())
}

pub fn another_pods(scene: &Scene<'_>) -> Result<()> {
    is_kept_out(scene, scene.friend.addr)?;
    is_kept_out(scene, scene.pinger.addr)
}

pub fn the_nodes(scene: &Scene<'_>) -> Result<()> {
    is_kept_out(scene, scene.node)
}

pub fn outside(scene: &Scene<'_>) -> Result<()> {
    is_kept_out(scene, scene.outside)
}

pub fn another_nodes_pods(scene: &Scene<'_>) -> Result<()> {
    is_kept_out(scene, scene.far.addr)
}

/// What was forged in the friend's name is forgotten: it does not count as a question of the
/// victim's, nor as one of the friend's.
pub fn opens_nothing(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        friend,
        evil,
        ..
    } = scene;
    let ask = |from: &Player<'_>, to: &Player<'_>| {
        packets::udp(from.at(5101), to.at(5102), b"a question or an answer")
    };
    // As if the victim had asked the friend, which would let the friend's answer in.
    evil.is_kept_from(friend, &ask(victim, friend)?)?;
    friend.is_kept_from(
        victim,
        &packets::udp(friend.at(5102), victim.at(5101), b"no")?,
    )?;
    // As if the friend had asked the victim, which would let the victim's answer out.
    evil.is_kept_from(victim, &ask(friend, victim)?)?;
    victim.is_kept_from(
        friend,
        &packets::udp(victim.at(5102), friend.at(5101), b"no")?,
    )
}
