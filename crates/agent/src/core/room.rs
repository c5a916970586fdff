//! Reports about policies and peers that do not fit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use ringfence_engine::{Refusal, Resource};
use ringfence_model::{Name, PodKey, PolicyId};

use super::state::Core;
use crate::problem::{Claim, NO_CAPACITY};

/// Pods, namespaces and policies that are named; the others are counted.
const NAMED: usize = 3;
/// Most pods about which Events are written at a time.
const TOLD: usize = 64;

/// The reason why each policy is not enforced as written on a node.
pub(super) fn reasons(refusals: &[Refusal], node: &str) -> BTreeMap<PolicyId, String> {
    let mut reasons = BTreeMap::new();
    for refusal in refusals {
        for policy in &refusal.policies {
            reasons.entry(policy.clone()).or_insert_with(|| {
                format!(
                    "node {node}: no room in {}. {} until their policies fit. hint: {}",
                    refusal.resource,
                    fate(refusal, " there"),
                    hint(refusal.resource),
                )
            });
        }
    }
    reasons
}

/// What can be done about it.
fn hint(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "fewer or smaller policies in this namespace, or more memory for the agent",
        Resource::Layout => "fewer port ranges, blocks or rules for these pods",
        Resource::Ipcache
        | Resource::IpcacheCidrs
        | Resource::Policy
        | Resource::PortRanges
        | Resource::RuleCounters => "fewer port ranges, blocks or rules for these pods, or a larger map",
    }
}

/// Fate of the pods.
fn fate(refusal: &Refusal, there: &str) -> String {
    let Refusal { pods, retaining, direction, .. } = refusal;
    let denied = || format!("{direction} of {} is denied whole{there}", some(pods));
    let kept = || format!("{} keep for {direction} what they had{there}", some(retaining));
    match (&pods[..], &retaining[..]) {
        (_, []) => denied(),
        ([], _) => kept(),
        _ => format!("{}, {}", denied(), kept()),
    }
}

/// The same for a status, the first few only.
pub(super) fn warnings(refusals: &[Refusal]) -> Vec<String> {
    let warning = |refusal: &Refusal| {
        format!("no room in {}. {} until {} fit", refusal.resource, fate(refusal, ""), some(&refusal.policies))
    };
    let mut warnings: Vec<_> = refusals.iter().take(NAMED).map(warning).collect();
    if let Some(more @ 1..) = refusals.len().checked_sub(NAMED) {
        warnings.push(format!("no room for {more} more sets of policies; see the pods without room"));
    }
    warnings
}

/// Number of pods whose policies do not fit.
pub(super) fn pods(refusals: &[Refusal]) -> usize {
    let pods = refusals.iter().flat_map(|refusal| refusal.pods.iter().chain(&refusal.retaining));
    pods.collect::<BTreeSet<&PodKey>>().len()
}

fn some(things: &[impl std::fmt::Display]) -> String {
    let named = things.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match things.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{named} and {more} more"),
        _ => named,
    }
}

/// Namespaces and how much each goes without, as `name (count)`: the most first, equal ones by name.
pub(super) fn worst_first<N: Display + Ord>(counts: &BTreeMap<N, usize>) -> Vec<String> {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| Reverse(**count));
    sorted.into_iter().map(|(namespace, count)| format!("{namespace} ({count})")).collect()
}

impl Core {
    /// Says in the log, and to whoever writes Events, that other pods have no room among the peers than before.
    pub(super) fn note_crowd(&mut self) {
        let crowded = self.planner.overflowed_address_count();
        if std::mem::replace(&mut self.crowded, crowded) != crowded {
            self.index.raise();
            if let Some(warning) = self.crowd_warning() {
                tracing::warn!("{warning}");
            } else {
                tracing::info!("there is room for the addresses of all pods again");
            }
        }
    }

    /// The warning about pods that do not fit among the peers, by namespace.
    pub(super) fn crowd_warning(&self) -> Option<String> {
        if self.crowded == 0 {
            return None;
        }
        let mut namespaces: BTreeMap<Name, usize> = BTreeMap::new();
        for (_, who) in self.planner.overflowed_addresses() {
            *namespaces.entry(who.pod.namespace).or_default() += 1;
        }
        Some(format!(
            "no room in the map `ipcache` for {} addresses of pods of namespaces {}: whoever has policies here denies \
             them. hint: a larger map (--map-size ipcache=…)",
            self.crowded,
            some(&worst_first(&namespaces))
        ))
    }

    /// Events about them.
    pub(super) fn crowd_claims(&self) -> impl Iterator<Item = Claim> + '_ {
        self.planner.overflowed_addresses().take(TOLD).map(|(address, who)| Claim {
            pod: who.pod,
            uid: who.uid,
            reason: NO_CAPACITY,
            message: format!(
                "no room in the map `ipcache` for address {address}: whoever has policies denies it. hint: a larger \
                 map (--map-size ipcache=…)"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
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
            retaining: Vec::new(),
            direction: Direction::Ingress,
            policies: (0..count).map(policy).collect(),
            resource: Resource::PortRanges,
        };
        let told = &reasons(&[refusal(40)], "n")[&policy(7)];
        assert!(
            told.starts_with("node n: no room in the map `port_ranges`: too many port ranges. ingress of "),
            "{told}"
        );
        assert!(told.contains("blue/pod0, blue/pod1, blue/pod2 and 37 more is denied whole there until"), "{told}");
        let told = warnings(&vec![refusal(4); 9]);
        assert_eq!(told.len(), 4);
        assert!(told[0].ends_with("NetworkPolicy blue/big2 and 1 more fit"), "{}", told[0]);
        assert!(told[3].contains("6 more"), "{}", told[3]);
        assert_eq!(pods(&[refusal(4), refusal(2)]), 4);
        let retaining = Refusal { pods: vec![pod(9)], retaining: vec![pod(0)], ..refusal(1) };
        let [told] = &warnings(std::slice::from_ref(&retaining))[..] else { panic!("one is one") };
        assert!(
            told.contains("ingress of blue/pod9 is denied whole, blue/pod0 keep for ingress what they had until"),
            "{told}"
        );
        assert_eq!(pods(&[retaining]), 2);
    }
}
