//! The agent's index of the cluster besides the plan: enough to answer who has an address, which policies there are and
//! how far each is enforced.

mod troubles;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use ringfence_k8s::Diagnostic;
use ringfence_k8s::convert::Kind;
use ringfence_model::{
    DomainName, DomainPattern, Name, Namespace, NamespaceSelection, Node, Object, ObjectKey, Pod, PodKey, PodSelection,
    Policy, PolicyId, Tier,
};

use crate::problem::{Account, Problem};
use crate::services::News;
use troubles::{Troubles, blocks, patterns};

/// The objects of the cluster, as far as status and flows need them.
#[derive(Debug)]
pub(crate) struct Index {
    node: Name,
    namespaces: HashMap<Name, Namespace>,
    nodes: HashMap<Name, Node>,
    pods: HashMap<PodKey, Vec<IpAddr>>,
    /// Pods of this node, whole.
    local: BTreeMap<PodKey, Pod>,
    policies: BTreeMap<PolicyId, PolicyRecord>,
    /// Number of policies with each pattern of domain names.
    patterns: BTreeMap<DomainPattern, usize>,
    /// Number of addresses of each known domain name.
    domains: BTreeMap<DomainName, usize>,
    troubles: Troubles,
    /// Rises whenever something else is to be said of a policy.
    revision: u64,
    /// The pods that claim an address.
    owners: HashMap<IpAddr, BTreeSet<PodKey>>,
}

/// A policy, as far as status needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyRecord {
    pub(crate) uid: Name,
    pub(crate) generation: i64,
    pub(crate) enforced: Option<i64>,
    pub(crate) subject: PodSelection,
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
    /// The domain names it speaks of.
    pub(crate) patterns: BTreeSet<DomainPattern>,
    /// When something else was last to be said of it.
    revision: u64,
}

impl PolicyRecord {
    /// The policy as far as it is remembered: without its rules.
    pub(crate) fn to_policy(&self, id: &PolicyId) -> Policy {
        let governed = |governed: bool| governed.then(Vec::new);
        Policy {
            id: id.clone(),
            uid: Name::clone(&self.uid),
            generation: self.generation,
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: self.subject.clone(),
            ingress: governed(self.ingress),
            egress: governed(self.egress),
            rules_withheld: true,
        }
    }
}

impl Index {
    pub(crate) fn new(node: Name) -> Self {
        Self {
            node,
            namespaces: HashMap::new(),
            nodes: HashMap::new(),
            pods: HashMap::new(),
            local: BTreeMap::new(),
            policies: BTreeMap::new(),
            patterns: BTreeMap::new(),
            domains: BTreeMap::new(),
            troubles: Troubles::default(),
            revision: 0,
            owners: HashMap::new(),
        }
    }

    /// Takes note of an object.
    pub(crate) fn apply(&mut self, object: &Object) {
        match object {
            Object::Namespace(namespace) => {
                self.namespaces.insert(Name::clone(&namespace.name), namespace.clone());
            }
            Object::Node(node) => drop(self.nodes.insert(Name::clone(&node.name), node.clone())),
            Object::Pod(pod) => self.apply_pod(pod),
            Object::Policy(policy) => self.apply_policy(policy),
            Object::Domain(domain) => {
                self.domains.insert(domain.name.clone(), domain.addresses.len() + domain.lingering.len());
            }
        }
    }

    /// Takes note of what was said about an object, in place of what was said before.
    pub(crate) fn note(&mut self, key: &ObjectKey, diagnostics: &[Diagnostic]) {
        let said = diagnostics.iter().map(Problem::from).collect();
        let changed = self.troubles.note(key, said);
        if let (ObjectKey::Policy(id), true) = (key, changed) {
            self.touch(id);
        }
    }

