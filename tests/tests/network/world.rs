//! What most tests start from: two nodes with an agent each, a client, a service with a backend
//! on either node, one without any, and one that is the client itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use weir_tests::bed::manifests::{self, Endpoint, Manifests, ServicePort};
use weir_tests::bed::{Agent, AgentOptions, Bed, Family, Pod, Topology, Wiring};
use weir_tests::testpod::protocol::{Answer, Failure};

/// Where services are reached.
pub const SERVICE_PORT: u16 = 80;
/// Where pods serve: another port, so that its translation shows.
pub const TARGET_PORT: u16 = 8080;
/// Questions after which a backend that was not seen is not served: with two backends one
/// misses in 2^-63.
const TRIES: usize = 64;

/// The service with two backends.
pub const WEB: Service = Service {
    name: "web",
    number: 140,
};
/// The service without any.
pub const EMPTY: Service = Service {
    name: "empty",
    number: 50,
};
/// The service whose only backend is the client.
pub const MIRROR: Service = Service {
    name: "mirror",
    number: 60,
};

const SERVICE_PORTS: [ServicePort<'_>; 2] = ports(SERVICE_PORT);
const TARGET_PORTS: [ServicePort<'_>; 2] = ports(TARGET_PORT);

const fn ports(port: u16) -> [ServicePort<'static>; 2] {
    [
        ServicePort {
            name: "tcp",
            port,
            protocol: "TCP",
        },
        ServicePort {
            name: "udp",
            port,
            protocol: "UDP",
        },
    ]
}

/// A service by its name and the last part of its cluster IPs.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub name: &'static str,
    number: u8,
}

impl Service {
    /// The cluster IP of a family.
    pub fn ip(self, family: Family) -> IpAddr {
        let number = self.number;
        match family {
            Family::V4 => Ipv4Addr::new(10, 32, 0, number).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x32, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// Where it is reached.
    pub fn at(self, family: Family) -> SocketAddr {
        (self.ip(family), SERVICE_PORT).into()
    }

    /// The IPv4 address as sockets of the other family write it.
    pub fn mapped(self) -> SocketAddr {
        let v4 = Ipv4Addr::new(10, 32, 0, self.number);
        (v4.to_ipv6_mapped(), SERVICE_PORT).into()
    }
}

/// Fields are dropped from first to last: agents before the bed.
pub struct World {
    pub agents: Vec<Agent>,
    pub client: Pod,
    pub near: Pod,
    pub far: Pod,
    pub manifests: Manifests,
    pub weir: PathBuf,
    /// Those of [`WEB`].
    backends: Vec<String>,
    pub bed: Bed,
}

/// What is tried in a running world, with its name.
pub type Named = (&'static str, fn(&mut World) -> Result<()>);

/// The binary to test.
pub fn weir() -> Result<PathBuf> {
    let path = std::env::var_os("WEIR_BINARY")
        .context("WEIR_BINARY is not set; run the network tests by: cargo xtask test network")?;
    let path = PathBuf::from(path)
        .canonicalize()
        .context("WEIR_BINARY names no file")?;
    Ok(path)
}

impl World {
    /// Builds it and waits until both agents are ready.
    pub fn start(wiring: Wiring) -> Result<Self> {
        Self::start_with(wiring, &[])
    }

    /// As [`World::start`], with further flags for the agents.
    pub fn start_with(wiring: Wiring, flags: &[&str]) -> Result<Self> {
        let weir = weir()?;
        let bed = Bed::start(Topology::two_nodes(wiring))?;
        let near = bed.pod(0, "near", 2)?;
        let client = bed.pod(0, "client", 9)?;
        let far = bed.pod(1, "far", 1)?;
        for pod in [&near, &client, &far] {
            pod.serve_at(TARGET_PORT)?;
        }
        let manifests = Manifests::create(bed.run_dir().join("manifests"))?;
        let nodes: Vec<_> = bed
            .nodes()
            .iter()
            .map(|node| manifests::node(node.plan()))
            .collect();
        manifests.put("nodes.yaml", &nodes)?;
        put(&manifests, WEB, &[&near, &far])?;
        put(&manifests, EMPTY, &[])?;
        put(&manifests, MIRROR, &[&client])?;
        let mut options = AgentOptions::new(&weir, manifests.directory());
        options.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let agents = Agent::start_all(bed.nodes(), &options)?;
        Ok(Self {
            agents,
            client,
            near,
            far,
            manifests,
            weir,
            backends: ["near", "far"].map(str::to_owned).to_vec(),
            bed,
        })
    }

    /// Gives [`WEB`] these backends and waits until both nodes know.
    pub fn set_backends(&mut self, pods: &[&str]) -> Result<()> {
        let chosen: Vec<&Pod> = [&self.near, &self.far]
            .into_iter()
            .filter(|pod| pods.contains(&pod.name()))
            .collect();
        ensure!(
            chosen.len() == pods.len(),
            "{pods:?} are not all backends of this world"
        );
        // A status tells how many backends there are, not which: on the way from one to the other
        // there are both.
        if pods.len() == 1 && self.backends.len() == 1 && self.backends != *pods {
            self.set_backends(&["near", "far"])?;
            return self.set_backends(pods);
        }
        if !put(&self.manifests, WEB, &chosen)? {
            return Ok(());
        }
        self.backends = pods.iter().map(|&name| name.to_owned()).collect();
        // Both protocols in both families, of WEB and of the one backend of MIRROR.
        let entries = 4 * (pods.len() + 1);
        for agent in &mut self.agents {
            agent.wait_status(&format!("{entries} backends"), |status| {
                let tables = status["tables"].as_array();
                let backends =
                    tables.and_then(|all| all.iter().find(|table| table["name"] == "BACKENDS"));
                backends.is_some_and(|table| table["entries"] == entries)
                    && status["error"].is_null()
            })?;
        }
        Ok(())
    }

    /// Asks until every one of `names` has answered, and fails when anyone else does.
    pub fn expect_answers_from(
        names: &[&str],
        mut ask: impl FnMut() -> Result<Answer, Failure>,
    ) -> Result<()> {
        let expected = BTreeSet::from_iter(names.iter().map(|&name| name.to_owned()));
        let mut seen = BTreeSet::new();
        for _ in 0..TRIES {
            let answer = ask()?;
            ensure!(
                expected.contains(&answer.server),
                "{answer:?} is from none of {expected:?}"
            );
            seen.insert(answer.server);
            // With one backend, a few more questions would show a second.
            if seen == expected && names.len() > 1 {
                return Ok(());
            }
        }
        ensure!(seen == expected, "of {expected:?} only {seen:?} answered");
        Ok(())
    }

    /// Tries these one after the other, with both backends of [`WEB`] each.
    pub fn play(mut self, all: &[Named]) -> Result<()> {
        for (name, play) in all {
            let played = self.set_backends(&["near", "far"]);
            let played = played.and_then(|()| play(&mut self));
            self.explain(played).with_context(|| (*name).to_owned())?;
        }
        Ok(())
    }

    /// What to show when a test fails: both agents' last words.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| {
            let tails: Vec<String> = self.agents.iter().map(|agent| agent.log_tail(15)).collect();
            tails.join("\n")
        })
    }
}

/// Writes a service and its endpoints; tells whether that changes anything.
fn put(manifests: &Manifests, service: Service, pods: &[&Pod]) -> Result<bool> {
    let ips = Family::ALL.map(|family| service.ip(family));
    let mut objects = vec![manifests::service(service.name, &ips, &SERVICE_PORTS)];
    for family in Family::ALL {
        let endpoints: Vec<Endpoint> = pods
            .iter()
            .map(|pod| Endpoint {
                addr: pod.addr(family),
                node: pod.node().name().to_owned(),
            })
            .collect();
        objects.push(manifests::slice(
            service.name,
            family,
            &TARGET_PORTS,
            &endpoints,
        ));
    }
    manifests.put(&format!("{}.yaml", service.name), &objects)
}

/// Makes tests of both wirings of a function of a running world.
macro_rules! in_both_wirings {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use weir_tests::bed::Wiring;

            use crate::world::World;

            #[test]
            #[ignore = "needs root: cargo xtask test network"]
            fn routed() -> anyhow::Result<()> {
                let mut world = World::start(Wiring::Routed)?;
                let result = super::$name(&mut world);
                world.explain(result)
            }

            #[test]
            #[ignore = "needs root: cargo xtask test network"]
            fn bridged() -> anyhow::Result<()> {
                let mut world = World::start(Wiring::Bridged)?;
                let result = super::$name(&mut world);
                world.explain(result)
            }
        }
    )+};
}
pub(crate) use in_both_wirings;

/// Makes a test in each wiring of functions of a running world that leave it as they find it but for
/// the backends of [`WEB`], which are both again for the next.
macro_rules! one_after_the_other_in_both_wirings {
    ($($name:ident),+ $(,)?) => {
        const ALL: &[crate::world::Named] = &[$((stringify!($name), $name)),+];

        #[test]
        #[ignore = "needs root: cargo xtask test network"]
        fn routed() -> Result<()> {
            World::start(weir_tests::bed::Wiring::Routed)?.play(ALL)
        }

        #[test]
        #[ignore = "needs root: cargo xtask test network"]
        fn bridged() -> Result<()> {
            World::start(weir_tests::bed::Wiring::Bridged)?.play(ALL)
        }
    };
}
pub(crate) use one_after_the_other_in_both_wirings;
