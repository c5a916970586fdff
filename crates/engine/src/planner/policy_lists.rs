//! Policy lists: the policies that select each local subject.
//!
//! The list of another pod of the namespace mostly leads to it, such as that of a pod before its labels changed: then
//! only policies that refer to a label in which the two differ are matched.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::Planner;
use super::pods::{Applied, Enforced};
use super::policy::Policy;
use super::slab::Slab;
use super::strings::Sym;
use super::subjects::Invalidation;

/// The rulesets of a similar subject, as a base for a subject without rulesets of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct BaseRulesets {
    pub(super) applied: [Applied; 2],
    /// The subject gets the same rulesets.
    pub(super) same: bool,
}

impl Planner {
    /// Finds the policies of marked subjects with unknown lists, from the list of a similar subject if there is one.
    /// Returns the bases of the rulesets of new subjects.
    pub(super) fn refresh_policy_lists(&mut self, marked: &[(u32, Invalidation)]) -> HashMap<u32, BaseRulesets> {
        let invalidations: HashMap<u32, Invalidation> = marked.iter().copied().collect();
        let invalidated = || {
            marked
                .iter()
                .filter(|(_, invalidation)| *invalidation == Invalidation::Policies)
                .map(|(identity, _)| *identity)
        };
        let mut unlisted: HashSet<u32> = invalidated().collect();
        let mut bases = HashMap::default();
        for identity in invalidated() {
            let Some(known) = self.pods.identities.get(identity).filter(|known| known.local > 0) else { continue };
            let applied = known.rules.as_ref().map(|rules| rules.applied);
            let nearest = self.nearest(identity, &unlisted);
            let listed = nearest.and_then(|nearest| self.list_from_nearest(identity, nearest));
            let same = listed.as_ref().is_some_and(|(_, same)| *same);
            let policies = listed.map_or_else(|| self.list(identity), |(policies, _)| policies);
            if let (None, Some(nearest)) = (applied, nearest) {
                bases.extend(self.base(identity, nearest, same, &invalidations, &bases).map(|base| (identity, base)));
            }
            let rules = Enforced { policies, applied: applied.unwrap_or_default() };
            self.pods.identities[identity].rules = Some(Box::new(rules));
            unlisted.remove(&identity);
        }
        bases
    }

    /// The subject of the same namespace with a known list of policies that differs in the fewest labels.
    fn nearest(&self, identity: u32, unlisted: &HashSet<u32>) -> Option<u32> {
        let visible = &self.pods.identities[identity].visible;
        let others = self.locals.iter().filter(|other| **other != identity && !unlisted.contains(other));
        let listed = others.filter_map(|other| {
            let known = &self.pods.identities[*other];
            let usable = known.visible.namespace == visible.namespace && known.rules.is_some();
            usable.then(|| (differing(&visible.labels, &known.visible.labels).count(), *other))
        });
        listed.min().map(|(_, other)| other)
    }

    /// The policies of a subject, derived from those of another of its namespace, and true if they are the same. None:
    /// so many policies refer to the labels in which the two differ that it does not pay.
    fn list_from_nearest(&self, identity: u32, nearest: u32) -> Option<(Vec<u32>, bool)> {
        let (known, nearest) = (&self.pods.identities[identity], &self.pods.identities[nearest]);
        let mut policies = nearest.rules.as_ref()?.policies.clone();
        let own = self.namespaces.get(&known.visible.namespace).map(|namespace| &namespace.policies);
        let mut asking: Vec<u32> = Vec::new();
        for key in differing(&known.visible.labels, &nearest.visible.labels) {
            let here = own.into_iter().chain([&self.policies.wide]);
            asking.extend(here.flat_map(|policies| policies.asking(key)));
        }
        asking.sort_unstable();
        asking.dedup();
        if asking.len() > 8 + policies.len() / 8 {
            return None;
        }
        let mut same = true;
        for number in asking {
            let selected = self.selects(&self.policies.slab[number], identity);
            let place = position(&self.policies.slab, &policies, number);
            let listed = policies.get(place) == Some(&number);
            match (listed, selected) {
                (true, false) => drop(policies.remove(place)),
                (false, true) => policies.insert(place, number),
                (true, true) | (false, false) => continue,
            }
            same = false;
        }
        Some((policies, same))
    }

    /// The base for the rulesets of a new subject: those of the similar subject, or the base of that one. `same`: the
    /// same policies select both. None: the two declare different ports, so named ports resolve differently.
    fn base(
        &self,
        identity: u32,
        nearest: u32,
        same: bool,
        invalidations: &HashMap<u32, Invalidation>,
        bases: &HashMap<u32, BaseRulesets>,
    ) -> Option<BaseRulesets> {
        let known = &self.pods.identities[nearest];
        if known.visible.ports != self.pods.identities[identity].visible.ports {
            return None;
        }
        let base = bases.get(&nearest).copied().or_else(|| {
            let applied = known.rules.as_ref()?.applied;
            let settled = invalidations.get(&nearest).is_none_or(|invalidation| *invalidation == Invalidation::Subject);
            Some(BaseRulesets { applied, same: settled })
        })?;
        Some(BaseRulesets { same: base.same && same, ..base })
    }

    /// All policies that select an identity, in the order of evaluation.
    fn list(&self, identity: u32) -> Vec<u32> {
        let namespace = self.pods.identities[identity].visible.namespace;
        let own = self.namespaces.get(&namespace).into_iter().flat_map(|namespace| namespace.policies.all());
        let policies = &self.policies.slab;
        let all = own.chain(self.policies.wide.all());
        let mut selecting: Vec<_> = all.filter(|number| self.selects(&policies[*number], identity)).collect();
        selecting.sort_unstable_by(|a, b| policies[*a].rank().cmp(&policies[*b].rank()));
        selecting
    }
}

/// The position of a policy in a list in the order of evaluation, or the one to insert it at.
pub(super) fn position(all: &Slab<Arc<Policy>>, policies: &[u32], number: u32) -> usize {
    let rank = all[number].rank();
    policies.partition_point(|other| all[*other].rank() < rank)
}

/// Keys of labels that only one has; keys with different values come twice.
fn differing<'a>(one: &'a [(Sym, Sym)], other: &'a [(Sym, Sym)]) -> impl Iterator<Item = Sym> + 'a {
    let only = |here: &'a [(Sym, Sym)], there: &'a [(Sym, Sym)]| {
        here.iter().filter(|label| !there.contains(label)).map(|(key, _)| *key)
    };
    only(one, other).chain(only(other, one))
}
