//! The content of a ruleset, and the hash that is its id.

use std::sync::Arc;

use ringfence_model::Direction;

use super::digest::Content;
use super::peer_selectors::Wanted;
use super::policy::{Policy, Rule};
use super::rulesets::Ruleset;
use super::slab::Slab;
use super::strings::{NamedPort, Strings};
use crate::RulesetId;

/// The content of a ruleset: the policies in the order of evaluation, and the subject's ports that their ingress rules
/// name.
#[derive(Debug)]
pub(super) struct RulesetSpec<'a> {
    pub(super) direction: Direction,
    /// All policies that select the subject, by number.
    policies: &'a [u32],
    all: &'a Slab<Arc<Policy>>,
    pub(super) ports: Box<[NamedPort]>,
}

impl<'a> RulesetSpec<'a> {
    /// Builds a spec from all policies that select a subject, by number, and all ports it declares. None if no policy
    /// governs the direction.
    pub(super) fn new(
        direction: Direction,
        policies: &'a [u32],
        all: &'a Slab<Arc<Policy>>,
        declared: &[NamedPort],
    ) -> Option<Self> {
        let mut spec = Self { direction, policies, all, ports: Box::default() };
        spec.governing().next()?;
        if direction == Direction::Ingress {
            let named = |port: &NamedPort| {
                let names = spec.governing().flat_map(|(_, rules)| rules).flat_map(|rule| rule.ports.names());
                names.into_iter().any(|wanted| is_meant(*wanted, *port))
            };
            spec.ports = declared.iter().filter(|port| named(port)).copied().collect();
        }
        Some(spec)
    }

    /// The policies that govern the direction.
    pub(super) fn governing(&self) -> impl Iterator<Item = (&'a Arc<Policy>, &'a [Rule])> {
        let direction = self.direction;
        let policies = self.policies.iter().map(|number| &self.all[*number]);
        policies.filter_map(move |policy| Some((policy, policy.rules(direction)?)))
    }

    /// The policies that govern the direction, as shared references.
    pub(super) fn governing_policies(&self) -> Box<[Arc<Policy>]> {
        self.governing().map(|(policy, _)| Arc::clone(policy)).collect()
    }

    /// The id of the ruleset.
    pub(super) fn id(&self, strings: &Strings) -> RulesetId {
        let mut content = Content::new("ruleset");
        content.number(self.direction as u8);
        for (policy, _) in self.governing() {
            content.bytes(&policy.digest);
        }
        // By name, because the number of a string depends on the order of events.
        let mut ports: Vec<_> =
            self.ports.iter().map(|port| (strings.name(port.name), port.protocol, port.port)).collect();
        ports.sort_unstable();
        for (name, protocol, port) in ports {
            content.text(name);
            content.number(protocol.0);
            content.number(port);
        }
        RulesetId(content.id())
    }

    /// True if `ruleset` has this content.
    pub(super) fn matches(&self, ruleset: &Ruleset) -> bool {
        self.direction == ruleset.direction
            && self.governing().map(|(policy, _)| policy.digest).eq(ruleset.policies.iter().map(|policy| policy.digest))
            && self.ports == ruleset.ports
    }
}

/// True if a rule with a named port means this port.
pub(super) fn is_meant((name, protocol): Wanted, port: NamedPort) -> bool {
    name == port.name && protocol.is_none_or(|protocol| protocol == port.protocol)
}
