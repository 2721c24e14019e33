//! Packets that this machine's processors had no room for.
//!
//! A packet on a veth waits in the queue of the processor that sent it. Where that queue is full,
//! because others on the machine send faster than the processor works, the kernel drops what comes
//! and counts it. Such a loss is the machine's, and no word about what was to be shown.

use std::fs;
use std::io;

/// How many packets there were no room for since the machine's start, whosever they were.
///
/// # Errors
/// The kernel's, and where it does not say so as it has always done.
pub fn dropped_for_want_of_room() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/softnet_stat")?;
    sum(&text).ok_or_else(|| io::Error::other(format!("softnet_stat says {text:?}")))
}

/// A line for each processor; the second column is what it dropped.
fn sum(text: &str) -> Option<u64> {
    text.lines()
        .map(|line| {
            let dropped = line.split_whitespace().nth(1)?;
            u64::from_str_radix(dropped, 16).ok()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_processors_dropped_is_added_up() {
        let text = "01ef2956 0000824c 00000002\n021740ce 00000010 00000004\n";
        assert_eq!(sum(text), Some(0x825c));
        assert_eq!(sum("garbled\n"), None);
        assert!(dropped_for_want_of_room().is_ok());
    }
}
