//! The cookie by which programs know this network namespace.
//!
//! Linux 5.14 tells it through a socket option. Older kernels tell it only to programs, so one
//! is asked there: attached for a moment to the agent's own cgroup, it notes the namespace of
//! whoever connects to a certain loopback address, and we do (UDP: no packet is sent).

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};

use super::bpf::{self, AttachType};

const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's network namespace.
///
/// # Errors
///
/// The kernel tells it in neither way.
pub fn netns_cookie() -> Result<u64> {
    match by_socket_option() {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => netns_cookie_by_program(),
        result => result.context("ask a socket for the cookie of this network namespace"),
    }
}

fn by_socket_option() -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the value and its length are local, and the length is that of the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// The same, in the older way.
///
/// # Errors
///
/// The kernel refuses the program, or the agent's cgroup cannot be found.
pub fn netns_cookie_by_program() -> Result<u64> {
    by_program().context("ask a program for the cookie of this network namespace")
}

fn by_program() -> Result<u64> {
    let port = 9; // discard
    let mark = loopback_mark(std::process::id());
    let map = Array::<MapData, u64>::create(1, 0).context("create a map")?;
    let descriptor = aya::maps::IterableMap::map(&map).fd().as_fd().as_raw_fd();
    let program = bpf::load_sock_addr(
        &program(u32::from_ne_bytes(mark.octets()), descriptor),
        AttachType::INET4_CONNECT,
    )
    .context("load the program")?;
    let path = own_cgroup()?;
    let cgroup = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let link = bpf::attach_to_cgroup(program.as_fd(), cgroup.as_fd(), AttachType::INET4_CONNECT)
        .with_context(|| format!("attach to the agent's own cgroup {}", path.display()))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
    // The program has run whether or not there is a route.
    let _outcome = socket.connect((mark, port));
    drop(link);
    let cookie = map.get(&0, 0).context("read the map")?;
    ensure!(cookie != 0, "the program did not see the socket");
    Ok(cookie)
}

/// A loopback address that only we connect to: the low bits of the process id in it.
fn loopback_mark(process: u32) -> Ipv4Addr {
    let [_, a, b, c] = process.to_be_bytes();
    Ipv4Addr::new(127, a | 0x80, b, c)
}

/// `if (ctx->user_ip4 == mark) map[0] = bpf_get_netns_cookie(ctx); return 1;`
fn program(mark: u32, map: i32) -> Vec<u64> {
    const R0: u8 = 0;
    const R1: u8 = 1;
    const R2: u8 = 2;
    const R3: u8 = 3;
    const R4: u8 = 4;
    const R6: u8 = 6;
    const FRAME: u8 = 10;
    const MOVE: u8 = 0xbf;
    const MOVE_NUMBER: u8 = 0xb7;
    const ADD_NUMBER: u8 = 0x07;
    const LOAD_WORD: u8 = 0x61;
    const STORE_WORD: u8 = 0x62;
    const STORE_DOUBLE: u8 = 0x7b;
    const LOAD_MAP: u8 = 0x18;
    const PSEUDO_MAP_FD: u8 = 1;
    /// Compares 32 bits (Linux 5.1).
    const JUMP_UNLESS_EQUAL: u8 = 0x56;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const USER_IP4: i16 = 4;
    const MAP_UPDATE_ELEM: i32 = 2;
    const GET_NETNS_COOKIE: i32 = 122;

    let instruction = |code: u8, to: u8, from: u8, offset: i16, number: i32| {
        let [low, high] = offset.to_le_bytes();
        let [n0, n1, n2, n3] = number.to_le_bytes();
        let registers = if cfg!(target_endian = "little") {
            from << 4 | to
        } else {
            to << 4 | from
        };
        // On a big-endian machine offset and number are big-endian too.
        if cfg!(target_endian = "little") {
            u64::from_le_bytes([code, registers, low, high, n0, n1, n2, n3])
        } else {
            u64::from_be_bytes([code, registers, high, low, n3, n2, n1, n0])
        }
    };
    vec![
        instruction(MOVE, R6, R1, 0, 0),
        instruction(LOAD_WORD, R0, R1, USER_IP4, 0),
        instruction(JUMP_UNLESS_EQUAL, R0, 0, 12, mark.cast_signed()),
        instruction(MOVE, R1, R6, 0, 0),
        instruction(CALL, 0, 0, 0, GET_NETNS_COOKIE),
        instruction(STORE_DOUBLE, FRAME, R0, -8, 0),
        instruction(STORE_WORD, FRAME, 0, -12, 0),
        instruction(LOAD_MAP, R1, PSEUDO_MAP_FD, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, R2, FRAME, 0, 0),
        instruction(ADD_NUMBER, R2, 0, 0, -12),
        instruction(MOVE, R3, FRAME, 0, 0),
        instruction(ADD_NUMBER, R3, 0, 0, -8),
        instruction(MOVE_NUMBER, R4, 0, 0, 0),
        instruction(CALL, 0, 0, 0, MAP_UPDATE_ELEM),
        instruction(MOVE_NUMBER, R0, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// The directory of the cgroup v2 that this process is in.
fn own_cgroup() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/thread-self/mounts").context("read /proc/thread-self/mounts")?;
    let cgroups =
        fs::read_to_string("/proc/thread-self/cgroup").context("read /proc/thread-self/cgroup")?;
    match cgroup_directory(&mounts, &cgroups) {
        Some(directory) => Ok(directory),
        None => {
            bail!("cgroup v2 is not mounted; mount it with `mount -t cgroup2 none <directory>`")
        }
    }
}

fn cgroup_directory(mounts: &str, cgroups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let directory = fields.next()?;
        (fields.next()? == "cgroup2").then_some(directory)
    })?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(mount).join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_beside_version_1() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      none /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      none /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n";
        let cgroups = "2:cpu:/elsewhere\n0::/system.slice/weir.service\n";
        assert_eq!(
            cgroup_directory(mounts, cgroups),
            Some(PathBuf::from(
                "/sys/fs/cgroup/unified/system.slice/weir.service"
            ))
        );
        assert_eq!(cgroup_directory("", cgroups), None);
    }

    #[test]
    fn the_mark_is_a_loopback_address_of_this_process() {
        assert!(loopback_mark(u32::MAX).is_loopback());
        assert_ne!(loopback_mark(1), loopback_mark(2));
    }
}
