//! Listings: which policies select the local pods, where that is not known.
//!
//! Mostly it is known of another pod of the namespace, such as the one that a relabelled pod was: only policies that
//! ask for a label in which the two differ are looked at then.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use super::Planner;
use super::pods::{Applied, Enforced};
use super::policy::Policy;
use super::slab::Slab;
use super::strings::Sym;
use super::subjects::Doubt;

/// What is known of a subject before it has rulesets of its own: what another has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    pub(super) applied: [Applied; 2],
    /// The subject is to have the same.
    pub(super) same: bool,
}

impl Planner {
    /// Finds the policies that select marked subjects, where that is in doubt: by those of another subject that is like
    /// it, if there is one. Returns what those that had no rulesets can have theirs from.
    pub(super) fn relist(&mut self, marked: &[(u32, Doubt)]) -> HashMap<u32, Model> {
        let doubts: HashMap<u32, Doubt> = marked.iter().copied().collect();
        let in_doubt = || marked.iter().filter(|(_, doubt)| *doubt == Doubt::Policies).map(|(identity, _)| *identity);
        let mut unlisted: HashSet<u32> = in_doubt().collect();
        let mut models = HashMap::default();
        for identity in in_doubt() {
            let Some(known) = self.pods.identities.get(identity).filter(|known| known.local > 0) else { continue };
            let applied = known.rules.as_ref().map(|rules| rules.applied);
            let like = self.like(identity, &unlisted);
            let listed = like.and_then(|like| self.list_like(identity, like));
            let same = listed.as_ref().is_some_and(|(_, same)| *same);
            let policies = listed.map_or_else(|| self.list(identity), |(policies, _)| policies);
            if let (None, Some(like)) = (applied, like) {
                models.extend(self.model(identity, like, same, &doubts, &models).map(|model| (identity, model)));
            }
            let rules = Enforced { policies, applied: applied.unwrap_or_default() };
            self.pods.identities[identity].rules = Some(Box::new(rules));
            unlisted.remove(&identity);
        }
        models
    }

    /// The subject of the same namespace of which it is known which policies select it, and that differs in the fewest
    /// labels.
    fn like(&self, identity: u32, unlisted: &HashSet<u32>) -> Option<u32> {
        let visible = &self.pods.identities[identity].visible;
        let others = self.locals.iter().filter(|other| **other != identity && !unlisted.contains(other));
        let listed = others.filter_map(|other| {
            let known = &self.pods.identities[*other];
            let usable = known.visible.namespace == visible.namespace && known.rules.is_some();
            usable.then(|| (differing(&visible.labels, &known.visible.labels).count(), *other))
        });
        listed.min().map(|(_, other)| other)
    }

    /// The policies that select a subject, found by those that select another of its namespace; and whether they are
    /// the same. None: they differ in labels that so many policies ask for that it does not pay.
    fn list_like(&self, identity: u32, like: u32) -> Option<(Vec<u32>, bool)> {
        let (known, like) = (&self.pods.identities[identity], &self.pods.identities[like]);
        let mut policies = like.rules.as_ref()?.policies.clone();
        let own = self.namespaces.get(&known.visible.namespace).map(|namespace| &namespace.policies);
        let mut asking: Vec<u32> = Vec::new();
        for key in differing(&known.visible.labels, &like.visible.labels) {
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

    /// What a new subject can have its rulesets from: those of another, or what that has them from. `same`: the same
    /// policies select both. None: the two declare other ports, so that names of ports mean something else.
    fn model(
        &self,
        identity: u32,
        like: u32,
        same: bool,
        doubts: &HashMap<u32, Doubt>,
        models: &HashMap<u32, Model>,
    ) -> Option<Model> {
        let known = &self.pods.identities[like];
        if known.visible.ports != self.pods.identities[identity].visible.ports {
            return None;
        }
        let model = models.get(&like).copied().or_else(|| {
            let applied = known.rules.as_ref()?.applied;
            let settled = doubts.get(&like).is_none_or(|doubt| *doubt == Doubt::Subject);
            Some(Model { applied, same: settled })
        })?;
        Some(Model { same: model.same && same, ..model })
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

/// Where a policy is in a list in the order of evaluation, or belongs.
pub(super) fn position(all: &Slab<Arc<Policy>>, policies: &[u32], number: u32) -> usize {
    let rank = all[number].rank();
    policies.partition_point(|other| all[*other].rank() < rank)
}

/// Keys of labels that only one has, or with another value: those twice.
fn differing<'a>(one: &'a [(Sym, Sym)], other: &'a [(Sym, Sym)]) -> impl Iterator<Item = Sym> + 'a {
    let only = |here: &'a [(Sym, Sym)], there: &'a [(Sym, Sym)]| {
        here.iter().filter(|label| !there.contains(label)).map(|(key, _)| *key)
    };
    only(one, other).chain(only(other, one))
}
