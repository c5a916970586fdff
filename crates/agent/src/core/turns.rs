//! Turns: the time of the planning thread is shared between namespaces.
//!
//! A policy of thousands of rules, ports or peers takes long to plan, and while it is planned everybody waits. So
//! whoever writes such policies has a tenth of the time: the next one of the namespace waits nine times as long as the
//! last took. What is in force until then is what was before, and new pods of the namespace wait with it. Policies of
//! ordinary size, and cluster-wide ones, never wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ringfence_k8s::Diagnostic;
use ringfence_model::{Direction, Name, Object, Peers, Policy, PolicyId, Ports};

use super::state::Core;

/// Rules, ranges of ports and alternatives of the other end that make a policy a large one: it takes milliseconds.
const LARGE: usize = 2048;
/// Factor of the time that planning took for which the namespace waits.
const WAIT: u32 = 9;

/// A policy, and what is said about it.
type News = (Object, Vec<Diagnostic>);

/// Namespaces that had a turn, and those that wait for one.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// When a namespace has its next turn.
    next: HashMap<Name, Instant>,
    /// Large policies that wait, the newest version of each, in the order in which they came.
    waiting: BTreeMap<(Name, u64), News>,
    count: u64,
    /// Whose turn it is, and what it took so far.
    served: BTreeSet<Name>,
    spent: Duration,
}

impl Turns {
    /// The event, if it need not wait for a turn of its namespace.
    fn admit(&mut self, object: Object, diagnostics: &[Diagnostic], now: Instant) -> Option<Object> {
        let Object::Policy(policy) = &object else { return Some(object) };
        self.forget(&policy.id);
        let Some(namespace) = policy.id.namespace.clone().filter(|_| size(policy) > LARGE) else { return Some(object) };
        if self.is_due(&namespace, now)
            && !self.is_waited_for(&namespace)
            && self.served.insert(Name::clone(&namespace))
        {
            return Some(object);
        }
        self.count += 1;
        self.waiting.insert((namespace, self.count), (object, diagnostics.to_vec()));
        None
    }

    /// True if a namespace may have its next turn.
    fn is_due(&self, namespace: &Name, now: Instant) -> bool {
        self.next.get(namespace).is_none_or(|next| *next <= now)
    }

    /// The version of a policy that waits, of which there is one at most: it waits no longer.
    pub(super) fn take(&mut self, id: &PolicyId) -> Option<Policy> {
        let waits = |(object, _): &News| matches!(object, Object::Policy(policy) if policy.id == *id);
        let key = self.waiting.iter().find(|(_, news)| waits(news))?.0.clone();
        match self.waiting.remove(&key) {
            Some((Object::Policy(policy), _)) => Some(policy),
            _ => None,
        }
    }

    /// A policy is gone, or there is a newer version of it.
    fn forget(&mut self, id: &PolicyId) {
        drop(self.take(id));
    }

    /// One for each namespace that has its turn.
    fn due(&mut self, now: Instant) -> Vec<News> {
        let mut due: BTreeMap<Name, u64> = BTreeMap::new();
        for (namespace, number) in self.waiting.keys() {
            if self.is_due(namespace, now) {
                due.entry(Name::clone(namespace)).or_insert(*number);
            }
        }
        self.served.extend(due.keys().cloned());
        due.into_iter().filter_map(|key| self.waiting.remove(&key)).collect()
    }

    /// It took so long to plan what was admitted since this was last said.
    fn end(&mut self, took: Duration, now: Instant) {
        let took = took + std::mem::take(&mut self.spent);
        self.next.retain(|_, next| *next > now);
        for namespace in std::mem::take(&mut self.served) {
            self.next.insert(namespace, now + took * WAIT);
        }
    }

    /// When the next turn is.
    pub(super) fn next(&self) -> Option<Instant> {
        let next = self.waiting.keys().map(|(namespace, _)| self.next.get(namespace).copied());
        // Who waits for nothing but the end of this step has its turn at once.
        next.map(|next| next.unwrap_or_else(Instant::now)).min()
    }

    /// True if policies of a namespace wait.
    pub(super) fn is_waited_for(&self, namespace: &Name) -> bool {
        self.waiting.keys().any(|(waiting, _)| waiting == namespace)
    }

