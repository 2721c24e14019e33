//! What traffic costs: no proxy, Weir by each of its paths, with and without policies, and
//! kube-proxy's rules, side by side. Needs root: `cargo xtask bench packets`.
//!
//! `weir_tests::bench` describes the method; this is the list of what is measured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_tests::bench::kube_proxy::Iptables;
use weir_tests::bench::load::Work;
use weir_tests::bench::site::{Processors, Proxy, Sample, Site, Way};
use weir_tests::bench::{Figure, Goal, Report, rounds};

/// The name by which figures are known.
const BENCH: &str = "packets";
/// Names the numbers of services, with commas, where others than those of the plan are wanted.
const SERVICES: &str = "WEIR_BENCH_SERVICES";
/// Names the numbers of policies likewise.
const POLICIES: &str = "WEIR_BENCH_POLICIES";

/// What is measured, and how long.
struct Plan {
    /// How many services there are, each with how many policies.
    clusters: Vec<(u32, Vec<u32>)>,
    works: Vec<Work>,
    rounds: usize,
    time: Duration,
    /// Two processors too, at these numbers of services.
    on_two: Vec<u32>,
}

impl Plan {
    fn quick() -> Self {
        Self {
            clusters: vec![(1, vec![0, 10])],
            works: vec![Work::Connections, Work::Requests, Work::Datagrams],
            rounds: 7,
            time: Duration::from_millis(150),
            on_two: Vec::new(),
        }
    }

    fn full() -> Self {
        Self {
            clusters: vec![
                (1, vec![0, 10, 500]),
                (100, vec![0]),
                (1_000, vec![0]),
                (10_000, vec![0, 10, 500]),
            ],
            works: vec![
                Work::Connections,
                Work::Requests,
                Work::Datagrams,
                Work::Bytes,
            ],
            rounds: 9,
            time: Duration::from_millis(300),
            on_two: vec![1],
        }
    }

    /// With other clusters, where the environment names some.
    fn or_as_asked(mut self) -> Result<Self> {
        let asked = [SERVICES, POLICIES].map(|name| std::env::var(name).ok());
        if asked.iter().all(Option::is_none) {
            return Ok(self);
        }
        let [services, policies] = asked;
        let services = numbers(SERVICES, services.as_deref().unwrap_or("1"))?;
        let policies = numbers(POLICIES, policies.as_deref().unwrap_or("0"))?;
        let clusters = services.into_iter().map(|it| (it, policies.clone()));
        self.clusters = clusters.collect();
        Ok(self)
    }
}

fn main() -> Result<()> {
    let mut report = Report::from_environment();
    let plan = match report.is_quick() {
        true => Plan::quick(),
        false => Plan::full(),
    };
    let plan = plan.or_as_asked()?;
    let weir = binary()?;
    let iptables = Iptables::find();
    if iptables.is_none() {
        report.note("there is no iptables: its rules are left out");
    }
    let mut direct = Site::build(&weir, &Proxy::Nobody, 1, 0)?;
    for (services, policies) in &plan.clusters {
        let mut field = Field::build(&weir, iptables.as_ref(), *services, policies, &report)?;
        field.measure(&mut direct, &plan, &mut report)?;
    }
    report.finish()
}

fn numbers(name: &str, list: &str) -> Result<Vec<u32>> {
    list.split(',')
        .map(|number| {
            number
                .parse()
                .with_context(|| format!("{name}={list}: {number:?} is no number"))
        })
        .collect()
}

fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("WEIR_BINARY")
        .context("WEIR_BINARY is not set; measure by: cargo xtask bench packets")?;
    PathBuf::from(path)
        .canonicalize()
        .context("WEIR_BINARY names no file")
}

/// From where the service is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Pod,
    Host,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod → cluster IP",
            Self::Host => "outside → node port",
        }
    }

    const fn direct(self) -> Way {
        match self {
            Self::Pod => Way::PodToPod,
            Self::Host => Way::HostToPod,
        }
    }
}

/// Who is compared with direct traffic.
struct Contender {
    name: String,
    policies: u32,
    /// Weir, and in which way.
    weir: Option<FastPath>,
    site: Site,
}

/// Whether packets may pass the node's own stack by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FastPath {
    On,
    Off,
}

/// All contenders in clusters of one size.
struct Field {
    services: u32,
    contenders: Vec<Contender>,
}

