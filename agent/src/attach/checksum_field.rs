//! Whether a packet's checksum is left to a device (`ip_summed` of `struct sk_buff`), which the context
//! of a program does not show.
//!
//! The helper that changes a checksum (`bpf_l4_csum_replace`) looks there for itself. A program that
//! knows changes the checksum in place, which takes a third of the time that a known flow takes
//! without it. The kernel gives it the packet by a function (`bpf_cast_to_kern_ctx`, Linux 6.2), which
//! has another number in each kernel, as the field has another place: both are looked up here, and
//! written into the object before it is loaded. Where that cannot be, programs ask the helper.

use std::io;

use weir_ebpf::checksum::TO_KERNEL_CONTEXT;

use super::{
    bpf,
    btf::{Btf, Field},
};

/// Bits of the field.
const BITS: u32 = 2;

/// How programs get at the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumField {
    /// The number of the kernel's function that gives the packet.
    function: u32,
    /// The byte of the field, from the packet's beginning.
    byte: u16,
    /// The field's lowest bit there.
    bit: u16,
}

impl ChecksumField {
    /// Asks the kernel; `None`: programs cannot get at it.
    #[must_use]
    pub fn probe() -> Option<Self> {
        let btf = Btf::of_kernel().ok()??;
        let field = Self::of(
            btf.function("bpf_cast_to_kern_ctx")?,
            btf.field("sk_buff", "ip_summed")?,
        )?;
        drop(btf);
        // Others may be in the way: no compiler in the kernel, another type than is expected.
        field.try_out().ok().map(|()| field)
    }

    fn of(function: u32, field: Field) -> Option<Self> {
        let (byte, bit) = (field.offset / u8::BITS, field.offset % u8::BITS);
        let is_in_a_byte = field.size == BITS && bit + BITS <= u8::BITS;
        // The programs take zero for none.
        (is_in_a_byte && byte > 0).then_some(())?;
        Some(Self {
            function,
            byte: u16::try_from(byte).ok()?,
            bit: u16::try_from(bit).ok()?,
        })
    }

    /// The global `CHECKSUM_FIELD` of the programs.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from(self.bit) << 16 | u32::from(self.byte)
    }

    /// Would the kernel take a program that does this?
    fn try_out(self) -> io::Result<()> {
        // r0 = the packet; r0 = its byte; r0 = 0; exit
        let load = instruction(0x71, 0, 0, self.byte, 0);
        let zero = instruction(0xb7, 0, 0, 0, 0);
        let exit = instruction(0x95, 0, 0, 0, 0);
        bpf::load_classifier(&[self.call(), load, zero, exit]).map(drop)
    }

    /// `call function`, a kernel function (`BPF_PSEUDO_KFUNC_CALL`).
    fn call(self) -> u64 {
        instruction(0x85, 0, 2, 0, self.function)
    }
}

/// `struct bpf_insn`.
fn instruction(code: u8, to: u8, from: u8, offset: u16, immediate: u32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([code, from << 4 | to, low, high, a, b, c, d])
}

/// A copy of the BPF object with what this kernel has. Aligned, because the loader reads its headers in
/// place; zeros fill its last word.
#[must_use]
pub fn fit(object: &[u8], field: Option<ChecksumField>) -> Vec<u64> {
    let mut words = vec![0_u64; object.len().div_ceil(size_of::<u64>())];
    bytemuck::cast_slice_mut(&mut words)[..object.len()].copy_from_slice(object);
    if let Some(field) = field {
        // `r0 = TO_KERNEL_CONTEXT`. Instructions are aligned to eight bytes there.
        let placeholder = instruction(0xb7, 0, 0, 0, TO_KERNEL_CONTEXT);
        let calls = words.iter_mut().filter(|word| **word == placeholder);
        calls.for_each(|word| *word = field.call());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(offset: u32, size: u32) -> Option<ChecksumField> {
        ChecksumField::of(7, Field { offset, size })
    }

    #[test]
    fn a_field_is_told_by_its_byte_and_its_bit() {
        let field = field(128 * 8 + 5, 2).unwrap();
        assert_eq!(field.number(), 5 << 16 | 128);
    }

    #[test]
    fn what_is_not_two_bits_of_a_byte_is_none() {
        assert_eq!(field(128 * 8 + 7, 2), None);
        assert_eq!(field(128 * 8 + 5, 3), None);
        assert_eq!(field(128 * 8, 0), None);
        assert_eq!(field(5, 2), None);
        assert_eq!(field(0x1_0000 * 8, 2), None);
    }

    #[test]
    fn calls_are_put_where_the_object_leaves_room_for_them() {
        let placeholder = instruction(0xb7, 0, 0, 0, TO_KERNEL_CONTEXT);
        let other = instruction(0xb7, 1, 0, 0, TO_KERNEL_CONTEXT);
        let words = [1, placeholder, other, placeholder];
        let mut object: Vec<u8> = bytemuck::cast_slice(&words).to_vec();
        object.push(9);
        let last = u64::from_ne_bytes([9, 0, 0, 0, 0, 0, 0, 0]);
        let none = fit(&object, None);
        assert_eq!(none, [1, placeholder, other, placeholder, last]);
        let call = u64::from_ne_bytes([0x85, 0x20, 0, 0, 7, 0, 0, 0]);
        let fitted = fit(&object, field(128 * 8 + 5, 2));
        assert_eq!(fitted, [1, call, other, call, last]);
    }
}
