//! What is measured in one cluster, in order.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use weir_tests::bed::Family;

use crate::ground::{Ground, Start};
use crate::machine;
use crate::probe::{first_answer, no_answer};
use crate::report::Figures;
use crate::teller::Source;
use crate::world::{self, PASSING_ADDR, Size};

const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// The tables that hold services; see `weir_ebpf::tables`.
const OF_SERVICES: [&str; 8] = [
    "FRONTENDS",
    "SERVICES",
    "BACKENDS",
    "SERVING",
    "SERVICE_NAMES",
    "SOURCE_RANGES",
    "SERVICE_CIDRS",
    "NODE_PORT_ADDRS",
];
/// Changes of endpoints a second, where there are many.
const RATE: u32 = 100;

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    changes: usize,
    other_changes: usize,
    idle: Duration,
    seldom: u32,
    busy: Duration,
}

impl Effort {
    /// Half a minute.
    const QUICK: Self = Self {
        changes: 40,
        other_changes: 5,
        idle: Duration::from_secs(2),
        seldom: 4,
        busy: Duration::from_secs(4),
    };
    /// A minute and a half.
    const USUAL: Self = Self {
        changes: 500,
        other_changes: 40,
        idle: Duration::from_secs(5),
        seldom: 10,
        busy: Duration::from_secs(10),
    };
    /// Five minutes: as long as the goals say.
    const WHOLE: Self = Self {
        seldom: 100,
        busy: Duration::from_secs(60),
        ..Self::USUAL
    };

    /// For a cluster: the largest of a run is looked at for longest.
    pub const fn of(is_quick: bool, is_largest: bool) -> Self {
        match (is_quick, is_largest) {
            (true, _) => Self::QUICK,
            (false, false) => Self::USUAL,
            (false, true) => Self::WHOLE,
        }
    }

    /// About how long all of it takes, on a machine that does nothing else.
    pub fn duration(&self, source: Source) -> Duration {
        let changes = CHANGE * u32::try_from(self.changes).unwrap_or(u32::MAX);
        match source {
            Source::Files => changes + BESIDE,
            Source::Api => {
                let others = OTHER * u32::try_from(self.other_changes).unwrap_or(u32::MAX);
                changes + others + self.idle + SELDOM * self.seldom + self.busy + BESIDE
            }
        }
    }
}

/// What a change of an endpoint takes, with the pause before it.
const CHANGE: Duration = Duration::from_millis(40);
/// What one of each other change takes, which are three.
const OTHER: Duration = Duration::from_millis(400);
/// Between changes that are seldom.
const SELDOM: Duration = Duration::from_millis(1_200);
/// Starting, and waiting until nothing happens.
const BESIDE: Duration = Duration::from_secs(10);

/// Measures everything. What files tell, they tell of a start and of an endpoint.
pub fn all(
    ground: &mut Ground,
    start: Start,
    (source, effort): (Source, Effort),
    figures: &mut Figures,
) -> Result<()> {
    add_start(figures, "cold start", start);
    // What it does once everything is programmed is not what it costs while nothing happens.
    settle(ground)?;
    memory(ground, "after the start", figures)?;
    if source == Source::Api {
        tables(ground, figures)?;
    }
    endpoint_changes(ground, effort.changes, figures)?;
    if source == Source::Api {
        other_changes(ground, effort.other_changes, figures)?;
        idle(ground, effort.idle, figures)?;
        seldom_changes(ground, effort.seldom, figures)?;
        busy(ground, effort.busy, figures)?;
    }
    memory(ground, "after all changes", figures)?;
    let again = ground.restart()?;
    add_start(figures, "start over its tables", again);
    settle(ground)?;
    memory(ground, "after the start over its tables", figures)
}

fn add_start(figures: &mut Figures, what: &str, start: Start) {
    let Start {
        whole,
        tables,
        attaching,
        run_time,
    } = start;
    for (part, took, goal) in [
        ("last list to complete tables", tables, Some(1.0)),
        ("attaching", attaching, None),
        ("process's start to all of it", whole, None),
        ("processor time", run_time, None),
    ] {
        figures.add(&format!("{what}: {part}"), took.as_secs_f64(), "s", goal);
    }
}

/// Waits until the agent has nothing to do.
fn settle(ground: &Ground) -> Result<()> {
    let mut quiet = 0;
    let mut before = machine::run_time(ground.agent.id())?;
    let start = Instant::now();
    while quiet < 4 && start.elapsed() < Duration::from_secs(30) {
        sleep(Duration::from_millis(250));
        let now = machine::run_time(ground.agent.id())?;
        quiet = if now - before < Duration::from_millis(5) {
            quiet + 1
        } else {
            0
        };
        before = now;
    }
    Ok(())
}

fn memory(ground: &Ground, when: &str, figures: &mut Figures) -> Result<()> {
    let memory = machine::memory(ground.agent.id())?;
    let mebibytes = |bytes: u64| bytes as f64 / MEBIBYTE;
    let goal = Some(64.0);
    figures.add(
        &format!("resident {when}"),
        mebibytes(memory.resident),
        "MiB",
        goal,
    );
    figures.add(&format!("peak {when}"), mebibytes(memory.peak), "MiB", None);
    Ok(())
}

fn tables(ground: &Ground, figures: &mut Figures) -> Result<()> {
    let maps = machine::maps(ground.agent.id())?;
    let is_of_services = |name: &str| OF_SERVICES.contains(&name);
    let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
        let bytes: u64 = maps
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, bytes)| bytes)
            .sum();
        bytes as f64 / 1e6
    };
    figures.add(
        "kernel memory, tables of services",
        sum(&is_of_services),
        "MB",
        Some(16.0),
    );
    figures.add("kernel memory, all tables", sum(&|_| true), "MB", None);
    for (name, bytes) in &maps {
        if *bytes > 1_000_000 {
            figures.add(
                &format!("kernel memory, {name}"),
                *bytes as f64 / 1e6,
                "MB",
                None,
            );
        }
    }
    Ok(())
}

