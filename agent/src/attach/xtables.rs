//! The tables of `iptables-legacy`, as the kernel tells and takes them: whole, as bytes.
//!
//! Nothing is loaded by asking: only tables that are there already are read. What the bytes mean is
//! for others to know.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// include/uapi/linux/netfilter_{ipv4/ip,ipv6/ip6}_tables.h
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
const REPLACE: libc::c_int = 64;
const ADD_COUNTERS: libc::c_int = 65;
/// `XT_TABLE_MAXNAMELEN`
const NAME: usize = 32;
/// `struct ipt_getinfo`: a name, the hooks' set, where each begins and has its policy, how many
/// entries there are, and how many bytes.
const INFO: usize = NAME + 4 * (1 + 2 * HOOKS + 2);
/// `struct ipt_get_entries`: a name and a size, aligned to eight bytes.
const ENTRIES: usize = NAME + 8;
/// `struct xt_counters_info`: likewise.
const COUNTERS: usize = NAME + 8;

/// `NF_INET_NUMHOOKS`
pub(crate) const HOOKS: usize = 5;

/// A table's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Bit by bit: which hooks send packets to the table.
    pub hooks: u32,
    /// For each hook the offset of the entry that it begins with.
    pub begins: [u32; HOOKS],
    /// For each hook the offset of the entry that is its policy.
    pub policies: [u32; HOOKS],
    /// How many entries there are.
    pub count: u32,
    /// The entries, one after the other.
    pub entries: Vec<u8>,
}

/// Packets and bytes that an entry has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Counters {
    packets: u64,
    bytes: u64,
}

/// `struct ipt_replace` and `struct ip6t_replace` without the entries, which follow it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Replace {
    name: [u8; NAME],
    hooks: u32,
    count: u32,
    size: u32,
    begins: [u32; HOOKS],
    policies: [u32; HOOKS],
    counters_count: u32,
    counters: *mut Counters,
}

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

/// A table of the calling thread's network namespace.
pub(crate) struct Table {
    /// Any socket of the family will do.
    socket: OwnedFd,
    level: libc::c_int,
    name: [u8; NAME],
}

impl Table {
    /// The table of this name; whether it is there shows when it is read.
    ///
    /// # Errors
    /// The kernel has not that family, or the name is too long.
    pub(crate) fn open(is_v6: bool, table: &str) -> io::Result<Self> {
        let (family, level) = match is_v6 {
            false => (AddressFamily::Inet, libc::SOL_IP),
            true => (AddressFamily::Inet6, libc::SOL_IPV6),
        };
        let mut name = [0; NAME];
        name.get_mut(..table.len())
            .filter(|_| table.len() < NAME)
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(table.as_bytes());
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self {
            socket,
            level,
            name,
        })
    }

    /// What it holds. Another number of bytes than a moment ago is [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// The kernel's; it wants CAP_NET_ADMIN.
    pub(crate) fn read(&self) -> io::Result<Content> {
        let mut info = [0_u8; INFO];
        info[..NAME].copy_from_slice(&self.name);
        self.ask(GET_INFO, &mut info)?;
        let words: Vec<u32> = info[NAME..]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&word| u32::from_ne_bytes(word))
            .collect();
        let hooked = |from: usize| std::array::from_fn(|hook| words[from + hook]);
        let size = words[2 + 2 * HOOKS];
        let length = usize::try_from(size).map_err(io::Error::other)?;
        let mut answer = vec![0_u8; ENTRIES + length];
        answer[..NAME].copy_from_slice(&self.name);
        answer[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        self.ask(GET_ENTRIES, &mut answer)?;
        Ok(Content {
            hooks: words[0],
            begins: hooked(1),
            policies: hooked(1 + HOOKS),
            count: words[1 + 2 * HOOKS],
            entries: answer.split_off(ENTRIES),
        })
    }

    /// Puts another content in the place of one that has `before` entries, and tells what those had
    /// counted. The new ones begin at zero.
    ///
    /// # Errors
    /// The kernel's. [`io::ErrorKind::WouldBlock`]: it has another number of entries by now.
    pub(crate) fn replace(&self, content: &Content, before: u32) -> io::Result<Vec<Counters>> {
        let size = u32::try_from(content.entries.len()).map_err(io::Error::other)?;
        let length = usize::try_from(before).map_err(io::Error::other)?;
        let mut counters = vec![Counters::default(); length];
        let head = Replace {
            name: self.name,
            hooks: content.hooks,
            count: content.count,
            size,
            begins: content.begins,
            policies: content.policies,
            counters_count: before,
            counters: counters.as_mut_ptr(),
        };
        let mut bytes = vec![0_u8; size_of::<Replace>()];
        // SAFETY: the buffer has the size of a `Replace`, which has no padding; it need not be
        // aligned.
        unsafe { bytes.as_mut_ptr().cast::<Replace>().write_unaligned(head) };
        bytes.extend_from_slice(&content.entries);
        // The kernel reads the bytes, and writes `before` counters, for which there is room.
        self.tell(REPLACE, &bytes)?;
        Ok(counters)
    }

    /// Adds to what the entries have counted, of which there are as many.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn add(&self, counters: &[Counters]) -> io::Result<()> {
        let count = u32::try_from(counters.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0_u8; COUNTERS];
        bytes[..NAME].copy_from_slice(&self.name);
        bytes[NAME..NAME + 4].copy_from_slice(&count.to_ne_bytes());
        for one in counters {
            bytes.extend_from_slice(&one.packets.to_ne_bytes());
            bytes.extend_from_slice(&one.bytes.to_ne_bytes());
        }
        self.tell(ADD_COUNTERS, &bytes)
    }

    fn ask(&self, what: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
        let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes, which the buffer has.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level,
                what,
                buffer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        succeeded(result)
    }

    fn tell(&self, what: libc::c_int, buffer: &[u8]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `length` bytes, which the buffer has; where these hold an
        // address for it to write to (`Replace`), `replace` keeps what lies there.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                self.level,
                what,
                buffer.as_ptr().cast(),
                length,
            )
        };
        succeeded(result)
    }
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
