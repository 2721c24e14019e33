//! The executor in the kernel: one packet at a time through the loaded programs, by
//! `BPF_PROG_TEST_RUN`. Needs root.
//!
//! Maps are created for each executor and pinned nowhere; programs are loaded when they are run for
//! the first time. Programs at socket calls cannot be run this way. The kernel's clock can neither be advanced nor stopped: flows are made older instead,
//! and younger where a busy machine kept the test waiting.

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData, RingBuf};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use nix::time::{ClockId, clock_gettime};
use weir_agent::attach::{ChecksumField, fit};
use weir_agent::maps::diff::diff;
use weir_agent::maps::kernel::KernelTables;
use weir_agent::maps::{Contents, Plan, Write};
use weir_ebpf::conntrack::SECOND;
use weir_ebpf::datapath::At;
use weir_ebpf::event::Event;
use weir_ebpf::tables::{
    Affinity, AffinityKey, Connection, ConnectionKey, Flow, Fragment, FragmentKey, Nanos, Policy,
    Shortcut, ShortcutKey, Tuple, name,
};
use weir_ebpf::verdict::{self, Hook, Verdict};

use super::links;
use super::memory::UPLINK;
use super::runner::{Called, Executor, Sent, SocketCall};

/// The environment variable that names the object.
pub const OBJECT: &str = "WEIR_EBPF_OBJECT";

/// Instructions the verifier may look at in one program: a budget to watch. The limit of the
/// kernel is a million; older kernels need more for the same program than newer ones.
pub const INSTRUCTION_BUDGET: u32 = 140_000;

/// The hooks.
pub const HOOKS: [Hook; 4] = [
    Hook::FromPod,
    Hook::ToPod,
    Hook::FromNetwork,
    Hook::ToNetwork,
];

/// Small maps are soon made.
const CAPACITIES: [(&str, u32); 20] = [
    (name::FRONTENDS, 1_024),
    (name::SERVICES, 1_024),
    (name::BACKENDS, 1_024),
    (name::SERVING, 1_024),
    (name::SERVICE_NAMES, 1_024),
    (name::FLOWS, 16_384),
    (name::SOCKETS, 64),
    (name::NODE_PORT_ADDRS, 64),
    (name::SOURCE_RANGES, 64),
    (name::SERVICE_CIDRS, 64),
    (name::INTERFACES, 64),
    (name::FRAGMENTS, 1_024),
    (name::AFFINITY, 1_024),
    (name::PODS, 64),
    (name::POD_ADDRS, 256),
    (name::RECEIVERS, 256),
    (name::PEERS, 1_024),
    (name::PEER_RANGES, 1_024),
    (name::RULES, 16_384),
    (name::CONNECTIONS, 16_384),
];

/// Scenarios say no times as exactly as this.
const UNNOTICED: Nanos = SECOND / 10;

// Verdicts of TC programs (`linux/pkt_cls.h`).
const NEXT: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// A frame can grow by the headers of an ICMP error.
const ROOM: usize = 4096;

/// As the kernel counts them.
const BYTES_OF_AN_INSTRUCTION: u32 = 8;

/// What a run gave.
struct Ran {
    action: u32,
    output: Vec<u8>,
    /// On average, where there were several.
    duration: Duration,
}

/// Loaded programs and their maps.
pub struct Program {
    object: Ebpf,
    tables: KernelTables,
    /// What the tables that the agent writes should hold.
    contents: Contents,
    flows: Memory<{ size_of::<Tuple>() }, { size_of::<Flow>() }>,
    fragments: Memory<{ size_of::<FragmentKey>() }, { size_of::<Fragment>() }>,
    affinity: Memory<{ size_of::<AffinityKey>() }, { size_of::<Affinity>() }>,
    connections: Memory<{ size_of::<ConnectionKey>() }, { size_of::<Connection>() }>,
    shortcuts: Memory<{ size_of::<ShortcutKey>() }, { size_of::<Shortcut>() }>,
    /// When the kernel's clock and the executor's, which stands still, were last brought together.
    together: Nanos,
    events: RingBuf<MapData>,
    /// Those that were taken out of it, so that there is always room.
    told: Vec<Event>,
}

