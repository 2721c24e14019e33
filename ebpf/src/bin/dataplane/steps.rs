//! Steps of the programs at interfaces that stand for themselves: functions that the verifier looks
//! at once, and not once for each way through a program that leads to them.
//!
//! That is what it does with global functions (Linux 5.6). It takes their arguments for any numbers,
//! and they give back a number; what the steps work with is in the workspace.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use weir_ebpf::{
    datapath::{self, Decision, Workspace},
    packet::{self, NotParsed},
};

use crate::{
    maps,
    skb::{ETHERNET, NO_LINK_HEADER, Skb},
};

/// The step that does what a program has not done at once, and says what the program gives back.
pub type Rest = unsafe extern "C" fn(skb: *mut __sk_buff, decided: u32) -> i32;

/// No decision: it is yet to be made.
pub const UNDECIDED: u32 = u32::MAX;

// What the headers' step gives back.
const READ: u32 = 0;
const NOT_IP: u32 = 1;
const MALFORMED: u32 = 2;

/// Reads the headers of a packet into the workspace.
///
/// # Errors
/// See [`NotParsed`].
#[inline(always)]
pub fn read_headers<const LINK: u32>(
    ctx: &TcContext,
    work: &mut Workspace,
) -> Result<(), NotParsed> {
    if packet::parse_plain(&Skb::<LINK>(ctx), &mut work.headers).is_some() {
        return Ok(());
    }
    // SAFETY: the context is this program's own.
    let read = unsafe {
        if LINK == ETHERNET {
            read_any(ctx.skb.skb)
        } else {
            read_any_l3(ctx.skb.skb)
        }
    };
    match read {
        READ => Ok(()),
        NOT_IP => Err(NotParsed::NotIp),
        _ => Err(NotParsed::Malformed),
    }
}

/// Performs a decision.
#[inline(always)]
pub fn carry_out<const LINK: u32>(
    ctx: &TcContext,
    work: &mut Workspace,
    decision: Decision,
) -> Decision {
    if let Some(decision) = datapath::carry_out_plainly(&mut Skb::<LINK>(ctx), work, decision) {
        return decision;
    }
    // SAFETY: as above.
    let decision = unsafe {
        if LINK == ETHERNET {
            carry_out_otherwise(ctx.skb.skb, decision.into())
        } else {
            carry_out_otherwise_l3(ctx.skb.skb, decision.into())
        }
    };
    decision.into()
}

macro_rules! steps {
    ($link:expr, $read_any:ident, $carry_out_otherwise:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        unsafe extern "C" fn $read_any(skb: *mut __sk_buff) -> u32 {
            let ctx = TcContext::new(skb);
            let Some(work) = maps::workspace() else {
                return NOT_IP;
            };
            match packet::parse_any(&Skb::<{ $link }>(&ctx), &mut work.headers) {
                Ok(()) => READ,
                Err(NotParsed::NotIp) => NOT_IP,
                Err(NotParsed::Malformed) => MALFORMED,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        unsafe extern "C" fn $carry_out_otherwise(skb: *mut __sk_buff, decision: u32) -> u32 {
            let ctx = TcContext::new(skb);
            let Some(work) = maps::workspace() else {
                return decision;
            };
            let packet = &mut Skb::<{ $link }>(&ctx);
            datapath::carry_out_otherwise(packet, work, decision.into()).into()
        }
    };
}

steps!(ETHERNET, read_any, carry_out_otherwise);
steps!(NO_LINK_HEADER, read_any_l3, carry_out_otherwise_l3);
