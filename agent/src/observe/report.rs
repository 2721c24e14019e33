//! Keeps the [`Status`] true, and logs what an operator would note.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tracing::{debug, info, warn};
use weir_ebpf::tables::PodState;

use super::account::Told;
use super::endpoints;
use super::idle::Idle;
use super::listeners::Listening;
use super::sources;
use super::status::{
    Interface, Listener, PodInterface, Problem, Program, RecentError, Remark, Skipped, Source,
    SourceState, Status, Sync, Table,
};
use super::status_file::{StatusFile, Unwritten};
use crate::{
    attach::ProgramReport,
    compile::{self, Desired, PodReport},
    config::Config,
    fast_path, kube_proxy,
    maps::{Contents, layout::layout_version, succession::Inheritance},
    model::{self, Cluster, ObjectRef, PolicyRef, Report, ServiceRef, SourceId},
};

/// The status, and where it is shown.
pub struct Reporter {
    file: StatusFile,
    told: Told,
    endpoints: endpoints::Files,
    idle: Idle,
    /// Whether it was last shown that there are no problems.
    has_no_problems: bool,
    /// What there is to remark of the start.
    of_start: Vec<Remark>,
    /// Whether the last attempt to write what is not chosen failed: said once, not at each change.
    is_unwritable: bool,
}

/// Errors that are remembered.
const REMEMBERED: usize = 8;

/// What there is to say of a synchronisation that succeeded.
pub struct Synchronised<'a> {
    /// How long it took.
    pub took: Duration,
    /// Entries written or removed.
    pub writes: usize,
    /// What the tables hold now, and what was left out of them.
    pub desired: &'a Desired,
    /// What of that may be different from the last time.
    pub different: Different<'a>,
}

