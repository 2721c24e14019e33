//! `cargo xtask fuzz`: random bytes through the packet logic, guided by coverage.
//!
//! Needs neither cargo-fuzz nor a nightly compiler: the instrumentation is in the stable one, and
//! libFuzzer is compiled from source, for which a C++ compiler must be there. What was found on
//! the way is kept under the target directory; what crashes is left there, too, and should become
//! a test in `ebpf/tests`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

/// The targets, each a file in `ebpf/fuzz/fuzz_targets`.
pub const TARGETS: [&str; 2] = ["parse", "datapath"];

/// Runs one fuzz target, or each of them in turn, for this long.
///
/// # Errors
/// When a target is unknown, does not build, or has found something.
pub fn run(target: Option<String>, seconds: u64) -> anyhow::Result<()> {
    let targets = match target.as_deref() {
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
    let root = root();
    build(&root)?;
    for target in targets {
        fuzz(&root, target, seconds)?;
    }
    Ok(())
}

/// The top of the repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// What the compiler is built for; naming it keeps build scripts free of instrumentation.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("run rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}

/// Where programs, corpora and crashes are.
fn target_directory(root: &Path) -> PathBuf {
    root.join("target/fuzz")
}

fn build(root: &Path) -> anyhow::Result<()> {
    let flags = [
        // As cargo-fuzz does: counters at every edge, and the operands of comparisons.
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "--cfg=fuzzing",
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--release", "--locked", "--bins"])
        .arg("--manifest-path=ebpf/fuzz/Cargo.toml")
        .arg("--target")
        .arg(host()?)
        .arg("--target-dir")
        .arg(target_directory(root))
        .status()
        .context("run cargo")?;
    ensure!(
        status.success(),
        "the fuzz targets do not build; libFuzzer needs a C++ compiler (on Debian: apt install g++)"
    );
    Ok(())
}

fn fuzz(root: &Path, target: &str, seconds: u64) -> anyhow::Result<()> {
    let directory = target_directory(root);
    let program = directory.join(host()?).join("release").join(target);
    let corpus = directory.join("corpus").join(target);
    let crashes = directory.join("crashes").join(target);
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory)
            .with_context(|| format!("create {}", directory.display()))?;
    }
    let status = Command::new(&program)
        .arg(&corpus)
        .arg(root.join("ebpf/fuzz/seeds").join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args([
            "-max_len=1500",
            "-timeout=10",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .status()
        .with_context(|| format!("run {}", program.display()))?;
    if !status.success() {
        bail!(
            "fuzz target {target} has found something: see above, and the input in {}. Run it \
             again with {} FILE, then make it a test in ebpf/tests",
            crashes.display(),
            program.display()
        );
    }
    Ok(())
}
