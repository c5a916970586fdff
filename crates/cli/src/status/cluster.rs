//! The status of a whole cluster.

use std::time::{Duration, Instant};

use ringfence_console::exit::Code;
use ringfence_console::output::{self, or_none, table};
use ringfence_install::status::{self, Cluster, Node, Policy};

use crate::args::Format;
use crate::cluster::Target;

/// Time between two queries while waiting.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The least time agents are given to answer, also when there is none left.
const MIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks every agent, until all is well if that is to be waited for.
pub(super) async fn run(target: &Target, wait: Option<Duration>, format: Option<Format>) -> anyhow::Result<Code> {
    let client = target.client().await?;
    let end = wait.map(|limit| Instant::now() + limit);
    let mut told = String::new();
    let cluster = loop {
        let left = end.map_or(status::WHOLE, |end| end.saturating_duration_since(Instant::now()));
        let cluster = status::ask_within(&client, left.clamp(MIN_TIMEOUT, status::WHOLE)).await?;
        if cluster.well() || end.is_none_or(|end| Instant::now() + POLL_INTERVAL > end) {
            break cluster;
        }
        let line = summary(&cluster);
        if line != told {
            output::remark(&line);
            told = line;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    match format {
        None => output::text(&text(&cluster, false))?,
        Some(Format::Wide) => output::text(&text(&cluster, true))?,
        Some(Format::Json) => output::json(&cluster)?,
        Some(Format::Yaml) => output::yaml(&cluster)?,
    }
    Ok(if cluster.well() { Code::Ok } else { Code::Negative })
}

/// One line.
fn summary(cluster: &Cluster) -> String {
    let ready = cluster.nodes.iter().filter(|node| node.ready).count();
    let enforced = cluster.policies.iter().filter(|policy| policy.behind.is_empty()).count();
    format!(
        "{ready} of {} nodes ready, {enforced} of {} policies enforced on all",
        cluster.nodes.len(),
        cluster.policies.len()
    )
}

fn text(cluster: &Cluster, wide: bool) -> String {
    let mut blocks = vec![table(["NODE", "READY", "VERSION", "PODS", "POLICIES", "PROBLEM"], &nodes(cluster, wide))];
    if !cluster.policies.is_empty() {
        let heading = ["NAMESPACE", "POLICY", "KIND", "PODS", "GENERATION", "ENFORCED", "NOT ON"];
        let rows: Vec<_> = cluster.policies.iter().map(|policy| row(policy, cluster.nodes.len(), wide)).collect();
        blocks.push(table(heading, &rows));
    }
    blocks.push(summary(cluster) + "\n");
    blocks.join("\n")
}

fn nodes(cluster: &Cluster, wide: bool) -> Vec<[String; 6]> {
    let mut rows = Vec::new();
    for node in &cluster.nodes {
        let Node { name, ready, problems, status } = node;
        let of = |count: Option<usize>| or_none(count);
        let shown = if wide { problems.len() } else { 1 };
        let mut problems = problems.iter().take(shown.max(1));
        rows.push([
            name.clone(),
            super::yes(*ready),
            or_none(status.as_ref().map(|status| &status.version)),
            of(status.as_ref().map(|status| pods(status))),
            of(status.as_ref().map(|status| status.policies.len())),
            or_none(problems.next()),
        ]);
        for more in problems {
            rows.push([String::new(), String::new(), String::new(), String::new(), String::new(), more.clone()]);
        }
    }
    rows
}

/// Pods of a node that are guarded. A pod may have two addresses.
fn pods(status: &ringfence_api::Status) -> usize {
    status.endpoints.iter().map(|endpoint| &endpoint.uid).collect::<std::collections::BTreeSet<_>>().len()
}

fn row(policy: &Policy, nodes: usize, wide: bool) -> [String; 7] {
    let behind = match (wide, policy.behind.len()) {
        (_, 0) => None,
        (false, more @ 4..) => Some(format!("{}, … ({more})", policy.behind[..2].join(", "))),
        _ => Some(policy.behind.join(",")),
    };
    [
        or_none(policy.namespace.as_ref()),
        policy.name.clone(),
        policy.kind.clone(),
        policy.selected_pods.to_string(),
        policy.generation.to_string(),
        format!("{}/{nodes}", policy.enforced),
        or_none(behind),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_line_and_a_policy_says_how_far_it_is() {
        let node = |name: &str, problems: &[&str]| Node {
            name: name.into(),
            ready: problems.is_empty(),
            problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            status: None,
        };
        let policy = Policy {
            kind: "NetworkPolicy".into(),
            namespace: Some("shop".into()),
            name: "web".into(),
            generation: 3,
            selected_pods: 2,
            enforced: 1,
            behind: vec!["b".into()],
        };
        let nodes = vec![node("a", &[]), node("b", &["no agent runs there", "and more"])];
        let cluster = Cluster { api_version: "v1", kind: "ClusterStatus", nodes, policies: vec![policy] };
        let brief = text(&cluster, false);
        assert_eq!(
            brief,
            "\
NODE   READY   VERSION   PODS     POLICIES   PROBLEM
a      yes     <none>    <none>   <none>     <none>
b      no      <none>    <none>   <none>     no agent runs there

NAMESPACE   POLICY   KIND            PODS   GENERATION   ENFORCED   NOT ON
shop        web      NetworkPolicy   2      3            1/2        b

1 of 2 nodes ready, 0 of 1 policies enforced on all
"
        );
        assert!(text(&cluster, true).contains("and more"));
    }
}
