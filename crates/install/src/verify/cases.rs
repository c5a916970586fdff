//! The cases.

mod egress;
mod ingress;
mod tiers;

use super::case::{Case, Check};

/// All of them, the plainest first.
pub(super) fn all() -> Vec<Case> {
    let open =
        Case { name: "no-policy", cluster_wide: false, policies: |_| Vec::new(), check: Check::Matrix(|_| true) };
    [open].into_iter().chain(ingress::cases()).chain(egress::cases()).chain(tiers::cases()).collect()
}

/// A case of NetworkPolicies.
fn case(
    name: &'static str,
    policies: fn(&super::stage::Names<'_>) -> Vec<serde_json::Value>,
    allows: fn(&super::case::Attempt) -> bool,
) -> Case {
    Case { name, cluster_wide: false, policies, check: Check::Matrix(allows) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::case::{PODS, attempts};
    use super::super::stage::Names;
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_policies_that_an_api_server_takes() {
        let names = Names::example();
        let mut seen = BTreeSet::new();
        for case in all() {
            assert!(seen.insert(case.name), "{} is there twice", case.name);
            let texts: Vec<String> = (case.policies)(&names).iter().map(ToString::to_string).collect();
            let manifests = ringfence_k8s::manifest::Manifests::from_text(case.name, texts.join("\n---\n"));
            assert!(manifests.diagnostics.is_empty(), "{}: {:?}", case.name, manifests.diagnostics);
            assert!(manifests.documents.iter().all(|document| document.valid), "{}", case.name);
        }
    }

    #[test]
    fn every_case_but_the_open_one_denies_something_and_all_but_few_allow_something() {
        let addresses = |pod| Names::example().addresses(pod).to_vec();
        for case in all() {
            let Check::Matrix(allows) = case.check else { continue };
            let tried = attempts(addresses);
            let denied = tried.iter().filter(|(attempt, _)| !allows(attempt)).count();
            assert_eq!(denied == 0, case.name == "no-policy", "{} denies {denied}", case.name);
            assert!(denied < tried.len(), "{} allows nothing", case.name);
        }
        assert_eq!(attempts(addresses).len(), PODS.len() * (PODS.len() - 1) * 3 * 2);
    }
}
