//! Turnover: rulesets that come, that go, and that take the place of one that goes.
//!
//! A policy that changes makes other rulesets of those it is in. Of what a ruleset decides, most is what its
//! predecessor decided: only classes that some rule of a changed policy is about can be decided otherwise. So a ruleset
//! is laid out after its predecessor and takes over its entries, and where nobody else has the predecessor, its number,
//! too: then the atoms both ask for do not notice.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use ringfence_model::Direction;

use super::Planner;
use super::atoms::Atoms;
use super::classes::NO_ROOM;
use super::layout::{Change, Maker};
use super::ledger::Held;
use super::pods::Applied;
use super::recipe::Recipe;
use super::rulesets::Ruleset;
use super::strings::Strings;
use crate::{Block, CauseId, ClassId, Delta, EntryKey, RulesetId};

/// What became of rulesets in a commit.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    /// New ones, and what they were laid out after.
    pub(super) fresh: Vec<(u32, Option<(u32, Change)>)>,
    /// Those that take the place of another, by its number.
    pub(super) successors: HashMap<u32, (Box<Ruleset>, Change)>,
    /// Those no subject has any more, until they are removed.
    pub(super) retired: Vec<u32>,
    /// Those that had successors.
    succeeded: Vec<(u32, Ruleset, Change)>,
}

impl Turnover {
    /// Whether there are no new rulesets.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.successors.is_empty()
    }
}

impl Planner {
    /// Makes a ruleset that was not there when this commit began, counted as used once more. `before`: what the
    /// subject, or one like it, has until now.
    pub(super) fn make(
        &mut self,
        identity: u32,
        direction: Direction,
        id: RulesetId,
        before: Applied,
        delta: &mut Delta,
        turnover: &mut Turnover,
    ) -> Applied {
        let known = &self.pods.identities[identity];
        let policies = known.rules.as_ref().map_or(&[][..], |rules| &rules.policies);
        let recipe = Recipe::new(direction, policies, &self.policies.slab, &known.visible.ports);
        let Some(recipe) = recipe else { return Applied::Nothing };
        if let Some(number) = self.rulesets.by_id.get(&id).copied() {
            // Another subject came first.
            let ruleset = match turnover.successors.get_mut(&number) {
                Some((successor, _)) if successor.id == id => successor,
                Some(_) | None => &mut self.rulesets.slab[number],
            };
            if !recipe.made(ruleset) {
                return Applied::Conflict;
            }
            ruleset.subjects += 1;
            return Applied::Ruleset(number, id);
        }
        let model = match before {
            Applied::Ruleset(number, _) => Some((number, &self.rulesets.slab[number])),
            Applied::Nothing | Applied::Conflict | Applied::NoRoom(_) => None,
        };
        let policies = recipe.governing_policies();
        let model = model.map(|(number, model)| (number, model, Change::between(&model.policies, &policies)));
        let after = model.as_ref().map(|(_, model, change)| (*model, change));
        let mut ruleset = Ruleset::new(id, &recipe, policies, after, &mut self.atoms, &self.strings);
        ruleset.subjects = 1;
        match model.map(|(number, _, change)| (number, change)) {
            Some((number, change))
                if self.rulesets.slab[number].subjects == 0 && !turnover.successors.contains_key(&number) =>
            {
                self.succeed(number, ruleset, change, delta, turnover)
            }
            model => self.settle_in(ruleset, model, delta, turnover),
        }
    }

    /// A ruleset gets a number of its own.
    fn settle_in(
        &mut self,
        ruleset: Ruleset,
        model: Option<(u32, Change)>,
        delta: &mut Delta,
        turnover: &mut Turnover,
    ) -> Applied {
        if self.rulesets.causes.add(&ruleset, &ruleset.policies, delta).is_err() {
            return Applied::Conflict;
        }
        ruleset.held().for_each(|held| self.ledger.enter(held));
        let id = ruleset.id;
        let (atoms, wanted, universal) = ruleset.asks();
        let number = self.rulesets.slab.insert(ruleset);
        self.rulesets.by_id.insert(id, number);
        self.enlist(number, &atoms, &wanted, universal);
        turnover.fresh.push((number, model));
        Applied::Ruleset(number, id)
    }

