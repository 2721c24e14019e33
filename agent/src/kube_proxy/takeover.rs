//! The task beside the agent's loop that takes the node over from kube-proxy.
//!
//! The loop tells it when the tables are complete, and learns from it whether connections are left
//! to the kernel, and what there is to say. What fails is tried again and told.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};
use tracing::{info, warn};
use weir_ebpf::tables::PolicyFlags;

use super::{
    connections,
    leavings::{Leavings, release, survey},
    presence::{Presence, presence},
};
use crate::news;

/// While something is waited for: the first synchronisation, or a kube-proxy's end.
const SOON: Duration = Duration::from_secs(2);
/// While nothing is. Also the longest time between two looks for connections, which may be many.
const LATER: Duration = Duration::from_secs(60);
/// While no kube-proxy is known, the node's processes are looked at with one look of so many.
const PROCESSES: u32 = 5;

/// Whether what kube-proxy has left is removed (`--cleanup-kube-proxy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CleanUp {
    /// When no kube-proxy runs
    Auto,
    /// Even if one seems to run
    On,
    /// Never
    Off,
}

/// What there is to say of kube-proxy, for `weir status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Why one seems to run, if one does.
    pub running: Option<String>,
    /// What is there of its rules and the like.
    pub left: Vec<String>,
    /// What has been removed since the agent's start.
    pub removed: Vec<String>,
    /// Connections that it translated are left to the kernel.
    pub leaves_connections: bool,
    /// What is to be done by hand, on the host.
    pub remedy: Option<String>,
    /// Why something could not be done. It is tried again.
    pub error: Option<String>,
}

impl State {
    /// The same for people: nothing, where there never was one.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Self {
            running,
            left,
            removed: _,
            leaves_connections,
            remedy,
            error,
        } = self;
        let mut lines = Vec::new();
        if let Some(reason) = running {
            lines.push(format!("kube-proxy runs, too: {reason}"));
        }
        if !left.is_empty() {
            lines.push(format!("left by kube-proxy: {}", left.join(", ")));
        }
        if *leaves_connections {
            lines.push("connections that kube-proxy translated are left to the kernel".to_owned());
        }
        if let Some(remedy) = remedy {
            lines.push(format!("to be removed by hand, on the host: {remedy}"));
        }
        if let Some(error) = error {
            lines.push(format!("taking over from kube-proxy: {error}"));
        }
        lines
    }
}

/// The task. Dropping it ends it.
#[derive(Debug)]
pub struct Takeover {
    told: watch::Sender<Told>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

/// What the loop has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    /// The tables are complete and the programs attached.
    is_synchronised: bool,
    /// Nobody but us answers health checks, or it is not known yet.
    is_health_ours: bool,
}

impl Takeover {
    /// Looks what is there, before anything is attached, and begins.
    #[must_use]
    pub fn start(clean_up: CleanUp) -> Self {
        let mut work = Work::new(clean_up);
        let left = work.look_at(survey());
        let (sender, state) = watch::channel(work.state.clone());
        let (told, receiver) = watch::channel(Told {
            is_synchronised: false,
            is_health_ours: true,
        });
        Self {
            told,
            state,
            task: tokio::spawn(run(work, left, receiver, sender)),
        }
    }

    /// The tables are complete and the programs attached.
    pub fn synchronised(&self) {
        self.tell(|told| told.is_synchronised = true);
    }

    /// Is the port of health checks ours?
    pub fn health_is_ours(&self, is_ours: bool) {
        self.tell(|told| told.is_health_ours = is_ours);
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        self.told.send_if_modified(|told| {
            let before = *told;
            change(told);
            *told != before
        });
    }

    /// What there is to say, once that is different from the last time this was asked.
    pub async fn changed(&mut self) -> State {
        match self.state.changed().await {
            Ok(()) => self.state.borrow_and_update().clone(),
            // The task has ended, which it does not unless the runtime does.
            Err(_) => std::future::pending().await,
        }
    }

