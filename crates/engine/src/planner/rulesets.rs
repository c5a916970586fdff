//! Rulesets: the ordered rules that apply to a pod in one direction, and what they decide about a class.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashMap;
use ringfence_model::{Direction, Tier};

use super::atoms::{AtomKey, Atoms, Wanted};
use super::classes::{Satisfied, Share};
use super::flatten::{Keys, Step, flatten};
use super::isolation::Isolation;
use super::layout::{Change, Flat, Layout, Maker, resolved};
use super::ledger::{Held, Ledger};
use super::policy::Policy;
use super::recipe::Recipe;
use super::strings::{NamedPort, Namespaces, Strings, Sym};
use crate::{Block, CauseId, ClassId, Room, RulesetId};

/// Atoms and port names that rules ask for, and whether some rule speaks of every pod.
pub(super) type Asked = (Vec<u32>, Vec<Wanted>, bool);

/// Whose share a ruleset is taken from: the namespace of its NetworkPolicies; none: that of cluster-wide policies.
pub(super) type Payer = Option<Sym>;

/// Who pays for a ruleset of these policies. Whoever adds a policy of a namespace to cluster-wide ones pays for the
/// whole, for it is another ruleset only on that account: else a namespace could use up the share of the cluster-wide
/// policies.
pub(super) fn payer<'a>(policies: impl IntoIterator<Item = &'a Arc<Policy>>) -> Payer {
    policies.into_iter().find(|policy| policy.tier == Tier::NetworkPolicy).and_then(|policy| {
        match policy.subject.namespaces {
            Namespaces::Named(namespace) => Some(namespace),
            Namespaces::Matching(_) => None,
        }
    })
}

/// A ruleset in use.
#[derive(Debug)]
pub(super) struct Ruleset {
    pub(super) id: RulesetId,
    pub(super) direction: Direction,
    /// In the order of evaluation; all govern the direction.
    pub(super) policies: Box<[Arc<Policy>]>,
    /// Ports of the subject that ingress rules name.
    pub(super) ports: Box<[NamedPort]>,
    layout: Layout,
    /// Rules that match an unknown address, and any pod; less those that never win.
    any: [Box<[u32]>; 2],
    /// Port names of egress rules, sorted.
    pub(super) wanted: Box<[Wanted]>,
    /// Whether some rule speaks of every pod.
    pub(super) universal: bool,
    /// Who denies what no rule of a NetworkPolicy accepts.
    pub(super) isolated: Option<Isolation>,
    /// How many subjects have it.
    pub(super) subjects: u32,
    /// What it decides about [`crate::ClassId::UNKNOWN`] and [`crate::ClassId::ANY_POD`].
    pub(super) fallback: [Held; 2],
    /// What else it decides, by number of class.
    pub(super) entries: HashMap<u32, Held>,
    /// Its decisions are in the plan.
    pub(super) published: bool,
    /// There is no room for it, and of what: it is as if everything was denied, and of its decisions only their sizes
    /// are known.
    pub(super) refused: Option<Room>,
    /// Bytes of its layout.
    pub(super) bytes: usize,
}

impl Ruleset {
    /// Makes a ruleset of the policies of a recipe that govern its direction, without entries. `atoms` interns the
    /// atoms of its rules; they are not yet counted as used.
    /// `model`: one of the same subject, and how its policies differ.
    pub(super) fn new(
        id: RulesetId,
        recipe: &Recipe<'_>,
        policies: Box<[Arc<Policy>]>,
        model: Option<(&Self, &Change)>,
        atoms: &mut Atoms,
        strings: &Strings,
    ) -> Self {
        let direction = recipe.direction;
        let mut maker = Maker { direction, ports: &recipe.ports, atoms, strings };
        let layout = Layout::new(&policies, &mut maker, model.map(|(model, change)| (&model.layout, change)));
        let mut ruleset = Self {
            id,
            direction,
            ports: recipe.ports.clone(),
            any: [Box::default(), Box::default()],
            wanted: wanted(direction, &policies, model),
            universal: layout.rules.iter().any(|rule| rule.any == [false, true]),
            isolated: Isolation::of(direction, &policies, model),
            subjects: 0,
            fallback: [(); 2].map(|()| Held::Whole(Arc::new(Block::constant(false, CauseId::DEFAULT)))),
            entries: HashMap::default(),
            published: false,
            refused: None,
            bytes: policies.iter().map(|policy| policy.size(direction).layout()).sum(),
            layout,
            policies,
        };
        for universal in [false, true] {
            ruleset.any[usize::from(universal)] = ruleset.winners(universal);
            let peer = Satisfied::new(universal, Vec::new());
            ruleset.fallback[usize::from(universal)] = Held::Whole(Arc::new(ruleset.decide(&peer, atoms)));
        }
        ruleset
    }

