//! The status of a cluster, put together from all agents.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use ringfence_api as api;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::agents::{self, Place};

/// The time that one agent may take to answer.
const LIMIT: Duration = Duration::from_secs(20);
/// The time that all of them may take, if nobody is in a hurry.
pub const WHOLE: Duration = Duration::from_secs(45);

/// The state of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// As the agents' own answers are versioned.
    pub api_version: &'static str,
    /// `ClusterStatus`.
    pub kind: &'static str,
    /// Every node, by name.
    pub nodes: Vec<Node>,
    /// Every policy that an agent knows.
    pub policies: Vec<Policy>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// True if the policy of the cluster is in its kernel.
    pub ready: bool,
    /// Problems, the most urgent first.
    pub problems: Vec<String>,
    /// Status of its agent.
    pub status: Option<Box<api::Status>>,
}

/// A policy, and how far it is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `NetworkPolicy`, …
    pub kind: String,
    /// Its namespace; none for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Newest generation that an agent has seen.
    pub generation: i64,
    /// Pods it selects.
    pub selected_pods: usize,
    /// On how many nodes that generation is enforced.
    pub enforced: usize,
    /// Nodes on which it is not.
    pub behind: Vec<String>,
}

impl Cluster {
    /// True if all is well: every node is ready and every policy is enforced on every node.
    pub fn well(&self) -> bool {
        !self.nodes.is_empty()
            && self.nodes.iter().all(|node| node.ready)
            && self.policies.iter().all(|policy| policy.behind.is_empty())
    }
}

/// Asks every agent.
pub async fn ask(client: &Client) -> anyhow::Result<Cluster> {
    ask_within(client, WHOLE).await
}

/// Asks every agent, and puts together what was said in that time. A node whose agent said nothing has that as its
/// problem.
///
/// # Errors
/// The API server does not tell who the agents are.
pub async fn ask_within(client: &Client, limit: Duration) -> anyhow::Result<Cluster> {
    let end = Instant::now() + limit;
    let listed = timeout_at(end, agents::list(client)).await;
    let places =
        listed.with_context(|| format!("the API server does not list nodes and agents within {limit:?}"))??;
    let answers = agents::ask(client, &places, &["status", "-o", "json"], LIMIT, end).await;
    Ok(put_together(
        answers
            .into_iter()
            .map(|(node, answer)| (node, answer.and_then(|answer| read(&answer.stdout, &answer))))
            .collect(),
    ))
}

/// True if there is an agent, or was meant to be one.
pub fn is_installed(places: &[Place]) -> bool {
    places.iter().any(|place| place.agent.is_ok())
}

fn read(text: &str, answer: &ringfence_k8s::exec::Output) -> Result<Box<api::Status>, String> {
    // A status is told too when it is not good; then the exit code is not 0.
    serde_json::from_str(text).map_err(|error| match answer.said() {
        "" => format!("its agent's answer cannot be read: {error}"),
        said => format!("its agent says: {said}"),
    })
}

fn put_together(answers: Vec<(String, Result<Box<api::Status>, String>)>) -> Cluster {
    let policies = policies(&answers);
    let node = |(name, answer): (String, Result<Box<api::Status>, String>)| match answer {
        Ok(status) => {
            let mut problems = status.warnings.clone();
            if !status.ready && problems.is_empty() {
                problems.push("not ready yet".into());
            }
            Node { name, ready: status.ready, problems, status: Some(status) }
        }
        Err(problem) => Node { name, ready: false, problems: vec![problem], status: None },
    };
    let nodes = answers.into_iter().map(node).collect();
    Cluster { api_version: api::VERSION, kind: "ClusterStatus", nodes, policies }
}