    /// What there is to say.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// What the programs have to know.
    #[must_use]
    pub fn flags(&self) -> PolicyFlags {
        match self.state.borrow().leaves_connections {
            true => PolicyFlags::LEAVE_TRACKED,
            false => PolicyFlags::NONE,
        }
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut work: Work,
    mut left: Leavings,
    mut told: watch::Receiver<Told>,
    state: watch::Sender<State>,
) {
    let mut pause = SOON;
    loop {
        let now = *told.borrow_and_update();
        left = work.step(now, left).await;
        news::tell(&state, work.state.clone());
        pause = work.pause(pause);
        tokio::select! {
            changed = told.changed() => if changed.is_err() {
                return;
            },
            () = sleep(pause) => {}
        }
    }
}

struct Work {
    clean_up: CleanUp,
    state: State,
    /// Looks so far.
    looks: u32,
    /// What was logged of the last failure: said once, not at each attempt.
    said: Option<String>,
}

impl Work {
    fn new(clean_up: CleanUp) -> Self {
        Self {
            clean_up,
            state: State::default(),
            looks: 0,
            said: None,
        }
    }

    /// Looks, and does what is to be done now.
    async fn step(&mut self, told: Told, before: Leavings) -> Leavings {
        let looks_at_processes =
            self.state.running.is_some() || self.looks.is_multiple_of(PROCESSES);
        self.looks = self.looks.wrapping_add(1);
        self.note_presence(presence(!told.is_health_ours, looks_at_processes).await);
        if self.state.running.is_some() && before.is_removable() && self.clean_up == CleanUp::Auto {
            // Its rules may be many, and it is its end that is waited for.
            return before;
        }
        let left = match blocking(survey).await {
            Ok(left) => self.look_at(Ok(left)),
            Err(error) => {
                self.fail(&error);
                before
            }
        };
        let is_running = self.state.running.is_some();
        match next(self.clean_up, told.is_synchronised, is_running, &left) {
            Step::Wait => left,
            Step::Remove => self.remove(left).await,
            Step::Release if self.release().await => self.look_at(blocking(survey).await),
            Step::Release => left,
        }
    }

    fn note_presence(&mut self, presence: Presence) {
        let running = match presence {
            Presence::Absent => None,
            Presence::Running(reason) => Some(reason),
        };
        match (&self.state.running, &running) {
            (None, Some(reason)) => {
                warn!("a kube-proxy runs here ({reason}): its rules stay until it ends");
            }
            (Some(_), None) => info!("no kube-proxy runs here any more"),
            _ => {}
        }
        self.state.running = running;
    }

    fn look_at(&mut self, left: Result<Leavings>) -> Leavings {
        match left {
            Ok(left) => {
                self.state.error = None;
                self.state.left = left.describe();
                self.state.remedy = left.remedy();
                self.state.leaves_connections = left.may_have_connections();
                left
            }
            Err(error) => {
                self.fail(&error);
                Leavings::default()
            }
        }
    }

    async fn remove(&mut self, left: Leavings) -> Leavings {
        let lasting = left.lasting();
        let removed: Vec<String> = left
            .describe()
            .into_iter()
            .filter(|what| !lasting.contains(what))
            .collect();
        let result = blocking(move || left.remove()).await;
        let now = self.look_at(blocking(survey).await);
        match result {
            Ok(()) => {
                info!("removed what kube-proxy left: {}", removed.join(", "));
                for what in removed {
                    if !self.state.removed.contains(&what) {
                        self.state.removed.push(what);
                    }
                }
            }
            Err(error) => self.fail(&error.context("remove what kube-proxy left")),
        }
        now
    }

