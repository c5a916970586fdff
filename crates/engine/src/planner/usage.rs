//! Usage: atoms come into use with the first ruleset that asks for them, and go out of use with the last.

use super::Planner;
use super::atoms::{AtomKey, Wanted};
use super::strings::{Condition, Namespaces, Sym, matches};

impl Planner {
    /// A ruleset asks for these atoms and port names, and perhaps for every pod.
    pub(super) fn enlist(&mut self, number: u32, atoms: &[u32], wanted: &[Wanted], universal: bool) {
        for atom in atoms {
            self.atoms[*atom].rulesets.push(number);
            if self.atoms[*atom].rulesets.len() == 1 {
                self.join(*atom);
            }
        }
        for wanted in wanted {
            if self.atoms.want(*wanted, number) {
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

    /// A ruleset asks for these atoms and port names no more.
    pub(super) fn unlist(&mut self, number: u32, atoms: &[u32], wanted: &[Wanted], universal: bool) {
        for atom in atoms {
            let rulesets = &mut self.atoms[*atom].rulesets;
            rulesets.retain(|other| *other != number);
            if rulesets.is_empty() {
                self.leave(*atom);
            }
        }
        for wanted in wanted {
            if self.atoms.unwant(*wanted, number) {
                self.mark_declaring(wanted.0);
            }
        }
        if universal {
            self.atoms.universal -= 1;
            if self.atoms.universal == 0 {
                self.mark_all();
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
            Namespaces::Matching(selector) => match selector.iter().find_map(Condition::one_of) {
                Some(labels) => labels.filter_map(|label| self.labelled.get(&label)).flatten().copied().collect(),
                None => self.namespaces.keys().copied().collect(),
            },
        }
    }
}