impl Program {
    /// Prepares the programs, with maps of their own.
    ///
    /// # Errors
    /// [`OBJECT`] is not set, or the kernel refuses the maps.
    pub fn load() -> Result<Self> {
        let path = object_path()?;
        let checksum_field = ChecksumField::probe();
        let number = checksum_field.map_or(0, ChecksumField::number);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("HOST_NETNS_COOKIE", &1_u64, true)
            .override_global("FEATURES", &3_u32, true)
            .override_global("CHECKSUM_FIELD", &number, true)
            .override_global("AYA_LOG_LEVEL", &0_u8, false);
        for (map, entries) in CAPACITIES {
            loader.map_max_entries(map, entries);
        }
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let fitted = fit(&bytes, checksum_field);
        let object = loader
            .load(bytemuck::cast_slice(&fitted))
            .with_context(|| format!("load {}", path.display()))?;
        let tables = KernelTables::from_maps(|name| map(&object, name))?;
        let flows = Memory::open(&object, name::FLOWS, offset_of!(Flow, last_seen))?;
        let fragments = Memory::open(&object, name::FRAGMENTS, offset_of!(Fragment, first_seen))?;
        let affinity = Memory::open(&object, name::AFFINITY, offset_of!(Affinity, last_used))?;
        let connections = Memory::open(
            &object,
            name::CONNECTIONS,
            offset_of!(Connection, last_seen),
        )?;
        let shortcuts = Memory::open(&object, name::SHORTCUTS, offset_of!(Shortcut, found))?;
        let events = Map::RingBuf(map(&object, name::EVENTS)?).try_into()?;
        Ok(Self {
            object,
            tables,
            contents: Contents::default(),
            flows,
            fragments,
            affinity,
            connections,
            shortcuts,
            together: now()?,
            events,
            told: Vec::new(),
        })
    }

    /// Empties every table and forgets what was told: what comes next finds them as they were made.
    ///
    /// # Errors
    /// The kernel refuses a write, or a table holds something all the same.
    pub fn empty(&mut self) -> Result<()> {
        let mut plan = diff(&Contents::default(), &self.contents);
        // Which the difference only ever raises.
        plan.0.push(Write::PutPolicy(Policy::default()));
        self.apply(&plan)?;
        ensure!(
            self.contents == Contents::default(),
            "after {plan:?} the tables hold {:?}",
            self.contents
        );
        self.note_flow_changes()?;
        self.flows.clear()?;
        self.fragments.clear()?;
        self.affinity.clear()?;
        self.connections.clear()?;
        self.shortcuts.clear()?;
        while self.events.next().is_some() {}
        self.told.clear();
        Ok(())
    }

    /// Instructions that the verifier looks at, by program: of all programs of the object, those
    /// at socket calls too.
    ///
    /// # Errors
    /// The kernel refuses a program, or does not say.
    pub fn verified_instructions(&mut self) -> Result<BTreeMap<String, u32>> {
        self.object
            .programs_mut()
            .map(|(name, program)| {
                let result = match program {
                    aya::programs::Program::CgroupSockAddr(program) => program.load(),
                    aya::programs::Program::SchedClassifier(program) => program.load(),
                    _ => Ok(()),
                };
                is_loaded(name, result)?;
                let count = program
                    .info()?
                    .verified_instruction_count()
                    .context("the kernel counts verified instructions since Linux 5.16")?;
                Ok((name.to_owned(), count))
            })
            .collect()
    }

