//! The loop, and the only owner of state: event → model → schedule → compile → diff → apply →
//! report.
//!
//! Invariants:
//! - Nothing is written before every source has delivered its first complete list.
//! - One task owns the model and the tables; everything else sends it messages.
//! - What cannot be done is reported and tried again; what was already programmed stays.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    runtime::Handle,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};
use weir_ebpf::tables::{Policy, name};

use crate::{
    api_server::ApiServer,
    attach::{self, AgentLock, Dataplane, PinsLock, Role, destroy_stale_udp_sockets},
    compile::{Capacities, Compiler, Extent as Compiled},
    config::Config,
    fast_path::{self, FastPath, Places},
    kube_proxy::{self, Takeover},
    maps::{
        Contents,
        diff::{Limits, diff_parts, diff_within},
        flows::{may_leave_stale, may_strand_sockets},
        kernel::{KernelTables, Part},
        pins::Pins,
        succession::Inheritance,
    },
    memory::Spare,
    model::{Changed, Cluster, Event, SourceId},
    observe::{
        listeners::{Listening, Purpose},
        metrics::Extent,
        present::{Present, Wish},
        report::{Different, Reporter, Synchronised},
        status::Source,
        surface::{self, Surface},
    },
    own_node::OwnNode,
    schedule::Schedule,
    sources::{
        api::{self, Freshness, Server},
        cni, manifests,
        node::{self, NodeState},
        row::Row,
    },
};

/// Runs until it is told to end, or cannot go on. Programs and tables stay in either case.
///
/// Whoever answers others, and whoever looks at the node, does so `beside` the way from the API
/// server to the tables: neither waits for the other.
///
/// # Errors
/// Whatever keeps the agent from starting, and the end of a source.
pub async fn run(config: Config, packets_are_logged: bool, beside: &Handle) -> Result<()> {
    let mut shutdown = Shutdown::new()?;
    let lock_file = config.lock_file();
    let _lock = tokio::select! {
        lock = AgentLock::wait(&lock_file) => lock.context("take the lock in --run-dir")?,
        () = shutdown.requested() => return Ok(()),
    };
    let pins = Pins::new(&config.bpffs);
    let pins_lock = tokio::select! {
        lock = PinsLock::wait(&pins) => lock.context("take the lock in --bpffs")?,
        () = shutdown.requested() => return Ok(()),
    };
    let (surface, dataplane) = {
        let _beside = beside.enter();
        (Surface::open(&config), load(&config, packets_are_logged)?)
    };

    let (sender, events) = mpsc::channel(64);
    let mut sources = tokio::task::JoinSet::new();
    if let Some(manifests) = config.manifests.clone() {
        sources.spawn_on(manifests::watch::run(manifests, sender.clone()), beside);
    }
    let api_server = config.api_server.clone().map(|access| {
        let metrics = surface.metrics();
        let server = Server::new(access, metrics.rest_client.clone());
        let freshness = Freshness::new(metrics.sources.clone());
        let node = config.node_name.clone();
        sources.spawn(api::run(
            Arc::clone(&server),
            node.clone(),
            freshness.clone(),
            sender.clone(),
        ));
        ApiServer::new(server, freshness, node)
    });
    let (records_sender, records) = watch::channel(None);
    let results = config.cni_results_dir.clone();
    let rows = [
        Row::new(SourceId::CNI, "Record"),
        Row::new(SourceId::NETLINK, "Interface"),
    ];
    let told = rows.each_ref().map(Row::told);
    let [records_row, node_row] = rows;
    sources.spawn_on(
        cni::watch::run(results, records_sender, sender, records_row),
        beside,
    );
    let (sender, nodes) = watch::channel(None);
    sources.spawn_on(
        node::watch(config.netns_dir.clone(), sender, node_row),
        beside,
    );

    let mut agent = {
        let _beside = beside.enter();
        let present = Present::open(&config, &dataplane)?;
        let takeover = Takeover::start(config.cleanup_kube_proxy);
        Agent::new(
            config, dataplane, pins_lock, surface, present, api_server, takeover,
        )?
    };
    tokio::select! {
        result = agent.work(events, nodes, records, told) => result,
        Some(ended) = sources.join_next() => match ended.context("a source's task")? {
            Ok(()) => bail!("a source ended though nobody asked it to"),
            Err(error) => Err(error),
        },
        () = shutdown.requested() => {
            info!("ending; programs and tables go on without the agent (`weir cleanup` removes them)");
            Ok(())
        }
    }
}

