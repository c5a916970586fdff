//! Ruleset diff: the rulesets that a commit adds, replaces and removes.
//!
//! A policy that changes replaces the rulesets it is in. Most port tables of a ruleset equal those of its predecessor:
//! only peer sets that some rule of a changed policy matches can differ. So a ruleset is laid out on the base of its
//! predecessor and takes over its tables. If no other subject has the predecessor, it takes over its number too. Then
//! the peer selectors of both are not touched.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use ringfence_model::Direction;

use super::Planner;
use super::accounting::StoredTable;
use super::layout::{Change, LayoutBuilder};
use super::peer_selectors::PeerSelectors;
use super::peer_sets::NO_ROOM;
use super::pods::Applied;
use super::ruleset_spec::RulesetSpec;
use super::rulesets::Ruleset;
use super::strings::Strings;
use crate::{Delta, PeerSetId, PolicyKey, PortTable, RuleId, RulesetId};

/// The rulesets that a commit adds, replaces and removes.
#[derive(Debug, Default)]
pub(super) struct RulesetDiff {
    /// New rulesets, and their bases.
    pub(super) fresh: Vec<(u32, Option<(u32, Change)>)>,
    /// Rulesets that replace another one, by its number.
    pub(super) replacements: HashMap<u32, (Box<Ruleset>, Change)>,
    /// Rulesets without subjects, until they are removed.
    pub(super) unused: Vec<u32>,
    /// Rulesets that have been replaced.
    replaced: Vec<(u32, Ruleset, Change)>,
}

impl RulesetDiff {
    /// True if there are no new rulesets.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.replacements.is_empty()
    }
}

impl Planner {
    /// Builds a ruleset that did not exist when this commit began, with one subject. `before`: the ruleset of the
    /// subject, or of a similar one.
    pub(super) fn build_ruleset(
        &mut self,
        identity: u32,
        direction: Direction,
        id: RulesetId,
        before: Applied,
        delta: &mut Delta,
        diff: &mut RulesetDiff,
    ) -> Applied {
        let known = &self.pods.identities[identity];
        let policies = known.rules.as_ref().map_or(&[][..], |rules| &rules.policies);
        let spec = RulesetSpec::new(direction, policies, &self.policies.slab, &known.visible.ports);
        let Some(spec) = spec else { return Applied::Nothing };
        if let Some(number) = self.rulesets.by_id.get(&id).copied() {
            // Another subject of this commit has built it already.
            let ruleset = match diff.replacements.get_mut(&number) {
                Some((replacement, _)) if replacement.id == id => replacement,
                Some(_) | None => &mut self.rulesets.slab[number],
            };
            if !spec.matches(ruleset) {
                return Applied::Collision;
            }
            ruleset.subjects += 1;
            return Applied::Ruleset(number, id);
        }
        let base = match before {
            Applied::Ruleset(number, _) => Some((number, &self.rulesets.slab[number])),
            Applied::Nothing | Applied::Collision | Applied::NoRoom(_) => None,
        };
        let policies = spec.governing_policies();
        let base = base.map(|(number, base)| (number, base, Change::between(&base.policies, &policies)));
        let after = base.as_ref().map(|(_, base, change)| (*base, change));
        let mut ruleset = Ruleset::new(id, &spec, policies, after, &mut self.peer_selectors, &self.strings);
        ruleset.subjects = 1;
        match base.map(|(number, _, change)| (number, change)) {
            Some((number, change))
                if self.rulesets.slab[number].subjects == 0 && !diff.replacements.contains_key(&number) =>
            {
                self.replace_ruleset(number, ruleset, change, delta, diff)
            }
            base => self.add_ruleset(ruleset, base, delta, diff),
        }
    }

    /// Adds a ruleset under a number of its own.
    fn add_ruleset(
        &mut self,
        ruleset: Ruleset,
        base: Option<(u32, Change)>,
        delta: &mut Delta,
        diff: &mut RulesetDiff,
    ) -> Applied {
        if self.rulesets.rule_ids.add(&ruleset, &ruleset.policies, delta).is_err() {
            return Applied::Collision;
        }
        ruleset.stored_tables().for_each(|stored| self.accounting.add(stored));
        let id = ruleset.id;
        let (peer_selectors, wanted, any_pod) = ruleset.references();
        let number = self.rulesets.slab.insert(ruleset);
        self.rulesets.by_id.insert(id, number);
        self.ref_selectors(number, &peer_selectors, &wanted, any_pod);
        diff.fresh.push((number, base));
        Applied::Ruleset(number, id)
    }

