//! `cargo xtask test`: the levels of tests, by name.
//!
//! | level | what runs | needs |
//! |---|---|---|
//! | `host` | everything pure, and every scenario in memory | nothing |
//! | `program` | the loaded programs and the kernel's tables | root |
//! | `network` | the binary with real sockets in network namespaces, scenarios of conversations too | root, apt |
//! | `conformance` | who reaches whom under network policies, table by table, and who gets past them | root |
//! | `deploy` | chart and kustomizations rendered and compared; the image started as its DaemonSet says | root, pip |
//! | `kernels` | the same on older kernels, in virtual machines | an emulator, installed if root |
//!
//! A level that cannot run fails.

use std::{
    ffi::OsStr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    build, build_ebpf, image, iptables, kernels,
    kubernetes_tools::KubernetesTools,
    privilege::{self, Root},
    process,
    workspace::Workspace,
};

/// A level of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Without privileges: `cargo test --workspace`
    Host,
    /// The loaded programs and the kernel's tables, as root
    Program,
    /// Real sockets between network namespaces, as root
    Network,
    /// Network policies, each table expected against seen, as root
    Conformance,
    /// The manifests rendered by Helm and kustomize, and the image run as they say, as root
    Deploy,
    /// Older kernels, in virtual machines
    Kernels,
}

/// A test program that needs root: its package and its name.
type Suite = (&'static str, &'static str);

/// What runs when no level is named, in this order. The older kernels are x86-64 kernels, and run
/// this machine's programs.
const ALL: &[Level] = if cfg!(target_arch = "x86_64") {
    &[
        Level::Host,
        Level::Program,
        Level::Network,
        Level::Conformance,
        Level::Deploy,
        Level::Kernels,
    ]
} else {
    &[
        Level::Host,
        Level::Program,
        Level::Network,
        Level::Conformance,
        Level::Deploy,
    ]
};

impl Level {
    /// How many of its tests run at a time, where that is not for them to say. Those that talk wait
    /// most of the time: for agents, for servers, for the kernel, for what must not come.
    fn threads(self) -> Option<usize> {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self {
            Self::Host | Self::Network | Self::Conformance => Some(2 * processors),
            Self::Program | Self::Deploy | Self::Kernels => None,
        }
    }

    fn suites(self) -> &'static [Suite] {
        match self {
            Self::Host | Self::Kernels => &[],
            Self::Program => &[("weir-agent", "kernel"), ("weir-tests", "program")],
            Self::Network => &[("weir-tests", "network"), ("weir-tests", "scenarios")],
            Self::Conformance => &[("weir-tests", "conformance")],
            Self::Deploy => &[("weir-tests", "deploy")],
        }
    }
}

/// Runs these levels, or all of them where none is named.
pub fn run(workspace: &Workspace, levels: &[Level]) -> Result<()> {
    let levels = if levels.is_empty() { ALL } else { levels };
    for level in levels {
        println!("\ntest {}", name(*level));
        match level {
            Level::Host if levels.len() > 1 => host_with_others(workspace)?,
            Level::Host => host(workspace)?,
            Level::Kernels => kernels::run(workspace).context("test kernels")?,
            Level::Program | Level::Network | Level::Conformance | Level::Deploy => {
                privileged(workspace, *level).with_context(|| format!("test {}", name(*level)))?;
            }
        }
    }
    Ok(())
}