/// Loads the programs and takes over the tables of an earlier agent.
fn load(config: &Config, packets_are_logged: bool) -> Result<Dataplane> {
    let mut at_once = attach::of_every_node();
    if config.fast_path != fast_path::Choice::Off {
        at_once.insert(attach::HAND_OVER);
    }
    let mut dataplane = Dataplane::load(&attach::Options {
        object: attach::object::object()?,
        bpffs: &config.bpffs,
        capacities: capacities(config),
        tc: config.tc.into(),
        log_level: if packets_are_logged {
            attach::LOG_DEBUG
        } else {
            0
        },
        at_once,
    })?;
    for kept in dataplane.kept_sizes() {
        warn!("{kept}");
    }
    match dataplane.inheritance() {
        Inheritance::None => {}
        taken @ Inheritance::From(_) => info!("{taken}"),
        lost @ Inheritance::Lost(_) => warn!("{lost}"),
    }
    if packets_are_logged {
        attach::follow_log(dataplane.ebpf_mut())?;
    }
    info!(
        programs = dataplane.programs().len(),
        tc = %dataplane.tc_mode(),
        "loaded"
    );
    Ok(dataplane)
}

fn capacities(config: &Config) -> BTreeMap<&'static str, u32> {
    let mut capacities = attach::default_capacities();
    capacities.insert(name::FRONTENDS, config.max_frontends);
    capacities.insert(name::BACKENDS, config.max_backends);
    capacities.insert(name::SERVING, config.max_backends);
    capacities.insert(name::FLOWS, config.max_flows);
    capacities
}

struct Agent {
    config: Config,
    cluster: Cluster,
    node: OwnNode,
    compiler: Compiler,
    dataplane: Dataplane,
    pins_lock: PinsLock,
    tables: KernelTables,
    held: Held,
    /// How many entries the tables hold at most.
    capacities: BTreeMap<&'static str, u32>,
    /// The interfaces that programs were attached to; `None` before the first time.
    attached: Option<BTreeMap<u32, Role>>,
    schedule: Schedule,
    /// How often it was looked whether anything is to be repaired.
    repairs: u32,
    /// Are the programs' own tables to be looked through with the next synchronisation, whatever it
    /// changes?
    forgets_again: bool,
    /// When they are to be looked through again: once more after each time, since a program that met
    /// the tables of before may have written its entry just after that, and after the start, since
    /// an agent before may have been killed before it did so.
    forgets_at: Option<Instant>,
    spare: Spare,
    reporter: Reporter,
    surface: Surface,
    present: Present,
    api_server: Option<ApiServer>,
    takeover: Takeover,
    fast_path: FastPath,
}

/// Every other repair compares a part of the tables, so that each table is compared once in
/// `--resync-seconds`: with ten thousand services that is the dearest thing which a quiet agent does,
/// and nobody else writes there. All repairs look at what others do take away: pins, links, interfaces.
const REPAIRS: u32 = Part::TURNS;

/// Of so many repairs one compiles everything afresh, and reads all tables: with the usual
/// `--resync-seconds` once in an hour, as kube-proxy writes everything anew (`FullSyncPeriod`).
const AFRESH: u32 = 6 * REPAIRS;

/// Longer than any program takes that has met the tables as they were before.
const PACKET: Duration = Duration::from_secs(1);

/// What the tables hold.
enum Held {
    /// This, as it was read.
    Read(Box<Contents>),
    /// What is desired; the revision of policies is the tables' own.
    Desired(Policy),
}