    /// Replaces a ruleset without subjects.
    fn replace_ruleset(
        &mut self,
        number: u32,
        ruleset: Ruleset,
        change: Change,
        delta: &mut Delta,
        diff: &mut RulesetDiff,
    ) -> Applied {
        if self.rulesets.rule_ids.add(&ruleset, &change.added, delta).is_err() {
            return Applied::Collision;
        }
        ruleset.stored_tables().for_each(|stored| self.accounting.add(stored));
        let id = ruleset.id;
        let (peer_selectors, wanted, any_pod) = ruleset.references_beyond(&self.rulesets.slab[number]);
        self.rulesets.by_id.insert(id, number);
        self.ref_selectors(number, &peer_selectors, &wanted, any_pod);
        diff.replacements.insert(number, (Box::new(ruleset), change));
        Applied::Ruleset(number, id)
    }

    /// Computes the port tables of new rulesets. All others are up to date with all peer sets.
    pub(super) fn fill_new_rulesets(&mut self, diff: &mut RulesetDiff, delta: &mut Delta) {
        for (number, base) in std::mem::take(&mut diff.fresh) {
            let (ruleset, peer_selectors) = (&self.rulesets.slab[number], &mut self.peer_selectors);
            let carry_over = base.and_then(|(base, change)| {
                let base = &self.rulesets.slab[base];
                if base.refused.is_some() {
                    return None;
                }
                let carry_over = CarryOver::of(ruleset, base, &change, peer_selectors, &self.strings)?;
                Some((base.entries.clone(), carry_over))
            });
            self.carry_over_tables(number, carry_over, delta);
        }
        for (number, (ruleset, change)) in std::mem::take(&mut diff.replacements) {
            let mut old = std::mem::replace(&mut self.rulesets.slab[number], *ruleset);
            self.rulesets.by_id.remove(&old.id);
            self.remove_tables(&old, delta);
            let ruleset = &self.rulesets.slab[number];
            let carry_over = match old.refused {
                None => CarryOver::of(ruleset, &old, &change, &mut self.peer_selectors, &self.strings),
                Some(_) => None,
            };
            let carry_over = carry_over.map(|carry_over| (std::mem::take(&mut old.entries), carry_over));
            self.carry_over_tables(number, carry_over, delta);
            diff.replaced.push((number, old, change));
        }
    }

    /// Computes the port tables of a new ruleset, except for those that equal its base.
    fn carry_over_tables(&mut self, number: u32, carry_over: Option<(Entries, CarryOver)>, delta: &mut Delta) {
        let ruleset = &mut self.rulesets.slab[number];
        let peer_sets = match carry_over {
            None => self.peer_selectors.peer_sets(ruleset.peer_selectors(), &ruleset.wanted),
            Some((mut entries, CarryOver { touched, renamed })) => {
                for peer_set in &touched {
                    entries.remove(peer_set);
                }
                if let Some((from, to)) = renamed {
                    rename(&mut entries, from, to);
                }
                for stored in entries.values() {
                    self.accounting.add(stored);
                }
                ruleset.entries = entries;
                touched
            }
        };
        // Peer sets that were added together refer to neighbouring rules.
        let mut peer_sets: Vec<_> = peer_sets.into_iter().collect();
        if self.peer_sets[NO_ROOM].peers > 0 && !self.rulesets.slab[number].entries.contains_key(&NO_ROOM) {
            peer_sets.push(NO_ROOM);
        }
        peer_sets.sort_unstable();
        for peer_set in peer_sets {
            self.put_entry(number, peer_set, delta);
        }
        self.publish(number, delta);
    }

    /// Adds all entries of a ruleset to the plan, if it is admitted.
    pub(super) fn publish(&mut self, number: u32, delta: &mut Delta) {
        let ruleset = &mut self.rulesets.slab[number];
        if ruleset.refused.is_none() {
            ruleset.published = true;
            let tables = ruleset.tables(|peer_set| self.peer_sets[peer_set].id);
            let key = |peer_set| PolicyKey { ruleset: ruleset.id, peer_set };
            delta.put_policy.extend(tables.map(|(peer_set, table)| (key(peer_set), Arc::clone(table))));
        }
    }

