//! The map commands of bpf(2) that aya 0.14 has no names for: many entries in one call, and
//! opening a pinned map for reading alone.
//!
//! Batches exist since Linux 5.6. Every access of the agent to its hash tables and arrays goes
//! through them, a single entry being a batch of one. Longest-prefix tables have batches only
//! since Linux 5.13: they are written one by one, on every kernel, and read in batches where that can
//! be, since all of them are read again and again.
//!
//! Callers promise that `K` and `V` are the map's key and value: the kernel copies as many bytes
//! as the *map* says. [`pins`](crate::maps::pins) compares both before a table is opened.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bytemuck::Pod;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_GET: libc::c_long = 7;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;

/// `BPF_F_RDONLY`: what the descriptor may do, not what the map is.
const READ_ONLY: u32 = 1 << 3;

/// `ENOTSUPP`, which is the kernel's own.
const NOT_SUPPORTED: i32 = 524;

/// Does the kernel have no batches for such a map?
pub(super) fn has_no_batches(error: &io::Error) -> bool {
    error.raw_os_error() == Some(NOT_SUPPORTED)
}

/// `struct { … } batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `struct { … }` of `union bpf_attr` for one element.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct { … }` of `union bpf_attr` for the object that a path names.
#[repr(C)]
struct Pinned {
    path: u64,
    descriptor: u32,
    file_flags: u32,
}

/// A batch ended early: entries before `done` took effect, the one at `done` was refused.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) done: usize,
    pub(super) error: io::Error,
}

