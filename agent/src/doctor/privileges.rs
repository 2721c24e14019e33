//! What this process may do: capabilities, and memory that it may lock.

use std::fs;

use nix::sys::utsname::uname;

use super::{Finding, kernel};

/// Bits of `CapEff` (include/uapi/linux/capability.h).
const NET_BROADCAST: u32 = 11;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const SYS_RESOURCE: u32 = 24;
const PERFMON: u32 = 38;
const BPF: u32 = 39;
/// Tables count as locked memory before this.
const COUNTED_BY_GROUP: (u32, u32) = (5, 11);
/// What the tables take at their default sizes, when full.
const ENOUGH: u64 = 256 << 20;

pub(super) fn examine() -> Vec<Finding> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective(&status) else {
        return vec![Finding::error(
            "capabilities",
            "/proc/self/status does not tell them",
            "mount /proc",
        )];
    };
    let release = uname().map(|uname| uname.release().to_string_lossy().into_owned());
    let version = release.ok().as_deref().and_then(kernel::parse);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    vec![
        capabilities(effective),
        locked_memory(effective, version, limit(&limits)),
    ]
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The bytes that may be locked.
fn limit(limits: &str) -> u64 {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => u64::MAX,
        Some(bytes) => bytes.parse().unwrap_or(0),
        None => 0,
    }
}

fn has(effective: u64, capability: u32) -> bool {
    effective & (1 << capability) != 0
}

fn capabilities(effective: u64) -> Finding {
    let name = "capabilities";
    let has = |capability| has(effective, capability);
    let needed = [
        ("CAP_NET_ADMIN", has(NET_ADMIN)),
        ("CAP_BPF", has(BPF) || has(SYS_ADMIN)),
        ("CAP_PERFMON", has(PERFMON) || has(SYS_ADMIN)),
        ("CAP_NET_BROADCAST", has(NET_BROADCAST)),
    ];
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, is_there)| !is_there)
        .map(|(capability, _)| *capability)
        .collect();
    if missing.is_empty() {
        return Finding::ok(name, "all that are needed");
    }
    Finding::error(
        name,
        format!("{} missing", missing.join(", ")),
        "run as root; in a pod add them to securityContext.capabilities.add",
    )
}

fn locked_memory(effective: u64, version: Option<(u32, u32)>, limit: u64) -> Finding {
    let name = "locked memory";
    if version.is_some_and(|version| version >= COUNTED_BY_GROUP) {
        return Finding::ok(
            name,
            "tables are counted to the control group, not to the limit",
        );
    }
    if has(effective, SYS_RESOURCE) {
        return Finding::ok(name, "the limit is raised for the tables");
    }
    if limit >= ENOUGH {
        return Finding::ok(name, format!("{} MiB may be locked", limit >> 20));
    }
    Finding::error(
        name,
        format!(
            "{} KiB may be locked, and before Linux 5.11 tables are locked memory",
            limit >> 10
        ),
        "add CAP_SYS_RESOURCE, or raise the limit (ulimit -l unlimited)",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const AGENTS: u64 =
        1 << NET_ADMIN | 1 << BPF | 1 << PERFMON | 1 << NET_BROADCAST | 1 << SYS_RESOURCE;

    #[test]
    fn missing_capabilities_are_named() {
        let status = format!("Name:\tweir\nCapEff:\t{AGENTS:016x}\nSeccomp:\t0\n");
        assert_eq!(effective(&status), Some(AGENTS));
        assert_eq!(capabilities(AGENTS).state, State::Ok);
        let old = 1 << NET_ADMIN | 1 << SYS_ADMIN | 1 << NET_BROADCAST;
        assert_eq!(capabilities(old).state, State::Ok, "as before CAP_BPF");
        let finding = capabilities(AGENTS & !(1 << BPF));
        assert_eq!(finding.state, State::Error);
        assert!(finding.found.contains("CAP_BPF missing"), "{finding:?}");
    }

    #[test]
    fn the_limit_is_read_in_bytes() {
        let text =
            "Max processes  63 63 processes\nMax locked memory         8388608  8388608  bytes\n";
        assert_eq!(limit(text), 8_388_608);
        assert_eq!(
            limit("Max locked memory unlimited unlimited bytes"),
            u64::MAX
        );
    }

    #[test]
    fn the_limit_of_locked_memory_counts_on_old_kernels_only() {
        for (version, capabilities, limit, state) in [
            ((5, 10), AGENTS, 0, State::Ok),
            ((5, 10), 0, 64 << 10, State::Error),
            ((5, 10), 0, u64::MAX, State::Ok),
            ((5, 11), 0, 0, State::Ok),
        ] {
            let finding = locked_memory(capabilities, Some(version), limit);
            assert_eq!(finding.state, state, "{version:?} {limit}: {finding:?}");
        }
    }
}
