//! The exact-match cache before all else, as Open vSwitch has one before its tables: what was done
//! with a packet at a pod's interface is done with the next ones that are like it in everything that
//! was asked.
//!
//! Kept is what became of a packet that took a [shortcut], and, of pods that no policy speaks of, that
//! one went on as it was: then all that was asked was who sends it, and whether it is anybody's.
//!
//! What a shortcut asks takes some fifty nanoseconds by itself, what is none of our business more, and
//! both several times that where the node's stack has used the processor's caches meanwhile: it is
//! spread over more than forty lines of code. To find the same packet again takes half of them.
//!
//! Promises:
//! - What is done here is what would be done otherwise, and is counted at the same hooks.
//! - It is found out anew as soon as anything may be otherwise, and ten times a second.

use bytemuck::{Pod, Zeroable};

use super::{Decision, Glance, Step, Workspace, covers, flow, hand_over::traffic_class, shortcut};
use crate::{
    addr::{Addr, Port, Protocol},
    checksum, conntrack,
    nat::{self, V4_HOP_LIMIT},
    packet::{
        ETHER_TYPE_IPV4, Ipv4Header, Packet, PacketMut, TcpFlags, TcpHeader, Transport, UdpHeader,
    },
    tables::{
        CachedFlow, ExactMatch, FlowRole, Nanos, Place, PolicyFlags, Shortcut, Tables, Tuple,
    },
    verdict::Hook,
};

/// What was done with a packet that a pod sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The interface whose other end it is to be put into; zero: it goes on by itself.
    pub receiver: u32,
    /// What was decided at the sender's interface.
    pub here: Decision,
    /// The same at the receiver's, where it is put there.
    pub there: Decision,
}

/// Where a packet is seen at a pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The interface.
    interface: u32,
    /// See [`ExactMatch::came_by`].
    came_by: u32,
}

impl Sight {
    /// Of a packet at a pod's interface, see [`Sight::to_pod`]. `None`: the hook is another's.
    #[inline(always)]
    #[must_use]
    pub const fn at(hook: Hook, interface: u32, came_by: u32) -> Option<Self> {
        match hook {
            Hook::FromPod => Some(Self::from_pod(interface)),
            Hook::ToPod => Some(Self::to_pod(interface, came_by)),
            Hook::FromNetwork | Hook::ToNetwork | Hook::Socket => None,
        }
    }

    /// Of a packet that a pod sends by this interface.
    #[inline(always)]
    #[must_use]
    pub const fn from_pod(interface: u32) -> Self {
        Self {
            interface,
            came_by: ExactMatch::FROM_POD,
        }
    }

    /// Of one that a pod receives by this interface, and that came in by another, or, if that is zero,
    /// from the node.
    #[inline(always)]
    #[must_use]
    pub const fn to_pod(interface: u32, came_by: u32) -> Self {
        Self { interface, came_by }
    }

    /// Where what is done is kept of a tuple that has this place. A packet from pod to pod has the same
    /// at both of their interfaces.
    #[inline(always)]
    const fn place(self, place: Place) -> Place {
        match self.came_by {
            ExactMatch::FROM_POD => place,
            _ => place.beside(),
        }
    }
}

/// Does with a packet that a pod sends by this interface all that was done with one like it, but to
/// hand it over. `None`: there was none, and nothing has happened.
#[inline(always)]
pub fn repeat<P: PacketMut, T: Tables>(packet: &mut P, tables: &T, interface: u32) -> Option<Done> {
    if !packet.is_for_ip_layer() {
        return None;
    }
    repeat_at::<SENT, _, _>(packet, tables, Sight::from_pod(interface))
}

/// [`repeat`] of a packet that a pod receives by this interface, see [`Sight::to_pod`]: it goes on as
/// it is, and this was decided.
#[inline(always)]
pub fn repeat_received<P: PacketMut, T: Tables>(
    packet: &mut P,
    tables: &T,
    interface: u32,
    came_by: u32,
) -> Option<Decision> {
    let sight = Sight::to_pod(interface, came_by);
    repeat_at::<RECEIVED, _, _>(packet, tables, sight).map(|done| done.here)
}

// What follows is compiled once for each: what two programs share the compiler leaves a function,
// which the verifier would have to follow with pointers into packets.
const SENT: bool = true;
const RECEIVED: bool = false;

