//! The API of a cluster under test, and what is made in it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use ringfence_install::objects;
use ringfence_install::rollout::is_ready;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Label of everything that is made.
pub const LABEL: &str = "ringfence-e2e";
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The time that a pod may take to start, and a namespace to go.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A cluster under test.
#[derive(Clone)]
pub struct Cluster {
    /// Its API.
    pub client: Client,
}

impl Cluster {
    /// The cluster of a kubeconfig's current context.
    pub async fn of(kubeconfig: &Path) -> anyhow::Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Names of the nodes that take pods, sorted.
    pub async fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let ready = |node: &&Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let mut names: Vec<String> = nodes.iter().filter(ready).map(kube::ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }

    /// Makes a namespace with these labels; one of the name that is still going is waited for.
    pub async fn namespace(&self, name: &str, labels: &Value) -> anyhow::Result<()> {
        let mut object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        object["metadata"]["labels"][LABEL] = json!("yes");
        let namespace: Namespace = serde_json::from_value(object)?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        eventually(&format!("namespace {name} can be made"), || async {
            match api.create(&PostParams::default(), &namespace).await {
                Ok(_) => Ok(Some(())),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                Err(error) => Err(error).with_context(|| format!("cannot make namespace {name}")),
            }
        })
        .await
    }

    /// Makes a pod, and waits until it is ready.
    pub async fn run(&self, pod: &Value) -> anyhow::Result<Pod> {
        let pod = self.create(pod).await?;
        self.ready(&pod.namespace().unwrap_or_default(), &pod.name_any()).await
    }

    /// Makes a pod.
    pub async fn create(&self, pod: &Value) -> anyhow::Result<Pod> {
        let pod: Pod = serde_json::from_value(pod.clone())?;
        let (namespace, name) = (pod.namespace().context("a pod without namespace")?, pod.name_any());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        // The namespace's service account comes a moment after it.
        eventually(&format!("pod {namespace}/{name} can be made"), || async {
            match api.create(&PostParams::default(), &pod).await {
                Ok(pod) => Ok(Some(pod)),
                Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("serviceaccount") => {
                    Ok(None)
                }
                Err(error) => Err(error).with_context(|| format!("cannot make pod {namespace}/{name}")),
            }
        })
        .await
    }

    /// Waits until a pod is ready.
    pub async fn ready(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        eventually(&format!("pod {namespace}/{name} is ready"), || async {
            let pod = api.get(name).await?;
            Ok(is_ready(&pod).then_some(pod))
        })
        .await
    }

    /// Writes an object as it shall be.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<DynamicObject> {
        objects::apply(&self.client, object).await
    }

    /// Changes a part of an object (merge patch).
    pub async fn merge(&self, object: &Value, part: &Value) -> anyhow::Result<DynamicObject> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).context("an object without a name")?;
        let patch = Patch::Merge(part);
        Ok(objects::api(&self.client, object)?.patch(name, &PatchParams::default(), &patch).await?)
    }

    /// Removes an object, if it is there.
    pub async fn delete(&self, object: &Value) -> anyhow::Result<bool> {
        objects::delete(&self.client, object).await
    }

    /// Removes everything that was made, and waits until the namespaces are gone.
    pub async fn clean_up(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let ours = ListParams::default().labels(LABEL);
        for namespace in api.list(&ours).await? {
            api.delete(&namespace.name_any(), &DeleteParams::background()).await?;
        }
        eventually("namespaces are gone", || async { Ok(api.list(&ours).await?.items.is_empty().then_some(())) }).await
    }
}

/// Waits until something is there, at most [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = anyhow::Result<Option<T>>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
