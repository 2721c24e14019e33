//! The demonstration: the lesson's cluster on one machine, shown step by step.
//!
//! Two nodes with an agent each, pods, and manifests as in `deploy/demo`. Each step asks the
//! cluster something from a pod and says what it saw; the demonstration holds only if all do.

mod cluster;
mod enter;
mod screen;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::bed::{Cleaner, Wiring};
use cluster::Cluster;
pub use enter::enter;
use screen::Screen;

/// What the shell gives a process that was ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// How to show it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary to show.
    pub weir: PathBuf,
    /// How pods hang on their nodes.
    pub wiring: Wiring,
    /// End after the last step instead of staying up.
    pub once: bool,
}

/// Shows every step. Success only if all hold.
pub fn run(options: &Options) -> Result<ExitCode> {
    let screen = Screen::default();
    screen.heading(&format!(
        "Weir, two nodes, {} pods: setting up",
        options.wiring
    ));
    let mut cluster = Cluster::start(&options.weir, options.wiring)?;
    let state = Arc::new(State::default());
    clean_up_on_signal(cluster.bed.cleaner(), Arc::clone(&state), screen.clone())?;

    let failed = steps::all()
        .into_iter()
        .filter(|step| !screen.step(&mut cluster, step))
        .count();
    if screen.is_muted() {
        wait_for_the_end();
    }
    screen.summary(failed);
    if !options.once {
        cluster.start_agents().context("start the agents again")?;
        explain(&screen, &cluster);
        state.holds.store(failed == 0, Ordering::Relaxed);
        state.explores.store(true, Ordering::Relaxed);
        wait_for_the_end();
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The thread that listens to signals ends the process.
fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}

/// What the end by a signal depends on.
#[derive(Debug, Default)]
struct State {
    /// All steps were shown: Ctrl-C is the way to end.
    explores: AtomicBool,
    /// And all of them held.
    holds: AtomicBool,
}

/// On Ctrl-C, and whatever else asks the demonstration to end, it leaves nothing behind.
fn clean_up_on_signal(cleaner: Cleaner, state: Arc<State>, screen: Screen) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let signals =
        runtime.block_on(async { kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>() });
    let [mut interrupt, mut terminate, mut hangup] =
        <[_; 3]>::try_from(signals.context("listen to signals")?)
            .map_err(|_| anyhow::anyhow!("three signals make three streams"))?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            screen.mute_steps();
            screen.line("\ncleaning up");
            let code = match cleaner.clean_up() {
                Ok(()) if state.explores.load(Ordering::Relaxed) => {
                    i32::from(!state.holds.load(Ordering::Relaxed))
                }
                Ok(()) => INTERRUPTED,
                Err(error) => {
                    screen.line(&format!("something remains: {error:#}"));
                    1
                }
            };
            std::process::exit(code);
        })
        .context("start a thread")?;
    Ok(())
}

/// What to try in the cluster that stays up.
fn explain(screen: &Screen, cluster: &Cluster) {
    let program = std::env::current_exe().unwrap_or_else(|_| "weir-demo".into());
    let program = program.display();
    let manifests = cluster.manifests.directory().display();
    let worker = cluster.bed.node(0);
    screen.heading("It stays up until Ctrl-C. In another terminal:");
    for (what, command) in [
        (
            "a shell in the client pod",
            format!("sudo {program} enter busybox"),
        ),
        (
            "the service",
            format!("sudo {program} enter busybox curl http://10.32.0.140/"),
        ),
        (
            "by IPv6",
            format!("sudo {program} enter busybox curl 'http://[fd00:10:32::8c]/'"),
        ),
        (
            "a name",
            format!("sudo {program} enter busybox dig @10.32.0.10 nginx.default.svc.cluster.local"),
        ),
        (
            "take a backend away",
            format!("sudoedit {manifests}/nginx-endpoints.yaml"),
        ),
        (
            "what the agent says",
            format!(
                "sudo {program} enter worker-0 {} status --run-dir {}",
                cluster.weir.display(),
                worker.agent_dir().display()
            ),
        ),
        (
            "what packets meet",
            format!(
                "sudo {program} enter worker-0 {} service list -o wide --bpffs {}",
                cluster.weir.display(),
                worker.run_dir().join("bpffs").display()
            ),
        ),
        (
            "its log",
            format!("tail -f {}", worker.run_dir().join("agent.log").display()),
        ),
    ] {
        screen.hint(what, &command);
    }
}
