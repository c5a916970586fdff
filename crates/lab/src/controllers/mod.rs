//! Controllers, which make objects true: the controllers, each woken by the changes it looks at.

mod bootstrap;
mod deployment;
mod endpoints;
mod events;
mod garbage;
mod namespace;
mod owner;
mod replicaset;
mod rollout;
mod runner;
mod scheduler;
mod statefulset;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::api::kinds::{self, Kind};
use crate::api::registry::{Registry, Target, WriteOptions};
use crate::api::status::ApiError;
use crate::store::{Key, Object, Scope};

/// Makes the objects every cluster has and starts the controllers.
pub(crate) fn start(registry: &Arc<Registry>, endpoint: Option<SocketAddr>, authority: &str, stop: &CancellationToken) {
    bootstrap::run(registry, endpoint);
    let cluster = Cluster { registry: Arc::clone(registry) };
    runner::spawn(&cluster, namespace::Contents { authority: authority.to_owned() }, stop);
    runner::spawn(&cluster, namespace::Lifecycle, stop);
    runner::spawn(&cluster, garbage::Collector::default(), stop);
    runner::spawn(&cluster, deployment::Deployments, stop);
    runner::spawn(&cluster, replicaset::ReplicaSets, stop);
    runner::spawn(&cluster, statefulset::StatefulSets, stop);
    runner::spawn(&cluster, scheduler::Scheduler, stop);
    runner::spawn(&cluster, endpoints::Endpoints, stop);
    runner::spawn(&cluster, events::Expiry, stop);
}

/// The first usable address of a range of Services: that of the API itself.
pub(crate) fn first_address(range: &IpNet) -> Option<IpAddr> {
    match range {
        IpNet::V4(range) => range.hosts().next().map(IpAddr::V4),
        IpNet::V6(range) => range.hosts().nth(1).map(IpAddr::V6),
    }
}

/// The objects as the controllers use them: by the keys of the store.
#[derive(Clone)]
struct Cluster {
    registry: Arc<Registry>,
}

impl Cluster {
    fn kind(collection: &str) -> Result<&'static Kind, ApiError> {
        kinds::stored_in(collection).ok_or_else(ApiError::unknown_path)
    }

    fn target(key: &Key) -> Result<Target<'_>, ApiError> {
        Ok(Target { kind: Self::kind(key.resource)?, namespace: &key.namespace, name: &key.name })
    }

    fn get(&self, key: &Key) -> Option<Object> {
        self.registry.store.get(key)
    }

    fn list(&self, scope: &Scope) -> Vec<Object> {
        self.registry.store.list(scope).0
    }

    /// The objects of a collection in a namespace.
    fn within(&self, collection: &'static str, namespace: &str) -> Vec<Object> {
        self.list(&Scope::within(collection, namespace))
    }

    fn create(&self, collection: &str, namespace: &str, value: Value) -> Result<Object, ApiError> {
        let kind = Self::kind(collection)?;
        self.registry.create(kind, namespace, value, &WriteOptions::default()).map(|written| written.object)
    }

    /// Changes an object; its status only with `status`.
    fn modify(&self, key: &Key, status: bool, change: impl FnOnce(&mut Value)) -> Result<Object, ApiError> {
        let part = status.then_some(kinds::Subresource::Status);
        let written = self.registry.modify(Self::target(key)?, part, &WriteOptions::default(), |old| {
            let mut new = old.clone();
            change(&mut new);
            Ok(new)
        })?;
        Ok(written.object)
    }
}
