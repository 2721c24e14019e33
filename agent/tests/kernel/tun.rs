//! A tun device: an interface without Ethernet headers, which cannot be made by netlink.
#![allow(unsafe_code, reason = "tun devices are made by an ioctl")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `struct ifreq` of `TUNSETIFF`.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    padding: [u8; 22],
}

/// Makes a tun device in this thread's network namespace. It goes with the file.
pub fn make(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap(),
        padding: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes a `struct ifreq`, which is as long as `Request`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert!(result == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    file
}
