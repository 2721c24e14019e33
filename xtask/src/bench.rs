//! `cargo xtask bench`: what Weir costs, beside no proxy at all and beside kube-proxy's rules.
//!
//! | program | measures |
//! |---|---|
//! | `packets` | connections, requests, datagrams and bytes between pods and from outside |
//! | `control` | from a change in the API to the first packet; starts; memory |
//! | `programs` | each BPF program on its own, in nanoseconds |
//! | `pure` | decoding, compiling, comparing; the packet logic on the host |
//!
//! This builds what is measured as it is released, and what measures as for tests, but for clients
//! and servers: what they do between two calls of the kernel is the same for everybody, and the more
//! it is, the less of a difference is seen (and but for `pure`, which is measured itself). It runs
//! the programs (`tests/benches`) as root, and collects what they say. How they measure stands beside
//! them (`tests/src/bench`).
//!
//! The environment says where something else than the plan is wanted: `WEIR_BENCH_SERVICES` and
//! `WEIR_BENCH_POLICIES` (numbers with commas), `WEIR_BENCH_ROUNDS` and `WEIR_BENCH_MILLIS` (how many
//! samples of traffic, how long each).

mod chart;
mod iptables;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    build, build_ebpf,
    privilege::{self, Root},
    process, test,
    workspace::Workspace,
};

/// Before what else the machine does meanwhile: less of it falls between two samples.
const PRIORITY: &str = "-10";

/// Clients and servers, and all that is in one package with them, are as fast as what people run.
const OPTIMISED: &[&str] = &["profile.dev.package.weir-tests.opt-level=3"];

/// A program that measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Traffic between pods and from outside
    Packets,
    /// From a change to its effect; starts; memory
    Control,
    /// Each BPF program on its own
    Programs,
    /// Pure functions, of the agent and of the programs; needs no privileges
    Pure,
}

impl Bench {
    /// What it is called, here and in its own figures.
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Where it measures itself, it is built as what it measures.
    const fn profile(self, measured: &str) -> &str {
        match self {
            Self::Packets | Self::Control | Self::Programs => "dev",
            Self::Pure => measured,
        }
    }

    const fn needs_kernel(self) -> bool {
        !matches!(self, Self::Pure)
    }
}

/// What to measure, and where to put what comes of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// The programs to run; all of them where none is named
    benches: Vec<Bench>,
    /// A short run, of less than two minutes
    #[arg(long)]
    quick: bool,
    /// Write the figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the figures there, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure an agent that is built as for tests: sooner there, and slower. To packets it is the same
    #[arg(long)]
    unoptimised: bool,
}

/// Builds, measures, and collects.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let benches = match arguments.benches.as_slice() {
        [] => Bench::value_variants(),
        named => named,
    };
    let root = match benches.iter().any(|bench| bench.needs_kernel()) {
        true => {
            privilege::require_kernel()?;
            Some(Root::find()?)
        }
        false => None,
    };
    test::leave_interrupts_to_others()?;
    let profile = if arguments.unoptimised {
        "dev"
    } else {
        "release"
    };
    // The agent has it inside, whether it is run or not.
    build_ebpf::build(workspace)?;
    let measured = match &root {
        Some(root) => Some((root, build_measured(workspace, profile)?)),
        None => None,
    };
    let programs = build_programs(workspace, benches, profile)?;
    let iptables = match benches.contains(&Bench::Packets) {
        true => iptables::get(workspace)?,
        false => None,
    };
    let results = workspace.tools("bench")?;
    let object = workspace.ebpf_object();
    let mut figures = Vec::new();
    for (bench, program) in benches.iter().zip(programs) {
        let name = bench.name();
        println!("\nmeasure {name}");
        let file = results.join(format!("{name}.json"));
        let mut variables = vec![
            ("WEIR_BENCH_RESULTS", file.as_os_str()),
            ("RUST_BACKTRACE", OsStr::new("1")),
        ];
        if arguments.quick {
            variables.push(("WEIR_BENCH_QUICK", OsStr::new("1")));
        }
        let mut command = match &measured {
            Some((root, weir)) if bench.needs_kernel() => {
                variables.push(("WEIR_BINARY", weir.as_os_str()));
                variables.push(("WEIR_EBPF_OBJECT", object.as_os_str()));
                if let Some(root) = &iptables {
                    variables.push(("WEIR_BENCH_IPTABLES", root.as_os_str()));
                }
                let mut command = root.command(Path::new("nice"), &variables);
                command.args(["-n", PRIORITY]).arg(&program);
                command
            }
            _ => {
                let mut command = Command::new(&program);
                command.envs(variables);
                command
            }
        };
        process::shown(command.current_dir(workspace.root().join("tests")))?;
        figures.extend(read(&file)?);
    }
    println!();
    if let Some(file) = &arguments.json {
        let text = serde_json::to_vec_pretty(&figures).context("write figures as JSON")?;
        write(file, &text)?;
    }
    if let Some(file) = &arguments.svg {
        write(file, chart::draw(&figures).as_bytes())?;
    }
    Ok(())
}

/// The agent. Both packages are named, so that what they depend on is compiled once; see `test`.
fn build_measured(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    process::step(
        "build weir",
        build::static_cargo(workspace, "build")?
            .args(["--package", "weir-agent", "--package", "weir-tests"])
            .args(["--bin", "weir", "--profile", profile]),
        None,
    )?;
    build::binary(workspace, "weir", profile)
}

/// The programs, in the order in which they were asked for, and beside them the helper that plays a
/// bed's processes.
fn build_programs(
    workspace: &Workspace,
    benches: &[Bench],
    measured: &str,
) -> Result<Vec<PathBuf>> {
    if benches.iter().any(|bench| bench.needs_kernel()) {
        build::binaries_with(workspace, OPTIMISED)?;
    }
    let mut programs = BTreeMap::new();
    for profile in BTreeSet::from(["dev", measured]) {
        let of_profile = benches
            .iter()
            .filter(|bench| bench.profile(measured) == profile);
        let names: BTreeSet<String> = of_profile.map(|bench| bench.name()).collect();
        if names.is_empty() {
            continue;
        }
        let list = names.iter().cloned().collect::<Vec<_>>().join(", ");
        let messages = process::step(
            &format!("build the measurements {list}"),
            build::static_cargo(workspace, "bench")?
                .args(OPTIMISED.iter().flat_map(|setting| ["--config", setting]))
                .args(["--package", "weir-agent", "--package", "weir-tests"])
                .args(names.iter().flat_map(|name| ["--bench", name.as_str()]))
                .args(["--profile", profile])
                .args(["--no-run", "--message-format=json-render-diagnostics"]),
            None,
        )?;
        for name in names {
            let program = test::executable(&messages, &name)
                .with_context(|| format!("cargo built no program {name}"))?;
            programs.insert(name, program);
        }
    }
    benches
        .iter()
        .map(|bench| {
            let program = programs.get(&bench.name());
            program.cloned().context("each was built")
        })
        .collect()
}

fn read(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    println!("{}", file.display());
    Ok(())
}
