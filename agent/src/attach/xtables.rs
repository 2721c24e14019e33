//! The tables of `iptables-legacy`, as the kernel tells them: which there are, and their chains.
//!
//! Nothing is loaded by asking: only tables that are there already are read.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// include/uapi/linux/netfilter_{ipv4/ip,ipv6/ip6}_tables.h
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `struct ipt_getinfo`: a name, five numbers for the hooks twice, and three more.
const INFO: usize = NAME + 4 * 13;
const INFO_SIZE: usize = NAME + 4 * 12;
/// `struct ipt_get_entries`: a name and a size, aligned to eight bytes.
const ENTRIES: usize = NAME + 8;
/// `XT_TABLE_MAXNAMELEN`, also of targets with their length and revision.
const NAME: usize = 32;
/// `struct ipt_entry` and `struct ip6t_entry`: their lengths, and where the target's offset is.
const ENTRY_V4: (usize, usize) = (112, 88);
const ENTRY_V6: (usize, usize) = (168, 140);
/// The target that begins a chain, and where it has the chain's name.
const ERROR: &str = "ERROR";

/// The names of the tables that are there.
///
/// # Errors
/// The kernel's list cannot be read.
pub(crate) fn tables(is_v6: bool) -> Result<Vec<String>> {
    let path = match is_v6 {
        false => "/proc/net/ip_tables_names",
        true => "/proc/net/ip6_tables_names",
    };
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {path}")),
    }
}

/// The names of a table's chains but those of the hooks.
///
/// # Errors
/// The kernel does not tell them.
pub(crate) fn chains(is_v6: bool, table: &str) -> Result<Vec<String>> {
    let entries = entries(is_v6, table).with_context(|| {
        format!("read the iptables-legacy table {table} (this needs CAP_NET_ADMIN)")
    })?;
    Ok(names(is_v6, &entries))
}

fn entries(is_v6: bool, table: &str) -> io::Result<Vec<u8>> {
    let family = match is_v6 {
        false => AddressFamily::Inet,
        true => AddressFamily::Inet6,
    };
    // Any socket of the family will do.
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let level = if is_v6 { libc::SOL_IPV6 } else { libc::SOL_IP };
    let mut info = vec![0_u8; INFO];
    info[..table.len()].copy_from_slice(table.as_bytes());
    ask(&socket, level, GET_INFO, &mut info)?;
    let size: [u8; 4] = info[INFO_SIZE..INFO]
        .try_into()
        .map_err(|_| io::Error::other("the answer is short"))?;
    let length = usize::try_from(u32::from_ne_bytes(size)).map_err(io::Error::other)?;
    let mut entries = vec![0_u8; ENTRIES + length];
    entries[..table.len()].copy_from_slice(table.as_bytes());
    entries[NAME..NAME + 4].copy_from_slice(&size);
    ask(&socket, level, GET_ENTRIES, &mut entries)?;
    Ok(entries.split_off(ENTRIES))
}

fn ask(
    socket: &OwnedFd,
    level: libc::c_int,
    what: libc::c_int,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes, which the buffer has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            what,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A chain begins with an entry whose target is an error that bears its name; so does the table's
/// end, which bears the target's.
fn names(is_v6: bool, entries: &[u8]) -> Vec<String> {
    let (length, target_at) = if is_v6 { ENTRY_V6 } else { ENTRY_V4 };
    let mut names = Vec::new();
    let mut rest = entries;
    while rest.len() >= length {
        let offset = |at: usize| usize::from(u16::from_ne_bytes([rest[at], rest[at + 1]]));
        let (target, next) = (offset(target_at), offset(target_at + 2));
        let Some(entry) = rest.get(..next).filter(|_| next >= length) else {
            break;
        };
        if text(entry.get(target + 2..)) == Some(ERROR)
            && let Some(name) = text(entry.get(target + NAME..))
            && name != ERROR
        {
            names.push(name.to_owned());
        }
        rest = &rest[next..];
    }
    names
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(bytes?.split(|&byte| byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str, name: &str) -> Vec<u8> {
        let (length, target_at) = ENTRY_V4;
        let mut bytes = vec![0; length + 64];
        bytes[target_at..target_at + 2].copy_from_slice(&112_u16.to_ne_bytes());
        bytes[target_at + 2..target_at + 4].copy_from_slice(&176_u16.to_ne_bytes());
        bytes[length + 2..length + 2 + target.len()].copy_from_slice(target.as_bytes());
        bytes[length + NAME..length + NAME + name.len()].copy_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn chains_are_found_between_their_rules() {
        let table = [
            entry("", ""),
            entry("ERROR", "KUBE-SERVICES"),
            entry("MASQUERADE", "KUBE-NOT"),
            entry("ERROR", "ERROR"),
        ]
        .concat();
        assert_eq!(names(false, &table), ["KUBE-SERVICES"]);
        for cut in 0..table.len() {
            assert!(names(false, &table[..cut]).len() <= 1);
        }
    }
}
