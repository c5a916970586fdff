//! Events: objects that are added, changed or removed.

use foldhash::HashSet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ringfence_model::{self as model, Name, Object, ObjectKey, PodKey, PodPhase, PolicyId};

use super::digest::Content;
use super::pods::{Facts, Visible};
use super::policy::Policy;
use super::strings::{NamedPort, Namespaces, Pairs, Sym};
use super::subject_index::SubjectIndex;
use super::subjects::Invalidation;
use super::{Planner, Scope};

impl Planner {
    /// Adds or replaces an object. Takes effect with the next [`Planner::commit`].
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => self.apply_namespace(&namespace),
            Object::Node(node) => self.apply_node(node),
            Object::Pod(pod) => self.apply_pod(pod),
            Object::Policy(policy) => self.apply_policy(&policy),
            Object::Domain(domain) => self.apply_domain(domain),
        }
    }

    /// Removes an object; one that is not there is no error. Takes effect with the next [`Planner::commit`].
    pub fn delete(&mut self, key: &ObjectKey) {
        match key {
            ObjectKey::Namespace(name) => self.delete_namespace(name),
            ObjectKey::Node(name) => self.delete_node(name),
            ObjectKey::Pod(key) => self.delete_pod(key),
            ObjectKey::Policy(id) => self.delete_policy(id),
            ObjectKey::Domain(name) => self.delete_domain(name),
        }
    }

    /// Replaces the whole world.
    pub fn reset(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.replace(|_| true, objects);
    }

    /// Replaces a part of the world: of the objects whose keys `covered` accepts, exactly those among `objects` exist.
    pub fn replace(&mut self, covered: impl Fn(&ObjectKey) -> bool, objects: impl IntoIterator<Item = Object>) {
        let mut gone: HashSet<ObjectKey> = self.keys().filter(|key| covered(key)).collect();
        for object in objects {
            if !gone.is_empty() {
                gone.remove(&object.key());
            }
            self.apply(object);
        }
        for key in &gone {
            self.delete(key);
        }
    }

    /// Addresses that are closed while no pod has them, besides the ranges of the nodes in scope: they are known to be
    /// of pods there. Takes effect with the next [`Planner::commit`].
    pub fn close_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.dirty.closed_cidrs |= addresses != self.closed_addresses;
        self.closed_addresses = addresses;
    }

    /// True if these addresses are so many that ranges around them are closed instead.
    pub fn closed_addresses_are_widened(&self) -> bool {
        self.closed_addresses_widened
    }

    /// The keys of all objects.
    fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        let name = |sym: Sym| Name::clone(self.strings.name(sym));
        let namespaces = self.namespaces.iter().filter(|(_, namespace)| namespace.labels.is_some());
        let namespaces = namespaces.map(move |(sym, _)| ObjectKey::Namespace(name(*sym)));
        let nodes = self.hosts.nodes().cloned().map(ObjectKey::Node);
        let domains = self.hosts.domains().cloned().map(ObjectKey::Domain);
        let pods = self.pods.keys();
        let pods = pods.map(move |(namespace, pod)| {
            ObjectKey::Pod(PodKey { namespace: name(*namespace), name: Name::clone(pod) })
        });
        let policies = self.policies.by_id.keys().cloned().map(ObjectKey::Policy);
        namespaces.chain(nodes).chain(pods).chain(policies).chain(domains)
    }

    fn apply_namespace(&mut self, namespace: &model::Namespace) {
        let sym = self.strings.intern(&namespace.name);
        let labels = self.strings.labels(&namespace.labels);
        if self.labels(sym) != Some(&*labels) {
            self.relabel(sym, Some(labels));
        }
    }

    fn delete_namespace(&mut self, name: &Name) {
        let Some(sym) = self.strings.get(name) else { return };
        if self.labels(sym).is_some() {
            self.relabel(sym, None);
        }
    }

    /// Changes the labels of a namespace; none if its object is gone.
    fn relabel(&mut self, namespace: Sym, labels: Option<Pairs>) {
        let known = self.namespaces.entry(namespace).or_default();
        for pair in known.labels.iter().flatten() {
            if let Some(labelled) = self.labelled.get_mut(pair) {
                labelled.remove(&namespace);
                if labelled.is_empty() {
                    self.labelled.remove(pair);
                }
            }
        }
        for pair in labels.iter().flatten() {
            self.labelled.entry(*pair).or_default().insert(namespace);
        }
        known.labels = labels;
        self.dirty.namespaces.insert(namespace);
    }

    fn apply_node(&mut self, node: model::Node) {
        self.apply_node_host(&node);
        let in_scope = match &self.scope {
            Scope::Node(name) => *name == node.name,
            Scope::Cluster => true,
        };
        self.set_ranges(&node.name, node.pod_cidrs.clone());
        if in_scope {
            self.nodes.insert(node.name, node.pod_cidrs);
            self.dirty.closed_cidrs = true;
        }
    }

    /// Sets the pod CIDRs of a node. Its pods can have addresses inside, and pods of other nodes cannot.
    fn set_ranges(&mut self, name: &Name, ranges: Vec<IpNet>) {
        let node = self.strings.intern(name);
        let changed = self.pods.ranges.set(node, ranges);
        if !changed.is_empty() {
            self.dirty.ranges.extend(changed);
            self.dirty.nodes.insert(node);
        }
    }

    fn delete_node(&mut self, name: &Name) {
        self.delete_node_host(name);
        self.set_ranges(name, Vec::new());
        self.dirty.closed_cidrs |= self.nodes.remove(name).is_some();
    }

    fn apply_pod(&mut self, pod: model::Pod) {
        if !pod.is_endpoint() {
            return self.delete_pod(&pod.key);
        }
        let facts = self.facts(pod);
        let known = self.pods.find(facts.visible.namespace, &facts.name);
        if let Some(index) = known {
            if self.pods.is(index, &facts) {
                return;
            }
            self.remove_pod(index);
        }
        let (namespace, local, addresses) = (facts.visible.namespace, facts.local, facts.addresses.clone());
        let (identity, fresh) = self.pods.insert(facts, &self.strings);
        self.mark_addresses(&addresses, local);
        if fresh {
            self.namespaces.entry(namespace).or_default().identities.insert(identity);
            self.dirty.identities.insert(identity);
        }
        if local && self.locals.insert(identity) {
            self.invalidate(identity, Invalidation::Policies);
        }
    }

    fn facts(&mut self, pod: model::Pod) -> Facts {
        let strings = &mut self.strings;
        let ports = pod.ports.iter().map(|port| NamedPort {
            name: strings.intern(&port.name),
            protocol: port.protocol,
            port: port.port,
        });
        let mut ports: Vec<_> = ports.collect();
        ports.sort_unstable();
        ports.dedup();
        let mut addresses = pod.addresses;
        addresses.sort_unstable();
        addresses.dedup();
        let local = match &self.scope {
            Scope::Node(name) => pod.node.as_ref() == Some(name),
            Scope::Cluster => true,
        };
        Facts {
            visible: Visible {
                namespace: strings.intern(&pod.key.namespace),
                labels: strings.labels(&pod.labels),
                ports: ports.into(),
            },
            name: pod.key.name,
            uid: pod.uid,
            node: pod.node.map(|node| strings.intern(&node)),
            created: pod.created,
            running: pod.phase == PodPhase::Running && !pod.terminating,
            addresses,
            local,
        }
    }

    fn delete_pod(&mut self, key: &PodKey) {
        let namespace = self.strings.get(&key.namespace);
        if let Some(index) = namespace.and_then(|namespace| self.pods.find(namespace, &key.name)) {
            self.remove_pod(index);
        }
    }

    /// Marks the addresses of a pod while it claims them. If other pods claim them too, any of them may be local.
    fn mark_addresses(&mut self, addresses: &[IpAddr], local: bool) {
        for address in addresses {
            self.dirty.addresses.insert(*address);
            if local || self.pods.is_contested(*address) {
                self.dirty.endpoints.insert(*address);
            }
        }
    }

    fn remove_pod(&mut self, index: u32) {
        let (addresses, local) = (self.pods[index].addresses.clone(), self.pods[index].local);
        self.mark_addresses(&addresses, local);
        let Some(pod) = self.pods.remove(index, &self.strings) else { return };
        let identity = &self.pods.identities[pod.identity];
        let (vacant, unused) = (pod.local && identity.local == 0, identity.pods.is_empty());
        if vacant {
            self.invalidate(pod.identity, Invalidation::Subject);
        }
        if unused {
            self.dirty.identities.insert(pod.identity);
        }
    }

    fn apply_policy(&mut self, policy: &model::Policy) {
        let mut content = Content::new("policy");
        content.policy(policy);
        let digest = content.digest();
        if let Some(number) = self.policies.by_id.get(&policy.id) {
            if self.policies.slab[*number].digest == digest {
                return;
            }
            self.delete_policy(&policy.id);
        }
        let policy = Arc::new(Policy::new(&mut self.strings, policy, digest));
        let number = self.policies.slab.insert(Arc::clone(&policy));
        self.policies.by_id.insert(policy.id.clone(), number);
        self.policies.withheld += usize::from(policy.rules_withheld);
        self.policies_of(&policy).insert(number, &policy);
        self.select(number);
    }

    fn delete_policy(&mut self, id: &PolicyId) {
        let Some(number) = self.policies.by_id.remove(id) else { return };
        let Some(policy) = self.policies.slab.remove(number) else { return };
        self.policies.withheld -= usize::from(policy.rules_withheld);
        self.policies_of(&policy).remove(number, &policy);
        self.deselect(number, &policy);
    }

    /// The index of a policy, by its subject.
    fn policies_of(&mut self, policy: &Policy) -> &mut SubjectIndex {
        match &policy.subject.namespaces {
            Namespaces::Named(name) => &mut self.namespaces.entry(*name).or_default().policies,
            Namespaces::Matching(_) => &mut self.policies.wide,
        }
    }
}
