//! What makes a ruleset, and the hash that is its id.

use std::sync::Arc;

use ringfence_model::Direction;

use super::atoms::Wanted;
use super::digest::Content;
use super::policy::{Policy, Rule};
use super::rulesets::Ruleset;
use super::slab::Slab;
use super::strings::{NamedPort, Strings};
use crate::RulesetId;

/// What makes a ruleset: the policies in the order of evaluation, and the subject's ports that their ingress rules
/// name.
#[derive(Debug)]
pub(super) struct Recipe<'a> {
    pub(super) direction: Direction,
    /// All policies that select the subject, by number.
    policies: &'a [u32],
    all: &'a Slab<Arc<Policy>>,
    pub(super) ports: Box<[NamedPort]>,
}

impl<'a> Recipe<'a> {
    /// Of all policies that select a subject, by number, and all ports it declares. None if no policy governs the
    /// direction.
    pub(super) fn new(
        direction: Direction,
        policies: &'a [u32],
        all: &'a Slab<Arc<Policy>>,
        declared: &[NamedPort],
    ) -> Option<Self> {
        let mut recipe = Self { direction, policies, all, ports: Box::default() };
        recipe.governing().next()?;
        if direction == Direction::Ingress {
            let named = |port: &NamedPort| {
                let names = recipe.governing().flat_map(|(_, rules)| rules).flat_map(|rule| rule.ports.names());
                names.into_iter().any(|wanted| is_meant(*wanted, *port))
            };
            recipe.ports = declared.iter().filter(|port| named(port)).copied().collect();
        }
        Some(recipe)
    }

    /// The policies that govern the direction.
    pub(super) fn governing(&self) -> impl Iterator<Item = (&'a Arc<Policy>, &'a [Rule])> {
        let direction = self.direction;
        let policies = self.policies.iter().map(|number| &self.all[*number]);
        policies.filter_map(move |policy| Some((policy, policy.rules(direction)?)))
    }

    /// The policies that govern the direction, to be kept.
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
        // By name, not by number: that of a string depends on the order of events.
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

    /// Whether this is what `ruleset` was made of.
    pub(super) fn made(&self, ruleset: &Ruleset) -> bool {
        self.direction == ruleset.direction
            && self.governing().map(|(policy, _)| policy.digest).eq(ruleset.policies.iter().map(|policy| policy.digest))
            && self.ports == ruleset.ports
    }
}

/// Whether a rule that asks for a name means this port.
pub(super) fn is_meant((name, protocol): Wanted, port: NamedPort) -> bool {
    name == port.name && protocol.is_none_or(|protocol| protocol == port.protocol)
}