impl Agent {
    fn new(
        config: Config,
        dataplane: Dataplane,
        pins_lock: PinsLock,
        surface: Surface,
        present: Present,
        api_server: Option<ApiServer>,
        takeover: Takeover,
    ) -> Result<Self> {
        let tables = dataplane.tables()?;
        let actual = tables
            .read()
            .context("read the tables of an earlier agent")?;
        surface.read_from(dataplane.tables()?);
        let capacities = tables.capacities();
        let mut reporter = Reporter::new(
            &config,
            capacities.clone(),
            dataplane.programs(),
            present.told(),
        )?;
        reporter.inheritance(dataplane.inheritance());
        reporter.kube_proxy(takeover.state());
        let is_supported = dataplane.features().redirect_peer;
        let fast_path = FastPath::start(config.fast_path, is_supported, dataplane.pins().clone());
        reporter.fast_path(fast_path.state());
        Ok(Self {
            cluster: Cluster::default(),
            node: OwnNode::new(&config)?,
            compiler: Compiler::new(&actual),
            schedule: Schedule::new(config.resync / REPAIRS),
            repairs: 0,
            forgets_again: false,
            forgets_at: None,
            spare: Spare::default(),
            config,
            dataplane,
            pins_lock,
            tables,
            held: Held::Read(Box::new(actual)),
            capacities,
            attached: None,
            reporter,
            surface,
            present,
            api_server,
            takeover,
            fast_path,
        })
    }

    async fn work(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        mut nodes: watch::Receiver<Option<NodeState>>,
        mut records: watch::Receiver<Option<Vec<cni::Record>>>,
        [mut records_row, mut node_row]: [watch::Receiver<Source>; 2],
    ) -> Result<()> {
        loop {
            tokio::select! {
                Some(event) = events.recv() => {
                    self.note(event);
                    while let Ok(event) = events.try_recv() {
                        self.note(event);
                    }
                    // To wait for what is due already would be to ask everybody else once more.
                    if self.is_ready() && self.schedule.due(Instant::now()).is_some_and(is_past) {
                        self.show_rows(&mut records_row, &mut node_row);
                        self.synchronise();
                    }
                }
                Ok(()) = nodes.changed() => {
                    let state = nodes.borrow_and_update().clone();
                    if let Some(state) = &state {
                        self.fast_path.note(Places::of(state));
                    }
                    self.node.note(state);
                    self.queue_everything();
                }
                Ok(()) = records.changed() => {
                    self.node.note_records(records.borrow_and_update().clone());
                    self.queue_everything();
                }
                wish = self.present.wish() => match wish {
                    Wish::Know(ask) => {
                        self.present.answer(ask, &self.cluster, self.compiler.desired());
                    }
                    Wish::Flags => self.queue_everything(),
                },
                () = changed(&mut self.api_server) => self.show_sources(),
                Ok(()) = records_row.changed() => {
                    self.show_source(SourceId::CNI, &mut records_row);
                }
                Ok(()) = node_row.changed() => {
                    self.show_source(SourceId::NETLINK, &mut node_row);
                }
                listening = self.surface.listeners_changed() => {
                    self.takeover.health_is_ours(serves_health(&listening));
                    self.reporter.listeners(&listening);
                    if let Some(api_server) = &mut self.api_server {
                        api_server.see_listeners(&listening);
                    }
                }
                state = self.takeover.changed() => {
                    self.reporter.kube_proxy(state);
                    self.queue_everything();
                }
                () = self.fast_path.changed() => self.queue_everything(),
                () = due(&self.schedule), if self.is_ready() => {
                    self.show_rows(&mut records_row, &mut node_row);
                    self.synchronise();
                }
                () = reached(self.forgets_at) => {
                    self.forgets_at = None;
                    self.forgets_again = true;
                    self.queue();
                }
                () = reached(self.spare.due()) => self.spare.give_back(),
            }
        }
    }

    /// Has every source delivered its first complete list?
    fn is_ready(&self) -> bool {
        let is_ready = |source| self.cluster.is_ready(source);
        self.node.is_known()
            && (self.config.manifests.is_none() || is_ready(SourceId::MANIFESTS))
            && (self.config.api_server.is_none() || is_ready(SourceId::API))
    }

