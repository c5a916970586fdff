//! The engine that judges packets.

use crate::policies;

/// Treatment of packets by the node between the two pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Forwards, without even connection tracking.
    Bare,
    /// Forwards and tracks connections, as every node with Services does: no policy engine.
    Conntrack,
    /// Ringfence, with so many policies on the server pod.
    Ringfence(usize),
    /// Ringfence, with so many ClusterNetworkPolicies on the server pod.
    ClusterWide(usize),
    /// The same allowances as one nftables rule each.
    Rules(usize),
    /// The same allowances as one nftables set.
    Set(usize),
}

impl Variant {
    /// For tables.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Bare => "no engine, no connection tracking".to_owned(),
            Self::Conntrack => "no engine".to_owned(),
            Self::Ringfence(count) => format!("Ringfence, {count} policies"),
            Self::ClusterWide(count) => {
                format!("Ringfence, {count} ClusterNetworkPolicies of {} rules", policies::RULES)
            }
            Self::Rules(count) => format!("nftables, {count} rules"),
            Self::Set(count) => format!("nftables, a set of {count}"),
        }
    }
}

/// Every variant for these numbers of policies, and of ClusterNetworkPolicies.
pub(super) fn all(counts: &[usize], cluster_wide: usize) -> Vec<Variant> {
    let some = || counts.iter().copied().filter(|count| *count > 0);
    let mut variants = vec![Variant::Bare, Variant::Conntrack];
    variants.extend(counts.iter().copied().map(Variant::Ringfence));
    if cluster_wide > 0 {
        variants.push(Variant::ClusterWide(cluster_wide));
    }
    variants.extend(some().map(Variant::Rules));
    variants.extend(some().map(Variant::Set));
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_compared_with_nothing() {
        let variants = all(&[0, 10], 5);
        assert_eq!(
            variants,
            [
                Variant::Bare,
                Variant::Conntrack,
                Variant::Ringfence(0),
                Variant::Ringfence(10),
                Variant::ClusterWide(5),
                Variant::Rules(10),
                Variant::Set(10)
            ]
        );
    }
}