/// Every policy that any agent knows. An object of the same name but another uid is another policy, and the older one
/// is not enforced any more: it counts as behind.
fn policies(answers: &[(String, Result<Box<api::Status>, String>)]) -> Vec<Policy> {
    let mut newest: BTreeMap<(Option<&str>, &str, &str), &api::Policy> = BTreeMap::new();
    for policy in answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).flat_map(|status| &status.policies) {
        let key = (policy.namespace.as_deref(), policy.kind.as_str(), policy.name.as_str());
        let known = newest.entry(key).or_insert(policy);
        if policy.generation > known.generation {
            *known = policy;
        }
    }
    let mut all: Vec<Policy> = Vec::with_capacity(newest.len());
    // Looked up, not searched for: a large cluster has thousands of policies on thousands of nodes.
    let mut numbers: HashMap<&str, usize> = HashMap::with_capacity(newest.len());
    for ((namespace, kind, name), policy) in newest {
        numbers.insert(&policy.uid, all.len());
        all.push(Policy {
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            generation: policy.generation,
            selected_pods: 0,
            enforced: 0,
            behind: Vec::new(),
        });
    }
    for (node, answer) in answers {
        let mut enforced = vec![false; all.len()];
        for told in answer.iter().flat_map(|status| &status.policies) {
            if let Some(number) = numbers.get(&*told.uid) {
                let policy = &mut all[*number];
                policy.selected_pods += told.selected_pods;
                enforced[*number] = told.enforced_generation >= Some(policy.generation);
            }
        }
        for (policy, enforced) in all.iter_mut().zip(enforced) {
            if enforced {
                policy.enforced += 1;
            } else {
                policy.behind.push(node.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(node: &str, policies: &[(&str, i64, Option<i64>)]) -> Box<api::Status> {
        let policies: Vec<_> = policies
            .iter()
            .map(|(name, generation, enforced)| {
                json!({
                    "kind": "NetworkPolicy", "namespace": "shop", "name": name, "uid": name, "generation": generation,
                    "enforcedGeneration": enforced, "directions": ["ingress"], "selectedPods": 2,
                })
            })
            .collect();
        serde_json::from_value(json!({
            "apiVersion": api::VERSION, "kind": "AgentStatus", "node": node, "version": "1", "ready": true,
            "warnings": [], "watches": [], "endpoints": [], "diagnostics": [], "policies": policies,
            "repairs": [{"what": "pins", "count": 1, "last": "", "found": ""}],
            "enforcement": {
                "adopted": false, "connections": "cut", "pinDir": "", "error": null, "gates": [], "peers": 0,
                "classes": 0, "rulesets": 0, "features": [], "maps": [], "bridge": null,
            },
        }))
        .unwrap()
    }

    #[test]
    fn agents_of_the_version_before_are_read_during_an_upgrade() {
        // `status` is in their words.
        let status = status("a", &[]);
        assert_eq!((&*status.repairs[0].component, status.enforcement.events_lost), ("pins", 0));
    }

    fn cluster(answers: Vec<(&str, Result<Box<api::Status>, &str>)>) -> Cluster {
        put_together(answers.into_iter().map(|(node, answer)| (node.into(), answer.map_err(str::to_owned))).collect())
    }

    #[test]
    fn a_policy_is_enforced_where_its_newest_generation_is() {
        let all = cluster(vec![
            ("a", Ok(status("a", &[("web", 3, Some(3)), ("db", 1, Some(1))]))),
            ("b", Ok(status("b", &[("web", 2, Some(2)), ("db", 1, Some(1))]))),
        ]);
        let told: Vec<_> =
            all.policies.iter().map(|p| (&*p.name, p.generation, p.enforced, p.behind.concat())).collect();
        assert_eq!(told, [("db", 1, 2, String::new()), ("web", 3, 1, "b".to_owned())]);
        assert_eq!(all.policies[0].selected_pods, 4);
        assert!(!all.well());
    }

    /// Ten times as many policies take about ten times as long, not a hundred times.
    #[test]
    fn many_policies_on_many_nodes_are_compared_in_linear_time() {
        let took = |number: usize| {
            let names: Vec<String> = (0..number).map(|number| format!("p{number}")).collect();
            let policies: Vec<_> = names.iter().map(|name| (name.as_str(), 1, Some(1))).collect();
            let answers = (0..10).map(|node| (format!("n{node}"), Ok(status("n", &policies)))).collect::<Vec<_>>();
            let begun = std::time::Instant::now();
            let all = super::policies(&answers);
            assert!(all.len() == number && all.iter().all(|policy| policy.enforced == 10));
            begun.elapsed()
        };
        let (few, many) = (took(1_000), took(10_000));
        assert!(many < few * 50, "{few:?} for 1,000, {many:?} for 10,000");
    }

    #[test]
    fn a_silent_node_is_not_well_and_enforces_nothing() {
        let all = cluster(vec![("a", Ok(status("a", &[("web", 1, Some(1))]))), ("b", Err("no agent runs there"))]);
        assert!(!all.well());
        assert_eq!(all.policies[0].behind, ["b"]);
        assert_eq!(all.nodes[1].problems, ["no agent runs there"]);
        assert!(cluster(vec![("a", Ok(status("a", &[("web", 1, Some(1))])))]).well());
        assert!(!cluster(Vec::new()).well());
    }
}
