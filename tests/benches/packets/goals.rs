//! What is hoped for: ratios to direct traffic, on one processor.

use weir_tests::bench::Goal;
use weir_tests::bench::lanes::{Contender, FastPath, Lane, Side};
use weir_tests::bench::load::Work;
use weir_tests::bench::site::Way;

/// The goal of a line, where there is one.
pub fn of(contenders: &[Contender], lane: &Lane, side: Side, work: Work) -> Option<Goal> {
    let contender = &contenders[lane.contender?];
    let fast_path = contender.weir?;
    if lane.way == Way::PodToServiceByPackets {
        return None;
    }
    let limit = match ((side, work), contender.policies, fast_path) {
        ((Side::Pod, Work::Connections | Work::Requests), 0, FastPath::On) => 1.05,
        ((Side::Pod, Work::Datagrams), 0, FastPath::On) => 1.12,
        ((Side::Pod, Work::Connections), 0, FastPath::Off) => 0.98,
        ((Side::Pod, Work::Connections), 500, FastPath::On | FastPath::Off) => 0.90,
        ((Side::Pod, Work::Requests), 0, FastPath::Off) => 0.99,
        ((Side::Host, Work::Connections), 0, FastPath::On | FastPath::Off) => 0.95,
        ((Side::Host, Work::Requests), 0, FastPath::On | FastPath::Off) => 0.97,
        ((Side::Host, Work::Datagrams), 0, FastPath::On | FastPath::Off)
        | ((Side::Pod, Work::Datagrams), 0, FastPath::Off) => 0.90,
        _ => return None,
    };
    Some(Goal::ratio_at_least(limit))
}
