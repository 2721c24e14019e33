//! The programs: context in, verdict out. What they decide is in the library.
//!
//! | program | attached to |
//! |---|---|
//! | `from_pod`, `to_pod` | ingress and egress of a pod's interface on the node's side (TCX, or clsact below 6.6) |
//! | `from_network`, `to_network` | the same of interfaces that lead beyond the node |
//! | `from_network_l3`, `to_network_l3` | the same where these have no link-layer header |
//! | `to_network_l2` | egress of what hangs on one bridge with pods: frames go there past the node's IP layer |
//! | `hand_over_to_pod` | none: `from_pod` and `from_network` go on with it where a packet goes to a pod of this node |
//! | `connect4/6`, `sendmsg4/6`, `recvmsg4/6`, `getpeername4/6` | the root of the node's cgroup v2 tree |
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Of atomic operations the BPF target has no others, and no call of a kernel's function.
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics, asm_experimental_arch),
    allow(
        internal_features,
        reason = "the compiler is of one version, the object is built once"
    )
)]

#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod hand_over;
#[cfg(target_arch = "bpf")]
mod kernel_skb;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod routes;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod sockets;
#[cfg(target_arch = "bpf")]
mod steps;
#[cfg(target_arch = "bpf")]
mod tc;
#[cfg(target_arch = "bpf")]
mod trace;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No panic is reachable: the build fails on one. An endless loop keeps bounds checks alive
    // that `unreachable_unchecked` would let the optimiser remove.
    loop {}
}

// Some helpers (bpf_l4_csum_replace is not among them) are only for programs under the GPL.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
#[allow(clippy::print_stderr, reason = "all this stub does")]
fn main() {
    eprintln!("these are BPF programs: build them with `cargo xtask build-ebpf`");
    std::process::exit(1);
}