    /// Takes note of what was said about all objects of a listing, in place of what was said about them before.
    pub(crate) fn note_all<'a>(&mut self, keys: impl Iterator<Item = &'a ObjectKey>, diagnostics: Vec<Diagnostic>) {
        let mut said: HashMap<String, Vec<Diagnostic>> = HashMap::new();
        for diagnostic in diagnostics {
            said.entry(diagnostic.object.clone().unwrap_or_default()).or_default().push(diagnostic);
        }
        for key in keys {
            let about = if said.is_empty() { None } else { said.remove(&Key(key).to_string()) };
            self.note(key, &about.unwrap_or_default());
        }
    }

    /// Takes in what happened to Services.
    pub(crate) fn services(&mut self, news: News) {
        for id in self.troubles.services.take(news) {
            self.touch(&id);
        }
    }

    /// These policies, and no others, do not fit into the kernel of this node, and why. They are not enforced as
    /// written. Gives back those that fit again.
    pub(crate) fn refuse(&mut self, policies: BTreeMap<PolicyId, String>) -> Vec<PolicyId> {
        let mut admitted = Vec::new();
        for id in self.troubles.refuse(policies) {
            self.touch(&id);
            match self.policies.get_mut(&id) {
                Some(record) if self.troubles.is_refused(&id) => record.enforced = None,
                _ => admitted.push(id),
            }
        }
        admitted
    }

    /// True if a policy does not fit into the kernel of this node.
    pub(crate) fn is_refused(&self, policy: &PolicyId) -> bool {
        self.troubles.is_refused(policy)
    }

    /// Something else is to be said of a policy, if it is known.
    fn touch(&mut self, id: &PolicyId) {
        if let Some(record) = self.policies.get_mut(id) {
            self.revision += 1;
            record.revision = self.revision;
        }
    }

    /// Something else is to be said of what is no policy.
    pub(crate) fn raise(&mut self) {
        self.revision += 1;
    }

    /// Rises whenever something else is to be said, of a policy or otherwise.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Reports about the policies that changed since an earlier revision.
    pub(crate) fn accounts(&self, since: u64) -> Vec<Account> {
        let changed = self.policies.iter().filter(|(_, record)| record.revision > since);
        let account = |(id, record): (&PolicyId, &PolicyRecord)| Account {
            id: id.clone(),
            uid: Name::clone(&record.uid),
            generation: record.generation,
            problems: self.troubles.about(id),
        };
        changed.map(account).collect()
    }

    /// Number of policies with problems, by kind and reason.
    pub(crate) fn problems(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for id in self.troubles.policies() {
            let reasons: BTreeSet<_> = self.troubles.about(id).into_iter().map(|problem| problem.reason).collect();
            for reason in reasons {
                *counts.entry((id.kind.to_string(), reason)).or_default() += 1;
            }
        }
        counts
    }

    /// Forgets an object.
    pub(crate) fn delete(&mut self, key: &ObjectKey) {
        self.troubles.forget(key);
        match key {
            ObjectKey::Namespace(name) => drop(self.namespaces.remove(name)),
            ObjectKey::Node(name) => drop(self.nodes.remove(name)),
            ObjectKey::Pod(key) => {
                self.disown(key);
                self.local.remove(key);
            }
            ObjectKey::Policy(id) => {
                if let Some(policy) = self.policies.remove(id) {
                    self.count_patterns(&policy.patterns, false);
                }
                for other in self.troubles.forget_policy(id) {
                    self.touch(&other);
                }
            }
            ObjectKey::Domain(name) => drop(self.domains.remove(name)),
        }
    }

    fn apply_pod(&mut self, pod: &Pod) {
        self.disown(&pod.key);
        let addresses = if pod.is_endpoint() { pod.addresses.clone() } else { Vec::new() };
        for address in &addresses {
            self.owners.entry(*address).or_default().insert(pod.key.clone());
        }
        self.pods.insert(pod.key.clone(), addresses);
        if pod.node.as_ref() == Some(&self.node) {
            self.local.insert(pod.key.clone(), pod.clone());
        } else {
            self.local.remove(&pod.key);
        }
    }

    fn disown(&mut self, key: &PodKey) {
        for address in self.pods.remove(key).into_iter().flatten() {
            if let Some(owners) = self.owners.get_mut(&address) {
                owners.remove(key);
                if owners.is_empty() {
                    self.owners.remove(&address);
                }
            }
        }
    }

    fn apply_policy(&mut self, policy: &Policy) {
        let before = self.policies.get(&policy.id);
        let same = before.filter(|before| before.uid == policy.uid);
        let news = same.is_none_or(|before| before.generation != policy.generation);
        let record = PolicyRecord {
            uid: Name::clone(&policy.uid),
            generation: policy.generation,
            enforced: same.and_then(|before| before.enforced),
            subject: policy.subject.clone(),
            ingress: policy.ingress.is_some(),
            egress: policy.egress.is_some(),
            patterns: patterns(policy),
            revision: same.map_or(0, |before| before.revision),
        };
        self.count_patterns(&record.patterns, true);
        if let Some(before) = self.policies.insert(policy.id.clone(), record) {
            self.count_patterns(&before.patterns, false);
        }
        if news {
            self.troubles.services.note(&policy.id, blocks(policy));
            let tied = self.troubles.ties.put(policy);
            if let Some(tie) = self.troubles.ties.about(&policy.id) {
                tracing::warn!(policy = %policy.id, "{tie}");
            }
            for id in tied.iter().chain([&policy.id]) {
                self.touch(id);
            }
        }
    }

    fn count_patterns(&mut self, patterns: &BTreeSet<DomainPattern>, more: bool) {
        for pattern in patterns {
            let count = self.patterns.entry(pattern.clone()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.patterns.remove(pattern);
            }
        }
    }

    /// All known objects of a kind: what a new listing replaces.
    pub(crate) fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        match kind {
            Kind::Namespace => self.namespaces.keys().cloned().map(ObjectKey::Namespace).collect(),
            Kind::Node => self.nodes.keys().cloned().map(ObjectKey::Node).collect(),
            Kind::Pod => self.pods.keys().cloned().map(ObjectKey::Pod).collect(),
            Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy => self.policies_of(kind).cloned().map(ObjectKey::Policy).collect(),
        }
    }

    /// Number of known objects of a kind.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
            Kind::Pod => self.pods.len(),
            Kind::NetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::AdminNetworkPolicy
            | Kind::BaselineAdminNetworkPolicy => self.policies_of(kind).count(),
        }
    }

    fn policies_of(&self, kind: Kind) -> impl Iterator<Item = &PolicyId> {
        self.policies.keys().filter(move |id| Some(id.kind) == kind.policy())
    }

    /// Everything these policies say is in the kernel now.
    pub(crate) fn mark_enforced(&mut self, policies: impl IntoIterator<Item = PolicyId>) {
        for id in policies {
            if let Some(record) = self.policies.get_mut(&id) {
                record.enforced = Some(record.generation);
            }
        }
    }

    /// All policies, by name.
    pub(crate) fn policies(&self) -> &BTreeMap<PolicyId, PolicyRecord> {
        &self.policies
    }

    /// The domain names that rules speak of.
    pub(crate) fn patterns(&self) -> BTreeSet<DomainPattern> {
        self.patterns.keys().cloned().collect()
    }

    /// Number of addresses of each known domain name.
    pub(crate) fn domains(&self) -> &BTreeMap<DomainName, usize> {
        &self.domains
    }

    /// A pod of this node.
    pub(crate) fn local_pod(&self, key: &PodKey) -> Option<&Pod> {
        self.local.get(key)
    }

    /// True if a pod is of this node and its Namespace object is not known.
    pub(crate) fn is_homeless(&self, pod: &Pod) -> bool {
        !self.namespaces.contains_key(&pod.key.namespace) && self.local.contains_key(&pod.key)
    }

    /// Pods of this node whose Namespace object is not known.
    pub(crate) fn homeless(&self) -> impl Iterator<Item = &Pod> {
        self.local.values().filter(|pod| pod.is_endpoint() && self.is_homeless(pod))
    }

    /// Those of them that are in this namespace: none, if it is known.
    pub(crate) fn homeless_of(&self, namespace: &Name) -> Vec<Pod> {
        self.homeless().filter(|pod| pod.key.namespace == *namespace).cloned().collect()
    }

    /// Number of pods of this node that a policy selects.
    pub(crate) fn selected(&self, subject: &PodSelection) -> usize {
        self.local.values().filter(|pod| pod.is_endpoint() && self.selects(subject, pod)).count()
    }

    fn selects(&self, subject: &PodSelection, pod: &Pod) -> bool {
        let namespace = match &subject.namespaces {
            NamespaceSelection::Named(name) => *name == pod.key.namespace,
            NamespaceSelection::Matching(selector) => {
                self.namespaces.get(&pod.key.namespace).is_some_and(|namespace| selector.matches(&namespace.labels))
            }
        };
        namespace && subject.pods.matches(&pod.labels)
    }

    /// The pods that claim an address.
    pub(crate) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &PodKey> {
        self.owners.get(&address).into_iter().flatten()
    }

    /// The addresses a pod claims.
    pub(crate) fn addresses(&self, key: &PodKey) -> Vec<IpAddr> {
        self.pods.get(key).cloned().unwrap_or_default()
    }

    /// The addresses of a Service.
    pub(crate) fn service_addresses(&self, key: &(String, String)) -> Vec<IpAddr> {
        self.troubles.services.of(key)
    }

    /// True if an address is a Service's, or in a range that Services' addresses are taken from.
    pub(crate) fn is_of_services(&self, address: IpAddr) -> bool {
        self.troubles.services.has(address)
    }

    /// The node that has an address.
    pub(crate) fn node_at(&self, address: IpAddr) -> Option<&Name> {
        self.nodes.values().find(|node| node.addresses.contains(&address)).map(|node| &node.name)
    }

    /// True if an address is this node's own.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.nodes.get(&self.node).is_some_and(|node| node.addresses.contains(&address))
    }

    /// The ranges this node has for its pods; none if the node is not known.
    pub(crate) fn ranges(&self) -> Option<&[IpNet]> {
        self.nodes.get(&self.node).map(|node| &*node.pod_cidrs)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Addresses that pods of this node have, as far as it is known.
    pub(crate) fn local_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.local.values().filter(|pod| pod.is_endpoint()).flat_map(|pod| pod.addresses.iter().copied())
    }

    /// True if a namespace is being deleted, or is gone, and pods of it still run on this node.
    pub(crate) fn is_ending(&self, namespace: &Name) -> bool {
        let gone = self.namespaces.get(namespace).is_none_or(|namespace| namespace.terminating);
        gone && self.local.values().any(|pod| pod.key.namespace == *namespace && pod.is_endpoint())
    }

    /// The pods of this node in a namespace.
    pub(crate) fn local_pods_of(&self, namespace: &Name) -> Vec<Pod> {
        self.local.values().filter(|pod| pod.key.namespace == *namespace).cloned().collect()
    }

    /// The namespaces that are being deleted, of which pods run on this node and no policy is known.
    pub(crate) fn ending_without_policies(&self) -> Vec<Name> {
        let ending = self.namespaces.values().filter(|namespace| namespace.terminating);
        let ending = ending.map(|namespace| &namespace.name).filter(|name| self.is_ending(name));
        let has_policies = |name: &Name| self.policies.keys().any(|id| id.namespace.as_ref() == Some(name));
        ending.filter(|name| !has_policies(name)).cloned().collect()
    }

    /// The Service that has an address: namespace and name.
    pub(crate) fn service_at(&self, address: IpAddr) -> Option<&(String, String)> {
        self.troubles.services.at(address)
    }

    /// Remarks about objects.
    pub(crate) fn diagnostics(&self) -> Vec<(String, String)> {
        let policies = self.troubles.policies().into_iter().flat_map(|id| {
            self.troubles.about(id).into_iter().map(move |problem| (id.to_string(), problem.to_string()))
        });
        let others = self.troubles.others().into_iter();
        let others = others.flat_map(|(object, said)| said.into_iter().map(move |said| (object.clone(), said)));
        policies.chain(others).collect()
    }
}

/// An object's kind and name, as people write them.
pub(crate) struct Key<'a>(pub(crate) &'a ObjectKey);

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ObjectKey::Namespace(name) => write!(f, "Namespace {name}"),
            ObjectKey::Node(name) => write!(f, "Node {name}"),
            ObjectKey::Pod(key) => write!(f, "Pod {key}"),
            ObjectKey::Policy(id) => id.fmt(f),
            ObjectKey::Domain(name) => write!(f, "domain name {name}"),
        }
    }
}
