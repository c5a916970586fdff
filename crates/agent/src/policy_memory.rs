//! The memory for policies: which NetworkPolicies are kept with their rules, where there is not memory for all of them.
//!
//! Whoever may write policies in one namespace may write as many, and as large ones, as the API server takes. So each
//! is weighed as it is read, before it is kept anywhere. Where all of them together take up more than there is, every
//! namespace has a max-min fair share, as in kernel maps. What is beyond a namespace's share is kept without its rules,
//! its largest policies first: whoever these select is denied, and the planner says why. Once there is room for their
//! rules again, NetworkPolicies are listed anew, for nobody here has kept them. Cluster-wide policies are an
//! administrator's; they are not weighed.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fs;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringfence_engine::fair_share;
use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::{Event, Intake};
use ringfence_model::{Name, Object, ObjectKey, Policy, PolicyId, PolicyKind};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Bytes for policies at most, and where nobody limits the memory of the agent.
const MOST: usize = 256 << 20;
/// The part of the agent's memory that is for policies: a listing is there beside what it replaces, and plans need
/// about as much again.
const PART: usize = 4;
/// Where the kernel tells how much memory the agent's container may use: control groups of version 2, and of version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// Before NetworkPolicies are listed anew a node waits for up to so long, by chance, for all nodes want it at once.
const SPREAD: Duration = Duration::from_secs(5);
/// A node lists NetworkPolicies anew at most so often.
const PAUSE: Duration = Duration::from_mins(1);

/// Who decides it. Clones decide together.
#[derive(Clone, Debug)]
pub(crate) struct PolicyMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    room: usize,
    ledger: Mutex<Ledger>,
    /// There is room for rules that are withheld.
    room_again: Notify,
}

#[derive(Debug, Default)]
struct Ledger {
    namespaces: BTreeMap<Name, Namespace>,
    total: usize,
    /// Policies came, went or changed their size since shares were last settled.
    changed: bool,
}

#[derive(Debug, Default)]
struct Namespace {
    policies: BTreeMap<Name, Weighed>,
    total: usize,
    /// The sum of those that fit.
    fitting: usize,
}

#[derive(Clone, Copy, Debug)]
struct Weighed {
    bytes: usize,
    fits: bool,
    /// Whoever keeps it was given it without its rules.
    withheld: bool,
}

impl PolicyMemory {
    /// A quarter of the memory that the agent may use.
    pub(crate) fn of_this_process() -> Self {
        let limit = |path| fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
        // Version 1 tells a huge figure where there is no limit.
        let part = LIMITS.into_iter().find_map(limit).map_or(MOST, |limit| limit / PART);
        Self::with_room(part.min(MOST))
    }

    /// So many bytes.
    pub(crate) fn with_room(room: usize) -> Self {
        Self(Arc::new(Shared { room, ledger: Mutex::default(), room_again: Notify::new() }))
    }

    /// The say that this has in the watches.
    pub(crate) fn intake(&self) -> Intake {
        let memory = self.clone();
        Intake { admit: Arc::new(move |object| memory.admit(object)), relist: Arc::default() }
    }

    /// Has NetworkPolicies listed anew when there is room for withheld rules, but not too often; for ever.
    pub(crate) async fn relist(&self, relist: &Notify) -> Infallible {
        loop {
            self.0.room_again.notified().await;
            sleep(rand::random_range(Duration::ZERO..=SPREAD)).await;
            if self.0.ledger.lock().has_room_again() {
                relist.notify_one();
                sleep(PAUSE).await;
            }
        }
    }

    /// Gives back what is to be kept of an object that was just read. What there is room for is settled later, with all
    /// that came together ([`Self::settle`]); until then the first come are served first.
    fn admit(&self, object: Object) -> Object {
        match object {
            Object::Policy(policy) if is_weighed(&policy.id) => Object::Policy(self.weigh(policy)),
            object => object,
        }
    }

    fn weigh(&self, policy: Policy) -> Policy {
        let (namespace, name, bytes) = (namespace(&policy.id), &policy.id.name, policy.memory());
        let mut ledger = self.0.ledger.lock();
        let known = ledger.namespaces.get(&namespace).and_then(|known| known.policies.get(name)).copied();
        let fits = match known {
            Some(known) if known.bytes == bytes => known.fits,
            // What it wants counts when shares are made.
            _ => {
                ledger.put(&namespace, name, Weighed { bytes, fits: false, withheld: true });
                let fitting = ledger.namespaces.get(&namespace).map_or(0, |known| known.fitting);
                fitting + bytes <= ledger.share(self.0.room)
            }
        };
        ledger.put(&namespace, name, Weighed { bytes, fits, withheld: !fits });
        drop(ledger);
        if fits { policy } else { policy.without_rules() }
    }