    /// Everything is listed anew.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// Rules, ranges of ports and alternatives of the other end.
fn size(policy: &Policy) -> usize {
    let rules = [Direction::Ingress, Direction::Egress].into_iter().filter_map(|direction| policy.rules(direction));
    let of = |rule: &ringfence_model::Rule| {
        let ports = if let Ports::List(ports) = &rule.ports { ports.len() } else { 0 };
        let peers = if let Peers::List(peers) = &rule.peers { peers.len() } else { 0 };
        1 + ports + peers
    };
    rules.flatten().map(of).sum()
}

impl Core {
    /// Takes in an object, unless it has to wait for a turn of its namespace.
    pub(super) fn apply(&mut self, object: Object, diagnostics: &[Diagnostic]) {
        let started = Instant::now();
        let object = self.within_memory(object);
        let admitted = if self.in_sync { self.turns.admit(object, diagnostics, started) } else { Some(object) };
        if let Some(object) = admitted {
            self.take_in(object, diagnostics);
            self.turns.spent += started.elapsed();
        }
    }

    /// Takes in what has its turn.
    pub(super) fn serve_turns(&mut self) {
        for (object, diagnostics) in self.turns.due(Instant::now()) {
            self.take_in(object, &diagnostics);
        }
    }

    /// Plans an object that waits for nothing.
    fn take_in(&mut self, object: Object, diagnostics: &[Diagnostic]) {
        self.index.note(&object.key(), diagnostics);
        self.put(object);
    }

    /// All that was admitted is planned and in the kernel: who had a turn waits for the next.
    pub(super) fn end_turns(&mut self, took: Duration) {
        self.turns.end(took, Instant::now());
    }

    /// A policy is gone: no version of it waits.
    pub(super) fn forget_turn(&mut self, id: &PolicyId) {
        self.turns.forget(id);
    }

    /// Warnings about namespaces whose policies wait.
    pub(super) fn turn_warnings(&self) -> Vec<String> {
        let mut counts: BTreeMap<&Name, usize> = BTreeMap::new();
        for (namespace, _) in self.turns.waiting.keys() {
            *counts.entry(namespace).or_default() += 1;
        }
        let warning = |(namespace, count)| {
            format!(
                "{count} large policies of namespace {namespace} wait to be planned, and its new pods with them: \
                 others' changes come first"
            )
        };
        counts.into_iter().map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use ringfence_k8s::convert::Kind;
    use serde_json::json;

    use super::*;

    fn policy(namespace: &str, name: &str, ports: usize) -> Object {
        let ports: Vec<_> = (1..=ports).map(|port| json!({"port": port})).collect();
        let spec = json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        let metadata = json!({"name": name, "namespace": namespace, "uid": name, "generation": 1});
        Kind::NetworkPolicy.convert(&json!({"metadata": metadata, "spec": spec})).0
    }

    #[test]
    fn who_writes_large_policies_has_a_tenth_of_the_time_and_others_all_they_want() {
        let mut turns = Turns::default();
        let start = Instant::now();
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        let large = |name: &str| policy("blue", name, 3000);
        assert!(turns.admit(large("a"), &[], start).is_some(), "the first");
        assert!(turns.admit(large("b"), &[], start).is_none(), "one at a time");
        assert!(turns.admit(policy("red", "b", 3000), &[], start).is_some(), "of another namespace");
        turns.end(Duration::from_millis(100), start);
        for (name, ports) in [("small", 10), ("b", 10)] {
            assert!(
                turns.admit(policy("blue", name, ports), &[], at(1)).is_some(),
                "{name} is small, and replaces another"
            );
        }
        assert_eq!(turns.next(), None);
        for name in ["c", "d", "c"] {
            assert!(turns.admit(large(name), &[], at(2)).is_none(), "{name}");
        }
        assert!(turns.is_waited_for(&"blue".into()) && !turns.is_waited_for(&"red".into()));
        assert_eq!((turns.next(), turns.due(at(8)).len()), (Some(at(9)), 0));
        let name = |news: &[News]| match news {
            [(Object::Policy(policy), _)] => policy.id.name.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(name(&turns.due(at(9))), "d", "c came anew after it");
        turns.end(Duration::from_millis(200), at(9));
        assert_eq!((turns.next(), turns.due(at(26)).len()), (Some(at(27)), 0));
        assert_eq!(name(&turns.due(at(27))), "c");
        turns.end(Duration::from_millis(100), at(27));
        assert_eq!(turns.next(), None);
        assert!(turns.admit(large("e"), &[], at(30)).is_none());
        let Object::Policy(gone) = large("e") else { panic!("a policy") };
        turns.forget(&gone.id);
        assert!(turns.next().is_none() && turns.due(at(90)).is_empty());
    }
}