/// What may be different from the last time.
pub enum Different<'a> {
    /// Everything.
    Everything {
        /// The pods' interfaces: index and name.
        interfaces: Vec<(u32, String)>,
        /// The interfaces that lead to the network: index and name.
        network_interfaces: Vec<(u32, String)>,
    },
    /// These services, or their endpoints.
    Services(&'a BTreeSet<ServiceRef>),
    /// The endpoints of these services.
    Endpoints(&'a BTreeSet<ServiceRef>),
}

impl Reporter {
    /// Begins a status: not ready, nothing known. It is shown in the run directory, and told.
    ///
    /// # Errors
    /// The run directory cannot be written.
    pub fn new(
        config: &Config,
        capacities: BTreeMap<&'static str, u32>,
        loaded: &[ProgramReport],
        told: Told,
    ) -> Result<Self> {
        let nothing = Contents::default();
        let tables = capacities
            .into_iter()
            .filter_map(|(name, capacity)| {
                let entries = nothing.entries(name)?;
                Some(Table {
                    name: name.to_owned(),
                    entries,
                    capacity,
                })
            })
            .collect();
        let status = Status {
            node: config.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: Timestamp::now(),
            ended: None,
            ready: false,
            generation: 0,
            last_sync: None,
            error: None,
            recent_errors: Vec::new(),
            api_server: None,
            sources: match config.manifests {
                Some(_) => sources::of_manifests(&Cluster::default(), &[], Timestamp::now()),
                None => Vec::new(),
            },
            service_ports: 0,
            tables,
            interfaces: Vec::new(),
            network_interfaces: Vec::new(),
            cgroup_root: Some(config.cgroup_root.clone()),
            layout_version: Some(layout_version()),
            programs: programs_status(loaded),
            listeners: Vec::new(),
            problems: Vec::new(),
            remarks: Vec::new(),
            policies: 0,
            skipped: Vec::new(),
            unknown_kinds: Vec::new(),
            kube_proxy: kube_proxy::State::default(),
            fast_path: None,
        };
        status.write(&config.run_dir).context("the first status")?;
        told.tell(status);
        Ok(Self {
            file: StatusFile::keep(config.run_dir.clone(), told.clone())?,
            endpoints: endpoints::Files::new(&config.run_dir),
            idle: Idle::default(),
            has_no_problems: false,
            of_start: Vec::new(),
            told,
            is_unwritable: false,
        })
    }

    /// Says what the sources cannot use, and gives how much that is. They have logged it
    /// themselves.
    pub fn problems(&mut self, cluster: &Cluster) -> usize {
        // As nearly always, however often the API server tells of something.
        let has_none = cluster.is_faultless() && !cluster.has(SourceId::MANIFESTS);
        if std::mem::replace(&mut self.has_no_problems, has_none) && has_none {
            return 0;
        }
        let reports = cluster.reports();
        let problems: Vec<Problem> = reports
            .iter()
            .flat_map(|(&source, report)| {
                report
                    .problems
                    .iter()
                    .map(move |problem| problem_status(source, problem))
            })
            .collect();
        let unknown_kinds = unknown_kinds(&reports);
        let count = problems.len();
        self.show_as(|status| {
            let mut is_news = status.problems != problems || status.unknown_kinds != unknown_kinds;
            status.problems = problems;
            status.unknown_kinds = unknown_kinds;
            if cluster.has(SourceId::MANIFESTS) {
                let rows = sources::of_manifests(cluster, &status.sources, Timestamp::now());
                is_news |= replace_sources(status, SourceId::MANIFESTS, rows);
            }
            news_or(Unwritten::Progress, is_news)
        });
        count
    }

    /// Says how a source is, each kind for itself. Whoever reads it has logged what is wrong.
    pub fn sources(&self, source: SourceId, mut rows: Vec<Source>) {
        rows.sort_by(|a, b| a.kind.cmp(&b.kind));
        let name = source.to_string();
        self.show_as(|status| {
            let before = status.sources.iter().filter(|row| row.source == name);
            if before.eq(&rows) {
                return Unwritten::Nothing;
            }
            let is_news = replace_sources(status, source, rows);
            news_or(Unwritten::Progress, is_news)
        });
    }

    /// Says which API server is asked.
    pub fn api_server(&self, candidate: Option<String>) {
        self.show_news(|status| {
            let is_news = status.api_server != candidate;
            status.api_server = candidate;
            is_news
        });
    }

    /// Remarks that another version's tables could not be taken over. Whoever loads has logged it.
    pub fn inheritance(&mut self, inheritance: &Inheritance) {
        self.of_start = match inheritance {
            Inheritance::None | Inheritance::From(_) => Vec::new(),
            lost @ Inheritance::Lost(_) => vec![Remark {
                object: None,
                field: None,
                message: lost.to_string(),
            }],
        };
        let remarks = self.of_start.clone();
        self.show(|status| status.remarks = remarks);
    }

    /// Takes in that these objects have changed, and says what there is to remark of them.
    pub fn objects(&mut self, changed: &BTreeSet<ObjectRef>, cluster: &Cluster) {
        if !Idle::concerns(changed) {
            return;
        }
        self.idle.update(changed, cluster);
        let mut remarks = self.of_start.clone();
        remarks.extend(remarks_status(&self.idle));
        self.show(|status| status.remarks = remarks);
    }

    /// Says where the agent answers. Whoever listens has logged it.
    pub fn listeners(&self, listening: &Listening) {
        let listeners = listening
            .iter()
            .map(|(listener, outcome)| Listener {
                purpose: listener.purpose.to_string(),
                address: outcome.as_ref().unwrap_or(&listener.address).to_string(),
                error: outcome.as_ref().err().cloned(),
            })
            .collect();
        self.show(|status| status.listeners = listeners);
    }

    /// Says how it stands with kube-proxy. Whoever knows has logged it.
    pub fn kube_proxy(&self, state: kube_proxy::State) {
        self.show(|status| status.kube_proxy = state);
    }

    /// Says which programs are loaded: some are when the first interface needs them.
    pub fn programs(&self, loaded: &[ProgramReport]) {
        self.show_news(|status| {
            let programs = programs_status(loaded);
            let is_news = status.programs != programs;
            status.programs = programs;
            is_news
        });
    }

    /// Says how it stands with the fast path, now that the programs have been told. Whoever knows
    /// why has logged it.
    pub fn fast_path(&self, state: fast_path::State) {
        self.show_news(|status| {
            let state = Some(state);
            let is_news = status.fast_path != state;
            status.fast_path = state;
            is_news
        });
    }

    /// Says what a synchronisation did.
    pub fn synchronised(&mut self, done: Synchronised<'_>) {
        let Synchronised {
            took,
            writes,
            desired,
            different,
        } = done;
        let result = match &different {
            Different::Everything { .. } => self.endpoints.update(&desired.unchosen),
            Different::Services(services) | Different::Endpoints(services) => {
                self.endpoints.update_of(services, &desired.unchosen)
            }
        };
        self.shown(result);
        let policies = self.idle.policies();
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.show_as(|status| {
            let was_well = status.ready && status.error.is_none();
            status.ready = true;
            status.generation += 1;
            status.error = None;
            status.policies = policies;
            for table in &mut status.tables {
                let entries = desired.contents.entries(&table.name);
                table.entries = entries.unwrap_or(table.entries);
            }
            status.last_sync = Some(Sync {
                at: Timestamp::now(),
                microseconds,
                writes,
            });
            match different {
                Different::Everything {
                    interfaces,
                    network_interfaces,
                } => {
                    show_skipped(status, &desired.skipped);
                    status.interfaces = pods_status(interfaces, &desired.pods);
                    status.network_interfaces = interfaces_status(network_interfaces);
                }
                // Nothing is left out that was not before.
                Different::Services(_) => {}
                // Hundreds of them a second are no news.
                Different::Endpoints(_) => {
                    debug!(writes, microseconds, "synchronised endpoints");
                    return news_or(Unwritten::Progress, !was_well);
                }
            }
            status.service_ports = desired.service_ports;
            if !was_well || writes > 0 {
                info!(
                    writes,
                    service_ports = status.service_ports,
                    interfaces = status.interfaces.len() + status.network_interfaces.len(),
                    microseconds,
                    "synchronised"
                );
            }
            Unwritten::News
        });
    }

    /// Says that a synchronisation failed.
    pub fn failed(&self, error: &anyhow::Error) {
        let message = format!("{error:#}");
        self.show(|status| {
            remember(&mut status.recent_errors, message.clone(), Timestamp::now());
            status.error = Some(message);
        });
    }

    /// Says what went wrong and is no more. Whoever has overcome it has logged it.
    pub fn overcome(&self, message: String) {
        self.show(|status| remember(&mut status.recent_errors, message, Timestamp::now()));
    }

    fn show(&self, change: impl FnOnce(&mut Status)) {
        self.show_as(|status| {
            change(status);
            Unwritten::News
        });
    }

    /// Shows a change that says of itself whether it is one.
    fn show_news(&self, change: impl FnOnce(&mut Status) -> bool) {
        self.show_as(|status| news_or(Unwritten::Nothing, change(status)));
    }

    /// Shows a change that says of itself what it is.
    fn show_as(&self, change: impl FnOnce(&mut Status) -> Unwritten) {
        let mut how = Unwritten::Nothing;
        self.told.change(|status| how = change(status));
        if how != Unwritten::Nothing {
            self.file.changed(how);
        }
    }

    fn shown(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.is_unwritable = false,
            // The tables matter more than what is said about them.
            Err(error) if !self.is_unwritable => {
                self.is_unwritable = true;
                warn!("`weir service get` will show old news: {error:#}");
            }
            Err(_) => {}
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // The file is written once more as it ends.
        self.show(|status| status.ended = Some(Timestamp::now()));
    }
}

const fn news_or(otherwise: Unwritten, is_news: bool) -> Unwritten {
    if is_news { Unwritten::News } else { otherwise }
}

/// The rows of a source are now these. Tells whether that is news: how a kind is, not how many there
/// are of it and when it was last heard of.
fn replace_sources(status: &mut Status, source: SourceId, rows: Vec<Source>) -> bool {
    let name = source.to_string();
    let (before, others): (Vec<_>, Vec<_>) = std::mem::take(&mut status.sources)
        .into_iter()
        .partition(|row| row.source == name);
    let is_as_before = |row: &Source| {
        let is_same =
            |it: &Source| (&it.kind, it.state, &it.error) == (&row.kind, row.state, &row.error);
        before.iter().any(is_same)
    };
    let is_news = before.len() != rows.len() || !rows.iter().all(is_as_before);
    for message in new_errors(&before, &rows) {
        remember(&mut status.recent_errors, message, Timestamp::now());
    }
    let sources = &mut status.sources;
    *sources = others;
    sources.extend(rows);
    sources.sort_by(|a, b| (&a.source, &a.kind).cmp(&(&b.source, &b.kind)));
    is_news
}

fn programs_status(loaded: &[ProgramReport]) -> Vec<Program> {
    let loaded = loaded.iter();
    loaded
        .map(|program| Program {
            name: program.name.clone(),
            verified_instructions: program.verified_instructions,
        })
        .collect()
}

/// What was left out; what was not so the last time is logged.
fn show_skipped(status: &mut Status, skipped: &[compile::Skipped]) {
    let skipped: Vec<Skipped> = skipped.iter().map(skipped_status).collect();
    let known: BTreeSet<(&str, &str)> = status.skipped.iter().map(text_of).collect();
    for skipped in skipped.iter().filter(|it| !known.contains(&text_of(it))) {
        warn!(object = skipped.object, "not served: {}", skipped.reason);
    }
    status.skipped = skipped;
}

fn text_of(skipped: &Skipped) -> (&str, &str) {
    (&skipped.object, &skipped.reason)
}

/// What has begun to go wrong with a source. Where all its kinds have the same fault, that is one.
fn new_errors(before: &[Source], now: &[Source]) -> BTreeSet<String> {
    let is_new = |row: &&Source| {
        let earlier = before.iter().find(|it| it.kind == row.kind);
        earlier.is_none_or(|earlier| earlier.error != row.error)
    };
    let failing = now.iter().filter(|row| match row.state {
        SourceState::Failing | SourceState::Forbidden => true,
        SourceState::Synced | SourceState::Listing | SourceState::Absent => false,
    });
    failing
        .filter(is_new)
        .filter_map(|row| Some(format!("{}: {}", row.source, row.error.as_ref()?)))
        .collect()
}

/// The newest error first; one that comes again and again is one.
fn remember(errors: &mut Vec<RecentError>, message: String, at: Timestamp) {
    let times = match errors.first() {
        Some(last) if last.message == message => errors.remove(0).times.saturating_add(1),
        Some(_) | None => 1,
    };
    let error = RecentError { at, times, message };
    errors.insert(0, error);
    errors.truncate(REMEMBERED);
}

fn interfaces_status(interfaces: Vec<(u32, String)>) -> Vec<Interface> {
    interfaces
        .into_iter()
        .map(|(index, name)| Interface { index, name })
        .collect()
}

fn pods_status(
    interfaces: Vec<(u32, String)>,
    pods: &BTreeMap<u32, PodReport>,
) -> Vec<PodInterface> {
    let policies = |policies: &BTreeSet<PolicyRef>| -> Vec<String> {
        policies.iter().map(ToString::to_string).collect()
    };
    let interfaces = interfaces.into_iter();
    interfaces
        .map(|(index, name)| {
            let report = pods.get(&index);
            let state = report.map_or(PodState::UNKNOWN, |report| report.state);
            PodInterface {
                index,
                name,
                pod: report.and_then(|it| it.pod.as_ref().map(ToString::to_string)),
                state: pod_state(state).to_owned(),
                ingress: report.map_or(Vec::new(), |report| policies(&report.ingress)),
                egress: report.map_or(Vec::new(), |report| policies(&report.egress)),
            }
        })
        .collect()
}

/// What may be known of a pod.
pub const POD_STATES: [PodState; 3] = [PodState::UNKNOWN, PodState::ISOLATED, PodState::PROGRAMMED];

/// What is known of a pod, in a word.
#[must_use]
pub const fn pod_state(state: PodState) -> &'static str {
    match state {
        PodState::PROGRAMMED => "programmed",
        PodState::ISOLATED => "isolated",
        _ => "unknown",
    }
}

