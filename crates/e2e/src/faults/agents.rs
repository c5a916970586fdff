//! The agents of the nodes: their pods, their processes, and whether they are ready.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use nix::sys::signal::{Signal, kill};
use ringfence_e2e::cluster::eventually;
use ringfence_e2e::pod;
use ringfence_install::AGENT_LABEL;
use ringfence_install::rollout::is_ready;
use ringfence_install::status::{self, Node};

use super::stage::Stage;

/// Back-off between restarts of a container that ended by itself: not at all the first time.
const FREE_RESTARTS: i32 = 1;

/// Exit code of a process that was killed: 128 and the number of the signal.
const KILLED: i32 = 137;

impl Stage {
    /// The agent's pod on a node, if it is there and not ending.
    async fn agent(&self, number: usize) -> anyhow::Result<Option<Pod>> {
        let node = &self.nodes[number - 1];
        let here = ListParams::default().labels(AGENT_LABEL).fields(&format!("spec.nodeName={node}"));
        let pods = Api::<Pod>::all(self.cluster.client.clone()).list(&here).await?;
        Ok(pods.items.into_iter().find(|pod| pod.metadata.deletion_timestamp.is_none()))
    }

    /// Status of a node's agent.
    pub(crate) async fn told(&self, number: usize) -> anyhow::Result<Node> {
        let name = &self.nodes[number - 1];
        let told = status::ask(&self.cluster.client).await?;
        told.nodes.into_iter().find(|node| node.name == *name).with_context(|| format!("nobody tells of node {name}"))
    }

    /// Kills a node's agent as soon as there is one that runs.
    pub(crate) async fn kill_agent(&self, number: usize) -> anyhow::Result<()> {
        let pod = eventually(&format!("an agent to kill runs on node {number}"), || async {
            let Some(pod) = self.agent(number).await? else { return Ok(None) };
            let Ok(process) = pod::process(&pod) else { return Ok(None) };
            Ok(kill(process, Signal::SIGKILL).is_ok().then_some(pod))
        })
        .await?;
        // A container that ends often is started again only after 10 s and more. A new pod is started at once.
        let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
        if status.is_some_and(|status| status.restart_count >= FREE_RESTARTS) {
            let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &pod.namespace().unwrap_or_default());
            // Gone already is well too.
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
        Ok(())
    }

    /// Has a node's agent end in order, as in an upgrade.
    pub(crate) async fn restart_agent(&self, number: usize) -> anyhow::Result<()> {
        let pod = self.agent(number).await?.with_context(|| format!("there is no agent on node {number}"))?;
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &pod.namespace().unwrap_or_default());
        api.delete(&pod.name_any(), &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until a node's agent has ended by itself, with an error, since some time.
    pub(crate) async fn agent_failed(&self, number: usize, since: Timestamp) -> anyhow::Result<()> {
        // The API tells whole seconds.
        let since = since.as_second();
        eventually(&format!("the agent of node {number} ends with an error"), || async {
            let Ok(Some(pod)) = self.agent(number).await else { return Ok(None) };
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let states = statuses.flat_map(|status| [&status.state, &status.last_state]).flatten();
            let mut ends = states.filter_map(|state| state.terminated.as_ref());
            let failed = ends.any(|end| {
                ![0, KILLED].contains(&end.exit_code)
                    && end.finished_at.as_ref().is_some_and(|time| time.0.as_second() >= since)
            });
            Ok(failed.then_some(()))
        })
        .await
    }

    /// Waits until a node's agent is ready. What is asked of the API may fail meanwhile.
    pub(crate) async fn agent_ready(&self, number: usize) -> anyhow::Result<()> {
        eventually(&format!("the agent of node {number} is ready"), || async {
            let Ok(Some(pod)) = self.agent(number).await else { return Ok(None) };
            // The kubelet has not noticed a death yet if the process is not there.
            Ok((is_ready(&pod) && pod::process(&pod).is_ok()).then_some(()))
        })
        .await
    }

    /// Waits until all are.
    pub(crate) async fn agents_ready(&self) -> anyhow::Result<()> {
        for number in 1..=self.nodes.len() {
            self.agent_ready(number).await?;
        }
        Ok(())
    }

    /// Waits until all is as a fault has to find it, after one that went wrong.
    pub(crate) async fn recover(&self) -> anyhow::Result<()> {
        if self.machine.is_some() {
            self.agents_ready().await?;
        }
        self.settle().await
    }

    /// Waits until the API answers.
    pub(crate) async fn api_answers(&self, limit: Duration) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let asked = tokio::time::timeout(Duration::from_secs(2), self.cluster.nodes()).await;
            if matches!(asked, Ok(Ok(_))) {
                return Ok(());
            }
            anyhow::ensure!(tokio::time::Instant::now() < end, "the API does not answer within {limit:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
