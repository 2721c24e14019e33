//! The kernel's own rules for packets: nftables, `iptables-legacy` and IPsec, as far as they
//! may have a say in what the node forwards.
//!
//! Nothing is loaded by asking, but for the modules of netlink sockets themselves.

use std::convert::Infallible;

use anyhow::{Context as _, Result};
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_XFRM};

use super::judge::{Family, LegacyHook, NftChain};
use crate::{
    attach::{
        netlink::Netlink,
        xtables::{self, Content, HOOKS},
    },
    kube_proxy::{
        message::{Answer, Message},
        nftables::{
            self, CHAIN_HOOK, CHAIN_NAME, CHAIN_TABLE, CHAIN_TYPE, GET_CHAIN, HOOK_NUMBER,
            SUBSYSTEM,
        },
    },
};

// include/uapi/linux/netfilter/nf_tables.h
const CHAIN_POLICY: u16 = 5;
/// What refers to a chain: of one that the kernel itself sends packets to, its rules.
const CHAIN_USE: u16 = 6;
const ACCEPT: u32 = 1;

/// The number of a family (`NFPROTO_…`).
const fn number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::V4 => 2,
        Family::Device => 5,
        Family::V6 => 10,
    }
}

/// The chains of nftables to which the kernel itself sends packets; `iptables-nft` has its there.
///
/// # Errors
/// The kernel does not tell them.
pub fn chains() -> Result<Vec<NftChain>> {
    let netlink = Netlink::open_if_there(NETLINK_NETFILTER).context("open a netlink socket")?;
    let Some(mut netlink) = netlink else {
        return Ok(Vec::new());
    };
    let mut chains = Vec::new();
    for family in Family::ALL {
        let question = Message::new(SUBSYSTEM, GET_CHAIN, number(family), Vec::new());
        let answers: Vec<Answer> = match netlink.list(&question) {
            Err(error) if nftables::is_absent(&error) => return Ok(Vec::new()),
            result => result.context("list the chains of nftables (this needs CAP_NET_ADMIN)")?,
        };
        chains.extend(answers.iter().filter_map(|answer| chain(family, answer)));
    }
    Ok(chains)
}

/// `None`: other chains alone lead there.
fn chain(family: Family, answer: &Answer) -> Option<NftChain> {
    let chain = answer.attributes();
    let hook = chain.within(CHAIN_HOOK)?;
    let text = |kind| chain.text(kind).unwrap_or_default().to_owned();
    Some(NftChain {
        family,
        table: text(CHAIN_TABLE),
        name: text(CHAIN_NAME),
        // What is not told might be anywhere.
        hook: hook.number(HOOK_NUMBER).unwrap_or_default(),
        translates: chain.text(CHAIN_TYPE) == Some("nat"),
        has_rules: chain.number(CHAIN_USE) != Some(0),
        accepts: chain.number(CHAIN_POLICY) == Some(ACCEPT),
    })
}

/// The hooks of `iptables-legacy` that do anything.
///
/// # Errors
/// The kernel does not tell them.
pub fn legacy() -> Result<Vec<LegacyHook>> {
    let mut found = Vec::new();
    for is_v6 in [false, true] {
        for table in xtables::tables(is_v6)? {
            let content = xtables::Table::open(is_v6, &table)
                .and_then(|kernel| kernel.read())
                .with_context(|| format!("read the table {table} of iptables-legacy"))?;
            let hooks = (0..HOOKS).filter(|&hook| is_busy(&content, is_v6, hook));
            found.extend(hooks.map(|hook| LegacyHook {
                is_v6,
                table: table.clone(),
                hook: u32::try_from(hook).unwrap_or(u32::MAX),
            }));
        }
    }
    Ok(found)
}

/// Does a table have rules at a hook, or a policy other than to accept?
fn is_busy(content: &Content, is_v6: bool, hook: usize) -> bool {
    let is_hooked = content.hooks & 1 << hook != 0;
    let policy = content.policies[hook];
    is_hooked && (content.begins[hook] != policy || !accepts(&content.entries, is_v6, policy))
}

