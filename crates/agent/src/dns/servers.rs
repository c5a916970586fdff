//! Who the cluster's DNS servers are: those behind one Service, and those told on the command line.
//!
//! What a server behind the Service sends bears its own address and port where answers are held. Servers that are not
//! ready count too: what they still answer is true.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use super::{Listener, Tell};
use crate::core::{Gone, Handle};
use crate::follow::{Change, Known, keep};

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
    let (namespace, name) = &trusted.service;
    let config = watcher::Config::default().labels(&format!("{SERVICE_LABEL}={name}"));
    let slices = watcher(Api::<EndpointSlice>::namespaced(client, namespace), config).default_backoff();
    let mut known = Known::new("EndpointSlice", addresses);
    let tell = |change: Change<'_, Vec<SocketAddr>>| {
        let behind = change.objects.values().flatten().copied();
        listener.tell(Tell::Servers(behind.chain(trusted.others.iter().copied()).collect()));
        Ok(())
    };
    keep(slices, &mut known, &core, tell).await
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
    use crate::follow::Different;
    use kube::runtime::watcher::Event;
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
            known.objects().values().flatten().map(ToString::to_string).collect()
        };
        known.take(Ok(Event::Init));
        known.take(Ok(Event::InitApply(slice("a", "10.244.0.2", false))));
        assert!(all(&known).is_empty(), "not before the listing is whole");
        known.take(Ok(Event::InitDone));
        assert_eq!(all(&known), ["10.244.0.2:53", "10.244.0.2:9153"]);
        known.take(Ok(Event::Apply(slice("b", "fd00::2", true))));
        assert!(all(&known).contains(&"[fd00::2]:53".to_owned()));
        assert_eq!(known.take(Err(watcher::Error::NoResourceVersion)), Different::Nothing);
        assert_eq!((known.objects().len(), known.state().connected, known.state().synced), (2, false, true));
        known.take(Ok(Event::Delete(slice("a", "10.244.0.2", true))));
        assert_eq!((all(&known).len(), known.state().connected), (2, true));
    }
}
