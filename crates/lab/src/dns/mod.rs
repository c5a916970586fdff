//! The cluster's DNS: a pod of the lab that answers for Services and pods, as the Kubernetes DNS specification says.

mod server;
mod zone;

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config};

/// Path of the pod's kubeconfig.
pub const KUBECONFIG: &str = "/etc/ringfence/kubeconfig";

/// Answers for ever, once everything was listed: until then the port is closed and the pod not ready.
pub async fn serve() -> io::Result<()> {
    let client = client(Path::new(KUBECONFIG)).await?;
    let services = follow::<Service>(&client);
    let slices = follow::<EndpointSlice>(&client);
    let gone = |_| io::Error::other("the watch of the API ended");
    services.wait_until_ready().await.map_err(gone)?;
    slices.wait_until_ready().await.map_err(gone)?;
    let answer = Arc::new(move |name: &str, kind| {
        zone::Zone { services: &services.state(), slices: &slices.state() }.look_up(name, kind)
    });
    server::serve(53, answer).await
}

async fn client(path: &Path) -> io::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(path).map_err(io::Error::other)?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(io::Error::other)?;
    Client::try_from(config).map_err(io::Error::other)
}

fn follow<K>(client: &Client) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    let stream = events.default_backoff().reflect(writer);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            if let Err(error) = event {
                tracing::warn!(%error, "watch of the API interrupted");
            }
        }
    });
    store
}