/// Does the entry at this offset accept every packet that comes to it?
fn accepts(entries: &[u8], is_v6: bool, offset: u32) -> bool {
    /// `struct ipt_entry` and `struct ip6t_entry`: where they say where their target is.
    const TARGET: [usize; 2] = [88, 140];
    /// `struct xt_entry_target`, behind which a standard one has its verdict.
    const TARGET_LENGTH: usize = 32;
    /// `-NF_ACCEPT - 1`
    const ACCEPTED: i32 = -2;
    let verdict = || -> Option<i32> {
        let entry = entries.get(usize::try_from(offset).ok()?..)?;
        let at = TARGET[usize::from(is_v6)];
        let target = u16::from_ne_bytes(entry.get(at..at + 2)?.try_into().ok()?);
        let at = usize::from(target) + TARGET_LENGTH;
        Some(i32::from_ne_bytes(entry.get(at..at + 4)?.try_into().ok()?))
    };
    verdict() == Some(ACCEPTED)
}

/// How many IPsec policies there are.
///
/// # Errors
/// The kernel does not tell them.
pub fn ipsec_policies() -> Result<usize> {
    let netlink = Netlink::open_if_there(NETLINK_XFRM).context("open a netlink socket")?;
    let Some(mut netlink) = netlink else {
        return Ok(0);
    };
    let policies: Vec<IpsecPolicy> = netlink
        .list(&IpsecQuestion)
        .context("list the IPsec policies (this needs CAP_NET_ADMIN)")?;
    Ok(policies.len())
}

/// `XFRM_MSG_GETPOLICY`
#[derive(Clone, Copy)]
struct IpsecQuestion;

impl IpsecQuestion {
    /// `include/uapi/linux/xfrm.h`
    const KIND: u16 = 0x15;
    /// `struct xfrm_userpolicy_id`
    const LENGTH: usize = 64;
}

impl NetlinkSerializable for IpsecQuestion {
    fn message_type(&self) -> u16 {
        Self::KIND
    }

    fn buffer_len(&self) -> usize {
        Self::LENGTH
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..Self::LENGTH].fill(0);
    }
}

/// One that is there.
struct IpsecPolicy;

impl NetlinkDeserializable for IpsecPolicy {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table whose only hook is FORWARD, with a rule before its policy or none.
    fn table(is_v6: bool, has_rule: bool, verdict: i32) -> Content {
        let (target_at, target) = if is_v6 { (140, 168_u16) } else { (88, 112_u16) };
        let mut entry = vec![0; usize::from(target) + 40];
        entry[target_at..target_at + 2].copy_from_slice(&target.to_ne_bytes());
        let at = usize::from(target) + 32;
        entry[at..at + 4].copy_from_slice(&verdict.to_ne_bytes());
        let length = u32::try_from(entry.len()).unwrap();
        let mut content = Content {
            hooks: 1 << 2,
            ..Content::default()
        };
        if has_rule {
            content.entries = vec![0; entry.len()];
            content.policies[2] = length;
        }
        content.entries.extend(entry);
        content
    }

    #[test]
    fn a_legacy_table_is_busy_with_rules_or_a_policy_that_drops() {
        const ACCEPT: i32 = -2;
        const DROP: i32 = -1;
        for is_v6 in [false, true] {
            assert!(!is_busy(&table(is_v6, false, ACCEPT), is_v6, 2));
            assert!(is_busy(&table(is_v6, false, DROP), is_v6, 2));
            assert!(is_busy(&table(is_v6, true, ACCEPT), is_v6, 2));
            // Where it has no hook it does nothing.
            assert!(!is_busy(&table(is_v6, true, DROP), is_v6, 0));
        }
    }

    #[test]
    fn bytes_that_are_no_entry_accept_nothing() {
        for bytes in [&[][..], &[0; 20], &[255; 90]] {
            assert!(!accepts(bytes, false, 0));
            assert!(!accepts(bytes, true, 8));
        }
    }
}