    fn show_sources(&mut self) {
        if let Some(api_server) = &self.api_server {
            self.reporter.api_server(api_server.used());
            self.reporter.sources(SourceId::API, api_server.freshness());
        }
    }

    /// One that lists no kinds of the API's.
    fn show_source(&mut self, source: SourceId, row: &mut watch::Receiver<Source>) {
        let row = row.borrow_and_update().clone();
        self.reporter.sources(source, vec![row]);
    }

    /// That they have been heard of is no event: shown with what is one.
    fn show_rows(
        &mut self,
        records: &mut watch::Receiver<Source>,
        node: &mut watch::Receiver<Source>,
    ) {
        self.show_source(SourceId::CNI, records);
        self.show_source(SourceId::NETLINK, node);
    }

    fn note(&mut self, event: Event) {
        let changed = self.cluster.apply(event);
        if let Changed::Objects(objects) = &changed {
            self.reporter.objects(objects, &self.cluster);
        }
        if changed != Changed::Nothing {
            let problems = self.reporter.problems(&self.cluster);
            self.surface.see_problems(problems);
        }
        if let Changed::Objects(objects) = changed {
            self.present.objects_changed();
            self.compiler.note(&objects, &self.cluster);
            self.surface.changed(&objects, &self.cluster);
            let node = self.cluster.node(&self.config.node_name);
            self.surface.see_node(node);
            self.queue();
        }
    }

    /// Something else than objects has changed.
    fn queue_everything(&mut self) {
        self.compiler.note_everything();
        self.queue();
    }

    /// Something has to be written, as soon as that can be.
    fn queue(&mut self) {
        self.schedule.note();
        // What waits for the sources' first lists is not late.
        if self.is_ready() {
            self.surface.queued();
        }
    }

    fn synchronise(&mut self) {
        let start = Instant::now();
        self.schedule.begin(start);
        let extent = if self.schedule.is_repair() || self.attached.is_none() {
            Extent::Full
        } else {
            Extent::Partial
        };
        let fast_path = self.fast_path.state();
        let result = self.bring_up_to_date(&fast_path);
        let now = Instant::now();
        let took = now - start;
        self.schedule.done(result.is_ok(), now);
        self.surface.ended(extent, took);
        match result {
            Ok((compiled, writes)) => {
                match compiled {
                    Compiled::Parts {
                        policies: false, ..
                    } => {}
                    Compiled::Parts { .. } | Compiled::Everything => self.spare.used(now),
                }
                let desired = self.compiler.desired();
                self.surface.synchronised(surface::Synchronised {
                    desired,
                    extent: &compiled,
                    writes,
                    interfaces: self.node.counts(),
                });
                self.reporter.synchronised(Synchronised {
                    took,
                    writes,
                    desired,
                    different: match &compiled {
                        Compiled::Parts {
                            services,
                            frontends: None,
                            policies: false,
                            ..
                        } => Different::Endpoints(services),
                        Compiled::Parts {
                            services,
                            policies: false,
                            ..
                        } => Different::Services(services),
                        Compiled::Parts { .. } | Compiled::Everything => Different::Everything {
                            interfaces: self.node.pod_interfaces(),
                            network_interfaces: self.node.network_interfaces(),
                        },
                    },
                });
                self.surface.see_fast_path(fast_path.is_on);
                self.reporter.fast_path(fast_path);
                self.present.synchronised();
                self.takeover.synchronised();
            }
            Err(error) => {
                self.compiler.note_everything();
                error!("not up to date, what was programmed stays in force: {error:#}");
                self.surface.failed();
                self.reporter.failed(&error);
            }
        }
    }