    /// Removes rulesets without subjects, and deactivates peer selectors that no other ruleset uses.
    pub(super) fn remove_rulesets(&mut self, diff: RulesetDiff, delta: &mut Delta) {
        for number in diff.unused {
            let Some(ruleset) = self.rulesets.slab.remove(number) else { continue };
            self.rulesets.by_id.remove(&ruleset.id);
            self.remove_tables(&ruleset, delta);
            self.rulesets.rule_ids.remove(&ruleset, &ruleset.policies, delta);
            let (peer_selectors, wanted, any_pod) = ruleset.references();
            self.unref_selectors(number, &peer_selectors, &wanted, any_pod);
        }
        for (number, old, change) in diff.replaced {
            self.rulesets.rule_ids.remove(&old, &change.removed, delta);
            let (peer_selectors, wanted, any_pod) = old.references_beyond(&self.rulesets.slab[number]);
            self.unref_selectors(number, &peer_selectors, &wanted, any_pod);
        }
    }

    /// Removes the entries of a ruleset from the plan.
    fn remove_tables(&mut self, ruleset: &Ruleset, delta: &mut Delta) {
        ruleset.stored_tables().for_each(|stored| self.accounting.remove(stored));
        if ruleset.published {
            delta.delete_policy.extend(self.entry_keys(ruleset));
        }
    }

    /// The keys of all entries of a ruleset.
    pub(super) fn entry_keys(&self, ruleset: &Ruleset) -> impl Iterator<Item = PolicyKey> {
        let peer_sets = ruleset.entries.keys().map(|peer_set| self.peer_sets[*peer_set].id);
        let all = [PeerSetId::UNKNOWN, PeerSetId::ANY_POD].into_iter().chain(peer_sets);
        all.map(|peer_set| PolicyKey { ruleset: ruleset.id, peer_set })
    }
}

/// Replaces a rule id in all port tables. Equal tables stay shared. Tables of other rulesets that become equal are not
/// shared.
fn rename(entries: &mut Entries, from: RuleId, to: RuleId) {
    let mut renamed: HashMap<*const PortTable, Arc<PortTable>> = HashMap::default();
    for stored in entries.values_mut() {
        let StoredTable::Whole(table) = stored else { continue };
        if let Some(known) = renamed.get(&Arc::as_ptr(table)) {
            *table = Arc::clone(known);
        } else if let Some(new) = table.renamed(from, to) {
            let new = Arc::new(new);
            renamed.insert(Arc::as_ptr(table), Arc::clone(&new));
            *table = new;
        }
    }
}

/// Port tables by number of peer set.
type Entries = HashMap<u32, StoredTable>;

/// The difference between the decisions of a ruleset and those of its base.
struct CarryOver {
    /// The peer sets with possibly different decisions.
    touched: HashSet<u32>,
    /// The rule ids of isolation before and after, if they differ.
    renamed: Option<(RuleId, RuleId)>,
}

impl CarryOver {
    /// None: any peer set may be decided differently.
    fn of(
        ruleset: &Ruleset,
        base: &Ruleset,
        change: &Change,
        peer_selectors: &mut PeerSelectors,
        strings: &Strings,
    ) -> Option<Self> {
        let renamed = match (base.isolated, ruleset.isolated) {
            (None, None) => None,
            (Some(from), Some(to)) => Some((from.rule_id, to.rule_id)).filter(|(from, to)| from != to),
            (None, Some(_)) | (Some(_), None) => return None,
        };
        let direction = ruleset.direction;
        let mut builder = LayoutBuilder { direction, ports: &ruleset.ports, peer_selectors, strings };
        let mut looked_at = Vec::new();
        for rule in change.policies().flat_map(|policy| policy.rules(direction).unwrap_or_default()) {
            if rule.peers.any() != [false, false] {
                return None;
            }
            looked_at.extend(builder.peer_selectors(rule).map(|(peer_selector, _)| peer_selector));
        }
        Some(Self { touched: peer_selectors.peer_sets(looked_at, &[]), renamed })
    }
}