/// One line of a table: whose site, and by which way.
struct Lane {
    name: String,
    /// The number of the contender; `None`: nobody translates.
    contender: Option<usize>,
    way: Way,
}

impl Field {
    fn build(
        weir: &Path,
        iptables: Option<&Iptables>,
        services: u32,
        policies: &[u32],
        report: &Report,
    ) -> Result<Self> {
        let mut contenders = Vec::new();
        let mut add = |name: &str, proxy: &Proxy, policies: u32, weir_way: Option<FastPath>| {
            let start = Instant::now();
            let name = match policies {
                0 => name.to_owned(),
                more => format!("{name}, {more} policies"),
            };
            let site = Site::build(weir, proxy, services, policies)
                .with_context(|| format!("{name}, {services} services"))?;
            report.note(&format!(
                "{name}, {services} services: there after {:.1} s",
                start.elapsed().as_secs_f64()
            ));
            contenders.push(Contender {
                name,
                policies,
                weir: weir_way,
                site,
            });
            anyhow::Ok(())
        };
        for policies in policies {
            if has_fast_path(weir)? {
                let flag = |value: &str| Proxy::Weir(vec![format!("--fast-path={value}")]);
                add("Weir", &flag("off"), *policies, Some(FastPath::Off))?;
                add(
                    "Weir, fast path",
                    &flag("on"),
                    *policies,
                    Some(FastPath::On),
                )?;
            } else {
                add(
                    "Weir",
                    &Proxy::Weir(Vec::new()),
                    *policies,
                    Some(FastPath::Off),
                )?;
            }
        }
        add("nftables", &Proxy::Nftables, 0, None)?;
        if let Some(iptables) = iptables {
            add("iptables", &Proxy::Iptables(iptables.clone()), 0, None)?;
        }
        Ok(Self {
            services,
            contenders,
        })
    }

    fn measure(&mut self, direct: &mut Site, plan: &Plan, report: &mut Report) -> Result<()> {
        let mut modes = vec![Processors::One];
        if plan.on_two.contains(&self.services) {
            modes.push(Processors::Two);
        }
        for processors in modes {
            for side in [Side::Pod, Side::Host] {
                let mut figures = Vec::new();
                for work in &plan.works {
                    figures.extend(self.work(direct, plan, (side, *work), processors)?);
                }
                let title = format!(
                    "{}, {}, {}; load average {}",
                    side.name(),
                    services_text(self.services),
                    match processors {
                        Processors::One => "client and server on one processor",
                        Processors::Two => "client and server on a processor each",
                    },
                    load_average()?
                );
                report.add(&title, figures);
            }
        }
        Ok(())
    }

    /// One kind of work by everybody.
    fn work(
        &mut self,
        direct: &mut Site,
        plan: &Plan,
        (side, work): (Side, Work),
        processors: Processors,
    ) -> Result<Vec<Figure>> {
        let lanes = self.lanes(side, work);
        let samples = rounds::take(lanes.len(), plan.rounds, |number| {
            let lane = &lanes[number];
            let site = match lane.contender {
                None => &mut *direct,
                Some(number) => &mut self.contenders[number].site,
            };
            site.sample(lane.way, work, processors, plan.time)
                .with_context(|| format!("{}: {}", lane.name, site.last_words()))
        })?;
        let what = match processors {
            Processors::One => format!("{}, {}", name(work), side.name()),
            Processors::Two => format!("{}, {}, two processors", name(work), side.name()),
        };
        let mut figures = Vec::new();
        for (suffix, unit, of) in readings(work, processors) {
            let values = rounds::of(&samples, of);
            for (number, lane) in lanes.iter().enumerate() {
                let value = values.summary(number).context("there are samples")?;
                let mut figure = Figure::new(
                    BENCH,
                    &services_text(self.services),
                    &lane.name,
                    &format!("{what}{suffix}"),
                    unit,
                    value,
                );
                figure.ratio = values.ratio(number, 0);
                let goal = match (suffix, processors) {
                    ("", Processors::One) => self.goal(lane, (side, work)),
                    _ => None,
                };
                figures.push(figure.with_goal(goal).with_note(self.tracking(lane)?));
            }
        }
        Ok(figures)
    }

