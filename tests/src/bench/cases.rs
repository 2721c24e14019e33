//! The packets whose way is timed, in the loaded programs and on the host, each with what goes before it and what has to become of it.

use super::Goal;
use weir_ebpf::verdict::{Hook, Verdict};

/// How a case is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Many runs on one packet.
    Many,
    /// One run for each packet, with source ports of their own.
    Single,
}

/// A packet at a hook. `PORT` stands for a source port that nobody used before.
#[derive(Clone, Debug)]
pub struct Case {
    /// What people read.
    pub what: &'static str,
    /// Where it is.
    pub hook: Hook,
    /// The pod whose interface it is at, if it is at a pod's.
    pub pod: Option<&'static str>,
    /// How often the same packet can be seen.
    pub repeat: Repeat,
    /// What goes before, at which hooks.
    pub before: &'static [(Hook, Option<&'static str>, &'static str)],
    /// The packet.
    pub packet: &'static str,
    /// Nanoseconds above an empty program, in the kernel.
    pub goal: Option<Goal>,
    /// What becomes of the packet.
    pub verdict: Verdict,
}

/// Pods `free`, which no policy selects, and `judged`, which ten select for both directions.
pub const CASES: &[Case] = &[
    Case {
        what: "none of our business",
        hook: Hook::FromPod,
        pod: Some("free"),
        repeat: Repeat::Many,
        before: &[],
        packet: "udp 10.200.0.2:40000 > 203.0.113.10:53",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "UDP to a service, known flow",
        hook: Hook::FromPod,
        pod: Some("free"),
        repeat: Repeat::Many,
        before: &[
            (
                Hook::FromPod,
                Some("free"),
                "udp 10.200.0.2:40001 > 10.32.0.11:53",
            ),
            (
                Hook::FromPod,
                Some("free"),
                "udp 10.200.0.2:40001 > 10.32.0.10:53",
            ),
        ],
        packet: "udp 10.200.0.2:40001 > 10.32.0.10:53",
        goal: Some(Goal::at_most(60.0)),
        verdict: Verdict::Translate,
    },
    Case {
        what: "TCP to a service, known flow",
        hook: Hook::FromPod,
        pod: Some("free"),
        repeat: Repeat::Many,
        before: &[
            (
                Hook::FromPod,
                Some("free"),
                "tcp 10.200.0.2:40002 > 10.32.0.11:80 syn",
            ),
            (
                Hook::FromPod,
                Some("free"),
                "tcp 10.200.0.2:40002 > 10.32.0.10:80 syn",
            ),
        ],
        packet: "tcp 10.200.0.2:40002 > 10.32.0.10:80 ack",
        goal: Some(Goal::at_most(60.0)),
        verdict: Verdict::Translate,
    },
    Case {
        what: "UDP to a service, known flow, 10 policies",
        hook: Hook::FromPod,
        pod: Some("judged"),
        repeat: Repeat::Many,
        before: &[
            (
                Hook::FromPod,
                Some("judged"),
                "udp 10.200.0.3:40001 > 10.32.0.11:53",
            ),
            (
                Hook::FromPod,
                Some("judged"),
                "udp 10.200.0.3:40001 > 10.32.0.10:53",
            ),
        ],
        packet: "udp 10.200.0.3:40001 > 10.32.0.10:53",
        goal: None,
        verdict: Verdict::Translate,
    },
    Case {
        what: "UDP to a pod, known flow, 10 policies",
        hook: Hook::FromPod,
        pod: Some("judged"),
        repeat: Repeat::Many,
        before: &[(
            Hook::FromPod,
            Some("judged"),
            "udp 10.200.0.3:40002 > 10.200.0.2:53",
        )],
        packet: "udp 10.200.0.3:40002 > 10.200.0.2:53",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "UDP to a service, new flow",
        hook: Hook::FromPod,
        pod: Some("free"),
        repeat: Repeat::Single,
        before: &[],
        packet: "udp 10.200.0.2:PORT > 10.32.0.10:53",
        goal: Some(Goal::at_most(500.0)),
        verdict: Verdict::Translate,
    },
    Case {
        what: "UDP to a service, new flow, 10 policies",
        hook: Hook::FromPod,
        pod: Some("judged"),
        repeat: Repeat::Single,
        before: &[],
        packet: "udp 10.200.0.3:PORT > 10.32.0.10:53",
        goal: None,
        verdict: Verdict::Translate,
    },
    Case {
        what: "none of our business",
        hook: Hook::ToPod,
        pod: Some("free"),
        repeat: Repeat::Many,
        before: &[],
        packet: "udp 203.0.113.10:53 > 10.200.0.2:40000",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "UDP, answer of a service",
        hook: Hook::ToPod,
        pod: Some("free"),
        repeat: Repeat::Many,
        before: &[
            (
                Hook::FromPod,
                Some("free"),
                "udp 10.200.0.2:40003 > 10.32.0.11:53",
            ),
            (
                Hook::FromPod,
                Some("free"),
                "udp 10.200.0.2:40003 > 10.32.0.10:53",
            ),
        ],
        packet: "udp 10.32.0.10:53 > 10.200.0.2:40003",
        goal: None,
        verdict: Verdict::Translate,
    },
    Case {
        what: "UDP from a pod, known flow, 10 policies",
        hook: Hook::ToPod,
        pod: Some("judged"),
        repeat: Repeat::Many,
        before: &[(
            Hook::ToPod,
            Some("judged"),
            "udp 10.200.0.2:40004 > 10.200.0.3:53",
        )],
        packet: "udp 10.200.0.2:40004 > 10.200.0.3:53",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "UDP from a pod, new flow, 10 policies",
        hook: Hook::ToPod,
        pod: Some("judged"),
        repeat: Repeat::Single,
        before: &[],
        packet: "udp 10.200.0.2:PORT > 10.200.0.3:53",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "none of our business",
        hook: Hook::FromNetwork,
        pod: None,
        repeat: Repeat::Many,
        before: &[],
        packet: "udp 203.0.113.10:53 > 10.200.0.2:40000",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "UDP to a cluster IP, known flow",
        hook: Hook::FromNetwork,
        pod: None,
        repeat: Repeat::Many,
        before: &[
            (
                Hook::FromNetwork,
                None,
                "udp 203.0.113.10:40001 > 10.32.0.11:53",
            ),
            (
                Hook::FromNetwork,
                None,
                "udp 203.0.113.10:40001 > 10.32.0.10:53",
            ),
        ],
        packet: "udp 203.0.113.10:40001 > 10.32.0.10:53",
        goal: None,
        verdict: Verdict::Translate,
    },
    Case {
        what: "UDP to a node port, new flow",
        hook: Hook::FromNetwork,
        pod: None,
        repeat: Repeat::Single,
        before: &[],
        packet: "udp 203.0.113.10:PORT > 10.240.0.11:30053",
        goal: Some(Goal::at_most(500.0)),
        verdict: Verdict::Translate,
    },
    Case {
        what: "none of our business",
        hook: Hook::ToNetwork,
        pod: None,
        repeat: Repeat::Many,
        before: &[],
        packet: "udp 10.200.0.2:40000 > 203.0.113.10:53",
        goal: None,
        verdict: Verdict::Pass,
    },
    Case {
        what: "UDP, answer of a service",
        hook: Hook::ToNetwork,
        pod: None,
        repeat: Repeat::Many,
        before: &[
            (
                Hook::FromNetwork,
                None,
                "udp 203.0.113.10:40002 > 10.32.0.11:53",
            ),
            (
                Hook::FromNetwork,
                None,
                "udp 203.0.113.10:40002 > 10.32.0.10:53",
            ),
        ],
        packet: "udp 10.32.0.10:53 > 203.0.113.10:40002",
        goal: None,
        verdict: Verdict::Translate,
    },
];
