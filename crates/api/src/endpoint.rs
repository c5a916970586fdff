//! Requests of the network plugin about the pods of a node, and the agent's answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::VERSION;

/// Body of `POST /v1/endpoint/wait`: asks to answer when the policy of a pod is in the kernel. The same to
/// `/v1/endpoint/check` asks whether it is there now, and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Unique id of the pod: an earlier pod of the same name does not count.
    pub uid: String,
    /// Its addresses, which the API need not know yet. None: those the API knows.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Id of its sandbox, if whoever asks has just made it: what a [`ReleaseRequest`] has to name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Name of the network it was connected to: what a [`CollectRequest`] speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Names of the interfaces that were made for it on the node, where the result tells them: its link is one of
    /// these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Hardware address of its own interface, as the result writes it, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_address: Option<String>,
    /// After how many milliseconds to give up.
    #[serde(default = "default_timeout", alias = "timeout_ms")]
    pub timeout_ms: u64,
}

fn default_timeout() -> u64 {
    10_000
}

/// Body of `POST /v1/endpoint/release`: the sandbox of a pod is gone, and its addresses are its own no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Unique id of the pod.
    pub uid: String,
    /// Id of the sandbox. One that is not the pod's newest is passed over: runtimes tidy up late.
    pub container: String,
}

/// Body of `POST /v1/endpoint/collect`: these sandboxes of a network are all that is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectRequest {
    /// Name of the network.
    pub network: String,
    /// Ids of the sandboxes.
    pub containers: Vec<String>,
}

/// Answer to a [`WaitRequest`] that was fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitReply {
    /// [`VERSION`].
    pub api_version: String,
    /// `EndpointReady`.
    pub kind: String,
    /// The addresses that are in the kernel; none for a pod on the host network.
    pub addresses: Vec<IpAddr>,
}

/// Answer to a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// [`VERSION`].
    pub api_version: String,
    /// `Failure`.
    pub kind: String,
    /// The error.
    pub message: String,
}

impl Failure {
    /// A failure with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { api_version: VERSION.into(), kind: "Failure".into(), message: message.into() }
    }
}