    /// Direct traffic first.
    fn lanes(&self, side: Side, work: Work) -> Vec<Lane> {
        let mut lanes = vec![Lane {
            name: "direct".to_owned(),
            contender: None,
            way: side.direct(),
        }];
        for (number, contender) in self.contenders.iter().enumerate() {
            let mut add = |path: &str, way| {
                lanes.push(Lane {
                    name: match contender.name.split_once(',') {
                        Some((name, rest)) => format!("{name}{path},{rest}"),
                        None => format!("{}{path}", contender.name),
                    },
                    contender: Some(number),
                    way,
                });
            };
            match (side, contender.weir) {
                (Side::Host, _) => add("", Way::HostToNodePort),
                (Side::Pod, None) => add("", Way::PodToService),
                // Datagrams of pods are translated packet by packet.
                (Side::Pod, Some(_)) if work == Work::Datagrams => {
                    add(" packet path", Way::PodToService);
                }
                (Side::Pod, Some(_)) => {
                    add(" socket path", Way::PodToService);
                    add(" packet path", Way::PodToServiceByPackets);
                }
            }
        }
        lanes
    }

    /// What is hoped for on one processor.
    fn goal(&self, lane: &Lane, doing: (Side, Work)) -> Option<Goal> {
        let contender = &self.contenders[lane.contender?];
        let fast_path = contender.weir?;
        if lane.way == Way::PodToServiceByPackets {
            return None;
        }
        let limit = match (doing, contender.policies, fast_path) {
            ((Side::Pod, Work::Connections | Work::Requests), 0, FastPath::On) => 1.05,
            ((Side::Pod, Work::Datagrams), 0, FastPath::On) => 1.12,
            ((Side::Pod, Work::Connections), 0, FastPath::Off) => 0.98,
            ((Side::Pod, Work::Connections), 500, FastPath::On | FastPath::Off) => 0.90,
            ((Side::Pod, Work::Requests), 0, FastPath::Off) => 0.99,
            ((Side::Host, Work::Connections), 0, FastPath::On | FastPath::Off) => 0.95,
            ((Side::Host, Work::Requests), 0, FastPath::On | FastPath::Off) => 0.97,
            ((Side::Host, Work::Datagrams), 0, FastPath::On | FastPath::Off)
            | ((Side::Pod, Work::Datagrams), 0, FastPath::Off) => 0.90,
            _ => return None,
        };
        Some(Goal::ratio_at_least(limit))
    }

    /// Whether the node's kernel tracks connections there.
    fn tracking(&self, lane: &Lane) -> Result<String> {
        let tracked = match lane.contender {
            None => 0,
            Some(number) => self.contenders[number].site.tracked()?,
        };
        Ok(match tracked {
            0 => "no connection tracking".to_owned(),
            some => format!("{some} connections tracked"),
        })
    }
}

/// What a sample tells: a suffix to the name of the work, the unit, and the number.
type Reading = (&'static str, &'static str, fn(&Sample) -> f64);

fn readings(work: Work, processors: Processors) -> Vec<Reading> {
    let (per_processor_second, per_second): (Reading, Reading) = match work {
        Work::Bytes => (
            ("", "Gbit/s of processor", |it| {
                it.per_processor_second * 8e-9
            }),
            (", by the clock", "Gbit/s", |it| it.per_second * 8e-9),
        ),
        Work::Connections | Work::Requests | Work::Datagrams => (
            ("", "per s of processor", |it| it.per_processor_second),
            (", by the clock", "per s", |it| it.per_second),
        ),
    };
    let mut readings = match processors {
        Processors::One => vec![per_processor_second, per_second],
        // One of them may wait for the other: what counts is the clock.
        Processors::Two => vec![per_second],
    };
    if work == Work::Requests {
        readings.push((", half within", "µs", |it| it.median));
        readings.push((", 99 % within", "µs", |it| it.percentile_99));
    }
    readings
}

const fn name(work: Work) -> &'static str {
    match work {
        Work::Connections => "TCP connections",
        Work::Requests => "TCP requests",
        Work::Datagrams => "UDP packets",
        Work::Bytes => "TCP bytes",
    }
}

fn services_text(services: u32) -> String {
    match services {
        1 => "1 service".to_owned(),
        more => format!("{more} services"),
    }
}

/// Does this binary know how to pass the node's stack by?
fn has_fast_path(weir: &Path) -> Result<bool> {
    let output = std::process::Command::new(weir)
        .args(["agent", "--help"])
        .output()
        .with_context(|| format!("run {}", weir.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("--fast-path"))
}

fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
