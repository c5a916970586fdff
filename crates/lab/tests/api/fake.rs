//! A node whose pods run at once, and a runtime that runs commands on this machine.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use ringfence_lab::api::{Config, RunningServer, Server};
use ringfence_lab::runtime::{AttachRequest, ExecRequest, ExecSession, LogRequest, PodRuntime, RuntimeError};
use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

/// Runs commands here, and has a line for a log.
pub(crate) struct Runtime;

impl PodRuntime for Runtime {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>> {
        Box::pin(async move {
            let (program, arguments) = request.command.split_first().expect("a command");
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(if request.stdin { Stdio::piped() } else { Stdio::null() })
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| RuntimeError::Failed(format!("{program}: {error}")))?;
            let (sender, exit) = oneshot::channel();
            let (resize, _sizes) = mpsc::channel(4);
            let session = ExecSession {
                stdin: child.stdin.take().map(|stdin| Box::new(stdin) as _),
                stdout: Box::new(child.stdout.take().expect("a pipe")),
                stderr: child.stderr.take().map(|stderr| Box::new(stderr) as _),
                resize: request.tty.then_some(resize),
                exit,
            };
            tokio::spawn(async move {
                let code = child.wait().await.ok().and_then(|status| status.code());
                let _ = sender.send(code.unwrap_or(-1));
            });
            Ok(session)
        })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'static, Result<ExecSession, RuntimeError>> {
        let command = vec!["cat".to_owned()];
        self.exec(ExecRequest { target: request.target, command, stdin: request.stdin, tty: false })
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<Box<dyn AsyncRead + Send + Unpin>, RuntimeError>> {
        Box::pin(async move {
            let all =
                [format!("log of {}/{}\n", request.target.namespace, request.target.pod), "second line\n".to_owned()];
            let skip = all.len() - request.tail_lines.unwrap_or(all.len()).min(all.len());
            let text = all[skip..].concat();
            Ok(Box::new(std::io::Cursor::new(text)) as _)
        })
    }
}

/// An API on a free port of the loopback; with a node, if pods are to run.
pub(crate) async fn start(dir: Option<std::path::PathBuf>, node: bool) -> (RunningServer, String) {
    start_at("127.0.0.1:0", dir, node).await
}

/// The same at an address.
pub(crate) async fn start_at(address: &str, dir: Option<std::path::PathBuf>, node: bool) -> (RunningServer, String) {
    let listener = std::net::TcpListener::bind(address).expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let ranges = ["10.97.0.0/16", "fd00:10:97::/112"];
    let server = Server::start(Config {
        listeners: vec![listener],
        dir,
        names: Vec::new(),
        service_ranges: ranges.iter().map(|range| range.parse().expect("a range")).collect(),
        endpoint: Some("10.89.0.1:6443".parse().expect("an address")),
        runtime: Arc::new(Runtime),
    })
    .expect("the API starts");
    if node {
        let client = server.client();
        add_node(&client, "node-1").await;
        tokio::spawn(run_pods(client));
    }
    (server, url)
}

/// Adds a node that is ready.
pub(crate) async fn add_node(client: &Client, name: &str) {
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready" }],
            "addresses": [{ "type": "InternalIP", "address": "10.89.0.11" }],
            "nodeInfo": {
                "kubeletVersion": "v1.33.0", "osImage": "Debian", "kernelVersion": "6.12",
                "containerRuntimeVersion": "fake://1",
                "architecture": "amd64", "bootID": "", "kubeProxyVersion": "", "machineID": "",
                "operatingSystem": "linux", "systemUUID": "" },
        } }))
    .expect("a node");
    Api::all(client.clone()).create(&PostParams::default(), &node).await.expect("the node is made");
}

/// Says of every pod with a node that it runs, and ends those that are deleted.
async fn run_pods(client: Client) {
    let mut pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let mut addresses: HashMap<String, usize> = HashMap::new();
    while let Some(pod) = pods.next().await {
        let Ok(pod) = pod else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().expect("a namespace"));
        if pod.metadata.deletion_timestamp.is_some() {
            let _ = api.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        } else if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            let count = addresses.len();
            let number = *addresses.entry(pod.uid().unwrap_or_default()).or_insert(count + 1);
            let patch = Patch::Strategic(json!({ "status": status(&pod, number) }));
            let _ = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }
}

fn status(pod: &Pod, number: usize) -> Value {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let statuses: Vec<_> = containers
        .map(|container| {
            json!({
                "name": container.name, "image": container.image, "imageID": "", "ready": true, "started": true,
                "restartCount": 0,
                "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } } })
        })
        .collect();
    let condition =
        |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let (v4, v6) = (format!("10.245.0.{number}"), format!("fd00:10:245::{number:x}"));
    json!({
        "phase": "Running", "podIP": v4, "podIPs": [{ "ip": v4 }, { "ip": v6 }], "hostIP": "10.89.0.11",
        "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady")],
        "containerStatuses": statuses })
}