    /// Instructions of the programs at packet hooks, as loaded.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn instructions(&mut self) -> Result<BTreeMap<String, u32>> {
        HOOKS
            .into_iter()
            .map(|hook| {
                let info = loaded(&mut self.object, hook)?.info()?;
                let bytes = info.size_translated().context("the kernel tells sizes")?;
                Ok((hook.name().to_owned(), bytes / BYTES_OF_AN_INSTRUCTION))
            })
            .collect()
    }

    /// How long a hook's program takes, on average of so many runs on the same packet: what one run
    /// has changed in it, the next one sees.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn time(&mut self, at: At, frame: &[u8], repeat: u32) -> Result<Duration> {
        Ok(self.run(at, frame, repeat)?.duration)
    }

    fn run(&mut self, at: At, frame: &[u8], repeat: u32) -> Result<Ran> {
        let hook = at.hook;
        let mut output = vec![0; frame.len() + ROOM];
        let program = loaded(&mut self.object, hook)?;
        let context = context(at);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = if at.interface == UPLINK {
            program.test_run(options)
        } else {
            links::among(|| program.test_run(options))?
        };
        let result = result
            .map_err(|error| match error {
                ProgramError::SyscallError(error) => anyhow::Error::from(error),
                other => other.into(),
            })
            .with_context(|| format!("run {} on {} bytes", hook.name(), frame.len()))?;
        output.truncate(usize::try_from(result.data_size_out)?);
        Ok(Ran {
            action: result.return_value,
            output,
            duration: result.duration,
        })
    }

    /// The one verdict that was counted since the counters read `before`.
    fn counted(&self, hook: Hook, before: &[u64]) -> Result<Verdict> {
        let after = self.tables.counters()?;
        let changed: Vec<usize> = (0..after.len())
            .filter(|&index| after[index] != before[index])
            .collect();
        let [index] = changed[..] else {
            bail!("a packet is counted once, but the counters {changed:?} changed");
        };
        ensure!(
            after[index] == before[index] + 1,
            "a packet is counted once, but counter {index} grew from {} to {}",
            before[index],
            after[index]
        );
        Verdict::ALL
            .into_iter()
            .find(|verdict| usize::try_from(verdict::counter(hook, *verdict)) == Ok(index))
            .with_context(|| format!("counter {index} is not one of {}", hook.name()))
    }

    /// Takes back the time that has passed by itself, if it is any to speak of.
    fn hold_clock(&mut self) -> Result<()> {
        let now = now()?;
        let passed = now.saturating_sub(self.together);
        if passed < UNNOTICED {
            return Ok(());
        }
        // What was noted meanwhile was noted at this very moment.
        let younger = |time: Nanos| time.saturating_add(passed).min(now);
        self.change_times(younger)?;
        self.together = now;
        Ok(())
    }

    /// Tells the programs, which do not run now, that the flows are written past them.
    fn note_flow_changes(&self) -> Result<()> {
        let flows = self.tables.flows();
        let tuples: Vec<Tuple> = flows
            .map(|entry| entry.map(|(tuple, _)| tuple))
            .collect::<Result<_, _>>()?;
        self.tables.note_flow_changes(&tuples)
    }

    fn change_times(&mut self, change: impl Fn(Nanos) -> Nanos) -> Result<()> {
        self.note_flow_changes()?;
        self.flows.change_times(&change)?;
        self.fragments.change_times(&change)?;
        self.affinity.change_times(&change)?;
        self.connections.change_times(&change)
    }
}

impl Executor for Program {
    fn apply(&mut self, plan: &Plan) -> Result<()> {
        self.tables.apply(plan)?;
        for write in &plan.0 {
            write.apply_to(&mut self.contents);
        }
        self.tables.forget_stale(&self.contents)?;
        let contents = self.tables.read()?;
        ensure!(
            contents == self.contents,
            "after {plan:?} the tables hold {contents:?}, expected {:?}",
            self.contents
        );
        Ok(())
    }

    fn send(&mut self, at: At, frame: &[u8]) -> Result<Sent> {
        self.hold_clock()?;
        let hook = at.hook;
        let before = self.tables.counters()?;
        let Ran { action, output, .. } = self.run(at, frame, 1)?;
        while let Some(bytes) = self.events.next() {
            let event = Event::from_bytes(&bytes);
            self.told.push(event.context("an event has another size")?);
        }
        let verdict = self.counted(hook, &before)?;
        let expected = match verdict {
            Verdict::Pass | Verdict::PassFragment | Verdict::Translate => NEXT,
            Verdict::Reject(_) => REDIRECT,
            Verdict::Drop(_) => SHOT,
        };
        ensure!(
            action == expected,
            "{} counted {verdict:?} and returned {action}",
            hook.name()
        );
        Ok(Sent {
            verdict,
            frame: output,
        })
    }

