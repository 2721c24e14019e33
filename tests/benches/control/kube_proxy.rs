//! What `nft` takes for kube-proxy's rules, on a node that has nothing else to do: the least that
//! kube-proxy needs for the same, without its own work before that.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_tests::bed::{Bed, Topology, Wiring};
use weir_tests::bench::cluster::Cluster;
use weir_tests::bench::kube_proxy::{NftablesRules, load_nftables, nftables_endpoints};

use crate::report::{Figures, KUBE_PROXY};

/// Changes of endpoints that are looked at.
const CHANGES: usize = 20;

/// The rules of a cluster, all at once where that is measured, and changes of endpoints.
pub fn measure(services: usize, is_quick: bool, figures: &mut Figures) -> Result<()> {
    let bed = Bed::start(Topology::one_node(Wiring::Routed))?;
    let node = bed.node(0);
    let nobody = node.plan().pod(2);
    let cluster = Cluster {
        // Its first one is none of many.
        services: u32::try_from(services).context("so many services")? + 1,
        policies: 0,
        server: nobody,
        client: nobody,
        unseen: nobody,
        host: nobody,
    };
    let rules = NftablesRules::new(
        cluster.services(),
        "10.32.0.0/16".parse().context("a range")?,
        "10.200.0.0/16".parse().context("a range")?,
        node.plan().v4,
    );
    if is_quick {
        for piece in rules.pieces() {
            load_nftables(node, &piece)?;
        }
    } else {
        let start = Instant::now();
        load_nftables(node, &rules.whole())?;
        let took = start.elapsed().as_secs_f64();
        let what = "cold start: nft writes all rules in one transaction";
        figures.add_of(KUBE_PROXY, what, took, "s");
    }
    let mut service = cluster.services().last().context("there is a service")?;
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let last = 10 + u8::try_from(number % 100).unwrap_or_default();
        service.endpoints = vec![Ipv4Addr::new(10, 200, 254, last)];
        let start = Instant::now();
        load_nftables(node, &nftables_endpoints(&service))?;
        times.push(start.elapsed());
    }
    figures.add_times_of(KUBE_PROXY, "one endpoint: nft writes the change", &times);
    Ok(())
}

/// About how long that takes, on a machine that does nothing else.
pub fn duration(services: usize, is_quick: bool) -> Duration {
    // In one transaction with the square of the number, else in proportion.
    let thousands = services as f64 / 1e3;
    let seconds = if is_quick {
        0.4 * thousands
    } else {
        0.12 * thousands * thousands
    };
    Duration::from_secs_f64(1.0 + seconds)
}
