//! True if two selections, peers or ports can have anything in common. Says no only where that is certain.

use ringfence_model::{
    DomainPattern, NamespaceSelection, Peer, Peers, PodSelection, PortMatch, Ports, Requirement, Rule, Selector,
};

/// True if a connection may match both rules.
pub(super) fn rules(one: &Rule, other: &Rule) -> bool {
    // A rule that is not understood and does anything denies everything.
    let whole = one.unknown().is_some() || other.unknown().is_some();
    whole || (peers(&one.peers, &other.peers) && ports(&one.ports, &other.ports))
}

/// True if a pod may be in both.
pub(super) fn selections(one: &PodSelection, other: &PodSelection) -> bool {
    let namespaces = match (&one.namespaces, &other.namespaces) {
        (NamespaceSelection::Named(one), NamespaceSelection::Named(other)) => one == other,
        (NamespaceSelection::Matching(one), NamespaceSelection::Matching(other)) => selectors(one, other),
        _ => true,
    };
    namespaces && selectors(&one.pods, &other.pods)
}

/// True if an object may match both.
fn selectors(one: &Selector, other: &Selector) -> bool {
    !one.requirements().any(|one| other.requirements().any(|other| excludes(one, other) || excludes(other, one)))
}

/// True if what meets the one can never meet the other.
fn excludes(one: &Requirement, other: &Requirement) -> bool {
    use Requirement::{DoesNotExist, Exists, In, NotIn};
    match (one, other) {
        (In { key, values }, In { key: same, values: others }) => key == same && values.is_disjoint(others),
        (In { key, values }, NotIn { key: same, values: others }) => key == same && values.is_subset(others),
        (In { key, .. } | Exists { key }, DoesNotExist { key: same }) => key == same,
        _ => false,
    }
}

fn peers(one: &Peers, other: &Peers) -> bool {
    match (one, other) {
        (Peers::List(one), Peers::List(other)) => one.iter().any(|one| other.iter().any(|other| peer(one, other))),
        _ => true,
    }
}

fn peer(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Pods(one), Peer::Pods(other)) => selections(one, other),
        (Peer::Nodes(one), Peer::Nodes(other)) => selectors(one, other),
        (Peer::Domain(one), Peer::Domain(other)) => names(one, other),
        (Peer::Block(one), Peer::Block(other)) => {
            one.cidr().contains(&other.cidr()) || other.cidr().contains(&one.cidr())
        }
        // Nodes and the pods that have their addresses are different peers.
        (Peer::Pods(_), Peer::Nodes(_)) | (Peer::Nodes(_), Peer::Pods(_)) => false,
        _ => true,
    }
}

/// Different names may stand for one address; that nobody can tell, and it is not what an author has in mind.
fn names(one: &DomainPattern, other: &DomainPattern) -> bool {
    let below = |one: &DomainPattern, other: &DomainPattern| one.is_wildcard() && one.matches(other.name());
    one == other || below(one, other) || below(other, one)
}

fn ports(one: &Ports, other: &Ports) -> bool {
    match (one, other) {
        (Ports::List(one), Ports::List(other)) => one.iter().any(|one| other.iter().any(|other| port(one, other))),
        _ => true,
    }
}

fn port(one: &PortMatch, other: &PortMatch) -> bool {
    match (one, other) {
        (PortMatch::Range(one), PortMatch::Range(other)) => {
            one.protocol == other.protocol && one.first <= other.last && other.first <= one.last
        }
        _ => true,
    }
}