#[inline(always)]
fn repeat_at<const IS_SENT: bool, P: PacketMut, T: Tables>(
    packet: &mut P,
    tables: &T,
    sight: Sight,
) -> Option<Done> {
    if packet.segment_payload() != 0 || packet.ether_type() != ETHER_TYPE_IPV4 {
        return None;
    }
    let [_, protocol]: [u8; 2] = packet.peek(packet.network_offset() + V4_HOP_LIMIT)?;
    match Protocol(protocol) {
        Protocol::UDP => repeat_as::<UdpInV4, IS_SENT, _, _>(packet, tables, sight),
        Protocol::TCP => repeat_as::<TcpInV4, IS_SENT, _, _>(packet, tables, sight),
        _ => None,
    }
}

/// [`repeat_at`] for one protocol.
#[inline(always)]
fn repeat_as<H: Front, const IS_SENT: bool, P: PacketMut, T: Tables>(
    packet: &mut P,
    tables: &T,
    sight: Sight,
) -> Option<Done> {
    let length = packet.len() - packet.network_offset();
    packet.edit(packet.network_offset(), |packet, front: &mut H| {
        if !is_whole(front, length) {
            return None;
        }
        let place = front.place();
        tables.exact_match(sight.place(place), |known| {
            // Read again: else all of it is kept on the stack from where its place was calculated.
            let front = core::hint::black_box(front);
            if !is_like(front, known, sight) || length > known.longest {
                return None;
            }
            if !front.is_plain() && known.is_without_flow == 0 {
                return None;
            }
            if !counts(tables, known, place) {
                return None;
            }
            if IS_SENT && known.receiver != 0 {
                change(packet, front, known)?;
            }
            Some(Done {
                receiver: known.receiver,
                here: u32::from(known.here).into(),
                there: u32::from(known.there).into(),
            })
        })?
    })?
}

/// Is it of the kind that [is kept](remember), and as long as it says? It has so many bytes from the
/// IPv4 header on.
#[inline(always)]
fn is_whole<H: Front>(front: &mut H, length: u32) -> bool {
    let Some(behind) = front.length() else {
        return false;
    };
    let Fields { ip, .. } = front.fields();
    let total_length = u32::from(u16::from_be(ip.total_length));
    ip.version_length == 0x45
        && ip.ttl > 1
        && u16::from_be(ip.fragment) & 0x3fff == 0
        && total_length >= Ipv4Header::LENGTH + behind
        && total_length <= length
}

/// Does the packet show what the other one showed, and come in where it did? With one comparison: each
/// branch is a path that the verifier walks.
#[inline(always)]
fn is_like<H: Front>(front: &mut H, known: &ExactMatch, sight: Sight) -> bool {
    let packet = front.fields();
    let words = (packet.ip.src ^ known.src)
        | (packet.ip.dst ^ known.dst)
        | (sight.interface ^ known.interface)
        | (sight.came_by ^ known.came_by);
    let ports = (packet.src_port.0 ^ known.src_port.0) | (packet.dst_port.0 ^ known.dst_port.0);
    let bytes = (H::PROTOCOL.0 ^ known.protocol.0) | (packet.ip.tos ^ known.traffic_class);
    words | u32::from(ports) | u32::from(bytes) == 0
}

/// Is nothing known to have changed?
#[inline(always)]
fn counts<T: Tables>(tables: &T, known: &ExactMatch, place: Place) -> bool {
    // All eight bytes at once.
    let is_same_policy =
        bytemuck::cast::<_, u64>(known.policy) == bytemuck::cast::<_, u64>(tables.policy());
    if !is_same_policy || known.changes != tables.flow_changes(place) || tables.now() >= known.until
    {
        return false;
    }
    let service = tables.service(known.service);
    known.revision == service.map_or(ExactMatch::NO_REVISION, |service| service.revision)
}

/// Gives the packet the other one's addresses and ports, and takes a hop. `None`: it is not known what
/// its checksum is, and nothing has happened.
#[inline(always)]
fn change<H: Front, P: PacketMut>(packet: &P, front: &mut H, known: &ExactMatch) -> Option<()> {
    let Fields {
        ip,
        src_port,
        dst_port,
        checksum,
    } = front.fields();
    let mut header = ONE_HOP_FEWER;
    if known.is_translated != 0 {
        let kind = packet.checksum_kind()?;
        let is_udp = H::PROTOCOL == Protocol::UDP;
        *checksum = checksum::changed(*checksum, kind, known.addrs, known.all, is_udp);
        header = checksum::add(header, known.addrs);
        (ip.src, ip.dst) = (known.to_src, known.to_dst);
        (*src_port, *dst_port) = (known.to_src_port, known.to_dst_port);
    }
    ip.ttl -= 1;
    ip.checksum = checksum::replace(ip.checksum, header);
    Some(())
}

