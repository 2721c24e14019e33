//! The programs at pods' interfaces.

use aya_ebpf::{helpers::bpf_redirect, macros::classifier, programs::TcContext};
use aya_log_ebpf::{debug, macro_support};
use bytemuck::Zeroable as _;
use weir_ebpf::{
    datapath::{self, Decision},
    packet::{self, Headers},
    tables::{Flow, Tuple},
    verdict::{Hook, Verdict},
};

use crate::{
    maps::{self, KernelTables},
    skb::Skb,
};

/// Continue with the next program at the hook (`TCX_NEXT`, `TC_ACT_UNSPEC`): we are not alone.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`, `TCX_DROP`.
const DROP: i32 = 2;

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::FromPod, datapath::from_pod)
}

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    run(&ctx, Hook::ToPod, datapath::to_pod)
}

#[inline(always)]
fn run(
    ctx: &TcContext,
    hook: Hook,
    decide: impl FnOnce(&Headers, &KernelTables, &mut Flow) -> Decision,
) -> i32 {
    let headers = match packet::parse(&Skb(ctx)) {
        Ok(headers) => headers,
        Err(why) => {
            let verdict = datapath::not_parsed(why).verdict();
            maps::count(hook, verdict);
            return action(ctx, verdict);
        }
    };
    let mut flow = Flow::zeroed();
    let decision = decide(&headers, &KernelTables, &mut flow);
    if macro_support::level_enabled(macro_support::Level::Debug) {
        trace(ctx, hook, &headers.tuple, decision, &flow.to);
    }
    let verdict = datapath::carry_out(&mut Skb(ctx), &headers, decision, &flow);
    maps::count(hook, verdict);
    action(ctx, verdict)
}

#[inline(always)]
fn action(ctx: &TcContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass | Verdict::Translate => NEXT,
        // The answer leaves by the interface of the question.
        // SAFETY: the context is valid; the helper only takes numbers.
        Verdict::Reject(_) => unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 },
        Verdict::Drop(_) => DROP,
    }
}

/// Tells the agent's log what is about to happen to a packet.
///
/// Two records rather than one, and functions of their own, since a record's arguments all stand
/// on the stack together.
#[inline(never)]
fn trace(ctx: &TcContext, hook: Hook, tuple: &Tuple, decision: Decision, to: &Tuple) {
    match decision {
        Decision::Pass => {}
        Decision::Translate => {
            trace_tuple(ctx, hook, tuple, "is translated");
            trace_tuple(ctx, hook, to, "is what it becomes");
        }
        Decision::Reject(reason) => trace_tuple(ctx, hook, tuple, reason.sentence()),
        Decision::Drop(reason) => trace_tuple(ctx, hook, tuple, reason.sentence()),
    }
}

#[inline(never)]
fn trace_tuple(ctx: &TcContext, hook: Hook, tuple: &Tuple, what: &str) {
    let hook = hook.name();
    // A number, since each string that is not constant multiplies what the verifier has to walk.
    let protocol = tuple.protocol.0;
    let (src_port, dst_port) = (tuple.src_port.number(), tuple.dst_port.number());
    if tuple.src.is_v4() {
        let (src, dst): ([u8; 4], [u8; 4]) = (
            bytemuck::cast(tuple.src.0[3]),
            bytemuck::cast(tuple.dst.0[3]),
        );
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
        let (src, dst): ([u8; 16], [u8; 16]) =
            (bytemuck::cast(tuple.src.0), bytemuck::cast(tuple.dst.0));
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
