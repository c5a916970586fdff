//! Services: what kube-proxy does on a node, as nftables rules in every node's namespace.
//!
//! A change of a Service or its endpoints makes the rules anew, and they are loaded in one transaction. Events that
//! arrive while rules are loaded are taken together with the next load; there are no fixed delays.

mod rules;
pub(crate) use table::SERVICE_LABEL;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, Config};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client};
use ringfence_netns::Namespace;
use tokio::sync::Notify;

use crate::addressing::Families;

/// Keeps the rules of all nodes true to the API, for ever. `namespaces` names the nodes' network namespaces.
pub async fn run(client: Client, families: Families, namespaces: Vec<String>) {
    let changed = Arc::new(Notify::new());
    let services = follow::<Service>(&client, &changed);
    let slices = follow::<EndpointSlice>(&client, &changed);
    // Rules made of half the objects would refuse connections to Services whose endpoints are not listed yet.
    if services.wait_until_ready().await.is_err() || slices.wait_until_ready().await.is_err() {
        return;
    }
    let mut loaded: BTreeMap<String, String> = BTreeMap::new();
    let mut pause = Duration::from_millis(100);
    loop {
        let ports = table::ports(&services.state(), &slices.state());
        let text = rules::render(&ports, families);
        let mut complete = true;
        for namespace in &namespaces {
            if loaded.get(namespace) == Some(&text) {
                continue;
            }
            match load(namespace.clone(), text.clone()).await {
                Ok(()) => drop(loaded.insert(namespace.clone(), text.clone())),
                Err(error) => {
                    complete = false;
                    tracing::error!(%error, namespace, "rules of Services not loaded; those before stay");
                }
            }
        }
        if complete {
            pause = Duration::from_millis(100);
            changed.notified().await;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}

/// Follows all objects of a kind; wakes `changed` after each event.
fn follow<K>(client: &Client, changed: &Arc<Notify>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watch(Api::<K>::all(client.clone()), Config::default()).default_backoff().reflect(writer);
    let changed = Arc::clone(changed);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changed.notify_one(),
                Err(error) => tracing::warn!(%error, "watch of Services interrupted"),
            }
        }
    });
    store
}

async fn load(namespace: String, text: String) -> io::Result<()> {
    tokio::task::spawn_blocking(move || {
        let namespace = Namespace::open(&namespace).map_err(io::Error::other)?;
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = namespace.spawn(&mut command).map_err(io::Error::other)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
    })
    .await
    .map_err(io::Error::other)?
}
