//! Rules for the node's routes that go by more than addresses and interfaces.
//!
//! What the kernel says of the way from one pod to another counts for all that goes between them,
//! for a second: with such a rule that would not be so.

use anyhow::{Context as _, Result};
use netlink_packet_route::{
    RouteNetlinkMessage,
    rule::{RuleAttribute, RuleMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::attach::netlink::Netlink;

/// The priorities of rules that go by protocol or port.
///
/// # Errors
/// The kernel does not tell the rules.
pub fn by_port() -> Result<Vec<u32>> {
    let mut netlink = Netlink::open(NETLINK_ROUTE).context("open a netlink socket")?;
    let question = RouteNetlinkMessage::GetRule(RuleMessage::default());
    let answers: Vec<RouteNetlinkMessage> = netlink
        .list(&question)
        .context("list the rules for routes")?;
    let rules = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewRule(rule) => Some(rule),
        _ => None,
    });
    Ok(rules.filter_map(priority_by_port).collect())
}

/// The priority of a rule, if it goes by protocol or port. One without a priority is the first.
fn priority_by_port(rule: &RuleMessage) -> Option<u32> {
    let mut attributes = rule.attributes.iter();
    let goes_by_port = attributes.any(|attribute| {
        matches!(
            attribute,
            RuleAttribute::IpProtocol(_)
                | RuleAttribute::SourcePortRange(_)
                | RuleAttribute::DestinationPortRange(_)
        )
    });
    let priority = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Priority(priority) => Some(*priority),
            _ => None,
        });
    goes_by_port.then(|| priority.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::rule::RulePortRange;

    use super::*;

    fn rule(attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.attributes = attributes;
        rule
    }

    #[test]
    fn a_rule_by_port_is_told_by_its_priority() {
        let range = RulePortRange { start: 53, end: 53 };
        for attribute in [
            RuleAttribute::SourcePortRange(range),
            RuleAttribute::DestinationPortRange(range),
        ] {
            let rule = rule(vec![RuleAttribute::Priority(100), attribute]);
            assert_eq!(priority_by_port(&rule), Some(100));
        }
    }

    #[test]
    fn rules_by_address_interface_and_mark_are_none() {
        let rule = rule(vec![
            RuleAttribute::Priority(32_766),
            RuleAttribute::Source([10, 0, 0, 1].into()),
            RuleAttribute::Iifname("eth0".to_owned()),
            RuleAttribute::FwMark(1),
            RuleAttribute::Table(254),
        ]);
        assert_eq!(priority_by_port(&rule), None);
    }
}