    fn call(&mut self, _call: &SocketCall) -> Result<Called> {
        bail!("BPF_PROG_TEST_RUN does not run programs at socket calls")
    }

    fn advance(&mut self, by: Duration) -> Result<()> {
        let by = age(by)?;
        self.change_times(|time| time.saturating_sub(by))
    }

    fn take_events(&mut self) -> Result<Vec<Event>> {
        Ok(std::mem::take(&mut self.told))
    }
}

/// Where `BPF_PROG_TEST_RUN` says that a packet is: the beginning of a `__sk_buff`, up to what
/// is of interest (`linux/bpf.h`).
fn context(at: At) -> [u8; 44] {
    let mut context = [0; 44];
    let ingress = if at.is_from_node {
        0
    } else if at.is_from_itself {
        at.interface
    } else {
        UPLINK
    };
    context[36..40].copy_from_slice(&ingress.to_ne_bytes());
    context[40..44].copy_from_slice(&at.interface.to_ne_bytes());
    context
}

/// The path that [`OBJECT`] names.
///
/// # Errors
/// It is not set.
pub fn object_path() -> Result<PathBuf> {
    std::env::var_os(OBJECT)
        .map(PathBuf::from)
        .with_context(|| format!("set {OBJECT} to the object that `cargo xtask build-ebpf` makes"))
}

/// The program of a hook.
fn loaded(object: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier> {
    let name = hook.name();
    let program = object
        .program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    is_loaded(name, program.load())?;
    Ok(program)
}

/// It is, by now or before.
fn is_loaded(name: &str, result: Result<(), ProgramError>) -> Result<()> {
    match result {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("load the program {name}")),
    }
}

/// The map of this name, by a descriptor of its own.
fn map(object: &Ebpf, name: &str) -> Result<MapData> {
    let map = object
        .map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::RingBuf(data)
        | Map::PerCpuArray(data) => data,
        other => bail!("the map {name} is of an unexpected type: {other:?}"),
    };
    let id = data.info()?.id();
    MapData::from_id(id).with_context(|| format!("open the map {name}"))
}

/// A table in which the programs note times, by the bytes of its keys and values.
struct Memory<const KEY: usize, const VALUE: usize> {
    map: HashMap<MapData, [u8; KEY], [u8; VALUE]>,
    /// Where in a value the time stands.
    time: usize,
}

impl<const KEY: usize, const VALUE: usize> Memory<KEY, VALUE> {
    fn open(object: &Ebpf, name: &str, time: usize) -> Result<Self> {
        let map = Map::LruHashMap(map(object, name)?).try_into()?;
        Ok(Self { map, time })
    }

    fn clear(&mut self) -> Result<()> {
        let keys: Vec<_> = self.map.keys().collect::<Result<_, _>>()?;
        for key in keys {
            self.map.remove(&key)?;
        }
        Ok(())
    }

    /// What was noted longer ago is to the programs as if that time had passed.
    fn change_times(&mut self, change: impl Fn(Nanos) -> Nanos) -> Result<()> {
        let place = self.time..self.time + size_of::<Nanos>();
        let entries: Vec<_> = self.map.iter().collect::<Result<_, _>>()?;
        for (key, mut value) in entries {
            let time: Nanos = bytemuck::pod_read_unaligned(&value[place.clone()]);
            value[place.clone()].copy_from_slice(&change(time).to_ne_bytes());
            self.map.insert(key, value, 0)?;
        }
        Ok(())
    }
}

/// The kernel's clock, as the programs read it: the coarse one, which is behind the other.
fn now() -> Result<Nanos> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("read the clock")?;
    Ok(Nanos::try_from(Duration::from(now).as_nanos())?)
}

/// How much older entries can be made: none is older than the machine, since after a restart all
/// clocks begin at zero.
fn age(by: Duration) -> Result<Nanos> {
    let uptime = fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
    let uptime: f64 = uptime
        .split_whitespace()
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .context("/proc/uptime begins with seconds")?;
    let uptime = Duration::from_secs_f64(uptime);
    ensure!(
        uptime > by,
        "this machine was started too short a while ago to have been silent for {by:?}"
    );
    Ok(Nanos::try_from(by.as_nanos())?)
}
