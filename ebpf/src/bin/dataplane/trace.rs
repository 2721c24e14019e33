//! What the agent's log says of single packets, at debug level.
//!
//! Every text has one length here, filled up with blanks: a length that is known when the program
//! is built is one path for the verifier, a length that varies is as many as there are lengths,
//! in each state that a packet can be in.

use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use weir_ebpf::{
    datapath::Decision,
    tables::Tuple,
    verdict::{DropReason, Hook, RejectReason},
};

/// Bytes of a hook's name.
const NAME: usize = 12;
/// Bytes of the longest sentence.
const SENTENCE: usize = 88;

/// Says what is about to happen to a packet.
#[inline(always)]
pub fn packet(ctx: &TcContext, hook: Hook, tuple: &Tuple, decision: Decision, to: &Tuple) {
    match decision {
        Decision::PASS | Decision::PASS_FRAGMENT => {}
        Decision::TRANSLATE_ERROR => {
            tuple_is(
                ctx,
                hook,
                tuple,
                const { &filled("is about a packet of a flow") },
            );
        }
        Decision::TRANSLATE => {
            tuple_is(ctx, hook, tuple, const { &filled("is translated") });
            tuple_is(ctx, hook, to, const { &filled("is what it becomes") });
        }
        _ => tuple_is(ctx, hook, tuple, refused(decision)),
    }
}

/// The sentence of a refusal.
#[inline(always)]
fn refused(decision: Decision) -> &'static [u8; SENTENCE] {
    /// One after the other: a table would be read at an index that older verifiers do not follow.
    macro_rules! sentences {
        ($($make:ident $reason:expr),* $(,)?) => {
            $(if decision == const { Decision::$make($reason) } {
                return const { &filled($reason.sentence()) };
            })*
        };
    }
    sentences!(
        reject RejectReason::NoBackend,
        reject RejectReason::NoSuchPort,
        reject RejectReason::SourceRange,
        drop DropReason::Malformed,
        drop DropReason::NoSourcePort,
        drop DropReason::NotRewritten,
        drop DropReason::Unanswerable,
        drop DropReason::NoLocalEndpoint,
        drop DropReason::SourceRange,
        drop DropReason::ServiceAddress,
        drop DropReason::NoNodeAddress,
        drop DropReason::NoFirstFragment,
        drop DropReason::EgressPolicy,
        drop DropReason::IngressPolicy,
        drop DropReason::ForgedSource,
        drop DropReason::UnknownPod,
    );
    const { &filled("is refused") }
}

const fn name(hook: Hook) -> &'static [u8; NAME] {
    match hook {
        Hook::FromPod => const { &filled(Hook::FromPod.name()) },
        Hook::ToPod => const { &filled(Hook::ToPod.name()) },
        Hook::Socket => const { &filled(Hook::Socket.name()) },
        Hook::FromNetwork => const { &filled(Hook::FromNetwork.name()) },
        Hook::ToNetwork => const { &filled(Hook::ToNetwork.name()) },
    }
}

/// One record. A function of its own, since its arguments all stand on the stack together.
#[inline(never)]
fn tuple_is(ctx: &TcContext, hook: Hook, tuple: &Tuple, what: &'static [u8; SENTENCE]) {
    let (hook, what) = (text(name(hook)), text(what));
    let protocol = tuple.protocol.0;
    let (src_port, dst_port) = (tuple.src_port.number(), tuple.dst_port.number());
    if tuple.src.is_v4() {
        let src: [u8; 4] = bytemuck::cast(tuple.src.0[3]);
        let dst: [u8; 4] = bytemuck::cast(tuple.dst.0[3]);
        debug!(
            ctx,
            "{}: protocol {} {:i}:{} > {:i}:{} {}",
            hook,
            protocol,
            src,
            src_port,
            dst,
            dst_port,
            what
        );
    } else {
        let src: [u8; 16] = bytemuck::cast(tuple.src.0);
        let dst: [u8; 16] = bytemuck::cast(tuple.dst.0);
        debug!(
            ctx,
            "{}: protocol {} [{:i}]:{} > [{:i}]:{} {}",
            hook,
            protocol,
            src,
            src_port,
            dst,
            dst_port,
            what
        );
    }
}

/// A text, and blanks up to its length. Too long a text does not build.
const fn filled<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    assert!(bytes.len() <= N, "longer than what is set aside for it");
    let mut filled = [b' '; N];
    let mut index = 0;
    while index < bytes.len() {
        filled[index] = bytes[index];
        index += 1;
    }
    filled
}

#[inline(always)]
fn text<const N: usize>(filled: &'static [u8; N]) -> &'static str {
    // SAFETY: `filled` made it of a `str` and blanks.
    unsafe { core::str::from_utf8_unchecked(filled) }
}
