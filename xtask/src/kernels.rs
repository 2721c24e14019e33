//! `cargo xtask test kernels`: older kernels, booted in virtual machines, load and serve.
//!
//! Each kernel is a release's own, fetched as a package and unpacked. The machine's whole disk is
//! an archive in memory: the test program, `weir`, the test bed's helper and a few modules. The
//! processor is emulated, so that it runs wherever these tests do, also inside another machine.
//! Everything fetched stays in the target directory.
//!
//! "tail_calls are not allowed in non-JITed programs", from 5.10, says that the compiler of x86 in the
//! kernel gave up, as it does before Linux 5.12 where jumps across each other are about as far as a
//! short one goes: it makes one longer for the other, and again, twenty times. With
//! `sysctl.net.core.bpf_jit_enable=2` among the kernel's arguments (`guest.rs`) the console names the
//! function by its length, at `pass=21`. To write it a little differently is the remedy.

mod guest;
mod initramfs;
mod modules;
mod package;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{apt::Apt, build, build_ebpf, progress::Step, workspace::Workspace};
use guest::Ended;
use package::{Kernel, Series};

/// The oldest that Weir supports, one with links and without TCX, and one with TCX.
const SERIES: [Series; 3] = [
    Series {
        version: "5.10",
        suite: "bullseye",
    },
    Series {
        version: "6.1",
        suite: "bookworm",
    },
    Series {
        version: "6.12",
        suite: "trixie",
    },
];

/// Boots every kernel, all at once, and fails unless each passes its checks.
pub fn run(workspace: &Workspace) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!(
            "the kernels are x86-64 kernels and cannot run this machine's {} programs: \
             run `cargo xtask test kernels` on an x86-64 machine",
            env::consts::ARCH
        );
    }
    let qemu = guest::emulator()?;
    let directory = workspace.tools("kernels")?;
    let kernels = fetch(&directory)?;
    build_ebpf::build(workspace)?;
    let binaries = build::binaries(workspace)?;
    let programs = [
        ("init", binaries.kernel_test),
        ("weir", binaries.weir),
        ("weir-testpod", binaries.testpod),
    ];
    let programs = programs
        .into_iter()
        .map(|(name, path)| {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let program = initramfs::without_sections(bytes)
                .with_context(|| format!("read {}", path.display()))?;
            Ok((name, program))
        })
        .collect::<Result<Vec<_>>>()?;
    let guests = kernels
        .into_iter()
        .map(|(series, kernel)| {
            let disk = directory.join(format!("{}.cpio", series.version));
            write_disk(&disk, &programs, &kernel)?;
            Ok((series, kernel, disk))
        })
        .collect::<Result<Vec<_>>>()?;
    boot(&qemu, &guests)
}

/// Every kernel, of which those that are missing are fetched.
fn fetch(directory: &Path) -> Result<Vec<(Series, Kernel)>> {
    // Asked once, and only if there is something to fetch.
    let mut apt = None;
    SERIES
        .into_iter()
        .map(|series| {
            let kept = directory.join(series.version);
            if let Some(kernel) = Kernel::kept(&kept)? {
                return Ok((series, kernel));
            }
            let apt = match &apt {
                Some(apt) => apt,
                None => apt.insert(Apt::new(directory.join("apt"))?),
            };
            let kernel = package::fetch(apt, series, &kept)
                .with_context(|| format!("get a kernel of {} {}", series.suite, series.version))?;
            Ok((series, kernel))
        })
        .collect()
}

fn write_disk(disk: &Path, programs: &[(&str, Vec<u8>)], kernel: &Kernel) -> Result<()> {
    let modules = kernel
        .modules
        .iter()
        .map(|module| {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            let bytes = fs::read(module).with_context(|| format!("read {}", module.display()))?;
            Ok((format!("{}/{name}", initramfs::MODULES), bytes))
        })
        .collect::<Result<Vec<_>>>()?;
    let modules = modules.iter().map(|(path, bytes)| (path.clone(), &**bytes));
    let programs = programs
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), &**bytes));
    let archive =
        initramfs::archive(programs.chain(modules)).context("pack the machine's files")?;
    fs::write(disk, archive).with_context(|| format!("write {}", disk.display()))
}

/// Runs all machines side by side; shows the console of each that fails.
fn boot(qemu: &Path, guests: &[(Series, Kernel, PathBuf)]) -> Result<()> {
    let names: Vec<&str> = guests.iter().map(|guest| guest.0.version).collect();
    let mut step = Step::start(format!("boot Linux {}", names.join(", ")));
    let (sender, lines) = mpsc::channel();
    let outcomes = thread::scope(|scope| {
        let machines: Vec<_> = guests
            .iter()
            .map(|(series, kernel, disk)| {
                let sender = sender.clone();
                let tell = move |line: &str| {
                    // The receiver lives as long as any sender.
                    let _ = sender.send(format!("{}: {line}", series.version));
                };
                scope.spawn(move || guest::run(qemu, &kernel.image, disk, tell))
            })
            .collect();
        drop(sender);
        for line in lines {
            step.note(&line);
        }
        machines
            .into_iter()
            .map(|machine| machine.join())
            .collect::<Vec<_>>()
    });
    let mut failed = Vec::new();
    let mut report = Vec::new();
    for (name, outcome) in names.iter().zip(outcomes) {
        match outcome {
            Ok(Ok(Ended::Passed { release, checks })) => {
                report.push(format!("Linux {release}: {checks} checks passed"));
            }
            Ok(Ok(Ended::Failed { why, console })) => {
                report.push(format!("{console}\nLinux {name}: FAILED: {why}"));
                failed.push(*name);
            }
            Ok(Err(error)) => {
                report.push(format!("Linux {name}: {error:#}"));
                failed.push(*name);
            }
            Err(_) => {
                report.push(format!("Linux {name}: the thread that watched it panicked"));
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        step.done();
    } else {
        step.failed();
    }
    println!("{}", report.join("\n"));
    if !failed.is_empty() {
        bail!("Linux {}: see above", failed.join(", "));
    }
    Ok(())
}
