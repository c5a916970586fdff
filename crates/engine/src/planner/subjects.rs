//! Subjects: which policies select the local pods, and the rulesets they make.

use foldhash::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ringfence_model::Direction;

use super::Planner;
use super::atoms::AtomKey;
use super::pods::{Applied, Enforced};
use super::policy::Policy;
use super::recipe::Recipe;
use super::rulesets::Ruleset;
use super::strings::{Namespaces, Sym, matches};
use crate::{ClassId, Delta, EntryKey};

/// What became of rulesets in a commit, by number.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    /// New ones.
    pub(super) fresh: Vec<u32>,
    /// Those no subject has any more, until they are removed.
    pub(super) retired: Vec<u32>,
}

impl Planner {
    /// A policy is there from now on: adds it to the subjects it selects.
    pub(super) fn select(&mut self, policy: &Arc<Policy>) {
        for identity in self.selected(policy) {
            let Some(rules) = &mut self.pods.identities[identity].rules else { continue };
            let position = rules.policies.partition_point(|other| other.rank() < policy.rank());
            rules.policies.insert(position, Arc::clone(policy));
            self.dirty.subjects.entry(identity).or_insert(false);
        }
    }

    /// A policy is gone.
    pub(super) fn deselect(&mut self, policy: &Arc<Policy>) {
        for identity in self.selected(policy) {
            let Some(rules) = &mut self.pods.identities[identity].rules else { continue };
            if let Ok(position) = rules.policies.binary_search_by(|other| other.rank().cmp(&policy.rank())) {
                rules.policies.remove(position);
                self.dirty.subjects.entry(identity).or_insert(false);
            }
        }
    }

    /// The local identities a policy selects.
    fn selected(&self, policy: &Policy) -> Vec<u32> {
        let named = match &policy.subject.namespaces {
            Namespaces::Named(name) => self.namespaces.get(name).map(|namespace| &namespace.identities),
            Namespaces::Matching(_) => None,
        };
        let among = named.filter(|identities| identities.len() < self.locals.len()).unwrap_or(&self.locals);
        let selected =
            among.iter().filter(|identity| self.locals.contains(identity) && self.selects(policy, **identity));
        selected.copied().collect()
    }

    fn selects(&self, policy: &Policy, identity: u32) -> bool {
        let visible = &self.pods.identities[identity].visible;
        policy.subject.admits(visible.namespace, self.labels(visible.namespace))
            && matches(&policy.subject.pods, &visible.labels)
    }

    pub(super) fn labels(&self, namespace: Sym) -> Option<&[(Sym, Sym)]> {
        self.namespaces.get(&namespace)?.labels.as_deref()
    }

    /// Makes the rulesets of all marked subjects. Adds the addresses of those that changed to `moved`.
    pub(super) fn refresh_subjects(&mut self, delta: &mut Delta, moved: &mut HashSet<IpAddr>) -> Turnover {
        let mut turnover = Turnover::default();
        let mut subjects: Vec<_> = std::mem::take(&mut self.dirty.subjects).into_iter().collect();
        subjects.sort_unstable();
        for (identity, relist) in subjects {
            let Some(known) = self.pods.identities.get(identity) else { continue };
            let before = known.rules.as_ref().map_or_else(Default::default, |rules| rules.applied);
            let applied = if known.local == 0 {
                self.pods.identities[identity].rules = None;
                Default::default()
            } else {
                if relist || known.rules.is_none() {
                    let policies = self.list(identity);
                    self.pods.identities[identity].rules =
                        Some(Box::new(Enforced { policies, applied: Default::default() }));
                }
                [Direction::Ingress, Direction::Egress]
                    .map(|direction| self.acquire(identity, direction, delta, &mut turnover))
            };
            if let Some(rules) = &mut self.pods.identities[identity].rules {
                rules.applied = applied;
            }
            for applied in before {
                self.release(applied, &mut turnover);
            }
            if before != applied {
                moved.extend(self.pods.addresses(identity));
            }
        }
        turnover.retired.retain(|number| self.rulesets.slab[*number].subjects == 0);
        turnover.retired.sort_unstable();
        turnover.retired.dedup();
        turnover
    }

    /// All policies that select an identity, in the order of evaluation.
    fn list(&self, identity: u32) -> Vec<Arc<Policy>> {
        let namespace = self.pods.identities[identity].visible.namespace;
        let own = self.namespaces.get(&namespace).into_iter().flat_map(|namespace| &namespace.policies);
        let all = own.chain(&self.policies.wide).map(|number| &self.policies.slab[*number]);
        let mut policies: Vec<_> = all.filter(|policy| self.selects(policy, identity)).cloned().collect();
        policies.sort_unstable_by(|a, b| a.rank().cmp(&b.rank()));
        policies
    }

