//! The kernel's `nf_tables`, over netlink: which rules there are, and their change in one
//! transaction.
//!
//! The rules that were read have a generation; a transaction that builds on another one is refused
//! by the kernel and nothing of it done. Chains and rules of `iptables` are here, too, where its
//! program is the one that translates them (`iptables-nft`).

use std::io;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{
    message::{Answer, Attributes, Message, byte, long, nested, number, text},
    ruleset::{Chain, Change, Family, HOLDER, Jump, Ruleset, TableName},
};
use crate::attach::netlink::Netlink;

// include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h
pub(crate) const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u8 = 16;
const BATCH_END: u8 = 17;
const BATCH_GENERATION: u16 = 1;
const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
pub(crate) const GET_CHAIN: u8 = 4;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const DELETE_RULE: u8 = 8;
const GET_GENERATION: u8 = 16;
const GENERATION: u16 = 1;
const TABLE_NAME: u16 = 1;
pub(crate) const CHAIN_TABLE: u16 = 1;
pub(crate) const CHAIN_NAME: u16 = 3;
pub(crate) const CHAIN_HOOK: u16 = 4;
pub(crate) const CHAIN_TYPE: u16 = 7;
pub(crate) const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_INPUT: u32 = 1;
/// `NF_IP_PRI_NAT_SRC`
const PRIORITY_SOURCE_NAT: u32 = 100;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;
const CT_REGISTER: u16 = 1;
const CT_KEY: u16 = 2;
const CT_KEY_DIRECTION: u32 = 1;
const COMPARE_REGISTER: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const COMPARE_EQUAL: u32 = 0;
const REGISTER_1: u32 = 1;

/// How often rules that keep changing are read.
const ATTEMPTS: usize = 16;

/// The edition of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u32);

/// What came of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// Nothing was: the rules are others by now.
    Outdated,
}

/// Reads the rules of the calling thread's network namespace as far as [`Ruleset`] wants them.
/// `None`: the kernel has no nf_tables.
///
/// # Errors
/// The kernel does not tell them.
pub fn read() -> Result<Option<(Ruleset, Generation)>> {
    let netlink = Netlink::open_if_there(NETLINK_NETFILTER).context("open a netlink socket")?;
    let Some(mut netlink) = netlink else {
        return Ok(None);
    };
    let mut generation = match read_generation(&mut netlink) {
        Err(error) if is_absent(&error) => return Ok(None),
        result => result.context("ask for the rules of nftables (this needs CAP_NET_ADMIN)")?,
    };
    for _ in 0..ATTEMPTS {
        let rules = read_rules(&mut netlink)?;
        let after = read_generation(&mut netlink).context("ask nftables for its generation")?;
        if after == generation {
            return Ok(Some((rules, generation)));
        }
        generation = after;
    }
    bail!("the rules of nftables changed each time they were read")
}

/// Does the kernel say that it does not have that subsystem of netfilter?
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn read_generation(netlink: &mut Netlink) -> io::Result<Generation> {
    let question = Message::new(SUBSYSTEM, GET_GENERATION, 0, Vec::new());
    let answers: Vec<Answer> = netlink.get(question)?;
    let number = answers
        .iter()
        .find_map(|answer| answer.attributes().number(GENERATION));
    number
        .map(Generation)
        .ok_or_else(|| io::Error::other("the answer has no generation"))
}

fn read_rules(netlink: &mut Netlink) -> Result<Ruleset> {
    let mut rules = Ruleset::new();
    for family in Family::ALL {
        let mut list = |kind, attributes, what: &str| -> Result<Vec<Answer>> {
            netlink
                .list(&Message::new(SUBSYSTEM, kind, af(family), attributes))
                .with_context(|| format!("list the {what} of nftables"))
        };
        for table in list(GET_TABLE, Vec::new(), "tables")? {
            if let Some(name) = table.attributes().text(TABLE_NAME) {
                rules.insert(TableName::new(family, name), Default::default());
            }
        }
        for chain in list(GET_CHAIN, Vec::new(), "chains")? {
            let chain = chain.attributes();
            if let (Some(table), Some(name)) = (chain.text(CHAIN_TABLE), chain.text(CHAIN_NAME))
                && let Some(chains) = rules.get_mut(&TableName::new(family, table))
            {
                let is_base = chain.within(CHAIN_HOOK).is_some();
                let jumps = Vec::new();
                chains.insert(name.to_owned(), Chain { is_base, jumps });
            }
        }
        let of_this_family = rules.iter_mut().filter(|(table, _)| table.family == family);
        for (table, chains) in of_this_family.filter(|(table, _)| table.is_shared()) {
            for rule in list(GET_RULE, vec![text(RULE_TABLE, &table.name)], "rules")? {
                let rule = rule.attributes();
                if let (Some(chain), Some(handle)) = (rule.text(RULE_CHAIN), rule.long(RULE_HANDLE))
                    && rule.text(RULE_TABLE) == Some(&table.name)
                    && let Some(chain) = chains.get_mut(chain)
                {
                    chain.jumps.extend(targets(rule).map(|to| Jump {
                        handle,
                        to: to.to_owned(),
                    }));
                }
            }
        }
    }
    Ok(rules)
}

