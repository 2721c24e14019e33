//! Pods that reach out with their first instruction.
//!
//! As a runtime does it: the API server knows the pod and its labels; the plugin makes the link,
//! libcni writes its record, a tenth of a second later the first process starts, and after that the
//! pod's address comes from the API server. Policies let these pods ask one server alone. Whatever
//! else arrives from them anywhere is a leak.
//!
//! Nobody can promise that an agent is quicker than a tenth of a second on a machine that has much
//! else to do. So a process whose interface has no programs yet is kept back, and counted, unless
//! the number of pods was asked for: who measures has the machine to itself, and no mercy is shown.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use weir_tests::bed::process::Streams;
use weir_tests::bed::raw::{Sniffer, ends};
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Addresses, Family, NodePlan, Sandbox};
use weir_tests::testpod::first::First;

use crate::attack::packets::is_neighbour_discovery;
use crate::cluster::{Cluster, PodId};
use crate::ground::Ground;

/// The environment variable that says how many.
const COUNT: &str = "WEIR_POD_STARTS";
/// On each ground, where nobody says it.
const FEW: u32 = 50;
/// At once. The kernel attaches one program at a time and waits 8 ms and more for each: of pods
/// that start together the last have theirs later than their first instruction.
const WORKERS: usize = 1;
/// From libcni's record to the first process, as containerd was seen to take.
const UNTIL_PROCESS: Duration = Duration::from_millis(100);
/// Programs come long before, however busy the machine.
const LIMIT: Duration = Duration::from_secs(90);
/// From there to the pod's address from the API server.
const UNTIL_STATUS: Duration = Duration::from_millis(20);
/// Their addresses, which are given to one after the other.
const ADDRESSES: RangeInclusive<u8> = 60..=190;

const POLICIES: &str = r#"
policies:
  x/starting:
    podSelector: {matchLabels: {role: starting}}
    policyTypes: [Egress]
    egress:
      - to: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: a}}}]
        ports: [{port: 80}]
"#;

/// How the pods are started.
#[derive(Clone, Copy)]
struct Plan {
    count: u32,
    /// Whether a process waits for the programs at its interface.
    waits_for_programs: bool,
}

/// What was seen of a start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Start {
    /// From the process's start to its answer.
    wait: Duration,
    /// Whether the programs came later than the process should have started.
    is_late: bool,
}

/// Starts them, and tells how long they waited for their answer.
pub fn play(ground: &mut Ground) -> Result<()> {
    let plan = match std::env::var(COUNT) {
        Ok(text) => Plan {
            count: text
                .parse()
                .with_context(|| format!("{COUNT}={text} is no number"))?,
            waits_for_programs: false,
        },
        Err(_) => Plan {
            count: FEW,
            waits_for_programs: true,
        },
    };
    let count = plan.count;
    for number in 0..count {
        ground
            .manifests()
            .put(&file(number), &[object(number, false)])?;
    }
    ground.apply(&Cluster::with(POLICIES)?)?;
    let played = start_all(ground, plan);
    for number in 0..count {
        // Those that ended well took theirs with them.
        let _ = ground.manifests().remove(&file(number));
    }
    let mut starts = played?;
    starts.sort();
    let at = |part: usize| starts[(starts.len() - 1) * part / 100].wait;
    let late = starts.iter().filter(|start| start.is_late).count();
    let text = format!(
        "{count} pods started ({}): none got past its policy, {late} had their programs later than \
         {UNTIL_PROCESS:?} after their record; the first answer came after {:?} (median), {:?} (99 \
         of 100), {:?} (the last)\n",
        ground.name(),
        at(50),
        at(99),
        at(100),
    );
    // A figure that cannot be shown is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn start_all(ground: &Ground, plan: Plan) -> Result<Vec<Start>> {
    let count = plan.count;
    ensure!(count > 0, "no pods are no test");
    let others = ["y/b", "y/c", "z/a"].map(PodId::named);
    let others = others.into_iter().collect::<Result<Vec<_>>>()?;
    let sniffers = others
        .iter()
        .map(|id| Sniffer::open(ground.pod(*id)?.namespace()))
        .collect::<Result<Vec<_>>>()?;
    let next = AtomicU32::new(0);
    let starts = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut starts = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(starts);
                        }
                        let seen = start(ground, plan, number, &others)
                            .with_context(|| format!("start {number}"))?;
                        starts.push(seen);
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
            .collect::<Result<Vec<Vec<_>>>>()
    })?;
    for (id, sniffer) in others.iter().zip(&sniffers) {
        let leaks = sniffer.all()?.into_iter().filter(|packet| {
            let own = |number| Family::ALL.map(|family| addresses(number).of(family));
            // What asks for neighbours is for a group, and always allowed.
            ends(packet).is_some_and(|(from, to)| {
                Family::ALL.map(|family| id.addr(family)).contains(&to)
                    && (0..count).any(|it| own(it).contains(&from))
                    && !is_neighbour_discovery(packet)
            })
        });
        let leaks = leaks.count();
        ensure!(leaks == 0, "{leaks} packets leaked to {}", id.name());
    }
    Ok(starts.into_iter().flatten().collect())
}

