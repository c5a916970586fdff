//! The cluster's DNS servers: those behind one Service, and those told on the command line.
//!
//! What a server behind the Service sends bears its own address and port where answers are held. Servers that are not
//! ready count too: what they still answer is true.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use ringfence_k8s::convert::Resource;
use ringfence_k8s::watch::{self, Subject};

use super::{Listener, Tell};
use crate::core::{Gone, Handle};
use crate::follow::{Change, Known, keep, read};
use crate::progress::Journal;

const SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    namespaced: true,
    optional: false,
};
/// Label of an EndpointSlice with the name of its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The servers whose responses count.
#[derive(Clone, Debug)]
pub(crate) struct Trusted {
    /// Namespace and name of the Service.
    pub(crate) service: (String, String),
    /// Others, such as caches on the nodes.
    pub(crate) others: BTreeSet<SocketAddr>,
}

/// Follows the servers, for ever.
pub(crate) async fn follow(
    client: Client,
    progress: Journal,
    trusted: Trusted,
    core: Handle,
    listener: Listener,
) -> Result<(), Gone> {
    listener.tell(Tell::Servers(trusted.others.clone()));
    let (namespace, name) = &trusted.service;
    let labels = Some(format!("{SERVICE_LABEL}={name}"));
    let behind = Subject { namespace: Some(namespace.clone()), labels, ..SLICES.into() };
    let slices = watch::follow(&client, &behind, progress, read(addresses));
    let mut known = Known::new("EndpointSlice");
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
    use ringfence_k8s::watch::Update;
    use serde_json::{Value, json};

    use super::*;
    use crate::follow::{Different, Key};

    fn slice(name: &str, address: &str, ready: bool) -> (Key, Vec<SocketAddr>) {
        read(addresses)(&json!({
            "metadata": {"namespace": "kube-system", "name": name}, "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53,
            "protocol": "TCP"},
                      {"name": "metrics", "port": 9153, "protocol": "TCP"}],
        }))
    }

    #[test]
    fn servers_come_and_go_with_their_slices() {
        let mut known = Known::new("EndpointSlice");
        let all = |known: &Known<Vec<SocketAddr>>| -> Vec<String> {
            known.objects().values().flatten().map(ToString::to_string).collect()
        };
        known.take(Update::Reset(vec![slice("a", "10.244.0.2", false)]));
        assert_eq!(all(&known), ["10.244.0.2:53", "10.244.0.2:9153"]);
        known.take(Update::Apply(slice("b", "fd00::2", true)));
        assert!(all(&known).contains(&"[fd00::2]:53".to_owned()));
        assert_eq!(known.take(Update::Disconnected("refused".into())), Different::Nothing);
        assert_eq!((known.objects().len(), known.state().connected, known.state().synced), (2, false, true));
        known.take(Update::Delete(slice("a", "10.244.0.2", true)));
        assert_eq!((all(&known).len(), known.state().connected), (2, true));
    }

    #[test]
    fn a_slice_that_cannot_be_read_trusts_nobody() {
        let odd: Value = json!({"metadata": {"namespace": "kube-system", "name": "odd"}, "endpoints": "all"});
        assert_eq!(read(addresses)(&odd), (("kube-system".into(), "odd".into()), Vec::new()));
    }
}
