//! ICMP's echo, whose identifier is its port.

use anyhow::Result;

use super::{Scene, packets};

/// The pinger may send it: but a reply is no question.
pub fn reply_without_request(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        friend,
        evil,
        ..
    } = scene;
    for sender in [evil, friend] {
        let reply = packets::echo(sender.addr, victim.addr, true, 701)?;
        sender.is_kept_from(victim, &reply)?;
        sender.is_kept_from(victim, &reply)?;
    }
    let reply = packets::echo(victim.addr, evil.addr, true, 701)?;
    victim.is_kept_from(evil, &reply)
}

pub fn reply_of_another(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        pinger,
        evil,
        ..
    } = scene;
    let request = packets::echo(pinger.addr, victim.addr, false, 702)?;
    pinger.reaches(victim, &request)?;
    for is_reply in [true, false] {
        let packet = packets::echo(evil.addr, victim.addr, is_reply, 702)?;
        evil.is_kept_from(victim, &packet)?;
    }
    Ok(())
}

/// The victim may not ask the pinger, whether or not the pinger asks the victim.
pub fn identifier_used_again(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, pinger, .. } = scene;
    let request = packets::echo(pinger.addr, victim.addr, false, 703)?;
    pinger.reaches(victim, &request)?;
    let reply = packets::echo(victim.addr, pinger.addr, true, 703)?;
    victim.reaches(pinger, &reply)?;
    let request = packets::echo(victim.addr, pinger.addr, false, 703)?;
    victim.is_kept_from(pinger, &request)?;
    let reply = packets::echo(victim.addr, pinger.addr, true, 704)?;
    victim.is_kept_from(pinger, &reply)
}
