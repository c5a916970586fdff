//! A snapshot of everything policy depends on, and the events that change it.

use std::collections::BTreeMap;

use crate::{Domain, DomainName, Name, Namespace, Node, Pod, PodKey, Policy, PolicyId};

/// One object of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A pod.
    Pod(Pod),
    /// A policy of any kind.
    Policy(Policy),
    /// A domain name and its addresses.
    Domain(Domain),
}

/// The key of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKey {
    /// A namespace.
    Namespace(Name),
    /// A node.
    Node(Name),
    /// A pod.
    Pod(PodKey),
    /// A policy.
    Policy(PolicyId),
    /// A domain name.
    Domain(DomainName),
}

impl Object {
    /// The key of the object.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Namespace(namespace) => ObjectKey::Namespace(Name::clone(&namespace.name)),
            Self::Node(node) => ObjectKey::Node(Name::clone(&node.name)),
            Self::Pod(pod) => ObjectKey::Pod(pod.key.clone()),
            Self::Policy(policy) => ObjectKey::Policy(policy.id.clone()),
            Self::Domain(domain) => ObjectKey::Domain(domain.name.clone()),
        }
    }
}

/// A typed snapshot of the cluster, whatever its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Namespaces by name.
    pub namespaces: BTreeMap<Name, Namespace>,
    /// Nodes by name.
    pub nodes: BTreeMap<Name, Node>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<PodKey, Pod>,
    /// Policies by kind, namespace and name.
    pub policies: BTreeMap<PolicyId, Policy>,
    /// Domain names the cluster's resolver answered, by name.
    pub domains: BTreeMap<DomainName, Domain>,
}

impl World {
    /// Adds or replaces an object.
    pub fn apply(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => drop(self.namespaces.insert(Name::clone(&namespace.name), namespace)),
            Object::Node(node) => drop(self.nodes.insert(Name::clone(&node.name), node)),
            Object::Pod(pod) => drop(self.pods.insert(pod.key.clone(), pod)),
            Object::Policy(policy) => drop(self.policies.insert(policy.id.clone(), policy)),
            Object::Domain(domain) => drop(self.domains.insert(domain.name.clone(), domain)),
        }
    }

    /// Removes an object; one that is not there is no error.
    pub fn delete(&mut self, key: &ObjectKey) {
        match key {
            ObjectKey::Namespace(name) => drop(self.namespaces.remove(name)),
            ObjectKey::Node(name) => drop(self.nodes.remove(name)),
            ObjectKey::Pod(key) => drop(self.pods.remove(key)),
            ObjectKey::Policy(id) => drop(self.policies.remove(id)),
            ObjectKey::Domain(name) => drop(self.domains.remove(name)),
        }
    }

    /// Every object, in an order that has no meaning.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let namespaces = self.namespaces.values().cloned().map(Object::Namespace);
        let nodes = self.nodes.values().cloned().map(Object::Node);
        let pods = self.pods.values().cloned().map(Object::Pod);
        let policies = self.policies.values().cloned().map(Object::Policy);
        let domains = self.domains.values().cloned().map(Object::Domain);
        namespaces.chain(nodes).chain(pods).chain(policies).chain(domains)
    }
}

impl FromIterator<Object> for World {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut world = Self::default();
        for object in objects {
            world.apply(object);
        }
        world
    }
}