    /// Gives what was compiled or compared, and how many entries were written or removed.
    fn bring_up_to_date(&mut self, fast_path: &fast_path::State) -> Result<(Compiled, usize)> {
        let is_repair = self.schedule.is_repair();
        if is_repair {
            self.look_for_repairs()?;
        }
        let tables = &self.capacities;
        let capacities = table_capacities(tables);
        let (node, config, cluster) = (&mut self.node, &self.config, &self.cluster);
        let wanted = self.present.flags().with(self.takeover.flags());
        let wanted = wanted.with(fast_path.flags());
        let extent = self.compiler.compile(
            cluster,
            &config.node_name,
            || node.context(config, cluster, tables),
            &capacities,
            |desired| {
                let flags = &mut desired.contents.policy.flags;
                *flags = flags.with(wanted);
            },
        );
        let was_read = matches!(self.held, Held::Read(_));
        let extent = if was_read {
            Compiled::Everything
        } else {
            extent
        };
        let before = self.compiler.take_before();
        let desired = &self.compiler.desired().contents;
        // Where this fails some of it may have been written; the next attempt reads the tables.
        let actual = match std::mem::replace(&mut self.held, Held::Desired(Policy::default())) {
            Held::Read(read) => *read,
            Held::Desired(policy) => Contents { policy, ..before },
        };
        let limits = Limits {
            backends: capacities.backends as usize,
            source_ranges: capacities.source_ranges as usize,
            pods: capacities.pods as usize,
            pod_addrs: capacities.pod_addrs as usize,
            peers: capacities.peers as usize,
            peer_ranges: capacities.peer_ranges as usize,
            rules: capacities.rules as usize,
        };
        let plan = match &extent {
            Compiled::Everything => diff_within(desired, &actual, limits),
            Compiled::Parts {
                numbers,
                frontends,
                policies,
                ..
            } => {
                let numbers = (numbers, frontends.as_ref());
                diff_parts(desired, &actual, numbers, *policies, limits)
            }
        };
        let leaves_stale = may_leave_stale(&plan, &actual);
        let forgets = leaves_stale || self.forgets_again || is_repair && was_read;
        let may_strand = is_repair || leaves_stale || may_strand_sockets(&plan, &actual);
        self.tables.apply(&plan)?;
        self.held = Held::Desired(plan.policy().unwrap_or(actual.policy));
        drop(actual);
        // One interface that refuses its programs keeps nobody else from what is theirs.
        let attached = match extent {
            // The interfaces are what they were.
            Compiled::Parts { .. } if !is_repair => Ok(()),
            Compiled::Parts { .. } | Compiled::Everything => self
                .mend_pins(is_repair)
                .and_then(|()| self.attach(is_repair)),
        };
        if forgets {
            let contents = &self.compiler.desired().contents;
            self.tables.forget_stale(contents)?;
            self.forgets_again = false;
        }
        if leaves_stale || was_read {
            self.forgets_at = Some(Instant::now() + PACKET);
        }
        if may_strand {
            self.close_stale_sockets()?;
        }
        attached?;
        Ok((extent, plan.0.len()))
    }

    /// Finds out what has become of what is not told: of the tables, a part at a time, and of the
    /// ports.
    fn look_for_repairs(&mut self) -> Result<()> {
        self.repairs = self.repairs.wrapping_add(1);
        // What is desired follows from what was noted. Every now and then it is compiled afresh
        // all the same, should that ever not be so.
        let is_afresh = self.repairs.is_multiple_of(AFRESH);
        let is_as_written = match &self.held {
            Held::Desired(policy) if !is_afresh && !self.schedule.is_retry() => {
                let contents = &self.compiler.desired().contents;
                let differing = match Part::of_turn(self.repairs) {
                    Some(part) => self.tables.differing(part, contents, *policy)?,
                    None => None,
                };
                if let Some(table) = differing {
                    warn!("{table} holds something else than was written there, and is repaired");
                }
                differing.is_none()
            }
            Held::Desired(_) | Held::Read(_) => false,
        };
        if !is_as_written {
            self.held = Held::Read(Box::new(self.tables.read()?));
        }
        let has_other_ports = self.node.read_snat_ports(&self.config)?;
        if has_other_ports || is_afresh {
            self.compiler.note_everything();
        }
        Ok(())
    }

