//! Policies see pods, never the virtual address that a client used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use weir_tests::bed::Family;
use weir_tests::bed::manifests::{self, Endpoint, ServicePort};
use weir_tests::bed::{NodePlan, Pod};
use weir_tests::testpod::client::TestPod;
use weir_tests::testpod::protocol::Carrier;

use super::{id, is_kept_from, reaches};
use crate::cluster::{Cluster, PodId};
use crate::ground::Ground;

const PORT: u16 = 8000;

fn address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 32, 0, 77).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x32, 0, 0, 0, 0, 77).into(),
    }
}

/// A service at [`PORT`] of which this pod's port 80 is the only backend.
fn add_service(cluster: &mut Cluster, backend: PodId) {
    let ports = |port| {
        [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")].map(|(name, protocol)| ServicePort {
            name,
            port,
            protocol,
        })
    };
    let ips = Family::ALL.map(address);
    cluster.add_object(manifests::service("backend", &ips, &ports(PORT)));
    for family in Family::ALL {
        let endpoint = Endpoint {
            addr: backend.addr(family),
            node: NodePlan::new(backend.node()).name,
        };
        cluster.add_object(manifests::slice("backend", family, &ports(80), &[endpoint]));
    }
}

/// The ways to the service: TCP at the socket, UDP and SCTP packet by packet, and TCP so.
fn each(client: &Pod, check: impl Fn(&TestPod, SocketAddr, Carrier) -> Result<()>) -> Result<()> {
    let foreign = client.outside_the_cgroup()?;
    for family in Family::ALL {
        let to = SocketAddr::new(address(family), PORT);
        for carrier in Carrier::ALL {
            check(client, to, carrier)?;
        }
        check(&foreign, to, Carrier::Tcp).context("packet by packet")?;
    }
    Ok(())
}

pub fn by_backend(ground: &mut Ground) -> Result<()> {
    // On the clients' node, and on the other one.
    for backend in ["y/a", "y/c"] {
        let backend = id(backend)?;
        let name = backend.name().replace("y/", "");
        let mut cluster = Cluster::with(&format!(
            r#"
policies:
  x/b-to-backend:
    podSelector: {{matchLabels: {{pod: b}}}}
    policyTypes: [Egress]
    egress:
      - to: [{{namespaceSelector: {{matchLabels: {{ns: "y"}}}}, podSelector: {{matchLabels: {{pod: {name}}}}}}}]
        ports: [{{port: 80}}, {{port: 80, protocol: UDP}}, {{port: 80, protocol: SCTP}}]
  # The virtual address, and the service's port: neither is what counts.
  x/a-to-service:
    podSelector: {{matchLabels: {{pod: a}}}}
    policyTypes: [Egress]
    egress:
      - to: [{{ipBlock: {{cidr: 10.32.0.0/16}}}}, {{ipBlock: {{cidr: "fd00:10:32::/48"}}}}]
      - ports: [{{port: 8000}}, {{port: 8000, protocol: UDP}}, {{port: 8000, protocol: SCTP}}]
  y/backend-from-x:
    podSelector: {{matchLabels: {{pod: {name}}}}}
    ingress:
      - from: [{{namespaceSelector: {{matchLabels: {{ns: x}}}}}}]
        ports: [{{port: 80}}, {{port: 80, protocol: UDP}}, {{port: 80, protocol: SCTP}}]
"#
        ))?;
        add_service(&mut cluster, backend);
        ground.apply(&cluster)?;
        let kept: fn(&TestPod, SocketAddr, Carrier) -> Result<()> = is_kept_from;
        for (client, check) in [
            ("x/b", reaches as fn(&TestPod, SocketAddr, Carrier) -> _),
            ("x/c", reaches),
            ("x/a", kept),
            ("y/b", kept),
            ("z/a", kept),
        ] {
            each(ground.pod(id(client)?)?, check)
                .with_context(|| format!("{client} to {}", backend.name()))?;
        }
    }
    ground.apply(&Cluster::new())
}

/// A pod that may speak to nobody and be spoken to by nobody speaks to itself.
pub fn itself(ground: &mut Ground) -> Result<()> {
    let pod = id("y/a")?;
    let mut cluster =
        Cluster::with("{policies: {y/shut: {podSelector: {}, policyTypes: [Ingress, Egress]}}}")?;
    add_service(&mut cluster, pod);
    ground.apply(&cluster)?;
    each(ground.pod(pod)?, reaches)?;
    each(ground.pod(id("y/b")?)?, is_kept_from)?;
    ground.apply(&Cluster::new())
}
