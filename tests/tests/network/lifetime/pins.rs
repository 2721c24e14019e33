//! The BPF file system that agents share, and that may go from under one.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::bed::process::{Process, Streams};
use weir_tests::bed::wait::wait_for;
use weir_tests::bed::{Family, Node, Wiring};

use super::{PATIENCE, meddling, serves, wait_until_said};
use crate::world::{WEB, World};

/// An agent with a run directory of its own on a node that has another.
struct Other {
    process: Process,
    log: PathBuf,
    run_dir: PathBuf,
}

impl Other {
    fn launch(world: &World, node: &Node) -> Result<Self> {
        let run_dir = node.run_dir().join("other");
        let log = node.run_dir().join("other.log");
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let (group, bpffs) = (node.group().to_owned(), node.bpffs());
        let (netns, records) = (node.netns_dir(), node.cni_results_dir());
        let paths = [
            ("--cgroup-root", group.as_path()),
            ("--bpffs", &bpffs),
            ("--netns-dir", &netns),
            ("--cni-results-dir", &records),
            ("--run-dir", &run_dir),
            ("--manifests", world.manifests.directory()),
            ("--node-name", Path::new(node.name())),
        ];
        let mut arguments = vec!["agent".as_ref()];
        for (flag, path) in paths {
            arguments.extend([flag.as_ref(), path.as_os_str()]);
        }
        let process = node
            .system()
            .start(&world.weir, &arguments, Streams::Log(file))?;
        Ok(Self {
            process,
            log,
            run_dir,
        })
    }

    fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }

    /// Its status file may not be there yet.
    fn is_ready(&self) -> bool {
        let text = std::fs::read(self.run_dir.join("status.json")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&text).unwrap_or_default();
        status["ready"] == true
    }
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn an_agent_with_another_run_directory_waits_for_the_first() -> Result<()> {
    let mut world = World::start(Wiring::Routed)?;
    let node = world.bed.node(0).clone();
    let mut other = Other::launch(&world, &node)?;
    let result = (|| {
        let says = format!("(process {}, with another --run-dir)", world.agents[0].id());
        wait_until_said(&says, || other.log())?;
        world.agents[0].wait_ready()?;
        serves(&world)?;
        world.agents[0].stop()?;
        wait_for(
            || "the other agent to take over".to_owned(),
            PATIENCE,
            || {
                ensure!(other.process.status()?.is_none(), "it ended");
                Ok(other.is_ready())
            },
        )?;
        serves(&world)
    })();
    world
        .explain(result)
        .with_context(|| other.log().unwrap_or_default())
}

#[test]
#[ignore = "needs root: cargo xtask test network"]
fn pins_and_entries_that_go_from_under_an_agent_are_put_back() -> Result<()> {
    let mut world = World::start_with(Wiring::Routed, &["--resync-seconds=3"])?;
    let node = world.bed.node(0).clone();
    let result = (|| {
        let stream = world.client.start_transfer(WEB.at(Family::V4))?.handle;
        let pins = node.pins()?;
        ensure!(!pins.is_empty(), "there are pins");
        // Unmounted, which is told and harms nobody.
        node.unmount_bpffs()?;
        let lost = "no BPF file system is mounted there";
        world.agents[0].wait_status("the loss to be told", |status| {
            status["error"].to_string().contains(lost)
        })?;
        serves(&world)?;
        // Mounted again.
        node.mount_bpffs()?;
        world.agents[0].wait_status("the loss to be mended", |status| {
            status["error"].is_null() && mended(status, "0 links ended")
        })?;
        wait_for_pins(&node, &pins)?;
        serves(&world)?;
        // All of them removed by hand: links, which nobody else holds, end and are made anew.
        let ours = node.bpffs().join("weir");
        let arguments = ["--recursive".as_ref(), ours.as_os_str()];
        // It fails where the agent was quick to mend something.
        node.system().output(Path::new("/bin/rm"), &arguments)?;
        wait_for_pins(&node, &pins)?;
        world.agents[0].wait_status("the removal to be mended", |status| {
            status["error"].is_null()
        })?;
        serves(&world)?;
        let transferred = world.client.finish_transfer(stream)?;
        ensure!(transferred.is_complete(), "{transferred:?}");
        // Until somebody else writes there, tables hold what the agent wrote.
        let log = world.agents[0].log()?;
        ensure!(!log.contains("holds something else"), "{log}");
        meddling::is_undone(&world.agents[0])?;
        serves(&world)
    })();
    world.explain(result)
}

fn wait_for_pins(node: &Node, pins: &[PathBuf]) -> Result<()> {
    wait_for(
        || "the pins to be there again".to_owned(),
        PATIENCE,
        || Ok(node.pins()? == pins),
    )
}

fn mended(status: &Value, what: &str) -> bool {
    let errors = status["recentErrors"].as_array().into_iter().flatten();
    errors
        .filter_map(|error| error["message"].as_str())
        .any(|message| message.contains("pinned anew") && message.contains(what))
}
