//! Filters of the clsact qdisc: the packet hooks of kernels before TCX (Linux 6.6).
//!
//! A filter belongs to its interface and cannot be pinned: it stays when the agent ends. Ours
//! are known by priority, handle *and* name together; nothing else is ever replaced or removed.
//! The qdisc itself is removed only when we made it, which a directory beside the pins records,
//! and nothing is left in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    DecodeError, NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader, NlasIterator,
    parse_string, parse_u32,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage,
    TcOption,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::TcHook;
use super::netlink::Netlink;
use crate::maps::pins::Pins;

/// Filters run in the order of their priorities, lowest first; the kernel gives 49152 and below
/// to filters that ask for none. 22341 ("WE" in ASCII) is before those and behind the single
/// digits that people write.
const PRIORITY: u16 = 0x5745;
/// "Weir" in ASCII.
const POD_HANDLE: u32 = 0x5765_6972;
/// "WeiN". An interface whose role changes has both for a moment.
const NETWORK_HANDLE: u32 = 0x5765_694e;
/// The handle of every clsact qdisc.
const CLSACT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

impl TcHook {
    /// The name of our filter, as `tc filter show` prints it.
    fn filter_name(self) -> String {
        format!("weir:{}", self.name())
    }

    /// The number of our filter among those of its priority.
    fn handle(self) -> u32 {
        match self {
            Self::FromPod | Self::ToPod => POD_HANDLE,
            Self::FromNetwork | Self::ToNetwork => NETWORK_HANDLE,
        }
    }

    /// The half of the clsact qdisc.
    fn parent(self) -> TcHandle {
        TcHandle {
            major: TcHandle::CLSACT.major,
            minor: if self.is_egress() {
                TcHandle::MIN_EGRESS
            } else {
                TcHandle::MIN_INGRESS
            },
        }
    }
}

/// A filter, or a qdisc: as much of either as we need, so that another's filter with options
/// unknown to us does not stop the list.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    interface: u32,
    handle: u32,
    info: u32,
    kind: String,
    name: Option<String>,
    program: Option<u32>,
}

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
const TCM_LENGTH: usize = 20;