    /// The ruleset of an identity, counted as used once more.
    fn acquire(&mut self, identity: u32, direction: Direction, delta: &mut Delta, turnover: &mut Turnover) -> Applied {
        let known = &self.pods.identities[identity];
        let policies = known.rules.as_ref().map_or(&[][..], |rules| &rules.policies);
        let recipe = Recipe { direction, policies, declared: &known.visible.ports };
        if recipe.is_empty() {
            return Applied::Nothing;
        }
        let id = recipe.id(&self.strings);
        if let Some(number) = self.rulesets.by_id.get(&id).copied() {
            let ruleset = &mut self.rulesets.slab[number];
            if !recipe.made(ruleset) {
                return Applied::Conflict;
            }
            ruleset.subjects += 1;
            return Applied::Ruleset(number, id);
        }
        let mut ruleset = Ruleset::new(&recipe, id, &mut self.atoms, &self.strings);
        if self.rulesets.causes.add(&ruleset, delta).is_err() {
            self.rulesets.causes.remove(&ruleset, delta);
            return Applied::Conflict;
        }
        ruleset.subjects = 1;
        let number = self.rulesets.slab.insert(ruleset);
        self.rulesets.by_id.insert(id, number);
        self.enlist(number);
        turnover.fresh.push(number);
        Applied::Ruleset(number, id)
    }

    fn release(&mut self, applied: Applied, turnover: &mut Turnover) {
        let Applied::Ruleset(number, _) = applied else { return };
        let ruleset = &mut self.rulesets.slab[number];
        ruleset.subjects -= 1;
        if ruleset.subjects == 0 {
            turnover.retired.push(number);
        }
    }

    /// Brings the atoms of a ruleset into use.
    fn enlist(&mut self, number: u32) {
        let ruleset = &self.rulesets.slab[number];
        let (atoms, wanted, universal) =
            (ruleset.atoms().collect::<Vec<_>>(), ruleset.wanted.clone(), ruleset.universal);
        for atom in atoms {
            self.atoms[atom].rulesets.push(number);
            if self.atoms[atom].rulesets.len() == 1 {
                self.join(atom);
            }
        }
        for wanted in wanted {
            if self.atoms.want(wanted, number) {
                self.mark_declaring(wanted.0);
            }
        }
        if universal {
            self.atoms.universal += 1;
            if self.atoms.universal == 1 {
                self.mark_all();
            }
        }
    }

    /// Removes rulesets that no subject has; atoms only they asked for go out of use.
    pub(super) fn retire(&mut self, retired: &[u32], delta: &mut Delta) {
        for number in retired {
            let Some(ruleset) = self.rulesets.slab.remove(*number) else { continue };
            self.rulesets.by_id.remove(&ruleset.id);
            let mut gone = |class| delta.delete_entries.push(EntryKey { ruleset: ruleset.id, class });
            gone(ClassId::UNKNOWN);
            gone(ClassId::ANY_POD);
            ruleset.entries.keys().for_each(|class| gone(self.classes[*class].id));
            self.rulesets.causes.remove(&ruleset, delta);
            for atom in ruleset.atoms() {
                let rulesets = &mut self.atoms[atom].rulesets;
                rulesets.retain(|other| other != number);
                if rulesets.is_empty() {
                    self.leave(atom);
                }
            }
            for wanted in &ruleset.wanted {
                if self.atoms.unwant(*wanted, *number) {
                    self.mark_declaring(wanted.0);
                }
            }
            if ruleset.universal {
                self.atoms.universal -= 1;
                if self.atoms.universal == 0 {
                    self.mark_all();
                }
            }
        }
    }

    /// An atom comes into use.
    fn join(&mut self, atom: u32) {
        match self.atoms[atom].key.clone() {
            AtomKey::Pods(selection) => {
                for namespace in self.scope_of(&selection.namespaces) {
                    let Some(known) = self.namespaces.get_mut(&namespace) else { continue };
                    if selection.admits(namespace, known.labels.as_deref()) {
                        known.candidates.push(atom);
                        let identities = known.identities.iter();
                        let visible = |identity: &u32| &self.pods.identities[*identity].visible;
                        let selected =
                            identities.filter(|identity| matches(&selection.pods, &visible(identity).labels));
                        self.dirty.identities.extend(selected);
                    }
                }
            }
            AtomKey::Block(block) => {
                let nets = self.prefixes.add(atom, &block);
                self.mark_block(&block, nets);
            }
            key @ (AtomKey::Nodes(_) | AtomKey::Domain(_)) => self.join_hosts(atom, &key),
            AtomKey::Port(_) => {}
        }
    }

    /// An atom goes out of use.
    fn leave(&mut self, atom: u32) {
        match self.atoms[atom].key.clone() {
            AtomKey::Pods(selection) => {
                for namespace in self.scope_of(&selection.namespaces) {
                    let Some(known) = self.namespaces.get_mut(&namespace) else { continue };
                    if let Some(position) = known.candidates.iter().position(|other| *other == atom) {
                        known.candidates.swap_remove(position);
                        let identities = known.identities.iter();
                        let has = |identity: &&u32| {
                            let class = &self.classes[self.pods.identities[**identity].class];
                            class.content.atoms.binary_search(&atom).is_ok()
                        };
                        self.dirty.identities.extend(identities.filter(has));
                    }
                }
            }
            AtomKey::Block(block) => {
                let nets = self.prefixes.remove(atom, &block);
                self.mark_block(&block, nets);
            }
            key @ (AtomKey::Nodes(_) | AtomKey::Domain(_)) => self.leave_hosts(atom, &key),
            AtomKey::Port(_) => {}
        }
    }

    /// The namespaces a selection may select from.
    fn scope_of(&mut self, selection: &Namespaces) -> Vec<Sym> {
        match selection {
            Namespaces::Named(name) => {
                self.namespaces.entry(*name).or_default();
                vec![*name]
            }
            Namespaces::Matching(_) => self.namespaces.keys().copied().collect(),
        }
    }
}
