//! `cargo xtask fuzz`: random bytes through the packet logic, guided by coverage.
//!
//! Needs neither cargo-fuzz nor a nightly compiler: the instrumentation is in the stable one, and
//! libFuzzer is compiled from source, for which a C++ compiler must be there. What was found on
//! the way is kept under the target directory; what crashes is left there, too, and should become
//! a test in `ebpf/tests`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

use crate::{process, rust::Rust, workspace::Workspace};

/// The targets, each a file in `ebpf/fuzz/fuzz_targets`.
pub const TARGETS: [&str; 2] = ["parse", "datapath"];

/// Runs one fuzz target, or each of them in turn, for this long.
///
/// # Errors
/// When a target is unknown, does not build, or has found something.
pub fn run(workspace: &Workspace, target: Option<&str>, seconds: u64) -> anyhow::Result<()> {
    let targets = match target {
        None => TARGETS.to_vec(),
        Some(name) => {
            ensure!(
                TARGETS.contains(&name),
                "there is no fuzz target {name}: choose among {}",
                TARGETS.join(", ")
            );
            vec![name]
        }
    };
    // Naming the host as target keeps build scripts free of instrumentation.
    let host = Rust::ask(workspace.root())?.host;
    build(workspace, &host)?;
    for target in targets {
        fuzz(workspace, &host, target, seconds)?;
    }
    Ok(())
}

/// Where programs, corpora and crashes are.
fn target_directory(workspace: &Workspace) -> PathBuf {
    workspace.target().join("fuzz")
}

fn build(workspace: &Workspace, host: &str) -> anyhow::Result<()> {
    let flags = [
        // As cargo-fuzz does: counters at every edge, and the operands of comparisons.
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "--cfg=fuzzing",
    ];
    process::step(
        "build the fuzz targets",
        process::cargo(workspace.root())
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args(["build", "--release", "--locked", "--bins"])
            .args(["--manifest-path=ebpf/fuzz/Cargo.toml", "--target", host])
            .arg("--target-dir")
            .arg(target_directory(workspace)),
        None,
    )
    .context(
        "the fuzz targets do not build; libFuzzer needs a C++ compiler (on Debian: apt install g++)",
    )?;
    Ok(())
}

fn fuzz(workspace: &Workspace, host: &str, target: &str, seconds: u64) -> anyhow::Result<()> {
    let directory = target_directory(workspace);
    let program = directory.join(host).join("release").join(target);
    let corpus = directory.join("corpus").join(target);
    let crashes = directory.join("crashes").join(target);
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    process::shown(
        Command::new(&program)
            .arg(&corpus)
            .arg(workspace.root().join("ebpf/fuzz/seeds").join(target))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args([
                "-max_len=1500",
                "-timeout=10",
                "-print_final_stats=1",
                "-verbosity=0",
            ]),
    )
    .with_context(|| {
        format!(
            "fuzz target {target} has found something: see above, and the input in {}. Run it \
             again with {} FILE, then make it a test in ebpf/tests",
            crashes.display(),
            program.display()
        )
    })
}