    /// Puts back pins that have gone from under us, every now and then.
    fn mend_pins(&mut self, is_repair: bool) -> Result<()> {
        // Before the first time not everything is pinned.
        if !is_repair || self.attached.is_none() {
            return Ok(());
        }
        let mended = self.dataplane.mend_pins(&mut self.pins_lock)?;
        if !mended.is_empty() {
            let message = format!(
                "pins were gone from {}: {} tables and {} links were pinned anew, {} links ended \
                 and are made anew",
                self.dataplane.pins().root().display(),
                mended.maps.len(),
                mended.links.len(),
                mended.ended.len(),
            );
            warn!("{message}");
            self.reporter.overcome(message);
            self.attached = None;
        }
        Ok(())
    }

    /// Programs meet tables that are complete: they are attached after the first time these were
    /// written.
    fn attach(&mut self, is_repair: bool) -> Result<()> {
        let wanted = self.node.roles();
        if !is_repair && self.attached.as_ref() == Some(&wanted) {
            return Ok(());
        }
        if self.attached.is_none() {
            info!(
                interfaces = wanted.len(),
                "the tables are complete, attaching"
            );
            self.dataplane.attach_cgroup(&self.config.cgroup_root)?;
        }
        let report = self.dataplane.sync_interfaces(&wanted)?;
        self.reporter.programs(self.dataplane.programs());
        for attachment in &report.attached {
            info!("attached {attachment}");
        }
        for attachment in &report.removed {
            info!("detached {attachment}");
        }
        let mut failed = report.failed.into_iter();
        let first = failed.next();
        for (attachment, error) in failed {
            warn!("attach {attachment}: {error:#}");
        }
        match first {
            None => {
                // Only now does no program use another layout's tables any more.
                for version in self.dataplane.retire_other_layouts()? {
                    info!("removed the tables of layout {version}");
                }
                self.attached = Some(wanted);
                Ok(())
            }
            Some((attachment, error)) => Err(error.context(format!("attach {attachment}"))),
        }
    }

    /// A connected UDP socket of the node meets no program again: when its backend goes, it is
    /// closed, and the application opens it anew.
    fn close_stale_sockets(&self) -> Result<()> {
        let contents = &self.compiler.desired().contents;
        let closed = destroy_stale_udp_sockets(contents, &self.tables)?;
        if closed > 0 {
            info!(
                closed,
                "closed UDP sockets of the node whose backend is gone"
            );
        }
        Ok(())
    }
}

/// The sizes the tables really have, which an earlier agent may have chosen.
fn table_capacities(tables: &BTreeMap<&'static str, u32>) -> Capacities {
    let of = |table| tables.get(table).copied().unwrap_or(0);
    Capacities {
        frontends: of(name::FRONTENDS),
        services: of(name::SERVICES).min(of(name::SERVICE_NAMES)),
        backends: of(name::BACKENDS).min(of(name::SERVING)),
        source_ranges: of(name::SOURCE_RANGES),
        service_cidrs: of(name::SERVICE_CIDRS),
        pods: of(name::PODS),
        pod_addrs: of(name::POD_ADDRS),
        peers: of(name::PEERS),
        peer_ranges: of(name::PEER_RANGES),
        rules: of(name::RULES),
    }
}

/// Does the agent itself answer health checks where kube-proxy does?
fn serves_health(listening: &Listening) -> bool {
    listening.iter().any(|(listener, outcome)| {
        let address = outcome.as_ref().ok();
        listener.purpose == Purpose::Health
            && address.is_some_and(|address| address.port() == kube_proxy::HEALTH)
    })
}

async fn changed(api_server: &mut Option<ApiServer>) {
    match api_server {
        Some(api_server) => api_server.changed().await,
        None => std::future::pending().await,
    }
}

fn is_past(time: Instant) -> bool {
    time <= Instant::now()
}

async fn due(schedule: &Schedule) {
    reached(schedule.due(Instant::now())).await;
}

async fn reached(due: Option<Instant>) {
    match due {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// SIGTERM, as the kubelet sends it, or Ctrl-C.
struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
