//! Node ports while the node's links and addresses change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use weir_tests::bed::fabric::{UPLINK, UPLINK_PORT};
use weir_tests::bed::manifests::{self, Endpoint, ServicePort};
use weir_tests::bed::plan::twin;
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Family, Wiring};

use crate::world::{TARGET_PORT, World};

const NODE_PORT: u16 = 30_080;
/// An address that the first node is given later.
const LATER: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 99);
const LIMIT: Duration = Duration::from_secs(90);

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn node_ports_follow_the_nodes_links_and_addresses() -> Result<()> {
    let world = World::start(Wiring::Routed)?;
    let result = follow(&world);
    world.explain(result)
}

fn follow(world: &World) -> Result<()> {
    put_service(world)?;
    let node = world.bed.node(0);
    let served = node.addresses();
    for family in Family::ALL {
        answers(world, served.of(family)).context("by the first link")?;
    }

    world.bed.replug(0)?;
    let bridge = node
        .namespace()
        .run(async |links| links.index(UPLINK).await)?;
    // The port may have been seen before it was one. Who talks while its programs give way to the
    // bridge's meets none.
    wait_for(
        || format!("programs at {UPLINK} and none at {UPLINK_PORT}"),
        LIMIT,
        || {
            let Ok(status) = node.status(&world.weir) else {
                return Ok(false);
            };
            let interfaces = status["networkInterfaces"].as_array();
            let has =
                |is: &dyn Fn(&Value) -> bool| interfaces.is_some_and(|all| all.iter().any(is));
            Ok(has(&|one| one["index"] == bridge) && !has(&|one| one["name"] == UPLINK_PORT))
        },
    )?;
    for family in Family::ALL {
        answers(world, served.of(family)).context("by the bridge that came in its place")?;
    }

    node.namespace().run(async |links| {
        links.add_address(UPLINK, LATER.into(), 24).await?;
        links.add_address(UPLINK, twin(LATER).into(), 64).await
    })?;
    for addr in [IpAddr::V4(LATER), twin(LATER).into()] {
        answers(world, addr).context("at an address that came later")?;
    }
    Ok(())
}

fn put_service(world: &World) -> Result<()> {
    let port = |number| ServicePort {
        name: "tcp",
        port: number,
        protocol: "TCP",
    };
    let ips = [
        Ipv4Addr::new(10, 32, 0, 80).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x32, 0, 0, 0, 0, 0x80).into(),
    ];
    let mut service = manifests::service("open", &ips, &[port(80)]);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    let mut objects = vec![service];
    for family in Family::ALL {
        let endpoints = [&world.near, &world.far].map(|pod| Endpoint {
            addr: pod.addr(family),
            node: pod.node().name().to_owned(),
        });
        let slice = manifests::slice("open", family, &[port(TARGET_PORT)], &endpoints);
        objects.push(slice);
    }
    world.manifests.put("open.yaml", &objects)?;
    Ok(())
}

/// Waits until the outside world is answered at an address of the first node; then every backend
/// must answer there, that of the other node too.
fn answers(world: &World, addr: IpAddr) -> Result<()> {
    let outside = world.bed.outside();
    let to = SocketAddr::from((addr, NODE_PORT));
    wait_for(
        || format!("an answer at {to}"),
        LIMIT,
        || Ok(outside.tcp_ask(to).is_ok()),
    )?;
    World::expect_answers_from(&["near", "far"], || outside.tcp_ask(to))
        .with_context(|| format!("at {to}"))
}