/// One pod's life.
fn start(ground: &Ground, plan: Plan, number: u32, others: &[PodId]) -> Result<Start> {
    let family = Family::ALL[number as usize % Family::ALL.len()];
    let sandbox = ground
        .bed()
        .sandbox_at(0, &format!("s{number}"), address(number))?;
    sandbox.record("x", &name(number), &uid(number))?;
    let recorded = Instant::now();
    thread::sleep(UNTIL_PROCESS.saturating_sub(recorded.elapsed()));
    let is_late = !has_programs(&sandbox)?;
    if is_late && plan.waits_for_programs {
        wait_for(
            || format!("programs at {}", sandbox.link()),
            LIMIT,
            || has_programs(&sandbox),
        )?;
    }
    let place = sandbox.place();
    let at = |id: PodId| SocketAddr::new(id.addr(family), 80).to_string();
    let mut arguments = vec!["first".to_owned(), at(PodId::named("y/a")?)];
    arguments.extend(others.iter().map(|id| at(*id)));
    let process = place.start(&place.helper, &arguments, Streams::Capture)?;
    thread::sleep(UNTIL_STATUS);
    ground
        .manifests()
        .put(&file(number), &[object(number, true)])?;
    let output = process.output()?;
    let first: First = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(first.leaks == 0, "{} answers leaked", first.leaks);
    let wait = first.answered_after.context("the server never answered")?;
    sandbox.forget_record()?;
    ground.manifests().remove(&file(number))?;
    sandbox.remove()?;
    Ok(Start {
        wait: Duration::from_micros(wait),
        is_late,
    })
}

/// At both hooks.
fn has_programs(sandbox: &Sandbox) -> Result<bool> {
    Ok(sandbox.node().tc_programs_at(sandbox.link())?.len() == 2)
}

fn object(number: u32, has_address: bool) -> Value {
    let status = if has_address {
        let Addresses { v4, v6 } = addresses(number);
        json!({"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]})
    } else {
        json!({"phase": "Pending"})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name(number),
            "namespace": "x",
            "uid": uid(number),
            "labels": {"role": "starting"},
            "creationTimestamp": "2026-02-01T00:00:00Z",
        },
        "spec": {"nodeName": "worker-0", "containers": [{"name": "main"}]},
        "status": status,
    })
}

fn name(number: u32) -> String {
    format!("starting-{number}")
}

fn uid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn file(number: u32) -> String {
    format!("starting-{number}.yaml")
}

fn address(number: u32) -> Ipv4Addr {
    let (first, count) = (*ADDRESSES.start(), ADDRESSES.len());
    let place = u8::try_from(number as usize % count).expect("fewer than 256 addresses");
    NodePlan::new(0).pod(first + place)
}

fn addresses(number: u32) -> Addresses {
    Addresses::twins(address(number))
}
