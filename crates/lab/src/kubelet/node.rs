//! Node objects: made, said to be ready, kept alive.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::network::Node;

/// Namespace of the nodes' leases.
const LEASES: &str = "kube-node-lease";
/// Time between two renewals of a lease.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// Pods a node takes.
const MAX_PODS: &str = "250";

/// Registers a node and keeps telling that it is alive, for ever.
pub async fn keep_registered(client: Client, node: Node, version: String) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = register(&client, &node, &version).await {
        tracing::warn!(%error, node = node.name, "node not registered");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    loop {
        if let Err(error) = renew(&client, &node).await {
            tracing::debug!(%error, node = node.name, "lease not renewed");
        }
        tokio::time::sleep(RENEW_INTERVAL).await;
    }
}

async fn register(client: &Client, node: &Node, version: &str) -> Result<(), kube::Error> {
    let api: Api<NodeObject> = Api::all(client.clone());
    let wanted = object(node);
    let parsed: NodeObject = serde_json::from_value(wanted.clone()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &parsed).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.patch(&node.name, &PatchParams::default(), &Patch::Merge(&wanted)).await?;
        }
        Err(error) => return Err(error),
    }
    let status = json!({"status": status(node, version)});
    api.patch_status(&node.name, &PatchParams::default(), &Patch::Merge(&status)).await?;
    Ok(())
}

fn object(node: &Node) -> serde_json::Value {
    let ranges: Vec<String> = node.pod_ranges.iter().map(ToString::to_string).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture(),
            },
        },
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
    })
}

fn status(node: &Node, version: &str) -> serde_json::Value {
    let now = Timestamp::now().to_string();
    let mut addresses: Vec<_> =
        node.addresses.iter().map(|address| json!({"type": "InternalIP", "address": address.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": node.name}));
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    let resources = json!({"cpu": cpus, "memory": "4Gi", "pods": MAX_PODS});
    json!({
        "addresses": addresses,
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory \
                available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": line("/proc/sys/kernel/random/boot_id"),
            "containerRuntimeVersion": format!("ringfence-lab://{}", env!("CARGO_PKG_VERSION")),
            "kernelVersion": line("/proc/sys/kernel/osrelease"),
            "kubeProxyVersion": version,
            "kubeletVersion": version,
            "machineID": line("/etc/machine-id"),
            "operatingSystem": "linux",
            "osImage": "Ringfence lab node",
            "systemUUID": "",
        },
    })
}

/// The processor architecture as Go names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

async fn renew(client: &Client, node: &Node) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let now = Timestamp::now();
    let renewed = json!({"spec": {"renewTime": format!("{now:.6}")}});
    match api.patch(&node.name, &PatchParams::default(), &Patch::Merge(&renewed)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "metadata": {"name": node.name, "namespace": LEASES},
                "spec": {
                    "holderIdentity": node.name,
                    "leaseDurationSeconds": 40,
                    "renewTime": format!("{now:.6}"),
                },
            });
            let lease: Lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}
