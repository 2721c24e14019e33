//! The programs at socket calls.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use weir_ebpf::{
    addr::{Addr, Port, Protocol},
    socket::{self, Caller, Decision, Peer},
    verdict::{Hook, Verdict},
};

use crate::{
    globals,
    maps::{self, KernelTables},
};

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails: with `EPERM`, or with what `bpf_set_retval` has set.
const REFUSE: i32 = 0;
/// `-ECONNREFUSED`
const CONNECTION_REFUSED: i32 = -111;

/// How an address family stores a peer in the context.
trait Family {
    fn read(addr: *mut bpf_sock_addr) -> Addr;
    fn write(addr: *mut bpf_sock_addr, to: Addr);
}

struct V4;
struct V6;

impl Family for V4 {
    #[inline(always)]
    fn read(addr: *mut bpf_sock_addr) -> Addr {
        // SAFETY: the context is valid as long as the program runs.
        Addr::from_v4_word(unsafe { (*addr).user_ip4 })
    }

    #[inline(always)]
    fn write(addr: *mut bpf_sock_addr, to: Addr) {
        // SAFETY: as above. Volatile, since the verifier refuses a store that the compiler has
        // merged with its neighbour.
        unsafe { (&raw mut (*addr).user_ip4).write_volatile(to.0[3]) }
    }
}

/// Also IPv4-mapped addresses of IPv6 sockets, which are the IPv4 addresses they stand for.
impl Family for V6 {
    #[inline(always)]
    fn read(addr: *mut bpf_sock_addr) -> Addr {
        // Word by word: the verifier refuses a copy of the array from the context.
        // SAFETY: as above.
        unsafe {
            Addr([
                (&raw const (*addr).user_ip6[0]).read_volatile(),
                (&raw const (*addr).user_ip6[1]).read_volatile(),
                (&raw const (*addr).user_ip6[2]).read_volatile(),
                (&raw const (*addr).user_ip6[3]).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn write(addr: *mut bpf_sock_addr, to: Addr) {
        // SAFETY: as above.
        unsafe {
            (&raw mut (*addr).user_ip6[0]).write_volatile(to.0[0]);
            (&raw mut (*addr).user_ip6[1]).write_volatile(to.0[1]);
            (&raw mut (*addr).user_ip6[2]).write_volatile(to.0[2]);
            (&raw mut (*addr).user_ip6[3]).write_volatile(to.0[3]);
        }
    }
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg::<V4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg::<V6>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    show_service::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    show_service::<V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    show_service::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    show_service::<V6>(&ctx)
}

#[inline(always)]
fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let (caller, peer) = (caller(ctx), peer::<F>(ctx));
    let decision = socket::connect(&KernelTables, caller, protocol(ctx), peer);
    perform::<F>(ctx, caller, peer, decision)
}

#[inline(always)]
fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let (caller, peer) = (caller(ctx), peer::<F>(ctx));
    let decision = socket::sendmsg(&KernelTables, caller, peer);
    perform::<F>(ctx, caller, peer, decision)
}

#[inline(always)]
fn show_service<F: Family>(ctx: &SockAddrContext) -> i32 {
    let (is_node, protocol) = (is_node(ctx), protocol(ctx));
    // Most are pods' datagrams: before any of the rest is asked.
    if !socket::translates(is_node, protocol) {
        return PROCEED;
    }
    let caller = Caller {
        cookie: cookie(ctx),
        is_node,
    };
    let name = socket::peer_name(&KernelTables, caller, protocol, peer::<F>(ctx));
    if let Some(service) = name {
        write_peer::<F>(ctx, service);
    }
    PROCEED
}

#[inline(always)]
fn perform<F: Family>(
    ctx: &SockAddrContext,
    caller: Caller,
    peer: Peer,
    decision: Decision,
) -> i32 {
    match decision {
        Decision::Pass => PROCEED,
        Decision::Translate(backend) => {
            debug!(
                ctx,
                "socket {}: {:i}:{} becomes {:i}:{}",
                caller.cookie,
                octets(peer.addr),
                peer.port.number(),
                octets(backend.addr),
                backend.port.number()
            );
            write_peer::<F>(ctx, backend);
            maps::count(Hook::Socket, Verdict::Translate);
            PROCEED
        }
        Decision::Refuse(reason) => {
            debug!(
                ctx,
                "socket {}: {:i}:{} refused: {}",
                caller.cookie,
                octets(peer.addr),
                peer.port.number(),
                reason.sentence()
            );
            if globals::has_set_retval() {
                // SAFETY: the helper takes a number; it exists on this kernel.
                unsafe { bpf_set_retval(CONNECTION_REFUSED) };
            } else if !caller.is_node {
                // This kernel could only say EPERM; the packet path answers with a reset.
                return PROCEED;
            }
            maps::count(Hook::Socket, Verdict::Reject(reason));
            REFUSE
        }
    }
}

#[inline(always)]
fn caller(ctx: &SockAddrContext) -> Caller {
    Caller {
        cookie: cookie(ctx),
        is_node: is_node(ctx),
    }
}

/// `SO_COOKIE` of the socket.
#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the context of this kind of program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Is the socket in the node's own network namespace?
#[inline(always)]
fn is_node(ctx: &SockAddrContext) -> bool {
    // SAFETY: as above.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    netns == globals::host_netns_cookie()
}

#[inline(always)]
fn peer<F: Family>(ctx: &SockAddrContext) -> Peer {
    // SAFETY: the context is valid. The port is two bytes in network byte order.
    let port = unsafe { (*ctx.sock_addr).user_port };
    Peer {
        addr: F::read(ctx.sock_addr),
        port: Port(port as u16),
    }
}

/// The low byte of the protocol: Multipath TCP (262) is TCP to a service.
#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> Protocol {
    // SAFETY: the context is valid.
    Protocol(unsafe { (*ctx.sock_addr).protocol } as u8)
}

#[inline(always)]
fn write_peer<F: Family>(ctx: &SockAddrContext, to: Peer) {
    F::write(ctx.sock_addr, to.addr);
    // SAFETY: the context is valid. Volatile as in `Family::write`.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(to.port.0)) }
}

#[inline(always)]
fn octets(addr: Addr) -> [u8; 16] {
    bytemuck::cast(addr.0)
}