    /// Takes note of what an event says of policies that are gone.
    pub(crate) fn note(&self, event: &Event) {
        let mut ledger = self.0.ledger.lock();
        match event {
            Event::Delete(ObjectKey::Policy(id)) if is_weighed(id) => ledger.remove(&namespace(id), &id.name),
            Event::Reset { kind: Kind::NetworkPolicy, objects, .. } => ledger.retain(objects),
            Event::Apply { .. }
            | Event::Delete(_)
            | Event::Reset { .. }
            | Event::InSync
            | Event::Connected { .. }
            | Event::Disconnected { .. } => {}
        }
    }

    /// True if there is no room for the rules of a policy.
    pub(crate) fn is_withheld(&self, id: &PolicyId) -> bool {
        let ledger = self.0.ledger.lock();
        let known = is_weighed(id).then(|| ledger.namespaces.get(&namespace(id))?.policies.get(&id.name)).flatten();
        known.is_some_and(|policy| !policy.fits)
    }

    /// Settles what there is room for, which depends on the sizes of all policies alone. Gives back those that are kept
    /// with their rules though there is no room for these any more. Has others listed anew if there is room for them.
    pub(crate) fn settle(&self) -> Vec<PolicyId> {
        let mut ledger = self.0.ledger.lock();
        if !mem::take(&mut ledger.changed) || ledger.is_enough(self.0.room) {
            return Vec::new();
        }
        let share = ledger.share(self.0.room);
        let mut beyond = Vec::new();
        for (namespace, policies) in &mut ledger.namespaces {
            policies.settle(share);
            for (name, policy) in &mut policies.policies {
                if !policy.fits && !policy.withheld {
                    policy.withheld = true;
                    beyond.push(id(namespace, name));
                }
            }
        }
        if ledger.has_room_again() {
            self.0.room_again.notify_one();
        }
        beyond
    }
}

impl Ledger {
    /// The most that a namespace gets.
    fn share(&self, room: usize) -> usize {
        if self.total <= room {
            return room;
        }
        fair_share(room, self.namespaces.values().map(|namespace| namespace.total).collect())
    }

    /// True if there is room for everything, and was when shares were last settled.
    fn is_enough(&self, room: usize) -> bool {
        self.total <= room && self.namespaces.values().all(|namespace| namespace.fitting == namespace.total)
    }

    /// True if there is room for rules that are withheld.
    fn has_room_again(&self) -> bool {
        let mut policies = self.namespaces.values().flat_map(|namespace| namespace.policies.values());
        policies.any(|policy| policy.fits && policy.withheld)
    }

    fn put(&mut self, namespace: &Name, name: &Name, policy: Weighed) {
        self.remove(namespace, name);
        let known = self.namespaces.entry(Name::clone(namespace)).or_default();
        known.policies.insert(Name::clone(name), policy);
        known.total += policy.bytes;
        known.fitting += if policy.fits { policy.bytes } else { 0 };
        self.total += policy.bytes;
        self.changed = true;
    }

    fn remove(&mut self, namespace: &Name, name: &Name) {
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        if let Some(policy) = known.policies.remove(name) {
            known.total -= policy.bytes;
            known.fitting -= if policy.fits { policy.bytes } else { 0 };
            self.total -= policy.bytes;
            self.changed = true;
        }
        if known.policies.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    /// Forgets all policies but these.
    fn retain(&mut self, listed: &[Object]) {
        let listed: HashSet<ObjectKey> = listed.iter().map(Object::key).collect();
        let known = self.namespaces.iter().flat_map(|(namespace, known)| {
            known.policies.keys().map(|name| (Name::clone(namespace), Name::clone(name)))
        });
        let is_gone = |(namespace, name): &(Name, Name)| !listed.contains(&ObjectKey::Policy(id(namespace, name)));
        let gone: Vec<_> = known.filter(is_gone).collect();
        for (namespace, name) in gone {
            self.remove(&namespace, &name);
        }
    }
}

impl Namespace {
    /// Finds those that fit into a share, the smallest first.
    fn settle(&mut self, share: usize) {
        if self.total <= share && self.fitting == self.total {
            return;
        }
        let mut sorted: Vec<_> = self.policies.values_mut().collect();
        // Equal ones by name, which is the order they are in.
        sorted.sort_by_key(|policy| policy.bytes);
        self.fitting = 0;
        for policy in sorted {
            policy.fits = self.fitting + policy.bytes <= share;
            self.fitting += if policy.fits { policy.bytes } else { 0 };
        }
    }
}

fn is_weighed(id: &PolicyId) -> bool {
    id.kind == PolicyKind::NetworkPolicy
}

fn namespace(id: &PolicyId) -> Name {
    id.namespace.clone().unwrap_or_default()
}

fn id(namespace: &Name, name: &Name) -> PolicyId {
    PolicyId { kind: PolicyKind::NetworkPolicy, namespace: Some(Name::clone(namespace)), name: Name::clone(name) }
}

#[cfg(test)]
mod tests;
