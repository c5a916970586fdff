//! A pod on every node that takes away what an agent left there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, LogParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Installed;
use crate::{AGENT_LABEL, Progress, objects, rollout};

/// Label, and its value, of the pods that clean up.
const SELECTED: &str = "app.kubernetes.io/name=ringfence-cleanup";
/// The host's directory for the state of running programs, as those pods see it.
const HOST_RUN: &str = "/host/run";
/// Time between two queries.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// After how long without news it is told what is waited for.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// After how long without news nodes that are down are not waited for any more.
const DOWN_NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// Result of the cleanup.
pub(super) struct Cleaned {
    /// True if there was anything to clean.
    pub(super) any: bool,
    /// The nodes on which that did not work, with the reason.
    pub(super) left: Vec<String>,
}

/// Runs a pod to its end on every node whose agent has ended. Without an installation: those of an earlier run.
pub(super) async fn run(
    client: &Client,
    installed: Option<&Installed>,
    limit: Duration,
    progress: &dyn Progress,
) -> anyhow::Result<Cleaned> {
    let mut work =
        Work { client, installed, waiting: BTreeMap::new(), begun: BTreeSet::new(), failed: BTreeMap::new() };
    let nodes = work.nodes().await?;
    let pods = work.pods(SELECTED).await?;
    work.begun = pods.iter().map(|pod| node_of(pod).to_owned()).collect();
    let wanted = nodes.keys().filter(|node| installed.is_some() || work.begun.contains(*node));
    work.waiting = wanted.map(|node| (node.clone(), "it has not begun".to_owned())).collect();
    let all = work.waiting.len();
    if all > 0 {
        work.finish(limit, progress).await?;
    }
    let Work { waiting, mut failed, .. } = work;
    failed.extend(waiting);
    let left = failed.into_iter().map(|(node, why)| format!("{node}: {why}")).collect();
    Ok(Cleaned { any: all > 0, left })
}

/// Removes the pods, so that none cleans a node any more.
pub(super) async fn call_off(client: &Client) -> anyhow::Result<()> {
    for pod in Api::<Pod>::all(client.clone()).list(&ListParams::default().labels(SELECTED)).await? {
        remove(client, &pod).await?;
    }
    Ok(())
}

/// Nodes to be cleaned.
struct Work<'a> {
    client: &'a Client,
    installed: Option<&'a Installed>,
    /// Those that are not clean yet, and why.
    waiting: BTreeMap<String, String>,
    /// Those that have a pod.
    begun: BTreeSet<String>,
    /// Those where it did not work, and why.
    failed: BTreeMap<String, String>,
}