/// The chains that a rule leads to.
fn targets<'a>(rule: Attributes<'a>) -> impl Iterator<Item = &'a str> {
    let expressions = rule.within(RULE_EXPRESSIONS).into_iter();
    expressions
        .flat_map(Attributes::each)
        .filter_map(|expression| {
            if expression.text(EXPRESSION_NAME) != Some("immediate") {
                return None;
            }
            expression
                .within(EXPRESSION_DATA)?
                .within(IMMEDIATE_DATA)?
                .within(DATA_VERDICT)?
                .text(VERDICT_CHAIN)
        })
}

/// Performs all changes or none.
///
/// # Errors
/// The kernel's reason why it did nothing.
pub fn apply(changes: &[Change], generation: Generation) -> Result<Outcome> {
    let mut batch = Batch::default();
    let to_all = |kind, attributes| Message::new(0, kind, 0, attributes).about(SUBSYSTEM.into());
    let begin = vec![number(BATCH_GENERATION, generation.0)];
    batch.push(to_all(BATCH_BEGIN, begin), 0);
    let messages: Vec<(Message, u16)> = changes.iter().flat_map(messages).collect();
    let count = messages.len();
    for (place, (message, flags)) in (1..).zip(messages) {
        // Its acknowledgement tells of the whole.
        let acknowledged = if place == count { NLM_F_ACK } else { 0 };
        batch.push(message, flags | acknowledged);
    }
    let last = batch.sequence;
    batch.push(to_all(BATCH_END, Vec::new()), 0);
    let mut netlink = Netlink::open(NETLINK_NETFILTER).context("open a netlink socket")?;
    match netlink.transact(&batch.bytes, last) {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if error.raw_os_error() == Some(libc::ERESTART) => Ok(Outcome::Outdated),
        Err(error) => Err(error).context("change the rules of nftables"),
    }
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn push(&mut self, message: Message, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = self.bytes.len();
        self.bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut self.bytes[start..]);
    }
}

/// A change as the kernel knows it, with the flags of each message.
fn messages(change: &Change) -> Vec<(Message, u16)> {
    let message = |kind, table: &TableName, attributes: Vec<DefaultNla>| {
        let mut all = vec![text(TABLE_NAME, &table.name)];
        all.extend(attributes);
        Message::new(SUBSYSTEM, kind, af(table.family), all)
    };
    match change {
        Change::Hold(family) => {
            let table = TableName::new(*family, HOLDER);
            let [chain, rule] = hold();
            vec![
                (message(NEW_TABLE, &table, Vec::new()), NLM_F_CREATE),
                // Else a second time would add a second rule.
                (message(DELETE_TABLE, &table, Vec::new()), 0),
                (message(NEW_TABLE, &table, Vec::new()), NLM_F_CREATE),
                (message(NEW_CHAIN, &table, chain), NLM_F_CREATE),
                (message(NEW_RULE, &table, rule), NLM_F_CREATE | APPEND),
            ]
        }
        Change::RemoveRule(table, chain, handle) => {
            let rule = vec![text(RULE_CHAIN, chain), long(RULE_HANDLE, *handle)];
            vec![(message(DELETE_RULE, table, rule), 0)]
        }
        Change::EmptyChain(table, chain) => {
            let rules = vec![text(RULE_CHAIN, chain)];
            vec![(message(DELETE_RULE, table, rules), 0)]
        }
        Change::RemoveChain(table, chain) => {
            let chain = vec![text(CHAIN_NAME, chain)];
            vec![(message(DELETE_CHAIN, table, chain), 0)]
        }
        Change::RemoveTable(table) => vec![(message(DELETE_TABLE, table, Vec::new()), 0)],
    }
}

/// `NLM_F_APPEND`, which for a rule means: behind the others.
const APPEND: u16 = netlink_packet_core::NLM_F_APPEND;

/// A chain for which the kernel translates addresses, and a rule for which it tracks connections.
/// Neither does anything to a packet: `type nat hook input priority srcnat` with
/// `ct direction original`.
fn hold() -> [Vec<DefaultNla>; 2] {
    const NAME: &str = "translation";
    let hook = [
        number(HOOK_NUMBER, HOOK_INPUT),
        number(HOOK_PRIORITY, PRIORITY_SOURCE_NAT),
    ];
    let chain = vec![
        text(CHAIN_NAME, NAME),
        nested(CHAIN_HOOK, &hook),
        text(CHAIN_TYPE, "nat"),
    ];
    let direction = expression(
        "ct",
        &[
            number(CT_REGISTER, REGISTER_1),
            number(CT_KEY, CT_KEY_DIRECTION),
        ],
    );
    let compare = expression(
        "cmp",
        &[
            number(COMPARE_REGISTER, REGISTER_1),
            number(COMPARE_OPERATION, COMPARE_EQUAL),
            nested(COMPARE_DATA, &[byte(DATA_VALUE, 0)]),
        ],
    );
    let rule = vec![
        text(RULE_CHAIN, NAME),
        nested(RULE_EXPRESSIONS, &[direction, compare]),
    ];
    [chain, rule]
}

fn expression(name: &str, data: &[DefaultNla]) -> DefaultNla {
    nested(
        LIST_ELEMENT,
        &[text(EXPRESSION_NAME, name), nested(EXPRESSION_DATA, data)],
    )
}

/// The number of an address family, which is also that of its tables.
const fn af(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
