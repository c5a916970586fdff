//! Problems of objects: what was not understood, ties, addresses of Services, and what has no room.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;
use ringfence_k8s::Severity;
use ringfence_model::{Direction, DomainPattern, ObjectKey, Peer, Peers, Policy, PolicyId};

use super::Key;
use crate::problem::{NO_CAPACITY, Problem, SAME_PRIORITY, SERVICE_ADDRESSES};
use crate::services::Services;
use crate::ties::Ties;

/// Problems of objects.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Problems found while objects were read.
    said: HashMap<ObjectKey, Vec<Problem>>,
    pub(super) ties: Ties,
    pub(super) services: Services,
    /// Policies for which the kernel of this node had no room, and why.
    refused: BTreeMap<PolicyId, String>,
}

impl Troubles {
    /// Takes note of what was said about an object, in place of what was said before. Whether that is something else.
    pub(super) fn note(&mut self, key: &ObjectKey, said: Vec<Problem>) -> bool {
        if self.said.get(key).map_or(said.is_empty(), |before| *before == said) {
            return false;
        }
        for problem in &said {
            tracing::warn!(object = %Key(key), "{problem}");
        }
        if said.is_empty() {
            self.said.remove(key);
        } else {
            self.said.insert(key.clone(), said);
        }
        true
    }

    /// Forgets what was said about an object.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.said.remove(key);
    }

    /// A policy is gone. Gives back the others about which there is something else to say now.
    pub(super) fn forget_policy(&mut self, id: &PolicyId) -> BTreeSet<PolicyId> {
        self.services.forget(id);
        self.refused.remove(id);
        self.ties.remove(id)
    }

    /// There is no room for these, and for no others. Gives back those for which that is news.
    pub(super) fn refuse(&mut self, now: BTreeMap<PolicyId, String>) -> BTreeSet<PolicyId> {
        let before = std::mem::replace(&mut self.refused, now);
        let changed = before.iter().filter(|(id, why)| self.refused.get(*id) != Some(*why));
        let news = self.refused.iter().filter(|(id, why)| before.get(*id) != Some(*why));
        changed.chain(news).map(|(id, _)| id.clone()).collect()
    }

    /// True if there is no room for a policy.
    pub(super) fn is_refused(&self, policy: &PolicyId) -> bool {
        self.refused.contains_key(policy)
    }

    /// Everything that is the matter with a policy.
    pub(super) fn about(&self, id: &PolicyId) -> Vec<Problem> {
        let mut problems = self.said.get(&ObjectKey::Policy(id.clone())).cloned().unwrap_or_default();
        problems.extend(self.ties.about(id).map(|message| Problem::warning(SAME_PRIORITY, message)));
        let services = self.services.about(id).into_iter();
        problems.extend(services.map(|message| Problem::warning(SERVICE_ADDRESSES, message)));
        problems.extend(self.refused.get(id).map(|why| Problem {
            severity: Severity::Error,
            reason: NO_CAPACITY.to_owned(),
            message: why.clone(),
        }));
        problems
    }

    /// The policies with which anything may be the matter.
    pub(super) fn policies(&self) -> BTreeSet<&PolicyId> {
        let said = self.said.keys().filter_map(|key| match key {
            ObjectKey::Policy(id) => Some(id),
            _ => None,
        });
        said.chain(self.ties.policies()).chain(self.services.policies()).chain(self.refused.keys()).collect()
    }

    /// Problems of objects other than policies, by kind and name.
    pub(super) fn others(&self) -> BTreeMap<String, Vec<String>> {
        let others = self.said.iter().filter(|(key, _)| !matches!(key, ObjectKey::Policy(_)));
        others.map(|(key, said)| (Key(key).to_string(), said.iter().map(ToString::to_string).collect())).collect()
    }
}

/// The domain names a policy speaks of.
pub(super) fn patterns(policy: &Policy) -> BTreeSet<DomainPattern> {
    let pattern = |peer: &Peer| match peer {
        Peer::Domain(pattern) => Some(pattern.clone()),
        _ => None,
    };
    peers(policy).filter_map(pattern).collect()
}

/// The address blocks a policy speaks of.
pub(super) fn blocks(policy: &Policy) -> BTreeSet<IpNet> {
    let block = |peer: &Peer| match peer {
        Peer::Block(block) => Some(block.cidr()),
        _ => None,
    };
    peers(policy).filter_map(block).collect()
}

fn peers(policy: &Policy) -> impl Iterator<Item = &Peer> {
    let rules = [Direction::Ingress, Direction::Egress].into_iter().filter_map(|direction| policy.rules(direction));
    rules.flatten().flat_map(|rule| match &rule.peers {
        Peers::List(peers) => peers.as_slice(),
        Peers::Any => &[],
    })
}
