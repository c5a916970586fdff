//! Reference counts of peer selectors: the first ruleset that uses one activates it, and the last one deactivates it.

use super::Planner;
use super::peer_selectors::{PeerSelector, Wanted};
use super::strings::{Condition, Namespaces, Sym, matches};

impl Planner {
    /// Adds the references of a ruleset.
    pub(super) fn ref_selectors(&mut self, number: u32, peer_selectors: &[u32], wanted: &[Wanted], any_pod: bool) {
        for peer_selector in peer_selectors {
            self.peer_selectors[*peer_selector].rulesets.push(number);
            if self.peer_selectors[*peer_selector].rulesets.len() == 1 {
                self.activate(*peer_selector);
            }
        }
        for wanted in wanted {
            if self.peer_selectors.ref_port_name(*wanted, number) {
                self.mark_declaring(wanted.0);
            }
        }
        if any_pod {
            self.peer_selectors.any_pod += 1;
            if self.peer_selectors.any_pod == 1 {
                self.mark_all();
            }
        }
    }

    /// Removes the references of a ruleset.
    pub(super) fn unref_selectors(&mut self, number: u32, peer_selectors: &[u32], wanted: &[Wanted], any_pod: bool) {
        for peer_selector in peer_selectors {
            let rulesets = &mut self.peer_selectors[*peer_selector].rulesets;
            rulesets.retain(|other| *other != number);
            if rulesets.is_empty() {
                self.deactivate(*peer_selector);
            }
        }
        for wanted in wanted {
            if self.peer_selectors.unref_port_name(*wanted, number) {
                self.mark_declaring(wanted.0);
            }
        }
        if any_pod {
            self.peer_selectors.any_pod -= 1;
            if self.peer_selectors.any_pod == 0 {
                self.mark_all();
            }
        }
    }

    /// Activates a peer selector: marks the peers that it matches.
    fn activate(&mut self, peer_selector: u32) {
        match self.peer_selectors[peer_selector].key.clone() {
            PeerSelector::Pods(selection) => {
                for namespace in self.scope_of(&selection.namespaces) {
                    let Some(known) = self.namespaces.get_mut(&namespace) else { continue };
                    if selection.admits(namespace, known.labels.as_deref()) {
                        known.candidates.push(peer_selector);
                        let identities = known.identities.iter();
                        let visible = |identity: &u32| &self.pods.identities[*identity].visible;
                        let selected =
                            identities.filter(|identity| matches(&selection.pods, &visible(identity).labels));
                        self.dirty.identities.extend(selected);
                    }
                }
            }
            PeerSelector::Block(block) => {
                let nets = self.prefixes.add(peer_selector, &block);
                self.mark_ip_block(&block, nets);
            }
            key @ (PeerSelector::Nodes(_) | PeerSelector::Domain(_)) => {
                self.activate_host_selector(peer_selector, &key);
            }
            PeerSelector::Port(_) => {}
        }
    }

    /// Deactivates a peer selector: marks the peers that it matched.
    fn deactivate(&mut self, peer_selector: u32) {
        match self.peer_selectors[peer_selector].key.clone() {
            PeerSelector::Pods(selection) => {
                for namespace in self.scope_of(&selection.namespaces) {
                    let Some(known) = self.namespaces.get_mut(&namespace) else { continue };
                    if let Some(position) = known.candidates.iter().position(|other| *other == peer_selector) {
                        known.candidates.swap_remove(position);
                        let identities = known.identities.iter();
                        let has = |identity: &&u32| {
                            let peer_set = &self.peer_sets[self.pods.identities[**identity].peer_set];
                            peer_set.content.peer_selectors.binary_search(&peer_selector).is_ok()
                        };
                        self.dirty.identities.extend(identities.filter(has));
                    }
                }
            }
            PeerSelector::Block(block) => {
                let nets = self.prefixes.remove(peer_selector, &block);
                self.mark_ip_block(&block, nets);
            }
            key @ (PeerSelector::Nodes(_) | PeerSelector::Domain(_)) => {
                self.deactivate_host_selector(peer_selector, &key);
            }
            PeerSelector::Port(_) => {}
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
