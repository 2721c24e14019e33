//! Pods that come, go, come again, and are not known.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use weir_tests::bed::Family;
use weir_tests::bed::Pod;
use weir_tests::bed::raw::{Injector, Sniffer, ends};
use weir_tests::testpod::protocol::{Carrier, Transport};

use super::{ANSWER, id, is_kept_from, reaches};
use crate::attack::packets;
use crate::cluster::Cluster;
use crate::ground::Ground;

const FRIENDS: &str = r#"
policies:
  x/friends:
    podSelector: {matchLabels: {pod: a}}
    ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]
  x/shut: {podSelector: {matchLabels: {role: shut}}, policyTypes: [Ingress, Egress]}
"#;
/// Of pods that are not there from the beginning.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 200);

/// Waits until the node's agent has programs at its interface.
fn guest(ground: &mut Ground, name: &str, addr: Ipv4Addr) -> Result<Pod> {
    let pod = ground.bed().pod_at(0, name, addr)?;
    ground.agent(0).wait_ready()?;
    Ok(pod)
}

/// Every family and transport of a server.
fn each(addr: impl Fn(Family) -> std::net::IpAddr) -> impl Iterator<Item = (SocketAddr, Carrier)> {
    Family::ALL.into_iter().flat_map(move |family| {
        let to = SocketAddr::new(addr(family), 80);
        Carrier::ALL.map(|carrier| (to, carrier))
    })
}

/// A friend goes, and a stranger gets its address; the objects change before the pods do, and
/// after.
pub fn created_again(ground: &mut Ground) -> Result<()> {
    let victim = id("x/a")?;
    let mut cluster = Cluster::with(FRIENDS)?;
    cluster.add_pod("x", "guest", ("role", "friend"), GUEST);
    ground.apply(&cluster)?;
    let friend = guest(ground, "friend", GUEST)?;
    ground.apply(&cluster)?;
    for (to, carrier) in each(|family| victim.addr(family)) {
        reaches(&friend, to, carrier)?;
    }
    friend.remove()?;
    // The address is given to another before its first owner's object goes.
    cluster.add_pod("x", "other", ("role", "stranger"), GUEST);
    ground.apply(&cluster)?;
    let stranger = guest(ground, "stranger", GUEST)?;
    ground.apply(&cluster)?;
    for (to, carrier) in each(|family| victim.addr(family)) {
        is_kept_from(&stranger, to, carrier)?;
    }
    cluster.remove_pod("x", "guest");
    ground.apply(&cluster)?;
    for (to, carrier) in each(|family| victim.addr(family)) {
        is_kept_from(&stranger, to, carrier)?;
    }
    stranger.remove()?;
    // And once more, by the same name: a pod of a StatefulSet.
    cluster.remove_pod("x", "other");
    cluster.add_pod("x", "other", ("role", "friend"), GUEST);
    let again = guest(ground, "again", GUEST)?;
    ground.apply(&cluster)?;
    for (to, carrier) in each(|family| victim.addr(family)) {
        reaches(&again, to, carrier)?;
    }
    again.remove()?;
    ground.apply(&Cluster::new())
}

/// Its object is known before its interface is there.
pub fn comes_later(ground: &mut Ground) -> Result<()> {
    let mut cluster = Cluster::with(FRIENDS)?;
    cluster.add_pod("x", "guest", ("role", "shut"), GUEST);
    ground.apply(&cluster)?;
    let pod = guest(ground, "later", GUEST)?;
    for transport in Transport::ALL {
        pod.serve(transport, (GUEST, 80).into())?;
    }
    ground.apply(&cluster)?;
    for (to, carrier) in each(|family| id("y/a").expect("y/a is a pod").addr(family)) {
        is_kept_from(&pod, to, carrier)?;
    }
    let client = ground.pod(id("y/b")?)?;
    for carrier in [Carrier::Tcp, Carrier::Udp] {
        is_kept_from(client, (GUEST, 80).into(), carrier)?;
        reaches(ground.bed().node(0).process(), (GUEST, 80).into(), carrier)?;
    }
    pod.remove()?;
    ground.apply(&Cluster::new())
}

/// A pod of which nobody has said anything.
fn unknown(ground: &mut Ground, cluster: &Cluster, is_allowed: bool) -> Result<()> {
    ground.apply(cluster)?;
    let pod = guest(ground, "unknown", GUEST)?;
    for transport in Transport::ALL {
        pod.serve(transport, (GUEST, 80).into())?;
    }
    ground.apply(cluster)?;
    let served = |family| id("y/a").expect("y/a is a pod").addr(family);
    for (to, carrier) in each(served) {
        if is_allowed {
            reaches(&pod, to, carrier)?;
        } else {
            is_kept_from(&pod, to, carrier)?;
        }
    }
    let client = ground.pod(id("y/b")?)?;
    for carrier in [Carrier::Tcp, Carrier::Udp] {
        if is_allowed {
            reaches(client, (GUEST, 80).into(), carrier)?;
        } else {
            is_kept_from(client, (GUEST, 80).into(), carrier)?;
        }
    }
    // Now it is known, and no policy selects it.
    let mut known = cluster.clone();
    known.add_pod("x", "guest", ("role", "guest"), GUEST);
    ground.apply(&known)?;
    for (to, carrier) in each(served) {
        reaches(&pod, to, carrier).context("once it is known")?;
    }
    pod.remove()?;
    ground.apply(cluster)
}

pub fn unknown_allowed(ground: &mut Ground) -> Result<()> {
    unknown(ground, &Cluster::with(FRIENDS)?, true)
}

pub fn unknown_denied(ground: &mut Ground) -> Result<()> {
    unknown(ground, &Cluster::new(), false)
}

pub fn unknown_auto(ground: &mut Ground) -> Result<()> {
    unknown(ground, &Cluster::new(), true)?;
    unknown(ground, &Cluster::with(FRIENDS)?, false)
}

/// A pod that routes for others.
pub fn sources_unchecked(ground: &mut Ground) -> Result<()> {
    ground.apply(&Cluster::with(FRIENDS)?)?;
    let (router, receiver) = (ground.pod(id("y/a")?)?, ground.pod(id("y/b")?)?);
    for family in Family::ALL {
        let source = match family {
            Family::V4 => weir_tests::bed::plan::OUTSIDE_V4.into(),
            Family::V6 => weir_tests::bed::plan::OUTSIDE_V6.into(),
        };
        let (from, to) = (
            SocketAddr::new(source, 5000),
            SocketAddr::new(receiver.addr(family), 5001),
        );
        let sniffer = Sniffer::open(receiver.namespace())?;
        let injector = Injector::open(router.namespace())?;
        injector.send(&packets::udp(from, to, b"forwarded")?)?;
        sniffer.until("a packet that the pod forwards", ANSWER, |packet| {
            ends(packet) == Some((from.ip(), to.ip()))
        })?;
    }
    Ok(())
}
