//! The link and pin commands of bpf(2).
//!
//! aya creates links by an interface's *name*, which may by then belong to another one, shows
//! neither the interface nor the cgroup that a link stands at, and cannot replace the program of
//! a pinned cgroup link. These are the few commands by which all kinds of link are treated
//! alike, each a thin wrapper.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_QUERY: libc::c_long = 16;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// `enum bpf_prog_type`
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
/// `enum bpf_link_type`
const LINK_TYPE_CGROUP: u32 = 3;
const LINK_TYPE_TCX: u32 = 11;

/// `enum bpf_attach_type`: the hook that a link stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttachType(pub(super) u32);

impl AttachType {
    pub(super) const INET4_CONNECT: Self = Self(10);
    pub(super) const INET6_CONNECT: Self = Self(11);
    pub(super) const UDP4_SENDMSG: Self = Self(14);
    pub(super) const UDP6_SENDMSG: Self = Self(15);
    pub(super) const UDP4_RECVMSG: Self = Self(19);
    pub(super) const UDP6_RECVMSG: Self = Self(20);
    pub(super) const INET4_GETPEERNAME: Self = Self(29);
    pub(super) const INET6_GETPEERNAME: Self = Self(30);
    pub(super) const TCX_INGRESS: Self = Self(46);
    pub(super) const TCX_EGRESS: Self = Self(47);
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A cgroup, by its id (the inode of its directory); 0 when the cgroup is gone.
    Cgroup(u64),
    /// A network interface, by its index; 0 when the interface is gone.
    Interface(u32),
    /// Another type of link.
    Other(u32),
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) program: u32,
    pub(super) place: Place,
    pub(super) attach_type: AttachType,
}

/// Runs a command of bpf(2).
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attributes` is a prefix of `union bpf_attr` whose size is given; every pointer in
    // it is to a buffer that its caller below keeps alive and whose size it states.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn owned(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    u32::try_from(descriptor.as_raw_fd()).expect("a borrowed descriptor is not negative")
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Opens a pinned object.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(
        OBJ_GET,
        &mut Object {
            path: path.as_ptr().addr() as u64,
            descriptor: 0,
            flags: 0,
        },
    )
    .map(owned)
}

/// Gives an object a name in a BPF file system.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(
        OBJ_PIN,
        &mut Object {
            path: path.as_ptr().addr() as u64,
            descriptor: number(object),
            flags: 0,
        },
    )
    .map(drop)
}

/// `link_create` up to and including TCX's part, zero of which means "after all others".
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u64,
    expected_revision: u64,
}

fn create(program: BorrowedFd<'_>, target: u32, attach_type: AttachType) -> io::Result<OwnedFd> {
    bpf(
        LINK_CREATE,
        &mut LinkCreate {
            program: number(program),
            target,
            attach_type: attach_type.0,
            flags: 0,
            relative: 0,
            expected_revision: 0,
        },
    )
    .map(owned)
}

/// Attaches a program to an interface, after the programs that are there.
pub(super) fn attach_to_interface(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    create(program, interface, attach_type)
}

/// Attaches a program to a cgroup, beside the programs that are there.
pub(super) fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    create(program, number(cgroup), attach_type)
}

/// The numbers of the programs that a hook of an interface has, in their order.
pub(super) fn programs_at(interface: u32, attach_type: AttachType) -> io::Result<Vec<u32>> {
    /// As many as the kernel allows at a hook (`BPF_MPROG_MAX`).
    const MOST: usize = 64;
    #[repr(C)]
    struct Query {
        interface: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let mut programs = vec![0_u32; MOST];
    let mut query = Query {
        interface,
        attach_type: attach_type.0,
        query_flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr().addr() as u64,
        count: u32::try_from(MOST).unwrap_or(0),
        padding: 0,
        program_flags: 0,
        links: 0,
        link_flags: 0,
        revision: 0,
    };
    bpf(PROG_QUERY, &mut query)?;
    programs.truncate(usize::try_from(query.count).map_err(io::Error::other)?);
    Ok(programs)
}

/// Puts another program in a link, in one step.
pub(super) fn replace_program(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkUpdate {
        link: u32,
        new_program: u32,
        flags: u32,
        old_program: u32,
    }
    bpf(
        LINK_UPDATE,
        &mut LinkUpdate {
            link: number(link),
            new_program: number(program),
            flags: 0,
            old_program: 0,
        },
    )
    .map(drop)
}

/// Ends what a link does, at once (Linux 5.9). Removing its last pin does the same, but some
/// milliseconds after it has returned.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct LinkDetach {
        link: u32,
    }
    bpf(LINK_DETACH, &mut LinkDetach { link: number(link) }).map(drop)
}

/// Detaches a pinned link and removes the pin; that something is gone already is no error.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    let done = get(path)
        .and_then(|link| match detach(link.as_fd()) {
            // What it was attached to has gone.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
            other => other,
        })
        .and_then(|()| fs::remove_file(path));
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Loads a program for a hook of socket addresses from its instructions.
pub(super) fn load_sock_addr(instructions: &[u64], attach_type: AttachType) -> io::Result<OwnedFd> {
    load(PROG_TYPE_CGROUP_SOCK_ADDR, instructions, attach_type)
}

/// Loads a program for packets from its instructions.
pub(super) fn load_classifier(instructions: &[u64]) -> io::Result<OwnedFd> {
    load(PROG_TYPE_SCHED_CLS, instructions, AttachType(0))
}

fn load(kind: u32, instructions: &[u64], attach_type: AttachType) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct ProgramLoad {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    bpf(
        PROG_LOAD,
        &mut ProgramLoad {
            kind,
            instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            instructions: instructions.as_ptr().addr() as u64,
            licence: c"Dual MIT/GPL".as_ptr().addr() as u64,
            attach_type: attach_type.0,
            ..ProgramLoad::default()
        },
    )
    .map(owned)
}

/// Asks the kernel about a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    /// `struct bpf_link_info` as far as we read it, with room for what we do not.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        details: [u32; 12],
    }
    #[repr(C)]
    struct Query {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    bpf(
        OBJ_GET_INFO_BY_FD,
        &mut Query {
            descriptor: number(link),
            length: u32::try_from(size_of::<Info>()).unwrap_or(u32::MAX),
            info: (&raw mut info).addr() as u64,
        },
    )?;
    let (place, attach_type) = match info.kind {
        // struct { __u64 cgroup_id; __u32 attach_type; } cgroup
        LINK_TYPE_CGROUP => (
            Place::Cgroup(bytemuck::cast([info.details[0], info.details[1]])),
            info.details[2],
        ),
        // struct { __u32 ifindex; __u32 attach_type; } tcx
        LINK_TYPE_TCX => (Place::Interface(info.details[0]), info.details[1]),
        other => (Place::Other(other), 0),
    };
    Ok(LinkInfo {
        program: info.program,
        place,
        attach_type: AttachType(attach_type),
    })
}