impl Work<'_> {
    /// Waits until every node is clean, at most as long as told. A node that is down is not waited for: its pod stays.
    async fn finish(&mut self, limit: Duration, progress: &dyn Progress) -> anyhow::Result<()> {
        let all = self.waiting.len();
        let begun = Instant::now();
        let mut tale = Tale::default();
        loop {
            let nodes = self.nodes().await?;
            self.waiting.retain(|node, _| nodes.contains_key(node));
            self.step(&nodes).await?;
            let cleaned = all - self.waiting.len() - self.failed.len();
            let now = Instant::now();
            tale.tell(now, &format!("nodes cleaned: {cleaned} of {all}"), &self.waiting, progress);
            let down = self.waiting.keys().all(|node| nodes.get(node).is_some_and(Option::is_some));
            if self.waiting.is_empty() || now - begun > limit || down && now - tale.since > DOWN_NODE_TIMEOUT {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Begins where agents have ended, and takes note of what became of the pods.
    async fn step(&mut self, nodes: &Nodes) -> anyhow::Result<()> {
        let agents: BTreeSet<String> =
            self.pods(AGENT_LABEL).await?.iter().map(|pod| node_of(pod).to_owned()).collect();
        for (node, why) in &mut self.waiting {
            let down = nodes.get(node).cloned().flatten();
            // On a node that is down nobody ends an agent. When it is back the pod waits for that end.
            let free = down.is_some() || !agents.contains(node);
            if let (Some(installed), true) = (self.installed, free && !self.begun.contains(node)) {
                objects::apply(self.client, &installed.cleaner(node)?).await?;
                self.begun.insert(node.clone());
            }
            *why = match down {
                Some(why) => {
                    format!("the node is down ({why}); its pod {} stays, and cleans it when it is back", name(node))
                }
                None if free => "it has not begun".to_owned(),
                None => "its agent is ending".to_owned(),
            };
        }
        for pod in self.pods(SELECTED).await? {
            let node = node_of(&pod);
            match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
                Some("Succeeded") => {
                    self.waiting.remove(node);
                    remove(self.client, &pod).await?;
                }
                Some("Failed") => {
                    self.waiting.remove(node);
                    self.failed.insert(node.to_owned(), self.last_words(&pod).await);
                    remove(self.client, &pod).await?;
                }
                _ => {
                    let down = nodes.get(node).is_some_and(Option::is_some);
                    if let (Some(why), Some(entry), false) = (rollout::trouble(&pod), self.waiting.get_mut(node), down)
                    {
                        *entry = why;
                    }
                }
            }
        }
        Ok(())
    }

    /// Every Linux node, and why it is down if it is.
    async fn nodes(&self) -> anyhow::Result<Nodes> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.context("cannot list the nodes")?;
        let linux = nodes.iter().filter(|node| node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux"));
        Ok(linux.map(|node| (node.name_any(), rollout::down(node))).collect())
    }

    async fn pods(&self, selected: &str) -> anyhow::Result<Vec<Pod>> {
        let listed = Api::<Pod>::all(self.client.clone()).list(&ListParams::default().labels(selected)).await;
        Ok(listed.context("cannot list pods")?.items)
    }

    async fn last_words(&self, pod: &Pod) -> String {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let log = api.logs(&pod.name_any(), &LogParams { tail_lines: Some(1), ..LogParams::default() }).await;
        log.map_or_else(|_| "cleaning up failed".into(), |log| log.trim().to_owned())
    }
}

/// Nodes, and why they are down if they are.
type Nodes = BTreeMap<String, Option<String>>;

/// Tells how it is getting on: when there is news, and what is waited for when there is none for a while.
struct Tale {
    told: String,
    since: Instant,
    explained: String,
}

impl Default for Tale {
    fn default() -> Self {
        Self { told: String::new(), since: Instant::now(), explained: String::new() }
    }
}

impl Tale {
    fn tell(&mut self, now: Instant, line: &str, waiting: &BTreeMap<String, String>, progress: &dyn Progress) {
        if line != self.told {
            progress.say(line);
            (self.told, self.since) = (line.to_owned(), now);
        }
        if now - self.since < REPORT_INTERVAL || waiting.is_empty() {
            return;
        }
        let reasons: Vec<String> = waiting.iter().map(|(node, why)| format!("waiting for {node}: {why}")).collect();
        let text = reasons.join("\n");
        if text != self.explained {
            progress.say(&text);
            if self.explained.is_empty() {
                progress.say("hint: Ctrl-C is safe, and `ringfence uninstall` again goes on from there");
            }
            self.explained = text;
        }
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn name(node: &str) -> String {
    format!("ringfence-cleanup-{node}")
}

async fn remove(client: &Client, pod: &Pod) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let removed = api.delete(&pod.name_any(), &DeleteParams::background()).await;
    objects::ignore_absence(removed).context("cannot remove a pod that cleans up")
}

impl Installed {
    /// The pod that cleans a node.
    fn cleaner(&self, node: &str) -> anyhow::Result<Value> {
        let set = serde_json::to_value(&self.set)?;
        let template = set.pointer("/spec/template").context("the DaemonSet has no template")?;
        pod(template, &self.namespace, node).context("the DaemonSet is not as expected")
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
    let words: Vec<&str> = container.get("args")?.as_array()?.iter().filter_map(Value::as_str).collect();
    let flags = words.iter().filter(|flag| flag.starts_with("--cni-")).map(|flag| (*flag).to_owned());
    let pins = value(&words, "--pin-dir").map(|directory| format!("--pin-dir={directory}"));
    let socket = value(&words, "--socket").unwrap_or("/run/ringfence/agent.sock");
    // Of the host's directory for what lives while it runs all is seen, under another name.
    let socket = socket.strip_prefix("/run/").map_or_else(|| socket.to_owned(), |rest| format!("{HOST_RUN}/{rest}"));
    // The image may be an earlier version's, whose program is the agent by its first argument.
    let earlier = words.first().filter(|word| **word == "agent").map(|word| (*word).to_owned());
    let arguments: Vec<String> = earlier
        .into_iter()
        .chain(["cleanup".to_owned()])
        .chain(flags)
        .chain(pins)
        .chain([format!("--socket={socket}")])
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
        "metadata": {"name": name(node), "namespace": namespace,
        "labels": {"app.kubernetes.io/name": "ringfence-cleanup"}},
        "spec": spec,
    }))
}

