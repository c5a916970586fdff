//! Who the cluster's DNS servers are: those behind one Service, and those told on the command line.
//!
//! What a server behind the Service sends bears its own address and port where answers are held. Servers that are not
//! ready count too: what they still answer is true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, ResourceExt as _};

use super::{Listener, Tell};
use crate::api;
use crate::core::{Gone, Handle, Message};

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Which servers to believe.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    /// Namespace and name of the Service.
    pub(crate) service: (String, String),
    /// Others, such as caches on the nodes.
    pub(crate) others: BTreeSet<SocketAddr>,
}

/// Follows the servers, for ever.
pub(crate) async fn follow(client: Client, trusted: Trusted, core: Handle, listener: Listener) -> Result<(), Gone> {
    listener.tell(Tell::Servers(trusted.others.clone()));
    let services = count(client.clone(), core.clone());
    let (namespace, name) = &trusted.service;
    let config = watcher::Config::default().labels(&format!("{SERVICE_LABEL}={name}"));
    let slices = watch(Api::<EndpointSlice>::namespaced(client, namespace), config).default_backoff();
    let mut known = Known::new("EndpointSlice", addresses);
    let tell = |known: &Known<_, Vec<SocketAddr>>| {
        let behind = known.objects.values().flatten().copied();
        listener.tell(Tell::Servers(behind.chain(trusted.others.iter().copied()).collect()));
    };
    tokio::try_join!(keep(slices, &mut known, &core, tell), services).map(drop)
}

/// Follows the Services of the cluster, as far as their number.
async fn count(client: Client, core: Handle) -> Result<(), Gone> {
    let services = watch(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
    keep(services, &mut Known::new("Service", |_: &Service| ()), &core, |_| {}).await
}

/// What is known of the objects of a kind, by namespace and name.
struct Known<K, V> {
    read: fn(&K) -> V,
    objects: BTreeMap<(String, String), V>,
    /// A listing that is not whole yet.
    listing: BTreeMap<(String, String), V>,
    state: api::Watch,
}

impl<K: kube::Resource, V> Known<K, V> {
    fn new(kind: &str, read: fn(&K) -> V) -> Self {
        let state = api::Watch { kind: kind.into(), synced: false, connected: true, objects: 0, error: None };
        Self { read, objects: BTreeMap::new(), listing: BTreeMap::new(), state }
    }

    /// Whether anything may be different now.
    fn take(&mut self, event: watcher::Result<Event<K>>) -> bool {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        if let Ok(event) = &event {
            (self.state.connected, self.state.error) = (true, None);
            match event {
                Event::Init => self.listing.clear(),
                Event::InitApply(object) => drop(self.listing.insert(key(object), (self.read)(object))),
                Event::InitDone => {
                    self.objects = std::mem::take(&mut self.listing);
                    self.state.synced = true;
                }
                Event::Apply(object) => drop(self.objects.insert(key(object), (self.read)(object))),
                Event::Delete(object) => drop(self.objects.remove(&key(object))),
            }
        }
        if let Err(error) = event {
            tracing::debug!(kind = self.state.kind, %error, "the watch is interrupted");
            (self.state.connected, self.state.error) = (false, Some(error.to_string()));
            return false;
        }
        self.state.objects = self.objects.len();
        true
    }
}

/// Follows the objects of a kind, and tells the planning thread how the watch stands.
async fn keep<K: kube::Resource, V>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    known: &mut Known<K, V>,
    core: &Handle,
    changed: impl Fn(&Known<K, V>),
) -> Result<(), Gone> {
    let mut events = std::pin::pin!(events);
    let mut told = None;
    while let Some(event) = events.next().await {
        if known.take(event) && known.state.synced {
            changed(known);
        }
        if told.as_ref() != Some(&known.state) {
            told = Some(known.state.clone());
            core.tell(Message::Watched(known.state.clone()))?;
        }
    }
    Ok(())
}

/// The addresses and ports in a slice. A port without a number means any, which nobody writes for DNS.
fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports: BTreeSet<u16> = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()).collect();
    let endpoints = slice.endpoints.iter();
    let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.flat_map(|address| ports.iter().map(move |port| SocketAddr::new(address.to_canonical(), *port))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, address: &str, ready: bool) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"namespace": "kube-system", "name": name}, "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                      {"name": "metrics", "port": 9153, "protocol": "TCP"}],
        }))
        .unwrap()
    }

    #[test]
    fn servers_come_and_go_with_their_slices() {
        let mut known = Known::new("EndpointSlice", addresses);
        let all = |known: &Known<EndpointSlice, Vec<SocketAddr>>| -> Vec<String> {
            known.objects.values().flatten().map(ToString::to_string).collect()
        };
        known.take(Ok(Event::Init));
        known.take(Ok(Event::InitApply(slice("a", "10.244.0.2", false))));
        assert!(all(&known).is_empty(), "not before the listing is whole");
        known.take(Ok(Event::InitDone));
        assert_eq!(all(&known), ["10.244.0.2:53", "10.244.0.2:9153"]);
        known.take(Ok(Event::Apply(slice("b", "fd00::2", true))));
        assert!(all(&known).contains(&"[fd00::2]:53".to_owned()));
        assert!(!known.take(Err(watcher::Error::NoResourceVersion)));
        assert_eq!((known.objects.len(), known.state.connected, known.state.synced), (2, false, true));
        known.take(Ok(Event::Delete(slice("a", "10.244.0.2", true))));
        assert_eq!((all(&known).len(), known.state.connected), (2, true));
    }
}