    /// What is kept of its decisions; those about the fallback classes first.
    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.fallback.iter().chain(self.entries.values())
    }

    fn held_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.fallback.iter_mut().chain(self.entries.values_mut())
    }

    /// Its decisions by class, as far as they are kept whole. `id`: what a class is called.
    pub(super) fn blocks(&self, id: impl Fn(u32) -> ClassId) -> impl Iterator<Item = (ClassId, &Arc<Block>)> {
        let fallback = [ClassId::UNKNOWN, ClassId::ANY_POD].into_iter().zip(&self.fallback);
        let entries = self.entries.iter().map(move |(class, held)| (id(*class), held));
        fallback.chain(entries).filter_map(|(class, held)| Some((class, held.block()?)))
    }

    /// Keeps of its decisions what they take up alone.
    pub(super) fn hollow(&mut self, room: Room, ledger: &mut Ledger) {
        self.refused = Some(room);
        for held in self.held_mut() {
            let print = Held::Print(held.print());
            ledger.leave(held);
            ledger.enter(&print);
            *held = print;
        }
    }

    /// The atoms its rules look at, ascending.
    pub(super) fn atoms(&self) -> impl Iterator<Item = u32> {
        self.layout.atoms()
    }

    /// What its rules ask of peers: atoms, port names, and whether somebody is any pod.
    pub(super) fn asks(&self) -> Asked {
        (self.atoms().collect(), self.wanted.to_vec(), self.universal)
    }

    /// What its rules ask of peers and those of another do not.
    pub(super) fn asks_beyond(&self, other: &Self) -> Asked {
        let (mut atoms, mut wanted, universal) = self.asks();
        let mut others = other.atoms().peekable();
        atoms.retain(|atom| {
            while others.next_if(|other| other < atom).is_some() {}
            others.peek() != Some(atom)
        });
        wanted.retain(|wanted| other.wanted.binary_search(wanted).is_err());
        (atoms, wanted, universal && !other.universal)
    }

    /// Rules without conditions on the peer, except those that earlier ones of their tier leave nothing to: whatever
    /// else matches, they get nothing. Rules with named ports stay, for what they match depends on the peer.
    fn winners(&self, universal: bool) -> Box<[u32]> {
        let mut open: HashMap<Tier, Keys> = HashMap::default();
        let mut winners = Vec::new();
        for (ordinal, rule) in (0..).zip(&self.layout.rules) {
            if !rule.any[usize::from(universal)] {
                continue;
            }
            let mut wins = rule.named;
            let open = open.entry(rule.tier).or_insert_with(Keys::all);
            for range in self.layout.keys(rule) {
                open.take(*range, |_| wins = true);
            }
            if wins {
                winners.push(ordinal);
            }
        }
        winners.into()
    }

    /// The keys a rule matches at a destination that declares these ports.
    fn ranges(&self, rule: &Flat, declared: &[NamedPort]) -> Cow<'_, [(u32, u32)]> {
        let ranges = self.layout.keys(rule);
        if !rule.named || declared.is_empty() {
            return Cow::Borrowed(ranges);
        }
        let rules = self.policies[rule.policy as usize].rules(self.direction).unwrap_or_default();
        let names = rules[rule.position as usize].ports.names();
        Cow::Owned(ranges.iter().copied().chain(resolved(names, declared)).collect())
    }

    /// What it decides about a peer; about one in dispute, what it allows to everybody who may be it.
    pub(super) fn decide(&self, peer: &Satisfied, atoms: &Atoms) -> Block {
        if peer.disputed.is_empty() {
            return self.decide_share(peer.universal, &peer.atoms, atoms);
        }
        let share = |share: &Share| self.decide_share(share.universal, &share.atoms, atoms);
        Block::meet(&peer.disputed.iter().map(share).collect::<Vec<_>>())
    }

    fn decide_share(&self, universal: bool, satisfied: &[u32], atoms: &Atoms) -> Block {
        let mut matching: Vec<(u32, bool)> =
            self.any[usize::from(universal)].iter().map(|rule| (*rule, false)).collect();
        for atom in satisfied {
            matching.extend(self.layout.uses(*atom).iter().map(|used| (used.rule, used.by_address)));
        }
        matching.sort_unstable();
        matching.dedup_by_key(|(rule, _)| *rule);
        let declared: Vec<_> = if self.wanted.is_empty() {
            Vec::new()
        } else {
            let ports = satisfied.iter().filter_map(|atom| match &atoms[*atom].key {
                AtomKey::Port(port) => Some(*port),
                AtomKey::Pods(_) | AtomKey::Block(_) | AtomKey::Nodes(_) | AtomKey::Domain(_) => None,
            });
            ports.collect()
        };
        let steps = matching.iter().map(|(ordinal, by_address)| {
            let rule = &self.layout.rules[*ordinal as usize];
            let ranges = self.ranges(rule, if *by_address { &[] } else { &declared });
            Step { tier: rule.tier, action: rule.action, cause: rule.cause, ranges }
        });
        flatten(steps, self.isolated.map(|isolation| isolation.cause))
    }
}

/// The port names of egress rules, sorted.
fn wanted(direction: Direction, policies: &[Arc<Policy>], model: Option<(&Ruleset, &Change)>) -> Box<[Wanted]> {
    if direction == Direction::Ingress {
        return Box::default();
    }
    let names = |policy: &Arc<Policy>| {
        let rules = policy.rules(direction).unwrap_or_default();
        rules.iter().flat_map(|rule| rule.ports.names()).copied().collect::<Vec<_>>()
    };
    if let Some((model, change)) = model
        && change.policies().all(|policy| names(policy).is_empty())
    {
        return model.wanted.clone();
    }
    let mut wanted: Vec<_> = policies.iter().flat_map(names).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.into()
}
