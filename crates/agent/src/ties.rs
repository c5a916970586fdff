//! Policies of one tier with equal priorities that may disagree about a connection.
//!
//! The order is decided all the same (by name), but the API promises none, so their author is told. Two are told only
//! if nothing shows that they cannot meet: their subjects, and a rule of each in one direction with another action,
//! other ends and ports.

mod meet;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ringfence_model::{Action, Direction, Policy, PolicyId, Rule, Tier};

/// Pairs of rules that are looked at for one policy. Comparing is done where policy is planned, and must not be felt
/// there.
const PATIENCE: usize = 20_000;

/// A conflict of two policies: the direction, and the rule of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clash {
    pub(crate) direction: Direction,
    pub(crate) here: usize,
    pub(crate) there: usize,
}

/// Tier and priority of policies that could conflict.
type Place = (Tier, u32);

/// All policies of the tiers, and which of them are tied.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    groups: BTreeMap<Place, BTreeMap<PolicyId, Arc<Policy>>>,
    places: HashMap<PolicyId, Place>,
    /// Both ways: if one is here for the other, the other is for the one.
    clashes: BTreeMap<PolicyId, BTreeMap<PolicyId, Clash>>,
    /// Policies that were not compared with all others of their priority.
    uncompared: BTreeSet<PolicyId>,
}

impl Ties {
    /// Takes in a policy, as new or in place of the one before. Gives back the others for which something changed.
    pub(crate) fn put(&mut self, policy: &Policy) -> BTreeSet<PolicyId> {
        let mut changed = self.remove(&policy.id);
        if policy.tier == Tier::NetworkPolicy {
            return changed;
        }
        let place = (policy.tier, policy.priority);
        let group = self.groups.entry(place).or_default();
        let mut patience = PATIENCE;
        for (id, other) in &*group {
            let Ok(clash) = clash(policy, other, &mut patience) else {
                self.uncompared.insert(policy.id.clone());
                break;
            };
            let Some(clash) = clash else { continue };
            let back = Clash { here: clash.there, there: clash.here, ..clash };
            self.clashes.entry(policy.id.clone()).or_default().insert(id.clone(), clash);
            self.clashes.entry(id.clone()).or_default().insert(policy.id.clone(), back);
            changed.insert(id.clone());
        }
        group.insert(policy.id.clone(), Arc::new(policy.clone()));
        self.places.insert(policy.id.clone(), place);
        changed
    }

    /// Forgets a policy. Gives back the others that were tied with it.
    pub(crate) fn remove(&mut self, id: &PolicyId) -> BTreeSet<PolicyId> {
        if let Some(place) = self.places.remove(id)
            && let Some(group) = self.groups.get_mut(&place)
        {
            group.remove(id);
            if group.is_empty() {
                self.groups.remove(&place);
            }
        }
        self.uncompared.remove(id);
        let others: BTreeSet<_> = self.clashes.remove(id).unwrap_or_default().into_keys().collect();
        for other in &others {
            if let Some(clashes) = self.clashes.get_mut(other) {
                clashes.remove(id);
                if clashes.is_empty() {
                    self.clashes.remove(other);
                }
            }
        }
        others
    }

    /// The policies about which there is anything to say.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &PolicyId> {
        self.clashes.keys().chain(&self.uncompared)
    }

    /// The remark about a policy, if there is one.
    pub(crate) fn about(&self, id: &PolicyId) -> Option<String> {
        const NAMED: usize = 3;
        let (tier, priority) = self.places.get(id)?;
        let shares = |others: &str| format!("priority {priority} of the {tier:?} tier is also that of {others}");
        let uncompared = self
            .uncompared
            .contains(id)
            .then(|| format!("{}, too many to see whether this policy disagrees with one", shares("other policies")));
        let Some(clashes) = self.clashes.get(id) else { return uncompared };
        let place = |(other, clash): (&PolicyId, &Clash)| {
            let Clash { direction, here, there } = clash;
            format!("{other} ({direction} rule {here} here and {there} there)")
        };
        let mut others: Vec<_> = clashes.iter().take(NAMED).map(place).collect();
        if clashes.len() > NAMED {
            others.push(format!("{} more", clashes.len() - NAMED));
        }
        Some(format!(
            "{}, and they may disagree about a connection; the one whose name comes first is asked first (hint: give \
             them different priorities)",
            shares(&others.join(", "))
        ))
    }
}

/// There are too many rules to compare.
struct TooMany;

/// The conflict of two policies, if there is one.
fn clash(one: &Policy, other: &Policy, patience: &mut usize) -> Result<Option<Clash>, TooMany> {
    if !meet::selections(&one.subject, &other.subject) {
        return Ok(None);
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        let (here, there) = (effective(one, direction), effective(other, direction));
        let (Some((_, first, _)), false) = (here.first(), there.is_empty()) else { continue };
        if here.iter().chain(&there).all(|(_, effect, _)| effect == first) {
            continue;
        }
        *patience = patience.checked_sub(here.len() * there.len()).ok_or(TooMany)?;
        for (here, effect, rule) in here {
            let disagrees = |(_, other, there): &&(usize, &Action, &Rule)| effect != *other && meet::rules(rule, there);
            if let Some((there, ..)) = there.iter().find(disagrees) {
                return Ok(Some(Clash { direction, here, there: *there }));
            }
        }
    }
    Ok(None)
}

