//! Requests of the agents to the API server: counted by the API server itself, which is told to count them apart.

use anyhow::Context as _;
use kube::Client;
use ringfence_e2e::cluster::Cluster;
use serde_json::json;

/// Name under which the agents' requests are counted.
const SCHEMA: &str = "ringfence-bench";

/// Counters of the API server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Requests of the agents' account, since the API server started.
    pub(super) requests: f64,
    /// Watches of whole kinds that are open, of everybody.
    pub(super) watches: f64,
}

/// Has the API server count the requests of the agents by themselves.
pub(super) async fn count_apart(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply(&schema()).await?;
    Ok(())
}

/// And not any more.
pub(super) async fn count_together(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.delete(&schema()).await?;
    Ok(())
}

fn schema() -> serde_json::Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": SCHEMA},
        "spec": {
            // Before those that have them otherwise, and at the level of most of them.
            "matchingPrecedence": 90,
            "priorityLevelConfiguration": {"name": "workload-high"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{
                    "kind": "ServiceAccount",
                    "serviceAccount": {"namespace": "kube-system", "name": "ringfence"},
                }],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "clusterScope": true, "namespaces": ["*"],
                }],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        },
    })
}

/// Counts until now.
pub(super) async fn load(client: &Client) -> anyhow::Result<Load> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let text = client.request_text(request).await.context("metrics of the API server")?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Load {
    let sum = |metric: &str, labels: &[&str]| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(metric) && labels.iter().all(|l| line.contains(l)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let schema = format!("flow_schema=\"{SCHEMA}\"");
    Load {
        requests: sum("apiserver_flowcontrol_dispatched_requests_total{", &[&schema]),
        watches: sum("apiserver_longrunning_requests{", &["verb=\"WATCH\"", "scope=\"cluster\""]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"ringfence-bench\",priority_level=\"x\"} 12
apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"other\",priority_level=\"x\"} 99
apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",verb=\"WATCH\"} 3
apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"resource\",verb=\"WATCH\"} 1
apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"resource\",\
  verb=\"CONNECT\"} 7
";

    #[test]
    fn only_the_agents_are_counted() {
        let load = parse(METRICS);
        assert!((load.requests - 12.0).abs() < 1e-9, "{load:?}");
        assert!((load.watches - 3.0).abs() < 1e-9, "{load:?}");
    }
}