/// The value of a flag, in one word with it or in the next.
fn value<'a>(words: &[&'a str], flag: &str) -> Option<&'a str> {
    let joined = |word: &&'a str| word.strip_prefix(flag)?.strip_prefix('=');
    let apart = || words.iter().skip_while(|word| **word != flag).nth(1).copied();
    words.iter().find_map(joined).or_else(apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{self, Mode, Values};

    #[test]
    fn who_is_waited_for_is_told_when_there_is_no_news() {
        let said = std::sync::Mutex::new(Vec::new());
        let hear = |line: &str| said.lock().unwrap().push(line.to_owned());
        let heard = || std::mem::take(&mut *said.lock().unwrap());
        let waiting = |why: &str| BTreeMap::from([("n2".to_owned(), why.to_owned())]);
        let mut tale = Tale::default();
        let begun = tale.since;
        tale.tell(begun, "1 of 2", &waiting("ending"), &hear);
        tale.tell(begun + REPORT_INTERVAL / 2, "1 of 2", &waiting("ending"), &hear);
        assert_eq!(heard(), ["1 of 2"]);
        tale.tell(begun + REPORT_INTERVAL, "1 of 2", &waiting("ending"), &hear);
        tale.tell(begun + REPORT_INTERVAL * 2, "1 of 2", &waiting("ending"), &hear);
        let told = heard();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0] == "waiting for n2: ending" && told[1].contains("Ctrl-C"), "{told:?}");
        tale.tell(begun + REPORT_INTERVAL * 3, "1 of 2", &waiting("down"), &hear);
        tale.tell(begun + REPORT_INTERVAL * 3, "2 of 2", &BTreeMap::new(), &hear);
        assert_eq!(heard(), ["waiting for n2: down", "2 of 2"]);
    }

    #[test]
    fn it_is_the_agent_s_pod_with_another_command() {
        let values = Values { mode: Mode::Primary, ..Values::default() };
        let set = manifest::objects(&values).unwrap().into_iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let template = set.pointer("/spec/template").unwrap();
        let pod = |template: &Value| super::pod(template, "kube-system", "node-1").unwrap();
        for extra in [
            &["--pin-dir=/sys/fs/bpf/x", "--socket=/run/x/y.sock"][..],
            &["--socket", "/run/x/y.sock", "--pin-dir", "/sys/fs/bpf/x"],
        ] {
            let mut template = template.clone();
            let arguments = template.pointer_mut("/spec/containers/0/args").unwrap().as_array_mut().unwrap();
            arguments.extend(extra.iter().map(|argument| json!(argument)));
            let arguments = pod(&template).pointer("/spec/containers/0/args").unwrap().clone();
            let arguments = arguments.as_array().unwrap();
            assert!(arguments.contains(&json!("--pin-dir=/sys/fs/bpf/x")), "{arguments:?}");
            assert!(arguments.contains(&json!("--socket=/host/run/x/y.sock")), "{arguments:?}");
            assert_eq!(arguments.len(), 5, "{arguments:?}");
        }
        let mut earlier = template.clone();
        earlier["spec"]["containers"][0]["args"].as_array_mut().unwrap().insert(0, json!("agent"));
        assert_eq!(pod(&earlier)["spec"]["containers"][0]["args"][1], "cleanup", "an earlier version's image");
        let pod = pod(template);
        assert!(serde_json::from_value::<Pod>(pod.clone()).is_ok());
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            container["args"],
            json!([
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
