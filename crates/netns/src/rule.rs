//! Rules that select the routing table for packets.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Error, Netlink, Result};

/// A rule that sends packets from a source to a table. If no route there matches, later rules apply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The priority: rules with lower numbers come first.
    pub priority: u32,
    /// The source of packets.
    pub from: IpNet,
    /// The table.
    pub table: u8,
}

impl Netlink {
    /// Creates a rule. No error if it exists already.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let added = self
            .change(RouteNetlinkMessage::NewRule(message(rule)), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("add rule for", rule.from.to_string(), cause));
        match added {
            Err(error) if error.is_already_there() => Ok(()),
            other => other,
        }
    }

    /// Deletes a rule. No error if it does not exist.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        let deleted = self
            .change(RouteNetlinkMessage::DelRule(message(rule)), 0)
            .map_err(|cause| Error::new("delete rule for", rule.from.to_string(), cause));
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Returns the rules of a priority, of both families.
    pub fn rules_at(&mut self, priority: u32) -> Result<Vec<Rule>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let answers =
                self.dump(RouteNetlinkMessage::GetRule(message)).map_err(|cause| Error::new("list", "rules", cause))?;
            found.extend(answers.into_iter().filter_map(parse).filter(|rule| rule.priority == priority));
        }
        Ok(found)
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let from = rule.from.trunc();
    let mut message = RuleMessage::default();
    message.header.family = if from.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.src_len = from.prefix_len();
    message.header.table = rule.table;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![RuleAttribute::Source(from.addr()), RuleAttribute::Priority(rule.priority)];
    message
}

fn parse(message: RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let (mut source, mut priority): (Option<IpAddr>, u32) = (None, 0);
    for attribute in message.attributes {
        match attribute {
            RuleAttribute::Source(from) => source = Some(from),
            RuleAttribute::Priority(number) => priority = number,
            _ => {}
        }
    }
    let from = IpNet::new(source?, message.header.src_len).ok()?;
    Some(Rule { priority, from, table: message.header.table })
}
