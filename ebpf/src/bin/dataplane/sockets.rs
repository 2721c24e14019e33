//! What the sockets of a pod's network namespace say.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
    },
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use weir_ebpf::{
    addr::{Addr, Port},
    tables::ConnectionKey,
};

// States of a TCP socket (`net/tcp_states.h`).
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const LISTEN: u32 = 10;
const NEW_SYN_RECV: u32 = 12;

/// Has a socket there this very connection, beyond its handshake?
#[inline(always)]
pub fn has_connection(ctx: &TcContext, netns: i32, connection: &ConnectionKey) -> bool {
    let state = state(
        ctx,
        netns,
        connection,
        connection.peer,
        connection.peer_port,
    );
    state != 0 && !matches!(state, SYN_SENT | SYN_RECV | LISTEN | NEW_SYN_RECV)
}

/// Does a socket there listen at the pod's side of the connection?
#[inline(always)]
pub fn is_listening(ctx: &TcContext, netns: i32, connection: &ConnectionKey) -> bool {
    // Nobody has a connection with no address and port 0: what is found is who waits for one.
    let nobody = if connection.pod.is_v4() {
        Addr::UNSPECIFIED_V4
    } else {
        Addr::UNSPECIFIED
    };
    state(ctx, netns, connection, nobody, Port(0)) == LISTEN
}

/// The state of the socket that a segment from `peer` to the pod would reach; zero: none.
#[inline(never)]
fn state(
    ctx: &TcContext,
    netns: i32,
    connection: &ConnectionKey,
    peer: Addr,
    peer_port: Port,
) -> u32 {
    // A negative number would stand for the node's own namespace.
    let Ok(netns) = u64::try_from(netns) else {
        return 0;
    };
    let (pod, pod_port) = (connection.pod, connection.pod_port);
    if pod.is_v4() {
        let tuple = TupleV4 {
            saddr: peer.0[3],
            daddr: pod.0[3],
            sport: peer_port.0,
            dport: pod_port.0,
        };
        look_up(ctx, netns, tuple)
    } else {
        let tuple = TupleV6 {
            saddr: peer.0,
            daddr: pod.0,
            sport: peer_port.0,
            dport: pod_port.0,
        };
        look_up(ctx, netns, tuple)
    }
}

#[inline(always)]
fn look_up<T>(ctx: &TcContext, netns: u64, mut tuple: T) -> u32 {
    // SAFETY: the context is valid; the tuple is as long as is said, which tells its family.
    let socket: *mut bpf_sock = unsafe {
        bpf_skc_lookup_tcp(
            ctx.as_ptr(),
            (&raw mut tuple).cast::<bpf_sock_tuple>(),
            size_of::<T>() as u32,
            netns,
            0,
        )
    }
    .cast();
    if socket.is_null() {
        return 0;
    }
    // SAFETY: the helper gave a socket, which is ours until it is released.
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    // SAFETY: as above; nothing uses it after this.
    unsafe { bpf_sk_release(socket.cast()) };
    state
}
