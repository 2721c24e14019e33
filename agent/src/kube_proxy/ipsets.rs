//! The sets of addresses and ports (`ipset`) of kube-proxy's IPVS mode.

use std::io;

use anyhow::{Context as _, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    message::{Answer, Message, byte, number, text},
    names,
};
use crate::attach::netlink::Netlink;

// include/uapi/linux/netfilter/ipset/ip_set.h
const SUBSYSTEM: u8 = 6;
const DESTROY: u8 = 3;
const LIST: u8 = 7;
const PROTOCOL: u16 = 1;
const NAME: u16 = 2;
const FLAGS: u16 = 6;
const FLAG_NAMES_ONLY: u32 = 1 << 1;
/// Linux 3.0; newer kernels still speak it.
const PROTOCOL_VERSION: u8 = 6;
const IPV4: u8 = 2;

/// The names of those that are there.
///
/// # Errors
/// The kernel does not tell.
pub fn list() -> Result<Vec<String>> {
    let netlink = Netlink::open_if_there(NETLINK_NETFILTER).context("open a netlink socket")?;
    let Some(mut netlink) = netlink else {
        return Ok(Vec::new());
    };
    let question = Message::new(
        SUBSYSTEM,
        LIST,
        IPV4,
        vec![
            byte(PROTOCOL, PROTOCOL_VERSION),
            number(FLAGS, FLAG_NAMES_ONLY),
        ],
    );
    let answers: Vec<Answer> = match netlink.list(&question) {
        // The kernel has no sets.
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        result => result.context("list sets of addresses (ipset)")?,
    };
    Ok(answers
        .iter()
        .filter_map(|answer| answer.attributes().text(NAME))
        .filter(|name| names::is_set(name))
        .map(str::to_owned)
        .collect())
}

/// Removes sets to which no rule refers any more.
///
/// # Errors
/// The kernel's, with the set's name.
pub fn remove(names: &[String]) -> Result<()> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER).context("open a netlink socket")?;
    for name in names {
        let set = vec![byte(PROTOCOL, PROTOCOL_VERSION), text(NAME, name)];
        match netlink.change(Message::new(SUBSYSTEM, DESTROY, IPV4, set), 0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| {
                    format!("remove the set {name} (a rule may still refer to it: `ipset list -t {name}`)")
                });
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)
    )
}
