//! What the programs count, as rates: pure, with the times given.

use std::collections::BTreeMap;

use weir_ebpf::{
    tables::Nanos,
    verdict::{Hook, LOST_EVENTS, Verdict, counter},
};

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

/// The counters at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// By the monotonic clock.
    pub at: Nanos,
    /// As in the table `COUNTERS`.
    pub counters: Vec<u64>,
}

/// Packets (or calls) each second at a hook, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HookRate {
    /// Left as they were.
    pub passed: f64,
    /// Went on with other addresses.
    pub translated: f64,
    /// Answered and not passed on.
    pub rejected: f64,
    /// Not passed on.
    pub dropped: f64,
}

impl HookRate {
    /// All of them.
    pub fn all(&self) -> f64 {
        self.passed + self.translated + self.refused()
    }

    /// Those that were not passed on.
    pub fn refused(&self) -> f64 {
        self.rejected + self.dropped
    }
}

/// A reason for which packets were refused at a hook.
#[derive(Clone, Debug, PartialEq)]
pub struct ReasonRate {
    /// Where.
    pub hook: Hook,
    /// The reason, as metrics have it.
    pub reason: &'static str,
    /// Each second.
    pub per_second: f64,
    /// Since the tables were made.
    pub total: u64,
}

/// All rates between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// By hook; all of them.
    pub hooks: BTreeMap<Hook, HookRate>,
    /// Reasons for which anything was ever refused: the most frequent now first, then the most
    /// frequent ever.
    pub reasons: Vec<ReasonRate>,
    /// Events that were lost each second, because the ring buffer was full.
    pub lost: f64,
}

impl Rates {
    /// Packets and calls each second. One packet meets several hooks.
    pub fn all(&self) -> f64 {
        self.hooks.values().map(HookRate::all).sum()
    }

    /// Those that were not passed on.
    pub fn refused(&self) -> f64 {
        self.hooks.values().map(HookRate::refused).sum()
    }
}

/// The rates between two readings. Counters that have become less were made anew: what they count
/// since then is what there was.
pub fn rates(before: &Counted, after: &Counted) -> Rates {
    let seconds = after.at.saturating_sub(before.at) as f64 / SECOND;
    let read = |counted: &Counted, index: u32| {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        counted.counters.get(index).copied().unwrap_or(0)
    };
    let rate = |index: u32| {
        let (earlier, later) = (read(before, index), read(after, index));
        let more = later.checked_sub(earlier).unwrap_or(later);
        if seconds > 0.0 {
            more as f64 / seconds
        } else {
            0.0
        }
    };
    let mut rates = Rates {
        lost: rate(LOST_EVENTS),
        ..Rates::default()
    };
    for hook in Hook::ALL {
        let mut at_hook = HookRate::default();
        for verdict in Verdict::ALL {
            let index = counter(hook, verdict);
            let per_second = rate(index);
            let reason = match verdict {
                Verdict::Pass | Verdict::PassFragment => {
                    at_hook.passed += per_second;
                    continue;
                }
                Verdict::Translate => {
                    at_hook.translated += per_second;
                    continue;
                }
                Verdict::Reject(reason) => {
                    at_hook.rejected += per_second;
                    reason.name()
                }
                Verdict::Drop(reason) => {
                    at_hook.dropped += per_second;
                    reason.name()
                }
            };
            let total = read(after, index);
            if total > 0 {
                rates.reasons.push(ReasonRate {
                    hook,
                    reason,
                    per_second,
                    total,
                });
            }
        }
        rates.hooks.insert(hook, at_hook);
    }
    rates.reasons.sort_by(|a, b| {
        let frequent = b.per_second.total_cmp(&a.per_second);
        frequent
            .then_with(|| b.total.cmp(&a.total))
            .then_with(|| (a.hook, a.reason).cmp(&(b.hook, b.reason)))
    });
    rates
}

/// `0`, `0.4`, `37`, `1.2k`, `3.4M`
pub fn rate_text(per_second: f64) -> String {
    match per_second {
        rate if rate <= 0.0 => "0".to_owned(),
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate if rate < 999.5 => format!("{rate:.0}"),
        rate if rate < 999_950.0 => format!("{:.1}k", rate / 1e3),
        rate => format!("{:.1}M", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use weir_ebpf::verdict::{COUNTERS, DropReason, RejectReason};

    use super::*;

    fn counted(seconds: u64, counts: &[(Hook, Verdict, u64)]) -> Counted {
        let mut counters = vec![0; COUNTERS as usize];
        for (hook, verdict, count) in counts {
            counters[counter(*hook, *verdict) as usize] = *count;
        }
        Counted {
            at: seconds * 1_000_000_000,
            counters,
        }
    }

    const EGRESS: Verdict = Verdict::Drop(DropReason::EgressPolicy);
    const NO_BACKEND: Verdict = Verdict::Reject(RejectReason::NoBackend);

    #[test]
    fn a_rate_is_what_came_divided_by_the_time_it_took() {
        let before = counted(
            10,
            &[
                (Hook::FromPod, Verdict::Pass, 100),
                (Hook::FromPod, EGRESS, 5),
                (Hook::Socket, NO_BACKEND, 7),
            ],
        );
        let after = counted(
            14,
            &[
                (Hook::FromPod, Verdict::Pass, 500),
                (Hook::FromPod, Verdict::PassFragment, 4),
                (Hook::FromPod, Verdict::Translate, 40),
                (Hook::FromPod, EGRESS, 7),
                (Hook::Socket, NO_BACKEND, 7),
            ],
        );
        let rates = rates(&before, &after);
        assert_eq!(
            rates.hooks[&Hook::FromPod],
            HookRate {
                passed: 101.0,
                translated: 10.0,
                rejected: 0.0,
                dropped: 0.5,
            }
        );
        assert_eq!(rates.hooks.len(), Hook::ALL.len());
        assert_eq!((rates.all(), rates.refused()), (111.5, 0.5));
        let reasons: Vec<_> = rates
            .reasons
            .iter()
            .map(|it| (it.hook, it.reason, it.per_second, it.total))
            .collect();
        assert_eq!(
            reasons,
            [
                (Hook::FromPod, "egress_policy", 0.5, 7),
                (Hook::Socket, "no_backend", 0.0, 7),
            ]
        );
    }

    #[test]
    fn counters_that_were_made_anew_count_from_zero() {
        let before = counted(1, &[(Hook::ToPod, Verdict::Pass, 1_000)]);
        let after = counted(2, &[(Hook::ToPod, Verdict::Pass, 30)]);
        assert_eq!(rates(&before, &after).all(), 30.0);
    }

    #[test]
    fn no_time_makes_no_rate() {
        let before = counted(1, &[]);
        let after = counted(1, &[(Hook::ToPod, Verdict::Pass, 30)]);
        assert_eq!(rates(&before, &after).all(), 0.0);
        assert_eq!(rates(&Counted::default(), &Counted::default()).all(), 0.0);
    }

    #[test]
    fn lost_events_have_a_rate_of_their_own() {
        let mut after = counted(2, &[]);
        after.counters[LOST_EVENTS as usize] = 8;
        let rates = rates(&counted(0, &[]), &after);
        assert_eq!((rates.lost, rates.all()), (4.0, 0.0));
    }

    #[test]
    fn rates_are_short() {
        for (rate, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (1.25, "1.2"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12.3k"),
            (999_960.0, "1.0M"),
        ] {
            assert_eq!(rate_text(rate), text, "{rate}");
        }
    }
}