/// So that changes do not come in step with anything.
fn pause(number: usize) {
    sleep(Duration::from_micros(
        20_000 + (number as u64 * 7_919) % 30_000,
    ));
}

fn endpoint_changes(ground: &Ground, changes: usize, figures: &mut Figures) -> Result<()> {
    let mut times = Vec::new();
    for number in 0..changes {
        pause(number);
        let server = &ground.pods[(number + 1) % 2];
        let slice = world::probed(v4(server.addr(Family::V4)));
        times.push(meets(ground, Ground::probed(), server.name(), [slice])?);
    }
    figures.add_times(
        "one endpoint, change to first packet",
        &times,
        Some([5.0, 20.0]),
    );
    Ok(())
}

/// Of a service, of a pod's label, of a policy: more is compiled then.
fn other_changes(ground: &Ground, changes: usize, figures: &mut Figures) -> Result<()> {
    let service = world::udp_service("passing", PASSING_ADDR);
    let slice = world::alone("passing", v4(ground.pods[0].addr(Family::V4)));
    let client = v4(ground.client().addr(Family::V4));
    let mut of_service = Vec::new();
    let mut of_label = Vec::new();
    let mut of_policy = Vec::new();
    let server = ground.pods[0].name();
    ground
        .teller
        .apply([world::probed(v4(ground.pods[0].addr(Family::V4)))])?;
    let (to, passing) = (Ground::probed(), Ground::passing());
    let is_over = |address| no_answer(ground.client().namespace(), address);
    for number in 0..changes {
        pause(number);
        of_service.push(meets(
            ground,
            passing,
            server,
            [service.clone(), slice.clone()],
        )?);
        ground.teller.delete(&service)?;
        ground.teller.delete(&slice)?;
        is_over(passing)?;
        // The client loses its label, and gets it again.
        ground
            .teller
            .apply([world::probe_pod("client", client, "other")])?;
        is_over(to)?;
        pause(number);
        of_label.push(meets(
            ground,
            to,
            server,
            [world::probe_pod("client", client, "client")],
        )?);
        // The policy allows nobody, and allows it again.
        let mut nobody = world::admission();
        nobody["spec"]["ingress"] = Value::Array(Vec::new());
        ground.teller.apply([nobody])?;
        is_over(to)?;
        pause(number);
        of_policy.push(meets(ground, to, server, [world::admission()])?);
    }
    let goals = Some([20.0, 20.0]);
    figures.add_times("a new service, change to first packet", &of_service, goals);
    figures.add_times("a pod's label, change to first packet", &of_label, goals);
    figures.add_times("a policy, change to first packet", &of_policy, goals);
    Ok(())
}

fn meets<const N: usize>(
    ground: &Ground,
    to: std::net::SocketAddr,
    server: &str,
    objects: [Value; N],
) -> Result<Duration> {
    first_answer(ground.client().namespace(), to, server, || {
        ground.teller.apply(objects)
    })
}

fn idle(ground: &Ground, time: Duration, figures: &mut Figures) -> Result<()> {
    settle(ground)?;
    let part = of_a_core(ground, time, |_| Ok(()))?;
    figures.add(
        "processor time while nothing changes",
        part * 100.0,
        "% of a core",
        None,
    );
    Ok(())
}

/// One change each 1.2 s.
fn seldom_changes(ground: &Ground, changes: u32, figures: &mut Figures) -> Result<()> {
    let before = machine::run_time(ground.agent.id())?;
    for number in 0..changes {
        ground.teller.apply([of_turn(ground.size, number)])?;
        sleep(SELDOM);
    }
    let took = machine::run_time(ground.agent.id())? - before;
    let of_hundred = took.as_secs_f64() * 100.0 / f64::from(changes);
    figures.add(
        "100 endpoint changes, one each 1.2 s",
        of_hundred,
        "s of processor time",
        Some(0.1),
    );
    Ok(())
}

/// A hundred changes a second.
fn busy(ground: &Ground, time: Duration, figures: &mut Figures) -> Result<()> {
    let mut number = 1_000;
    let part = of_a_core(ground, time, |passed| {
        // As many as are due, however late the machine lets us look.
        while Duration::from_secs(1) * (number - 1_000) / RATE < passed {
            ground.teller.apply([of_turn(ground.size, number)])?;
            number += 1;
        }
        Ok(())
    })?;
    let work = "processor time, 100 endpoint changes a second";
    figures.add(work, part * 100.0, "% of a core", Some(1.0));
    Ok(())
}

/// The endpoints of some service are others than they were.
fn of_turn(size: Size, number: u32) -> Value {
    let number = number as usize;
    let service = number * 37 % size.services;
    world::slice(service, size, service + number + 1)
}

fn of_a_core(
    ground: &Ground,
    time: Duration,
    mut work: impl FnMut(Duration) -> Result<()>,
) -> Result<f64> {
    let before = machine::run_time(ground.agent.id())?;
    let start = Instant::now();
    while start.elapsed() < time {
        work(start.elapsed())?;
        sleep(Duration::from_millis(2));
    }
    let took = machine::run_time(ground.agent.id())? - before;
    Ok(took.as_secs_f64() / start.elapsed().as_secs_f64())
}

fn v4(addr: std::net::IpAddr) -> std::net::Ipv4Addr {
    match addr {
        std::net::IpAddr::V4(v4) => v4,
        std::net::IpAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
    }
}