    /// Ends the kernel's translation where nothing is translated any more.
    async fn release(&mut self) -> bool {
        let result = blocking(|| match connections::translated()? {
            0 => release(),
            _ => Ok(false),
        });
        match result.await {
            Ok(true) => {
                info!("no connection that kube-proxy translated is left");
                true
            }
            Ok(false) => false,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.said.as_ref() != Some(&text) {
            warn!("taking over from kube-proxy: {text}");
            self.said = Some(text.clone());
        }
        self.state.error = Some(text);
    }

    /// Until the next look.
    fn pause(&self, before: Duration) -> Duration {
        let State {
            running,
            left,
            leaves_connections,
            ..
        } = &self.state;
        let waits_for_its_end = running.is_some() && self.clean_up == CleanUp::Auto;
        if waits_for_its_end && !left.is_empty() {
            SOON
        } else if *leaves_connections {
            (2 * before).min(LATER)
        } else {
            LATER
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing yet, or nothing any more.
    Wait,
    /// What kube-proxy has left goes.
    Remove,
    /// What keeps its connections goes, if there is none.
    Release,
}

fn next(clean_up: CleanUp, is_synchronised: bool, is_running: bool, left: &Leavings) -> Step {
    let may_remove = match clean_up {
        CleanUp::Auto => !is_running,
        CleanUp::On => true,
        CleanUp::Off => false,
    };
    if !is_synchronised {
        Step::Wait
    } else if left.is_removable() && may_remove {
        Step::Remove
    } else if left.is_held
        && left.rules.is_empty()
        && left.legacy.is_empty()
        && left.connections == 0
    {
        Step::Release
    } else {
        Step::Wait
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    spawn_blocking(work).await.context("a task panicked")?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Leavings {
        Leavings {
            rules: vec!["nftables table ip kube-proxy".to_owned()],
            ..Leavings::default()
        }
    }

    fn held() -> Leavings {
        Leavings {
            is_held: true,
            ..Leavings::default()
        }
    }

    #[test]
    fn nothing_is_removed_before_the_tables_are_complete() {
        for clean_up in [CleanUp::Auto, CleanUp::On, CleanUp::Off] {
            for is_running in [false, true] {
                for left in [rules(), held()] {
                    assert_eq!(next(clean_up, false, is_running, &left), Step::Wait);
                }
            }
        }
    }

    #[test]
    fn a_running_kube_proxy_keeps_its_rules_unless_told_otherwise() {
        for (clean_up, is_running, expected) in [
            (CleanUp::Auto, false, Step::Remove),
            (CleanUp::Auto, true, Step::Wait),
            (CleanUp::On, true, Step::Remove),
            (CleanUp::Off, false, Step::Wait),
        ] {
            assert_eq!(
                next(clean_up, true, is_running, &rules()),
                expected,
                "{clean_up:?} {is_running}"
            );
        }
    }

    #[test]
    fn what_keeps_connections_goes_after_the_rules_only() {
        assert_eq!(next(CleanUp::Auto, true, false, &held()), Step::Release);
        let both = Leavings {
            is_held: true,
            ..rules()
        };
        assert_eq!(next(CleanUp::Off, true, false, &both), Step::Wait);
        assert_eq!(
            next(CleanUp::Auto, true, false, &Leavings::default()),
            Step::Wait
        );
    }

    #[test]
    fn an_interface_stays_for_the_connections_through_it_and_goes_after_them() {
        let with = |connections| Leavings {
            interface: true,
            connections,
            ..held()
        };
        let used = with(2);
        assert_eq!(next(CleanUp::Auto, true, false, &used), Step::Wait);
        assert!(used.may_have_connections() && used.describe() == used.lasting());
        assert_eq!(next(CleanUp::Auto, true, false, &with(0)), Step::Remove);
    }

    #[test]
    fn a_node_without_a_kube_proxy_has_nothing_to_say_of_it() {
        assert_eq!(State::default().lines(), Vec::<String>::new());
        let state = State {
            running: Some("process 7".to_owned()),
            left: rules().describe(),
            leaves_connections: true,
            ..State::default()
        };
        let lines = state.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(lines[1], "left by kube-proxy: nftables table ip kube-proxy");
    }
}