/// The rules that do anything, each with its place and what it does. What is not understood fails closed.
fn effective(policy: &Policy, direction: Direction) -> Vec<(usize, &Action, &Rule)> {
    let effect = |rule: &'_ Rule| match (&rule.action, rule.unknown()) {
        (Action::Accept, Some(_)) => None,
        (Action::Accept, None) => Some(&Action::Accept),
        (Action::Pass, None) => Some(&Action::Pass),
        _ => Some(&Action::Deny),
    };
    let rules = policy.rules(direction).unwrap_or_default().iter().enumerate();
    rules.filter_map(|(place, rule)| Some((place, effect(rule)?, rule))).collect()
}

#[cfg(test)]
mod tests {
    use ringfence_k8s::convert::cluster_network_policy;
    use serde_json::{Value, json};

    use super::*;

    fn policy(name: &str, priority: u32, subject: &str, rule: &Value) -> Policy {
        let spec = json!({
            "tier": "Admin", "priority": priority, "subject": {"namespaces": {"matchLabels": {"team": subject}}},
            "egress": [rule],
        });
        let (policy, diagnostics) = cluster_network_policy(&json!({"metadata": {"name": name}, "spec": spec}));
        assert_eq!(diagnostics, []);
        policy
    }

    fn rule(action: &str, network: &str, port: u16) -> Value {
        json!({"action": action, "to": [{"networks": [network]}],
            "protocols": [{"tcp": {"destinationPort": {"number": port}}}]})
    }

    /// True if two policies are reported as conflicting, whichever comes first.
    fn disagree(one: &Policy, other: &Policy) -> bool {
        let told = [[one, other], [other, one]].map(|order| {
            let mut ties = Ties::default();
            for policy in order {
                ties.put(policy);
            }
            let told = [one, other].map(|policy| ties.about(&policy.id).is_some());
            assert_eq!(told[0], told[1], "both are told, or none");
            told[0]
        });
        assert_eq!(told[0], told[1]);
        told[0]
    }

    #[test]
    fn only_those_that_may_disagree_about_a_connection_are_told() {
        let base = policy("a", 5, "x", &rule("Deny", "10.0.0.0/8", 80));
        assert!(disagree(&base, &policy("b", 5, "x", &rule("Accept", "10.1.0.0/16", 80))));
        for (why, other) in [
            ("another priority", policy("b", 6, "x", &rule("Accept", "10.1.0.0/16", 80))),
            ("other pods", policy("b", 5, "y", &rule("Accept", "10.1.0.0/16", 80))),
            ("other addresses", policy("b", 5, "x", &rule("Accept", "192.0.2.0/24", 80))),
            ("another port", policy("b", 5, "x", &rule("Accept", "10.1.0.0/16", 81))),
            ("the same verdict", policy("b", 5, "x", &rule("Deny", "10.1.0.0/16", 80))),
        ] {
            assert!(!disagree(&base, &other), "{why}");
        }
        let mut ingress = policy("b", 5, "x", &rule("Accept", "10.1.0.0/16", 80));
        std::mem::swap(&mut ingress.ingress, &mut ingress.egress);
        assert!(!disagree(&base, &ingress), "another direction");
        let mut baseline = policy("b", 5, "x", &rule("Accept", "10.1.0.0/16", 80));
        baseline.tier = Tier::Baseline;
        assert!(!disagree(&base, &baseline), "another tier");
    }

    #[test]
    fn the_other_is_named_with_both_rules_until_it_goes() {
        let mut ties = Ties::default();
        let (a, b) =
            (policy("a", 5, "x", &rule("Deny", "10.0.0.0/8", 80)), policy("b", 5, "x", &rule("Pass", "::/0", 1)));
        ties.put(&a);
        assert!(ties.put(&b).is_empty());
        let b = policy("b", 5, "x", &rule("Pass", "10.0.0.0/8", 80));
        assert_eq!(ties.put(&b), BTreeSet::from([a.id.clone()]));
        let told = ties.about(&a.id).unwrap();
        assert!(
            told.starts_with(
                "priority 5 of the Admin tier is also that of ClusterNetworkPolicy b (egress rule 0 here and 0 there)"
            ),
            "{told}"
        );
        assert_eq!(ties.remove(&b.id), BTreeSet::from([a.id.clone()]));
        assert_eq!(ties.about(&a.id), None);
    }

    #[test]
    fn a_rule_that_fails_closed_counts_as_what_it_does() {
        let strange = json!({"action": "Accept", "to": [{"planets": {}}]});
        let read = |action: &str| {
            let mut rule = strange.clone();
            rule["action"] = action.into();
            let spec = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": [rule]});
            cluster_network_policy(&json!({"metadata": {"name": "b"}, "spec": spec})).0
        };
        let base = policy("a", 5, "x", &rule("Accept", "10.0.0.0/8", 80));
        assert!(disagree(&base, &read("Pass")), "it denies everything");
        assert!(
            !disagree(&policy("a", 5, "x", &rule("Deny", "10.0.0.0/8", 80)), &read("Accept")),
            "it matches nothing"
        );
    }

    #[test]
    fn too_many_to_compare_is_told_too() {
        let rules: Vec<_> =
            (1..=25).map(|port| rule(if port % 2 == 0 { "Accept" } else { "Deny" }, "10.0.0.0/8", port)).collect();
        let mut ties = Ties::default();
        let mut last = None;
        for number in 0..40 {
            let mut policy = policy(&format!("p{number}"), 5, "x", &rules[0]);
            let spec = json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, "egress": rules.clone()});
            policy.egress = cluster_network_policy(&json!({"metadata": {"name": "p"}, "spec": spec})).0.egress;
            ties.put(&policy);
            last = Some(policy.id);
        }
        assert!(ties.about(&last.unwrap()).unwrap().contains("too many"));
    }
}
