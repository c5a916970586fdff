//! Services: what kube-proxy does on a node, as nftables rules in every node's namespace.
//!
//! A change of a Service or its endpoints makes the rules anew, and they are loaded in one transaction. Events that
//! arrive while rules are loaded are taken together with the next load; there are no fixed delays.

mod rules;
mod stale;
mod table;

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
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

use self::stale::Destinations;
pub(crate) use self::table::SERVICE_LABEL;
use crate::addressing::Families;

/// A node whose rules are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Its network namespace.
    pub namespace: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Keeps the rules of all nodes true to the API, for ever.
pub async fn run(client: Client, families: Families, nodes: Vec<NodeNetwork>) {
    let changed = Arc::new(Notify::new());
    let services = follow::<Service>(&client, &changed);
    let slices = follow::<EndpointSlice>(&client, &changed);
    // Rules made of half the objects would refuse connections to Services whose endpoints are not listed yet.
    if services.wait_until_ready().await.is_err() || slices.wait_until_ready().await.is_err() {
        return;
    }
    let mut loaded: BTreeMap<String, (String, Destinations)> = BTreeMap::new();
    let mut pause = Duration::from_millis(100);
    loop {
        let ports = table::ports(&services.state(), &slices.state());
        let wanted = (rules::render(&ports, families), Destinations::of(&ports));
        let mut complete = true;
        for node in &nodes {
            if loaded.get(&node.namespace) == Some(&wanted) {
                continue;
            }
            match bring_up_to_date(node.clone(), wanted.clone()).await {
                Ok(()) => drop(loaded.insert(node.namespace.clone(), wanted.clone())),
                Err(error) => {
                    complete = false;
                    tracing::error!(%error, node.namespace, "rules of Services not loaded; those before stay");
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

/// Loads a node's rules, then forgets what was translated by those before and would not be so now.
async fn bring_up_to_date(node: NodeNetwork, (rules, destinations): (String, Destinations)) -> io::Result<()> {
    let work = move || {
        load(&node.namespace, &rules)?;
        destinations.sweep(&node.namespace, &node.addresses)
    };
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
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

fn load(namespace: &str, rules: &str) -> io::Result<()> {
    let namespace = Namespace::open(namespace).map_err(io::Error::other)?;
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = namespace.spawn(&mut command).map_err(io::Error::other)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