/// What an IPv4 header changes by with a hop less, which is the first byte of a word: `!word + word - 1`
/// there.
const ONE_HOP_FEWER: u32 = u16::from_be_bytes([0xfe, 0xff]).to_be() as u32;

/// What stands at the beginning of a packet, without options.
trait Front: Pod {
    const PROTOCOL: Protocol;

    fn fields(&mut self) -> Fields<'_>;

    /// Bytes of the header behind that of IPv4. `None`: it is no such header, or one that opens a
    /// connection.
    fn length(&self) -> Option<u32>;

    /// See [`conntrack::is_plain`].
    fn is_plain(&self) -> bool;

    /// The place of its tuple.
    #[inline(always)]
    fn place(&mut self) -> Place {
        let Fields {
            ip,
            src_port,
            dst_port,
            ..
        } = self.fields();
        Place::of(&Tuple {
            src: Addr::from_v4_word(ip.src),
            dst: Addr::from_v4_word(ip.dst),
            src_port: *src_port,
            dst_port: *dst_port,
            protocol: Self::PROTOCOL,
            is_beside: 0,
            reserved: [0; 2],
        })
    }
}

/// What of it is asked for, and changed.
struct Fields<'a> {
    ip: &'a mut Ipv4Header,
    src_port: &'a mut Port,
    dst_port: &'a mut Port,
    checksum: &'a mut u16,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct UdpInV4 {
    ip: Ipv4Header,
    udp: UdpHeader,
}

impl Front for UdpInV4 {
    const PROTOCOL: Protocol = Protocol::UDP;

    #[inline(always)]
    fn fields(&mut self) -> Fields<'_> {
        Fields {
            ip: &mut self.ip,
            src_port: &mut self.udp.src_port,
            dst_port: &mut self.udp.dst_port,
            checksum: &mut self.udp.checksum,
        }
    }

    #[inline(always)]
    fn length(&self) -> Option<u32> {
        Some(UdpHeader::LENGTH)
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        true
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TcpInV4 {
    ip: Ipv4Header,
    tcp: TcpHeader,
}

impl Front for TcpInV4 {
    const PROTOCOL: Protocol = Protocol::TCP;

    #[inline(always)]
    fn fields(&mut self) -> Fields<'_> {
        Fields {
            ip: &mut self.ip,
            src_port: &mut self.tcp.src_port,
            dst_port: &mut self.tcp.dst_port,
            checksum: &mut self.tcp.checksum,
        }
    }

    #[inline(always)]
    fn length(&self) -> Option<u32> {
        let length = TcpHeader::length(self.tcp.data_offset);
        (length >= TcpHeader::LENGTH && !self.tcp.flags.is_opening()).then_some(length)
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        conntrack::is_plain(Transport::Tcp(self.tcp.flags))
    }
}

/// Keeps what was done with a packet that took a shortcut, of which this was decided at the sender's
/// interface.
#[inline(never)]
pub fn remember<P: PacketMut, T: Tables>(packet: &P, tables: &T, work: &Workspace, here: Decision) {
    if !is_of_kind(packet, work) || !conntrack::is_plain(work.headers.kind()) {
        return;
    }
    let from = &work.headers.tuple;
    let is_translated = work.step == Step::TRANSLATE;
    let to = if is_translated { &work.flow.to } else { from };
    let (addrs, ports) = (
        nat::plain_difference(from, to),
        nat::port_difference(from, to),
    );
    // Then the kernel is to be asked, each time.
    if is_translated && packet.checksum_kind().is_none() {
        return;
    }
    let Some(Found {
        until,
        changes,
        way,
    }) = found(tables, work)
    else {
        return;
    };
    let (mut service, mut revision) = (ExactMatch::NO_SERVICE, ExactMatch::NO_REVISION);
    if work.glance == Glance::CURRENT && flow::asks_service(work) {
        (service, revision) = (work.flow.service, work.flow.revision);
    }
    tables.exact_match(work.place, |known| {
        *known = ExactMatch {
            until: until.min(way.found + conntrack::REFRESH),
            service,
            revision,
            there: shortcut::decision_there(work, here).number(),
            longest: way.longest,
            receiver: work.receiver,
            to_src: to.src.0[3],
            to_dst: to.dst.0[3],
            to_src_port: to.src_port,
            to_dst_port: to.dst_port,
            is_translated: is_translated.into(),
            addrs,
            all: checksum::add(addrs, ports),
            ..by_itself(
                work,
                Sight::from_pod(work.case.interface()),
                here,
                until,
                changes,
                way.traffic_class,
            )
        };
    });
}

