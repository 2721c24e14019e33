//! The programs at pods' interfaces.

use aya_ebpf::{helpers::bpf_redirect, macros::classifier, programs::TcContext};
use aya_log_ebpf::macro_support;
use bytemuck::Zeroable as _;
use weir_ebpf::{
    datapath::{self, Decision},
    packet::{self, Headers},
    tables::Flow,
    verdict::{Hook, Verdict},
};

use crate::{
    maps::{self, KernelTables},
    skb::Skb,
    trace,
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
        trace::packet(ctx, hook, &headers.tuple, decision, &flow.to);
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
