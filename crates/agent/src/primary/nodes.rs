//! The nodes of the cluster as far as routes follow them.

use std::collections::BTreeMap;

use ringfence_k8s::convert::Kind;
use ringfence_k8s::watch::Event;
use ringfence_model::{Name, Node, Object, ObjectKey};

/// A reason to look again.
#[derive(Debug)]
pub(crate) enum Nudge {
    /// These are all nodes.
    All(Vec<Node>),
    /// A node is new or different.
    Put(Node),
    /// A node is gone.
    Gone(Name),
    /// Links, addresses or routes of this one changed.
    Network,
}

impl Nudge {
    /// The change of nodes in an event of the watches.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Apply { object: Object::Node(node), .. } => Some(Self::Put(node.clone())),
            Event::Delete(ObjectKey::Node(name)) => Some(Self::Gone(Name::clone(name))),
            Event::Reset { kind: Kind::Node, objects, .. } => {
                let nodes = objects.iter().filter_map(|object| match object {
                    Object::Node(node) => Some(node.clone()),
                    _ => None,
                });
                Some(Self::All(nodes.collect()))
            }
            _ => None,
        }
    }
}

/// All nodes; none before they were listed.
#[derive(Default)]
pub(super) struct Nodes(Option<BTreeMap<Name, Node>>);

impl Nodes {
    /// All, once they were listed.
    pub(super) fn all(&self) -> Option<&BTreeMap<Name, Node>> {
        self.0.as_ref()
    }

    /// Takes in a nudge. Whether it is worth a look: nodes report all the time, and mostly that all is as it was.
    pub(super) fn take(&mut self, nudge: Nudge) -> bool {
        // Of a node its labels change as well, which no route follows.
        let same = |old: &Node, new: &Node| (&old.addresses, &old.pod_cidrs) == (&new.addresses, &new.pod_cidrs);
        match (nudge, &mut self.0) {
            (Nudge::All(nodes), known) => {
                *known = Some(nodes.into_iter().map(|node| (Name::clone(&node.name), node)).collect());
                true
            }
            (Nudge::Put(node), Some(nodes)) => {
                let old = nodes.insert(Name::clone(&node.name), node.clone());
                !old.is_some_and(|old| same(&old, &node))
            }
            (Nudge::Gone(name), Some(nodes)) => nodes.remove(&name).is_some(),
            // Before the listing nothing is known of the others, and nothing may be taken away.
            (Nudge::Put(_) | Nudge::Gone(_), None) => false,
            (Nudge::Network, _) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: &str, range: &str) -> Node {
        Node {
            name: name.into(),
            labels: [("zone", zone)].into_iter().collect(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            pod_cidrs: vec![range.parse().unwrap()],
        }
    }

    #[test]
    fn reports_of_nodes_that_are_as_they_were_are_not_worth_a_look() {
        let mut nodes = Nodes::default();
        assert!(!nodes.take(Nudge::Put(node("a", "x", "10.0.1.0/24"))), "nothing is known of the others");
        assert!(nodes.all().is_none());
        assert!(nodes.take(Nudge::All(vec![node("a", "x", "10.0.1.0/24"), node("b", "x", "10.0.2.0/24")])));
        assert!((0..100).all(|_| !nodes.take(Nudge::Put(node("a", "x", "10.0.1.0/24")))));
        assert!(!nodes.take(Nudge::Put(node("a", "y", "10.0.1.0/24"))), "no route follows a label");
        assert!(nodes.take(Nudge::Put(node("a", "y", "10.0.3.0/24"))));
        assert!(nodes.take(Nudge::Put(node("c", "y", "10.0.4.0/24"))), "it is new");
        assert!(nodes.take(Nudge::Gone("b".into())) && !nodes.take(Nudge::Gone("b".into())));
        assert_eq!(nodes.all().unwrap().keys().map(ToString::to_string).collect::<Vec<_>>(), ["a", "c"]);
        assert!(nodes.take(Nudge::Network));
    }
}
