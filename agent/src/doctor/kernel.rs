//! The kernel: its version, and what of it the programs and the agent use.

use std::{fs, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};
use nix::sys::utsname::uname;

use super::Finding;
use crate::attach::{Features, probe_socket_destruction};

/// Older ones have not been tried; what the programs need came bit by bit.
const OLDEST: (u32, u32) = (5, 10);

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![version()];
    findings.extend(programs());
    findings.extend(tables());
    findings.extend(features());
    findings.push(sockets());
    findings.push(types());
    findings.push(jit(Path::new("/proc/sys/net/core/bpf_jit_enable")));
    findings
}

fn version() -> Finding {
    let name = "kernel";
    let Ok(uname) = uname() else {
        return Finding::error(name, "it does not say its version", "look at `uname -r`");
    };
    judge_version(&uname.release().to_string_lossy())
}

fn judge_version(release: &str) -> Finding {
    let name = "kernel";
    let found = format!("Linux {release}");
    match parse(release) {
        Some(version) if version >= OLDEST => Finding::ok(name, found),
        Some(_) => Finding::error(
            name,
            found,
            format!("boot Linux {}.{} or newer", OLDEST.0, OLDEST.1),
        ),
        None => Finding::warning(
            name,
            format!("{found}: not a version that can be compared"),
            "the findings below count",
        ),
    }
}

/// The two first numbers of `5.10.0-30-amd64`.
pub(super) fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn programs() -> Vec<Finding> {
    let kinds = [
        (
            "programs at interfaces",
            ProgramType::SchedClassifier,
            "CONFIG_NET_CLS_BPF",
        ),
        (
            "programs at sockets",
            ProgramType::CgroupSockAddr,
            "CONFIG_CGROUP_BPF",
        ),
    ];
    kinds
        .into_iter()
        .map(|(name, kind, option)| match is_program_supported(kind) {
            Ok(true) => Finding::ok(name, "the kernel takes them"),
            Ok(false) => Finding::error(
                name,
                "the kernel does not know them",
                format!("boot a kernel with CONFIG_BPF_SYSCALL and {option}"),
            ),
            Err(error) => not_asked(name, &error.into()),
        })
        .collect()
}

fn tables() -> Vec<Finding> {
    let kinds = [
        ("hash tables", MapType::LruHash),
        ("prefix tables", MapType::LpmTrie),
        ("ring buffers", MapType::RingBuf),
    ];
    kinds
        .into_iter()
        .map(|(name, kind)| match is_map_supported(kind) {
            Ok(true) => Finding::ok(name, "the kernel has them"),
            Ok(false) => Finding::error(name, "the kernel has none", "boot Linux 5.10 or newer"),
            Err(error) => not_asked(name, &error.into()),
        })
        .collect()
}

fn features() -> Vec<Finding> {
    let features = match Features::probe() {
        Ok(features) => features,
        Err(error) => return vec![not_asked("features", &error)],
    };
    let Features {
        set_retval,
        coarse_clock,
        tcx,
        // What of the fast path is told by those who look who has a say in forwarding.
        redirect_peer: _,
        checksum_field,
    } = features;
    vec![
        match tcx {
            true => Finding::ok("TCX", "programs are attached as links of TCX"),
            false => Finding::ok("TCX", "none (Linux 6.6): programs are attached by clsact"),
        },
        match set_retval {
            true => Finding::ok("bpf_set_retval", "a refused connection reads ECONNREFUSED"),
            false => Finding::warning(
                "bpf_set_retval",
                "none: a connection of a socket that a service without endpoints refuses reads \
                 EPERM, not ECONNREFUSED",
                "Linux 5.18 has it; most programs treat both alike",
            ),
        },
        match coarse_clock {
            true => Finding::ok("coarse clock", "the kernel has it"),
            false => Finding::ok("coarse clock", "none (Linux 5.11): the exact one is read"),
        },
        match checksum_field {
            Some(_) => Finding::ok("checksums", "programs change them in place"),
            None => Finding::ok(
                "checksums",
                "a helper changes them (from Linux 6.2 on, with BTF, programs do so in place)",
            ),
        },
    ]
}

/// Mostly for want of privileges, of which others tell more.
fn not_asked(name: &str, error: &anyhow::Error) -> Finding {
    Finding::error(
        name,
        format!("the kernel does not say: {error:#}"),
        "see the findings about capabilities; a seccomp profile may forbid bpf(2), too",
    )
}

fn sockets() -> Finding {
    let name = "closing sockets";
    match probe_socket_destruction() {
        Ok(()) => Finding::ok(name, "the kernel can (SOCK_DESTROY)"),
        Err(error) => Finding::warning(
            name,
            format!("a connected UDP socket of the node keeps a backend that is gone: {error:#}"),
            "load udp_diag; boot a kernel with CONFIG_INET_DIAG_DESTROY",
        ),
    }
}

fn types() -> Finding {
    let name = "BTF";
    match Path::new("/sys/kernel/btf/vmlinux").exists() {
        true => Finding::ok(name, "the kernel describes its types"),
        false => Finding::ok(name, "none: not needed by these programs"),
    }
}

fn jit(setting: &Path) -> Finding {
    let name = "compiler";
    match fs::read_to_string(setting).as_deref().map(str::trim) {
        Ok("0") => Finding::warning(
            name,
            "programs are interpreted: each packet costs several times as much",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Ok(_) => Finding::ok(name, "programs are compiled (net.core.bpf_jit_enable)"),
        // Told in the first network namespace only.
        Err(_) => Finding::ok(name, "not told in this network namespace"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, state) in [
            ("5.10.0-30-amd64", State::Ok),
            ("6.18.4", State::Ok),
            ("5.9.16", State::Error),
            ("4.18.0-553.el8_10.x86_64", State::Error),
            ("10.0+", State::Ok),
            ("unknown", State::Warning),
        ] {
            assert_eq!(judge_version(release).state, state, "{release}");
        }
    }

    #[test]
    fn interpreted_programs_are_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bpf_jit_enable");
        assert_eq!(jit(&file).state, State::Ok);
        for (text, state) in [
            ("0\n", State::Warning),
            ("1\n", State::Ok),
            ("2\n", State::Ok),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(jit(&file).state, state, "{text}");
        }
    }
}