fn unknown_kinds(reports: &BTreeMap<SourceId, Report>) -> Vec<String> {
    let kinds: BTreeSet<&String> = reports
        .values()
        .flat_map(|report| &report.unknown_kinds)
        .collect();
    kinds.into_iter().cloned().collect()
}

/// A problem as the status has it.
#[must_use]
pub fn problem_status(source: SourceId, problem: &model::Problem) -> Problem {
    Problem {
        source: source.to_string(),
        object: problem.object.as_ref().map(ToString::to_string),
        file: problem.file.clone(),
        line: problem.line,
        field: problem.field.as_ref().map(ToString::to_string),
        message: problem.message.clone(),
    }
}

/// What there is to remark, as the status has it.
#[must_use]
pub fn remarks_status(idle: &Idle) -> Vec<Remark> {
    let remarks = idle.remarks().map(|remark| Remark {
        object: remark.object.as_ref().map(ToString::to_string),
        field: remark.field.as_ref().map(ToString::to_string),
        message: remark.message,
    });
    remarks.collect()
}

/// Something left out, as the status has it.
#[must_use]
pub fn skipped_status(skipped: &compile::Skipped) -> Skipped {
    Skipped {
        object: skipped.subject(),
        reason: skipped.reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_remembered_newest_first_and_repeated_ones_once() {
        let mut errors = Vec::new();
        let at = |second| Timestamp::from_second(second).unwrap();
        for (second, message) in (0..).zip(["a", "b", "b", "b", "a"]) {
            remember(&mut errors, message.to_owned(), at(second));
        }
        let seen: Vec<_> = errors
            .iter()
            .map(|it| (&*it.message, it.times, it.at))
            .collect();
        assert_eq!(seen, [("a", 1, at(4)), ("b", 3, at(3)), ("a", 1, at(0))]);
        for second in 0..100 {
            remember(&mut errors, second.to_string(), at(second));
        }
        assert_eq!(errors.len(), REMEMBERED);
    }

    #[test]
    fn a_sources_error_is_remembered_when_it_begins() {
        let row = |kind: &str, error: Option<&str>| Source {
            source: "api".to_owned(),
            kind: kind.to_owned(),
            state: match error {
                Some(_) => SourceState::Failing,
                None => SourceState::Synced,
            },
            objects: 0,
            since: Timestamp::UNIX_EPOCH,
            last_news: None,
            error: error.map(str::to_owned),
            resource_version: None,
        };
        let well = [row("Pod", None), row("Service", None)];
        let gone = [row("Pod", Some("refused")), row("Service", Some("refused"))];
        let errors = new_errors(&well, &gone);
        assert_eq!(Vec::from_iter(errors), ["api: refused"]);
        assert!(new_errors(&gone, &gone).is_empty(), "it goes on");
        assert!(new_errors(&gone, &well).is_empty(), "it has ended");
    }
}
