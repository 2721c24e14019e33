//! What the loader tells the programs once, before they are verified: read-only, so that the
//! verifier removes what a kernel or a setting does not need.

use aya_ebpf::Global;

/// `SO_NETNS_COOKIE` of the node's own network namespace: whose sockets are the node's.
#[unsafe(no_mangle)]
static HOST_NETNS_COOKIE: Global<u64> = Global::new(0);

/// Where the kernel says in a packet what stands in its checksum: the byte, and above sixteen bits the
/// lowest bit there. Zero: programs cannot look.
#[unsafe(no_mangle)]
static CHECKSUM_FIELD: Global<u32> = Global::new(0);

/// Bits of `FEATURE_*`.
#[unsafe(no_mangle)]
static FEATURES: Global<u32> = Global::new(0);

/// `bpf_set_retval` exists (Linux 5.18).
const FEATURE_SET_RETVAL: u32 = 1;
/// `bpf_ktime_get_coarse_ns` exists (Linux 5.11).
const FEATURE_COARSE_CLOCK: u32 = 2;

#[inline(always)]
pub fn host_netns_cookie() -> u64 {
    HOST_NETNS_COOKIE.load()
}

#[inline(always)]
pub fn has_set_retval() -> bool {
    FEATURES.load() & FEATURE_SET_RETVAL != 0
}

#[inline(always)]
pub fn has_coarse_clock() -> bool {
    FEATURES.load() & FEATURE_COARSE_CLOCK != 0
}

#[inline(always)]
pub fn checksum_field() -> u32 {
    CHECKSUM_FIELD.load()
}
