//! Events about pods, as `kubectl describe` shows them.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use kube::{Client, Resource as _, ResourceExt as _};

/// True if an event tells of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// All is well.
    Normal,
    /// Something needs attention.
    Warning,
}

/// Tells an event about a pod. That it cannot be told is logged and changes nothing.
pub(super) async fn tell(client: &Client, node: &str, pod: &Pod, tone: Tone, reason: &str, message: &str) {
    let namespace = pod.namespace().unwrap_or_default();
    let now = Time(jiff::Timestamp::now());
    let unique = now.0.as_nanosecond();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{unique:x}", pod.name_any())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            // Objects of a watch do not say what they are.
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            ..pod.object_ref(&())
        },
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        type_: Some(if tone == Tone::Normal { "Normal" } else { "Warning" }.to_owned()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.to_owned()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, reason, "event not told");
    }
}