fn descriptor(map: BorrowedFd<'_>) -> u32 {
    u32::try_from(map.as_raw_fd()).expect("a borrowed descriptor is not negative")
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr`, its size is given, and the pointers
    // in it (set by the functions below) are to live buffers of the size that the map's layout
    // demands, which is the module's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Opens a pinned map so that the kernel refuses every write through the descriptor.
pub(super) fn open_read_only(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pinned = Pinned {
        path: path.as_ptr().addr() as u64,
        descriptor: 0,
        file_flags: READ_ONLY,
    };
    let result = bpf(OBJ_GET, &mut pinned)?;
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Runs an update or delete over `total` entries; `batch` gives the pointers for those left.
fn run(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    total: usize,
    keys: u64,
    values: u64,
) -> Result<(), Stopped> {
    let count = u32::try_from(total).map_err(|_| Stopped {
        done: 0,
        error: io::Error::from(io::ErrorKind::InvalidInput),
    })?;
    let mut batch = Batch {
        keys,
        values,
        count,
        map_fd: descriptor(map),
        ..Batch::default()
    };
    match bpf(command, &mut batch) {
        Ok(_) => Ok(()),
        Err(error) => Err(Stopped {
            // The kernel leaves `count` alone when it refuses before the first entry.
            done: if batch.count < count {
                batch.count as usize
            } else {
                0
            },
            error,
        }),
    }
}

/// Sets entries, in order.
pub(super) fn update<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), Stopped> {
    assert_eq!(keys.len(), values.len(), "each key has its value");
    if keys.is_empty() {
        return Ok(());
    }
    run(
        MAP_UPDATE_BATCH,
        map,
        keys.len(),
        keys.as_ptr().addr() as u64,
        values.as_ptr().addr() as u64,
    )
}

/// Removes entries, in order; those that are absent are passed over.
pub(super) fn delete<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), Stopped> {
    let mut first = 0;
    while first < keys.len() {
        let left = &keys[first..];
        match run(
            MAP_DELETE_BATCH,
            map,
            left.len(),
            left.as_ptr().addr() as u64,
            0,
        ) {
            Ok(()) => return Ok(()),
            // The kernel stops at the first key that is absent.
            Err(Stopped { done, error }) if error.raw_os_error() == Some(libc::ENOENT) => {
                first += done + 1;
            }
            Err(Stopped { done, error }) => {
                return Err(Stopped {
                    done: first + done,
                    error,
                });
            }
        }
    }
    Ok(())
}

/// One entry.
pub(super) fn lookup<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let key = (&raw const *key).addr() as u64;
    let value_at = (&raw mut value).addr() as u64;
    match bpf(MAP_LOOKUP_ELEM, &mut element(map, key, value_at)) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn element(map: BorrowedFd<'_>, key: u64, value: u64) -> Element {
    Element {
        map_fd: descriptor(map),
        padding: 0,
        key,
        value,
        flags: 0,
    }
}

/// Sets entries, in order, one by one.
pub(super) fn update_each<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), Stopped> {
    for (done, (key, value)) in keys.iter().zip(values).enumerate() {
        let key = (&raw const *key).addr() as u64;
        let value = (&raw const *value).addr() as u64;
        bpf(MAP_UPDATE_ELEM, &mut element(map, key, value))
            .map_err(|error| Stopped { done, error })?;
    }
    Ok(())
}

/// Removes entries, in order, one by one; those that are absent are passed over.
pub(super) fn delete_each<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), Stopped> {
    for (done, key) in keys.iter().enumerate() {
        let key = (&raw const *key).addr() as u64;
        match bpf(MAP_DELETE_ELEM, &mut element(map, key, 0)) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(Stopped { done, error }),
        }
    }
    Ok(())
}

/// The key that follows this one, or the first. What is removed meanwhile by another writer
/// would make the walk begin again: for tables that the agent alone writes.
pub(super) fn next_key<K: Pod>(map: BorrowedFd<'_>, after: Option<&K>) -> io::Result<Option<K>> {
    let mut next = K::zeroed();
    let after = after.map_or(0, |key| (&raw const *key).addr() as u64);
    let next_at = (&raw mut next).addr() as u64;
    match bpf(MAP_GET_NEXT_KEY, &mut element(map, after, next_at)) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All entries of a map, fetched some at a time.
///
/// Entries that programs add or remove meanwhile may be seen or missed; all others are seen
/// once.
pub struct Entries<'map, K, V> {
    map: BorrowedFd<'map>,
    /// The kernel's place in the map; meaningful once `begun`.
    place: [u64; 8],
    begun: bool,
    ended: bool,
    /// How many more are wanted.
    left: usize,
    keys: Vec<K>,
    values: Vec<V>,
    /// Which of the fetched ones come next.
    next: std::ops::Range<usize>,
}

/// How many bytes a call asks for at first. The kernel copies bucket by bucket, so that more entries
/// in a call make none of them cheaper; what fits here comes from the allocator's own memory, not
/// from fresh pages, and stays in the processor's cache until it has been looked at.
const CHUNK: usize = 32 * 1024;
/// No fewer entries than this, however large they are: a bucket is to fit.
const FEWEST: usize = 64;

impl<'map, K: Pod, V: Pod> Entries<'map, K, V> {
    pub(super) fn new(map: BorrowedFd<'map>) -> Self {
        Self::first(map, usize::MAX)
    }

    /// Only the first so many of an array: of a hash table the kernel gives whole buckets.
    pub(super) fn first(map: BorrowedFd<'map>, count: usize) -> Self {
        assert!(
            size_of::<K>() <= size_of::<[u64; 8]>(),
            "the kernel may keep a key as its place"
        );
        let room = (CHUNK / (size_of::<K>() + size_of::<V>())).max(FEWEST);
        Self {
            map,
            place: [0; 8],
            begun: false,
            ended: count == 0,
            left: count,
            keys: vec![K::zeroed(); room],
            values: vec![V::zeroed(); room],
            next: 0..0,
        }
    }

    fn fetch(&mut self) -> io::Result<()> {
        let mut after = [0u64; 8];
        let mut batch = Batch {
            in_batch: if self.begun {
                self.place.as_ptr().addr() as u64
            } else {
                0
            },
            out_batch: after.as_mut_ptr().addr() as u64,
            keys: self.keys.as_mut_ptr().addr() as u64,
            values: self.values.as_mut_ptr().addr() as u64,
            count: u32::try_from(self.keys.len().min(self.left)).unwrap_or(u32::MAX),
            map_fd: descriptor(self.map),
            ..Batch::default()
        };
        match bpf(MAP_LOOKUP_BATCH, &mut batch) {
            Ok(_) => {
                self.place = after;
                self.begun = true;
            }
            // The end; the last entries come with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.ended = true,
            // One bucket holds more than we have room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                let room = self.keys.len() * 2;
                self.keys.resize(room, K::zeroed());
                self.values.resize(room, V::zeroed());
                return Ok(());
            }
            Err(error) => {
                self.ended = true;
                return Err(error);
            }
        }
        let count = (batch.count as usize).min(self.keys.len());
        self.next = 0..count;
        self.left = self.left.saturating_sub(count);
        self.ended |= self.left == 0;
        Ok(())
    }
}

impl<K: Pod, V: Pod> Iterator for Entries<'_, K, V> {
    type Item = io::Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(index) = self.next.next() {
                return Some(Ok((self.keys[index], self.values[index])));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fetch() {
                return Some(Err(error));
            }
        }
    }
}