fn name(level: Level) -> String {
    level
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn host(workspace: &Workspace) -> Result<()> {
    process::shown(process::cargo(workspace.root()).args(["test", "--workspace"]))
}

/// The same beside other levels: with the flags that these are built with, so that all that the
/// crates depend on is compiled once.
fn host_with_others(workspace: &Workspace) -> Result<()> {
    build_ebpf::build(workspace)?;
    process::shown(
        build::static_cargo(workspace, "test")?
            .args(["--package", "weir-ebpf"])
            .args(["--package", "weir-agent", "--package", "weir-tests"])
            .envs(
                Level::Host
                    .threads()
                    .map(|count| ("RUST_TEST_THREADS", count.to_string())),
            ),
    )?;
    process::shown(process::cargo(workspace.root()).args(["test", "--package", "xtask"]))
}

fn privileged(workspace: &Workspace, level: Level) -> Result<()> {
    let suites = level.suites();
    privilege::require_kernel()?;
    let root = Root::find()?;
    leave_interrupts_to_others()?;
    build_ebpf::build(workspace)?;
    let weir = build::binaries(workspace)?.weir;
    let object = workspace.ebpf_object();
    let mut variables = vec![
        ("WEIR_EBPF_OBJECT", object.as_os_str()),
        ("WEIR_BINARY", weir.as_os_str()),
        ("RUST_BACKTRACE", OsStr::new("1")),
    ];
    let installation = match level {
        Level::Deploy => Some((
            KubernetesTools::get(workspace)?,
            image::of_binary(workspace, &weir, "localhost/weir:test")?,
        )),
        Level::Host | Level::Program | Level::Network | Level::Conformance | Level::Kernels => None,
    };
    let iptables = match level {
        Level::Network => Some(iptables::get(workspace)?),
        Level::Host | Level::Program | Level::Conformance | Level::Deploy | Level::Kernels => None,
    };
    if let Some(tree) = &iptables {
        variables.push(("WEIR_IPTABLES_LEGACY", tree.as_os_str()));
    }
    if let Some((tools, image)) = &installation {
        variables.extend([
            ("WEIR_HELM", tools.helm.as_os_str()),
            ("WEIR_KUBECTL", tools.kubectl.as_os_str()),
            ("WEIR_IMAGE", image.as_os_str()),
        ]);
    }
    let messages = build_suites(workspace, suites)?;
    for (package, suite) in suites {
        let program = executable(&messages, suite)
            .with_context(|| format!("cargo built no test program {suite} of {package}"))?;
        // As cargo does: a test finds its files beside its manifest.
        let directory = workspace.root().join(directory_of(package)?);
        let threads = level.threads();
        process::shown(
            root.command(&program, &variables)
                .arg("--ignored")
                .args(threads.map(|count| format!("--test-threads={count}")))
                .current_dir(directory),
        )?;
    }
    Ok(())
}

/// Interrupted, the programs that we run still have namespaces and mounts to remove: they get the
/// signal from the terminal as we do, and we wait for them.
pub fn leave_interrupts_to_others() -> Result<()> {
    Ok(ctrlc::set_handler(|| ()).or_else(|error| match error {
        ctrlc::Error::MultipleHandlers => Ok(()),
        other => Err(other),
    })?)
}

/// Builds test programs and gives cargo's messages. Both packages are named whichever tests are
/// built: their dependencies then have the features that [`build::binaries`] gave them, and are not
/// compiled again.
fn build_suites(workspace: &Workspace, suites: &[Suite]) -> Result<String> {
    let names = suites.iter().map(|(_, suite)| *suite).collect::<Vec<_>>();
    process::step(
        &format!("build the tests {}", names.join(", ")),
        build::static_cargo(workspace, "test")?
            .args(["--package", "weir-agent", "--package", "weir-tests"])
            .args(names.iter().flat_map(|name| ["--test", name]))
            .args(["--no-run", "--message-format=json-render-diagnostics"]),
        None,
    )
}

/// The path of a test program, or of one that measures, in cargo's messages.
pub fn executable(messages: &str, suite: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == suite)
        .filter(|message| message["profile"]["test"] == true)
        .find_map(|message| Some(Path::new(message["executable"].as_str()?).to_owned()))
}

fn directory_of(package: &str) -> Result<&'static str> {
    match package {
        "weir-agent" => Ok("agent"),
        "weir-tests" => Ok("tests"),
        other => bail!("there is no package {other} with tests that need root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"weir"},"profile":{"test":false},"executable":"/t/weir"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"program"},"profile":{"test":true},"executable":"/t/program-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            executable(messages, "program"),
            Some(PathBuf::from("/t/program-1"))
        );
        assert_eq!(executable(messages, "weir"), None);
    }

    #[test]
    fn every_suite_has_a_directory() {
        for level in ALL {
            for (package, _) in level.suites() {
                directory_of(package).unwrap();
            }
        }
    }
}
