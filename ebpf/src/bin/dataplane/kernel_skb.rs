//! What the kernel keeps with a packet, and the context does not show (Linux 6.2).

use core::arch::asm;

use aya_ebpf::{EbpfContext as _, programs::TcContext};
use weir_ebpf::checksum::{ChecksumKind, TO_KERNEL_CONTEXT};

use crate::globals;

/// Of the field `ip_summed` (`linux/skbuff.h`).
const CHECKSUM_COMPLETE: u8 = 2;
const CHECKSUM_PARTIAL: u8 = 3;

/// What stands in the packet's transport checksum. `None`: the helper knows.
#[inline(always)]
pub fn checksum_kind(ctx: &TcContext) -> Option<ChecksumKind> {
    let field = globals::checksum_field();
    if field == 0 {
        return None;
    }
    let kernel: *const u8;
    // SAFETY: where the field is known the loader has put a call here, `bpf_cast_to_kern_ctx`, which
    // takes the context and gives the kernel's `struct sk_buff`. A call changes the first six
    // registers.
    unsafe {
        asm!(
            "r0 = {call}",
            call = const TO_KERNEL_CONTEXT,
            inout("r1") ctx.as_ptr() => _,
            lateout("r0") kernel,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
    }
    // SAFETY: the field lies there, the verifier checks that it is a number, and the packet is there
    // as long as the program runs. Volatile: the compiler knows nothing of the call.
    let byte = unsafe { kernel.add((field & 0xffff) as usize).read_volatile() };
    match byte >> (field >> 16) & 3 {
        CHECKSUM_PARTIAL => Some(ChecksumKind::LeftToDevice),
        CHECKSUM_COMPLETE => None,
        _ => Some(ChecksumKind::Whole),
    }
}