impl NetlinkDeserializable for Entry {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let header = TcHeader::parse(payload)?;
        let mut entry = Self {
            interface: u32::try_from(header.index).unwrap_or_default(),
            handle: header.handle.into(),
            info: header.info,
            kind: String::new(),
            name: None,
            program: None,
        };
        for attribute in NlasIterator::new(&payload[TCM_LENGTH..]) {
            let attribute = attribute?;
            match attribute.kind() {
                TCA_KIND => entry.kind = parse_string(attribute.value())?,
                // The kind comes first.
                TCA_OPTIONS if entry.kind == TcFilterBpf::KIND => {
                    for option in NlasIterator::new(attribute.value()) {
                        let option = option?;
                        match option.kind() {
                            TCA_BPF_NAME => entry.name = Some(parse_string(option.value())?),
                            TCA_BPF_ID => entry.program = Some(parse_u32(option.value())?),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(entry)
    }
}

impl Entry {
    fn stands_where_ours_does(&self, hook: TcHook) -> bool {
        self.handle == hook.handle() && self.info >> 16 == u32::from(PRIORITY)
    }

    fn is_ours(&self, hook: TcHook) -> bool {
        self.stands_where_ours_does(hook)
            && self.kind == TcFilterBpf::KIND
            && self.name.as_deref() == Some(hook.filter_name().as_str())
    }

    /// A chain's template and the head of a priority are listed too, with no handle.
    fn is_filter(&self) -> bool {
        self.handle != 0
    }
}

/// The filters and qdiscs of the calling thread's network namespace.
pub(super) struct Clsact {
    netlink: Netlink,
}

impl Clsact {
    pub(super) fn open() -> Result<Self> {
        let netlink = Netlink::open(NETLINK_ROUTE).context("open a netlink socket")?;
        Ok(Self { netlink })
    }

    /// The interfaces that have a clsact qdisc, whoever made it.
    pub(super) fn interfaces(&mut self) -> Result<Vec<u32>> {
        let found = self.qdiscs()?.into_iter();
        let clsact = found.filter(|entry| entry.kind == "clsact");
        Ok(clsact.map(|entry| entry.interface).collect())
    }

    /// The interfaces that have a qdisc at which filters see what comes in or goes out: clsact, or
    /// the older one of ingress alone.
    pub(super) fn with_filters(&mut self) -> Result<BTreeSet<u32>> {
        let found = self.qdiscs()?.into_iter();
        let filtering = found.filter(|entry| matches!(entry.kind.as_str(), "clsact" | "ingress"));
        Ok(filtering.map(|entry| entry.interface).collect())
    }

    fn qdiscs(&mut self) -> Result<Vec<Entry>> {
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(0));
        self.netlink.list(&question).context("list qdiscs")
    }

    /// The program of our filter at a hook.
    pub(super) fn program(&mut self, interface: u32, hook: TcHook) -> Result<Option<u32>> {
        Ok(self
            .filters(interface, hook)?
            .into_iter()
            .find(|entry| entry.is_ours(hook))
            .map(|entry| entry.program.unwrap_or_default()))
    }

    /// The filters at one side of an interface that are not ours, by kind and name.
    pub(super) fn foreign(&mut self, interface: u32, is_egress: bool) -> Result<Vec<String>> {
        let hooks = TcHook::ALL.map(|hook| (hook, hook.is_egress() == is_egress));
        let ours = hooks.iter().filter(|(_, is_there)| *is_there);
        let ours: Vec<TcHook> = ours.map(|(hook, _)| *hook).collect();
        let Some(first) = ours.first() else {
            return Ok(Vec::new());
        };
        let all = self.filters(interface, *first)?.into_iter();
        Ok(all
            .filter(Entry::is_filter)
            .filter(|entry| !ours.iter().any(|hook| entry.is_ours(*hook)))
            .map(|entry| match entry.name {
                Some(name) => format!("{} {name}", entry.kind),
                None => entry.kind,
            })
            .collect())
    }

    /// Sets our filter at a hook, in one step when there is one already.
    pub(super) fn set(
        &mut self,
        pins: &Pins,
        interface: u32,
        hook: TcHook,
        program: BorrowedFd<'_>,
    ) -> Result<()> {
        self.add_qdisc(pins, interface)?;
        if let Some(other) = self
            .filters(interface, hook)?
            .into_iter()
            .find(|entry| entry.stands_where_ours_does(hook) && !entry.is_ours(hook))
        {
            bail!(
                "priority {PRIORITY} handle {:#x} is taken by a {} filter ({}) that is not \
                 Weir's; remove it with `tc filter del`",
                other.handle,
                other.kind,
                other.name.unwrap_or_default()
            );
        }
        let descriptor = u32::try_from(program.as_raw_fd())?;
        let mut message = filter_message(interface, hook);
        message.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(descriptor)),
                TcOption::Bpf(TcFilterBpfOption::ProgName(hook.filter_name())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        // Without NLM_F_EXCL the filter with this handle is replaced under RCU.
        self.netlink
            .change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
            .context("set a filter")
    }

    /// Removes our filter at a hook. Absent is no error.
    pub(super) fn remove(&mut self, interface: u32, hook: TcHook) -> Result<()> {
        if self.program(interface, hook)?.is_none() {
            return Ok(());
        }
        let message = filter_message(interface, hook);
        absent_is_fine(
            self.netlink
                .change(RouteNetlinkMessage::DelTrafficFilter(message), 0),
        )
        .context("remove a filter")
    }

    /// Removes the qdiscs that we made and in which nothing is left. Gives back the interfaces.
    pub(super) fn remove_empty_qdiscs(&mut self, pins: &Pins) -> Result<Vec<u32>> {
        let mut removed = Vec::new();
        for interface in pins.marked_qdiscs()? {
            let mut used = false;
            for hook in TcHook::ALL {
                used |= self.filters(interface, hook)?.iter().any(Entry::is_filter);
            }
            if used {
                continue;
            }
            let message = qdisc_message(interface);
            absent_is_fine(
                self.netlink
                    .change(RouteNetlinkMessage::DelQueueDiscipline(message), 0),
            )
            .with_context(|| format!("remove the clsact qdisc of interface {interface}"))?;
            let mark = pins.qdisc(interface);
            fs::remove_dir(&mark).with_context(|| format!("remove {}", mark.display()))?;
            removed.push(interface);
        }
        Ok(removed)
    }

    fn add_qdisc(&mut self, pins: &Pins, interface: u32) -> Result<()> {
        let message = qdisc_message(interface);
        match self.netlink.change(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_EXCL,
        ) {
            Ok(()) => {
                let mark = pins.qdisc(interface);
                match fs::create_dir(&mark) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        Err(error).with_context(|| format!("create {}", mark.display()))
                    }
                    _ => Ok(()),
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(error).context("add the clsact qdisc"),
        }
    }

    /// All filters at a hook; none where the interface or its qdisc is absent.
    fn filters(&mut self, interface: u32, hook: TcHook) -> Result<Vec<Entry>> {
        let mut message = TcMessage::with_index(index(interface));
        message.header.parent = hook.parent();
        match self
            .netlink
            .list(&RouteNetlinkMessage::GetTrafficFilter(message))
        {
            Ok(entries) => Ok(entries),
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            Err(error) => Err(error).context("list filters"),
        }
    }
}

fn index(interface: u32) -> i32 {
    i32::try_from(interface).unwrap_or(i32::MAX)
}

fn filter_message(interface: u32, hook: TcHook) -> TcMessage {
    let mut message = TcMessage::with_index(index(interface));
    message.header.handle = hook.handle().into();
    message.header.parent = hook.parent();
    // The protocol is in network byte order.
    let protocol = u16::try_from(libc::ETH_P_ALL)
        .expect("ETH_P_ALL is 3")
        .to_be();
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(protocol);
    // Deletion is refused without the kind.
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    message
}

fn qdisc_message(interface: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index(interface));
    message.header.handle = CLSACT;
    message.header.parent = TcHandle::CLSACT;
    message.attributes = vec![TcAttribute::Kind("clsact".to_owned())];
    message
}

/// Does the error say that the interface, qdisc or filter is not there?
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        // EINVAL is the kernel's word for a qdisc or parent that is not there.
        Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)
    )
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}
