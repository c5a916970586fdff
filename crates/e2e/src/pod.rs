//! Pods: how one is made, and its processes on this machine.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nix::unistd::Pid;
use ringfence_netns::Namespace;
use serde_json::{Value, json};

/// A pod with a web server, on a node.
pub fn web_server(namespace: &str, name: &str, node: &str, labels: &Value) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "nginx", "imagePullPolicy": "IfNotPresent"}],
        },
    })
}

/// The first process of the pod's first container, of any runtime: a process is in the control group of its container.
pub fn process(pod: &Pod) -> anyhow::Result<Pid> {
    let status = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).next();
    let id = status.and_then(|status| status.container_id.as_deref());
    let id = id.and_then(|id| id.split_once("://")).map(|(_, id)| id);
    let id = id.with_context(|| format!("pod {} has no running container", pod.name_any()))?;
    let mut found: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc").context("/proc")?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        found.extend(number.filter(|_| groups.contains(id)));
    }
    let first = found.into_iter().min();
    first.map(Pid::from_raw).with_context(|| format!("pod {} has no process on this machine", pod.name_any()))
}

/// The pod's first address, of one family if that is what is asked for.
pub fn address<A>(pod: &Pod) -> anyhow::Result<A>
where
    A: FromStr,
    A::Err: std::error::Error + Send + Sync + 'static,
{
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let address = address.with_context(|| format!("pod {} has no address", pod.name_any()))?;
    address.parse().with_context(|| format!("address {address} of pod {}", pod.name_any()))
}

/// The pod's network namespace.
pub fn network(pod: &Pod) -> anyhow::Result<Namespace> {
    let path: PathBuf = Path::new("/proc").join(process(pod)?.to_string()).join("ns/net");
    Ok(Namespace::open_path(&path)?)
}
