//! `cargo xtask build-ebpf`: the BPF object, on a machine that has only Rust.
//!
//! The stable compiler builds it: `core` comes from source, which is what `RUSTC_BOOTSTRAP`
//! permits. The result is checked before anyone loads it, see [`inspect`].

use std::{
    env,
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use comfy_table::{CellAlignment, Table, presets};

use crate::{
    core_source::{self, CoreSource},
    inspect::{self, Function},
    linker, process,
    rust::Rust,
    workspace::Workspace,
};

const TARGET: &str = "bpfel-unknown-none";

/// Code for the BPF instructions that every supported kernel knows. An atomic operation whose
/// result is used does not exist in the default set.
const CODE_FLAGS: [&str; 1] = ["-Ctarget-cpu=v3"];

/// BTF for the maps and functions; and word stores for small copies, which would otherwise become
/// calls to byte loops.
const LINK_FLAGS: [&str; 4] = [
    "-Clinker=bpf-linker",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// Builds the object and prints the size of each program, and the bytes of stack that it needs.
pub fn run(workspace: &Workspace) -> Result<()> {
    let functions = build(workspace)?;
    println!("{}", table(&functions));
    println!("{}", workspace.ebpf_object().display());
    Ok(())
}

/// Builds the object, checks it, and leaves it at [`Workspace::ebpf_object`].
pub fn build(workspace: &Workspace) -> Result<Vec<Function>> {
    let linker = linker::get(workspace)?;
    process::step(
        "build the BPF object",
        cargo(workspace, "build", &workspace.ebpf_target())?
            .env("PATH", path_with(&linker)?)
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                encoded(&[&CODE_FLAGS[..], &LINK_FLAGS].concat()),
            ),
        None,
    )?;
    let built = workspace
        .ebpf_target()
        .join(TARGET)
        .join("bpf")
        .join("dataplane");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let functions = inspect::bpf_object(&bytes).map_err(|faults| {
        let faults = faults.iter().map(|fault| format!("\n- {fault}"));
        anyhow::anyhow!("{}:{}", built.display(), faults.collect::<String>())
    })?;
    place(&bytes, &workspace.ebpf_object())?;
    Ok(functions)
}

/// Lints the programs as the BPF target compiles them; a host build sees none of that code.
pub fn clippy(workspace: &Workspace) -> Result<()> {
    process::step(
        "clippy for the BPF target",
        cargo(workspace, "clippy", &workspace.lint_target())?
            .args(["--", "-D", "warnings"])
            .env("CARGO_ENCODED_RUSTFLAGS", encoded(&CODE_FLAGS)),
        None,
    )?;
    Ok(())
}

fn cargo(workspace: &Workspace, act: &str, target_directory: &Path) -> Result<Command> {
    let rust = Rust::ask(workspace.root())?;
    let source = core_source::get(workspace, &rust)?;
    let mut command = process::cargo(workspace.root());
    command
        .args([act, "--package", "weir-ebpf", "--bin", "dataplane"])
        .args(["--profile", "bpf", "--target", TARGET, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(target_directory)
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTFLAGS");
    if let CoreSource::Library(library) = source {
        // Cargo's own way to say where the source is, if it is not in the sysroot.
        command.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    Ok(command)
}

fn encoded(flags: &[&str]) -> String {
    flags.join("\x1f")
}

fn path_with(directory: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = [PathBuf::from(directory)]
        .into_iter()
        .chain(env::split_paths(&path));
    env::join_paths(directories).with_context(|| format!("put {} on PATH", directory.display()))
}

/// Writes the object whole or not at all, and not if it is there already: whatever embeds it is
/// built again when it changes.
fn place(bytes: &[u8], object: &Path) -> Result<()> {
    match fs::read(object) {
        Ok(present) if present == bytes => return Ok(()),
        Ok(_) => (),
        Err(error) if error.kind() == ErrorKind::NotFound => (),
        Err(error) => bail!("read {}: {error}", object.display()),
    }
    let written = object.with_extension("o.new");
    fs::write(&written, bytes).with_context(|| format!("write {}", written.display()))?;
    fs::rename(&written, object).with_context(|| format!("write {}", object.display()))
}

fn table(functions: &[Function]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["section", "function", "instructions", "stack"]);
    for function in functions {
        table.add_row([
            function.section.clone(),
            function.path(),
            function.instructions.to_string(),
            function
                .stack
                .map_or_else(String::new, |bytes| bytes.to_string()),
        ]);
    }
    let total = functions
        .iter()
        .map(|function| function.instructions)
        .sum::<u64>();
    table.add_row(["total", "", &total.to_string(), ""]);
    for number in [2, 3] {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
