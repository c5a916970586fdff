//! What does not fit, in words.

use std::collections::BTreeMap;

use ringfence_engine::Refusal;
use ringfence_model::{PodKey, PolicyId};

/// Pods and policies that are named; the others are counted.
const NAMED: usize = 3;

/// Why each policy is not enforced as written on a node.
pub(super) fn reasons(refusals: &[Refusal], node: &str) -> BTreeMap<PolicyId, String> {
    let mut reasons = BTreeMap::new();
    for Refusal { pods, direction, policies, room } in refusals {
        for policy in policies {
            reasons.entry(policy.clone()).or_insert_with(|| {
                format!(
                    "node {node}: no room in {room}. {direction} of {} is denied whole there until their policies fit. hint: \
                     fewer port ranges, blocks or rules for these pods, or a larger map",
                    some(pods)
                )
            });
        }
    }
    reasons
}

/// The same for a status, the first few only.
pub(super) fn warnings(refusals: &[Refusal]) -> Vec<String> {
    let warning = |refusal: &Refusal| {
        let Refusal { pods, direction, policies, room } = refusal;
        format!("no room in {room}. {direction} of {} is denied whole until {} fit", some(pods), some(policies))
    };
    let mut warnings: Vec<_> = refusals.iter().take(NAMED).map(warning).collect();
    if let Some(more @ 1..) = refusals.len().checked_sub(NAMED) {
        warnings.push(format!("no room for {more} more sets of policies; see the pods without room"));
    }
    warnings
}

/// How many different pods go without.
pub(super) fn pods(refusals: &[Refusal]) -> usize {
    let pods = refusals.iter().flat_map(|refusal| &refusal.pods);
    pods.collect::<std::collections::BTreeSet<&PodKey>>().len()
}

fn some(things: &[impl std::fmt::Display]) -> String {
    let named = things.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match things.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{named} and {more} more"),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use ringfence_engine::Room;
    use ringfence_model::{Direction, PolicyKind};

    use super::*;

    #[test]
    fn however_much_does_not_fit_the_words_are_few() {
        let policy = |number| PolicyId {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some("blue".into()),
            name: format!("big{number}").as_str().into(),
        };
        let pod = |number| PodKey { namespace: "blue".into(), name: format!("pod{number}").as_str().into() };
        let refusal = |count| Refusal {
            pods: (0..count).map(pod).collect(),
            direction: Direction::Ingress,
            policies: (0..count).map(policy).collect(),
            room: Room::Breakpoints,
        };
        let told = &reasons(&[refusal(40)], "n")[&policy(7)];
        assert!(
            told.starts_with("node n: no room in the map `breakpoints`: too many port ranges. ingress of "),
            "{told}"
        );
        assert!(told.contains("blue/pod0, blue/pod1, blue/pod2 and 37 more is denied whole"), "{told}");
        let told = warnings(&vec![refusal(4); 9]);
        assert_eq!(told.len(), 4);
        assert!(told[0].ends_with("NetworkPolicy blue/big2 and 1 more fit"), "{}", told[0]);
        assert!(told[3].contains("6 more"), "{}", told[3]);
        assert_eq!(pods(&[refusal(4), refusal(2)]), 4);
    }
}
