//! The results, as Markdown.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use ringfence_e2e::cluster::Cluster;

use super::ledger::Counts;

/// A scenario that ran.
pub(crate) struct Row {
    /// Its name.
    pub(crate) name: &'static str,
    /// The action.
    pub(crate) what: String,
    /// The reason why it could not be done.
    pub(crate) failure: Option<String>,
    /// The observation.
    pub(crate) counts: Counts,
    /// The time that it took.
    pub(crate) took: Duration,
    /// By how much a prober was late at most.
    pub(crate) late: Duration,
    /// Packets that the machine's queues had no room for.
    pub(crate) overflown: Option<u64>,
}

impl Row {
    fn well(&self) -> bool {
        let Counts { sent, leaked, dropped, broken, held_up: _, full: _ } = self.counts;
        self.failure.is_none() && sent > 0 && leaked == 0 && dropped == 0 && broken == 0
    }

    /// For the person who waits.
    pub(crate) fn line(&self) -> String {
        let Counts { sent, leaked, dropped, broken, held_up, full } = self.counts;
        let text = self.failure.as_deref().map_or_else(|| self.what.clone(), |why| format!("FAILED: {why}"));
        format!(
            "{sent} probes, {leaked} leaked, {dropped} dropped, {broken} broken, {full} in full queues, {held_up} held \
             up; {text}"
        )
    }
}

/// All of them, and where it was.
pub(crate) struct Report {
    nodes: usize,
    kubernetes: String,
    kernel: String,
    runtime: String,
    /// One a scenario.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// Of a cluster; nothing was tried yet.
    pub(crate) async fn about(cluster: &Cluster) -> anyhow::Result<Self> {
        let nodes = Api::<Node>::all(cluster.client.clone()).list(&ListParams::default()).await?.items;
        let info = nodes.first().and_then(|node| node.status.as_ref()?.node_info.clone()).unwrap_or_default();
        let (kernel, runtime) = (info.kernel_version, info.container_runtime_version);
        Ok(Self { nodes: nodes.len(), kubernetes: info.kubelet_version, kernel, runtime, rows: Vec::new() })
    }

    /// True if nothing leaked, was lost or broke.
    pub(crate) fn well(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::well)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, kubernetes, kernel, runtime, rows } = self;
        writeln!(out, "Kubernetes {kubernetes}, {runtime}, Linux {kernel}, {nodes} nodes.\n")?;
        writeln!(
            out,
            "| fault | probes | leaked | wrongly dropped | broken | in full queues | held up | overflown | prober late \
             by at most, ms | took, s |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        for Row { name, counts, failure, took, late, overflown, .. } in rows {
            let Counts { sent, leaked, dropped, broken, held_up, full } = counts;
            let name = if failure.is_some() { format!("{name} (failed)") } else { (*name).to_owned() };
            let (late, took) = (late.as_millis(), took.as_secs());
            let lost = overflown.map_or_else(|| "?".into(), |lost| lost.to_string());
            writeln!(
                out,
                "| {name} | {sent} | {leaked} | {dropped} | {broken} | {full} | {held_up} | {lost} | {late} | {took} |"
            )?;
        }
        writeln!(out)?;
        for Row { name, what, failure, .. } in rows {
            match failure {
                Some(why) => writeln!(out, "* **{name}**: failed: {}", why.replace('\n', " "))?,
                None => writeln!(out, "* **{name}**: {what}.")?,
            }
        }
        Ok(())
    }
}