/// Is the packet of the kind that is kept?
#[inline(always)]
fn is_of_kind<P: Packet>(packet: &P, work: &Workspace) -> bool {
    let headers = &work.headers;
    nat::is_plain(headers) && packet.segment_payload() == 0 && headers.tuple.is_beside == 0
}

/// Keeps of a packet seen there, of which this was decided, that it goes on as it is, if no policy has
/// a say in that. Of a handshake: that the rest of the connection does.
#[inline(never)]
pub fn remember_passing<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    work: &mut Workspace,
    sight: Sight,
    decision: Decision,
) {
    if decision != Decision::PASS || !work.case.is_free() || !is_of_kind(packet, work) {
        return;
    }
    let is_sent = sight.came_by == ExactMatch::FROM_POD;
    if is_sent && work.case.policy().flags.intersects(ASKED_EACH_TIME) {
        return;
    }
    if is_of_handshake(work.headers.kind()) {
        flow::look_again(tables, work);
    }
    let is_kept = if is_sent {
        is_nobodys_business(tables, work)
    } else {
        // It is no answer to the pod's own flows.
        work.glance == Glance::ABSENT
    };
    if !is_kept {
        return;
    }
    let Some(Found { until, changes, .. }) = found(tables, work) else {
        return;
    };
    let class = traffic_class(packet, &work.headers);
    tables.exact_match(sight.place(work.place), |known| {
        *known = by_itself(work, sight, decision, until, changes, class);
    });
}

/// What was found out of a packet's flow.
struct Found {
    /// It counts before this time.
    until: Nanos,
    /// As `FLOW_CHANGES` then was.
    changes: u64,
    /// The way of packets of this tuple, if there is one.
    way: Shortcut,
}

#[inline(always)]
fn found<T: Tables>(tables: &T, work: &Workspace) -> Option<Found> {
    let mut found = tables.flow_cache(work.place, |cached| Found {
        until: cached.found + CachedFlow::LIFETIME,
        changes: cached.changes,
        way: cached.way,
    })?;
    if work.glance == Glance::CURRENT {
        found.until = found.until.min(work.flow.last_seen + conntrack::REFRESH);
    }
    Some(found)
}

/// Of a packet seen there, of which this was decided: it goes on as it is, and nothing else is asked.
#[inline(always)]
fn by_itself(
    work: &Workspace,
    sight: Sight,
    decision: Decision,
    until: Nanos,
    changes: u64,
    traffic_class: u8,
) -> ExactMatch {
    let tuple = &work.headers.tuple;
    ExactMatch {
        until,
        changes,
        policy: work.case.policy(),
        service: ExactMatch::NO_SERVICE,
        revision: ExactMatch::NO_REVISION,
        interface: sight.interface,
        came_by: sight.came_by,
        src: tuple.src.0[3],
        dst: tuple.dst.0[3],
        src_port: tuple.src_port,
        dst_port: tuple.dst_port,
        protocol: tuple.protocol,
        traffic_class,
        here: decision.number(),
        longest: u32::MAX,
        is_without_flow: (work.glance == Glance::ABSENT).into(),
        ..Zeroable::zeroed()
    }
}

/// Nothing is kept of what a pod sends and goes on by itself, where it may be another's translation or
/// is to be handed over.
const ASKED_EACH_TIME: PolicyFlags = PolicyFlags::HAND_OVER.with(PolicyFlags::LEAVE_TRACKED);

/// Does the segment open a connection, or agree to that?
#[inline(always)]
fn is_of_handshake(kind: Transport) -> bool {
    matches!(kind, Transport::Tcp(flags) if flags.contains(TcpFlags::SYN))
}

/// Does the service step leave alone what a pod sends, and goes on doing so while
/// [`Policy::epoch`](crate::tables::Policy) and the tuple's flow are what they are?
///
/// That is raised when an address or a port becomes a service's that was none's before and does not lie
/// among the cluster IPs. A datagram without a flow can begin one as long as it has none.
#[inline(always)]
fn is_nobodys_business<T: Tables>(tables: &T, work: &Workspace) -> bool {
    if work.glance == Glance::CURRENT {
        return work.flow.role == FlowRole::REPLY;
    }
    work.glance == Glance::ABSENT
        && matches!(work.headers.kind(), Transport::Tcp(_))
        && !covers(tables, work.headers.tuple.dst)
}