    /// A ruleset is to take the place of one that no subject has any more.
    fn succeed(
        &mut self,
        number: u32,
        ruleset: Ruleset,
        change: Change,
        delta: &mut Delta,
        turnover: &mut Turnover,
    ) -> Applied {
        if self.rulesets.causes.add(&ruleset, &change.added, delta).is_err() {
            return Applied::Conflict;
        }
        ruleset.held().for_each(|held| self.ledger.enter(held));
        let id = ruleset.id;
        let (atoms, wanted, universal) = ruleset.asks_beyond(&self.rulesets.slab[number]);
        self.rulesets.by_id.insert(id, number);
        self.enlist(number, &atoms, &wanted, universal);
        turnover.successors.insert(number, (Box::new(ruleset), change));
        Applied::Ruleset(number, id)
    }

    /// Computes the entries of new rulesets. Those of all others are up to date with all classes.
    pub(super) fn fill(&mut self, turnover: &mut Turnover, delta: &mut Delta) {
        for (number, model) in std::mem::take(&mut turnover.fresh) {
            let (ruleset, atoms) = (&self.rulesets.slab[number], &mut self.atoms);
            let heritage = model.and_then(|(model, change)| {
                let model = &self.rulesets.slab[model];
                if model.refused.is_some() {
                    return None;
                }
                let heritage = Heritage::of(ruleset, model, &change, atoms, &self.strings)?;
                Some((model.entries.clone(), heritage))
            });
            self.inherit(number, heritage, delta);
        }
        for (number, (ruleset, change)) in std::mem::take(&mut turnover.successors) {
            let mut old = std::mem::replace(&mut self.rulesets.slab[number], *ruleset);
            self.rulesets.by_id.remove(&old.id);
            self.withdraw(&old, delta);
            let ruleset = &self.rulesets.slab[number];
            let heritage = match old.refused {
                None => Heritage::of(ruleset, &old, &change, &mut self.atoms, &self.strings),
                Some(_) => None,
            };
            let heritage = heritage.map(|heritage| (std::mem::take(&mut old.entries), heritage));
            self.inherit(number, heritage, delta);
            turnover.succeeded.push((number, old, change));
        }
    }

    /// Computes the entries of a new ruleset, those aside that are as in its model.
    fn inherit(&mut self, number: u32, heritage: Option<(Entries, Heritage)>, delta: &mut Delta) {
        let ruleset = &mut self.rulesets.slab[number];
        let classes = match heritage {
            None => self.atoms.classes(ruleset.atoms(), &ruleset.wanted),
            Some((mut entries, Heritage { touched, renamed })) => {
                for class in &touched {
                    entries.remove(class);
                }
                if let Some((from, to)) = renamed {
                    rename(&mut entries, from, to);
                }
                for held in entries.values() {
                    self.ledger.enter(held);
                }
                ruleset.entries = entries;
                touched
            }
        };
        // Classes that came together look at rules that are side by side.
        let mut classes: Vec<_> = classes.into_iter().collect();
        if self.classes[NO_ROOM].peers > 0 && !self.rulesets.slab[number].entries.contains_key(&NO_ROOM) {
            classes.push(NO_ROOM);
        }
        classes.sort_unstable();
        for class in classes {
            self.put_entry(number, class, delta);
        }
        self.publish(number, delta);
    }

    /// Has the plan hold all decisions of a ruleset, if it is admitted.
    pub(super) fn publish(&mut self, number: u32, delta: &mut Delta) {
        let ruleset = &mut self.rulesets.slab[number];
        if ruleset.refused.is_none() {
            ruleset.published = true;
            let blocks = ruleset.blocks(|class| self.classes[class].id);
            let key = |class| EntryKey { ruleset: ruleset.id, class };
            delta.put_entries.extend(blocks.map(|(class, block)| (key(class), Arc::clone(block))));
        }
    }

