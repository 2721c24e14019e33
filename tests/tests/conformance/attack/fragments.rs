//! Fragments: only the first says to which port a datagram goes.

use anyhow::Result;
use weir_tests::scenario::packet::Fragment;

use super::{Player, Scene, packets};

fn datagram(from: &Player<'_>, to: &Player<'_>, which: Fragment, id: u16) -> Result<Vec<u8>> {
    packets::fragment(from.at(5800), to.at(80), which, id)
}

pub fn without_first(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        friend,
        evil,
        ..
    } = scene;
    for sender in [friend, evil] {
        let later = datagram(sender, victim, Fragment::Later, 801)?;
        sender.is_kept_from(victim, &later)?;
        sender.is_kept_from(victim, &later)?;
    }
    let later = datagram(victim, evil, Fragment::Later, 802)?;
    victim.is_kept_from(evil, &later)
}

pub fn of_another_datagram(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, friend, .. } = scene;
    let fragment = |which, id| datagram(friend, victim, which, id);
    friend.reaches(victim, &fragment(Fragment::First, 803)?)?;
    friend.is_kept_from(victim, &fragment(Fragment::Later, 804)?)?;
    friend.reaches(victim, &fragment(Fragment::Later, 803)?)
}

pub fn of_a_refused_datagram(scene: &Scene<'_>) -> Result<()> {
    let Scene { victim, evil, .. } = scene;
    for which in [Fragment::First, Fragment::Later] {
        evil.is_kept_from(victim, &datagram(evil, victim, which, 805)?)?;
    }
    // Nor by a friend, to a port that is not for him.
    let friend = &scene.friend;
    for which in [Fragment::First, Fragment::Later] {
        let fragment = packets::fragment(friend.at(5801), victim.at(81), which, 806)?;
        friend.is_kept_from(victim, &fragment)?;
    }
    Ok(())
}

pub fn of_another_sender(scene: &Scene<'_>) -> Result<()> {
    let Scene {
        victim,
        friend,
        evil,
        ..
    } = scene;
    friend.reaches(victim, &datagram(friend, victim, Fragment::First, 807)?)?;
    evil.is_kept_from(victim, &datagram(evil, victim, Fragment::Later, 807)?)
}
