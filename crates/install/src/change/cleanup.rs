//! A pod on every node that takes away what an agent left there.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, LogParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Installed;
use crate::{Progress, objects, rollout};

/// Label, and its value, of the pods that clean up.
const LABEL: (&str, &str) = ("app.kubernetes.io/name", "ringfence-cleanup");
/// The host's directory for the state of running programs, as those pods see it.
const HOST_RUN: &str = "/host/run";
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the pods to their end; returns the nodes on which that did not work, with the reason.
pub(super) async fn run(
    client: &Client,
    installed: &Installed,
    limit: Duration,
    progress: &dyn Progress,
) -> anyhow::Result<Vec<String>> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("cannot list the nodes")?;
    let set = serde_json::to_value(&installed.set)?;
    let template = set.pointer("/spec/template").context("the DaemonSet has no template")?;
    let linux = nodes.iter().filter(|node| node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux"));
    let names: Vec<String> = linux.map(ResourceExt::name_any).collect();
    for node in &names {
        let pod = pod(template, &installed.namespace, node).context("the DaemonSet is not as expected")?;
        objects::apply(client, &pod).await?;
    }
    let left = finish(client, &installed.namespace, &names, limit, progress).await?;
    Ok(left.into_iter().map(|(node, why)| format!("{node}: {why}")).collect())
}

/// Waits for the pods, and removes those that are done: one on a node that is away waits there for it to come back.
async fn finish(
    client: &Client,
    namespace: &str,
    nodes: &[String],
    limit: Duration,
    progress: &dyn Progress,
) -> anyhow::Result<BTreeMap<String, String>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selected = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    let mut waiting: BTreeMap<String, String> =
        nodes.iter().map(|node| (node.clone(), "has not begun".to_owned())).collect();
    let mut failed = BTreeMap::new();
    let end = Instant::now() + limit;
    let mut told = usize::MAX;
    while !waiting.is_empty() && Instant::now() < end {
        for pod in api.list(&selected).await?.items {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
            match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
                Some("Succeeded") => {
                    waiting.remove(&node);
                    remove(&api, &pod).await?;
                }
                Some("Failed") => {
                    waiting.remove(&node);
                    let log =
                        api.logs(&pod.name_any(), &LogParams { tail_lines: Some(1), ..LogParams::default() }).await;
                    failed.insert(node, log.map_or_else(|_| "cleaning up failed".into(), |log| log.trim().to_owned()));
                    remove(&api, &pod).await?;
                }
                _ => {
                    if let (Some(why), Some(entry)) = (rollout::trouble(&pod), waiting.get_mut(&node)) {
                        *entry = why;
                    }
                }
            }
        }
        if told != waiting.len() {
            progress.say(&format!("nodes cleaned: {} of {}", nodes.len() - waiting.len() - failed.len(), nodes.len()));
            told = waiting.len();
        }
        tokio::time::sleep(PAUSE).await;
    }
    failed.extend(waiting);
    Ok(failed)
}

async fn remove(api: &Api<Pod>, pod: &Pod) -> anyhow::Result<()> {
    match api.delete(&pod.name_any(), &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).context("cannot remove a pod that cleaned up"),
    }
}

/// The agent's pod, but with another command. It sees all of the host's `/run`, to remove a directory from it, and
/// needs no access to the API.
fn pod(template: &Value, namespace: &str, node: &str) -> Option<Value> {
    let mut spec = template.get("spec")?.clone();
    let fields = spec.as_object_mut()?;
    fields.insert("nodeName".into(), json!(node));
    fields.insert("restartPolicy".into(), json!("Never"));
    fields.insert("automountServiceAccountToken".into(), json!(false));
    fields.remove("serviceAccountName");
    fields.remove("serviceAccount");
    fields.remove("nodeSelector");
    for volume in spec.get_mut("volumes")?.as_array_mut()? {
        if volume["name"] == "run" {
            volume["hostPath"] = json!({"path": "/run", "type": "Directory"});
        }
    }
    let container = spec.pointer_mut("/containers/0")?;
    let flags = container.get("args")?.as_array()?.iter().filter_map(Value::as_str);
    let flags = flags.filter(|flag| flag.starts_with("--cni-")).map(str::to_owned);
    let arguments: Vec<String> = ["agent".to_owned(), "cleanup".to_owned()]
        .into_iter()
        .chain(flags)
        .chain([format!("--socket={HOST_RUN}/ringfence/agent.sock")])
        .collect();
    container["args"] = json!(arguments);
    container["name"] = json!("cleanup");
    let fields = container.as_object_mut()?;
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        fields.remove(probe);
    }
    for mount in container.get_mut("volumeMounts")?.as_array_mut()? {
        if mount["name"] == "run" {
            mount["mountPath"] = json!(HOST_RUN);
        }
    }
    Some(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("ringfence-cleanup-{node}"), "namespace": namespace, "labels": {LABEL.0: LABEL.1}},
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{self, Mode, Values};

    #[test]
    fn it_is_the_agent_s_pod_with_another_command() {
        let values = Values { mode: Mode::Primary, ..Values::default() };
        let set = manifest::objects(&values).unwrap().into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let pod = pod(set.pointer("/spec/template").unwrap(), "kube-system", "node-1").unwrap();
        assert!(serde_json::from_value::<Pod>(pod.clone()).is_ok());
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            container["args"],
            json!([
                "agent",
                "cleanup",
                "--cni-conf-dir=/etc/cni/net.d",
                "--cni-bin-dir=/opt/cni/bin",
                "--socket=/host/run/ringfence/agent.sock",
            ])
        );
        assert_eq!(container["image"], values.image);
        assert_eq!(container.get("livenessProbe"), None);
        assert_eq!(pod["spec"]["nodeName"], "node-1");
        assert_eq!(pod["spec"].get("serviceAccountName"), None, "it may ask the API for nothing");
        assert_ne!(pod["metadata"]["labels"], set["spec"]["template"]["metadata"]["labels"], "it is no agent");
    }
}