    /// Removes rulesets that no subject has; atoms only they asked for go out of use.
    pub(super) fn retire(&mut self, turnover: Turnover, delta: &mut Delta) {
        for number in turnover.retired {
            let Some(ruleset) = self.rulesets.slab.remove(number) else { continue };
            self.rulesets.by_id.remove(&ruleset.id);
            self.withdraw(&ruleset, delta);
            self.rulesets.causes.remove(&ruleset, &ruleset.policies, delta);
            let (atoms, wanted, universal) = ruleset.asks();
            self.unlist(number, &atoms, &wanted, universal);
        }
        for (number, old, change) in turnover.succeeded {
            self.rulesets.causes.remove(&old, &change.removed, delta);
            let (atoms, wanted, universal) = old.asks_beyond(&self.rulesets.slab[number]);
            self.unlist(number, &atoms, &wanted, universal);
        }
    }

    /// The decisions of a ruleset go, if the plan holds them.
    fn withdraw(&mut self, ruleset: &Ruleset, delta: &mut Delta) {
        ruleset.held().for_each(|held| self.ledger.leave(held));
        if ruleset.published {
            delta.delete_entries.extend(self.entry_keys(ruleset));
        }
    }

    /// Of all decisions of a ruleset.
    pub(super) fn entry_keys(&self, ruleset: &Ruleset) -> impl Iterator<Item = EntryKey> {
        let classes = ruleset.entries.keys().map(|class| self.classes[*class].id);
        let all = [ClassId::UNKNOWN, ClassId::ANY_POD].into_iter().chain(classes);
        all.map(|class| EntryKey { ruleset: ruleset.id, class })
    }
}

/// Replaces one cause by another in all decisions. Equal ones stay one; that others elsewhere may come to equal them is
/// not worth finding out.
fn rename(entries: &mut Entries, from: CauseId, to: CauseId) {
    let mut renamed: HashMap<*const Block, Arc<Block>> = HashMap::default();
    for held in entries.values_mut() {
        let Held::Whole(block) = held else { continue };
        if let Some(known) = renamed.get(&Arc::as_ptr(block)) {
            *block = Arc::clone(known);
        } else if let Some(new) = block.renamed(from, to) {
            let new = Arc::new(new);
            renamed.insert(Arc::as_ptr(block), Arc::clone(&new));
            *block = new;
        }
    }
}

/// Decisions by number of class.
type Entries = HashMap<u32, Held>;

/// How a ruleset decides otherwise than the one it was laid out after.
struct Heritage {
    /// The classes about which it may.
    touched: HashSet<u32>,
    /// The cause of isolation, if it is another.
    renamed: Option<(CauseId, CauseId)>,
}

impl Heritage {
    /// None: it may decide otherwise about any class.
    fn of(ruleset: &Ruleset, model: &Ruleset, change: &Change, atoms: &mut Atoms, strings: &Strings) -> Option<Self> {
        let renamed = match (model.isolated, ruleset.isolated) {
            (None, None) => None,
            (Some(from), Some(to)) => Some((from.cause, to.cause)).filter(|(from, to)| from != to),
            (None, Some(_)) | (Some(_), None) => return None,
        };
        let direction = ruleset.direction;
        let mut maker = Maker { direction, ports: &ruleset.ports, atoms, strings };
        let mut looked_at = Vec::new();
        for rule in change.policies().flat_map(|policy| policy.rules(direction).unwrap_or_default()) {
            if rule.peers.any() != [false, false] {
                return None;
            }
            looked_at.extend(maker.atoms(rule).map(|(atom, _)| atom));
        }
        Some(Self { touched: atoms.classes(looked_at, &[]), renamed })
    }
}
