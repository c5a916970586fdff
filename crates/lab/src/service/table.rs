//! From Services and EndpointSlices to what has to be translated: ports of addresses, and where they lead.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::ResourceExt as _;

/// Label of an EndpointSlice that names its Service.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A protocol Services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As nftables names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// Namespace, name and port of the Service, made unique.
    pub(super) name: String,
    /// Protocol.
    pub(super) protocol: Protocol,
    /// Addresses it is called by.
    pub(super) addresses: Vec<IpAddr>,
    /// Port it is called by.
    pub(super) number: u16,
    /// Port of every node that leads to it too.
    pub(super) on_nodes: Option<u16>,
    /// True if a client always gets the same endpoint while there are the same ones.
    pub(super) sticky: bool,
    /// Its endpoints: ready endpoints, sorted.
    pub(super) endpoints: Vec<SocketAddr>,
    /// Endpoints that serve, ready or not: those that end finish what they have begun.
    pub(super) serving: Vec<SocketAddr>,
}

/// All ports of all Services that have addresses, sorted by name.
pub(super) fn ports(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Vec<Port> {
    let mut of_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        if let Some(name) = slice.labels().get(SERVICE_LABEL) {
            of_service.entry((slice.namespace().unwrap_or_default(), name.clone())).or_default().push(slice);
        }
    }
    let mut ports: Vec<Port> = services
        .iter()
        .flat_map(|service| {
            let key = (service.namespace().unwrap_or_default(), service.name_any());
            let slices = of_service.get(&key).map(Vec::as_slice).unwrap_or_default();
            service_ports(service, slices)
        })
        .collect();
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

fn service_ports(service: &Service, slices: &[&EndpointSlice]) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let mut addresses: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(spec.cluster_ip.as_ref().and_then(|ip| ip.parse::<IpAddr>().ok()));
    }
    if addresses.is_empty() {
        return Vec::new();
    }
    addresses.extend(spec.external_ips.iter().flatten().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let port = |port: &ServicePort| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let number = u16::try_from(port.port).ok()?;
        let name = port.name.as_deref().unwrap_or_default();
        Some(Port {
            name: format!(
                "{}/{}/{}/{number}",
                service.namespace().unwrap_or_default(),
                service.name_any(),
                protocol.name()
            ),
            protocol,
            addresses: addresses.clone(),
            number,
            on_nodes: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
            sticky,
            endpoints: endpoints(slices, name, protocol, |conditions| conditions.ready),
            serving: endpoints(slices, name, protocol, |conditions| conditions.serving.or(conditions.ready)),
        })
    };
    spec.ports.iter().flatten().filter_map(port).collect()
}

/// Endpoints of a port of which a condition holds; slices name ports as the Service does.
fn endpoints(
    slices: &[&EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    condition: impl Fn(&EndpointConditions) -> Option<bool>,
) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && Protocol::parse(port.protocol.as_deref()) == Some(protocol)
        });
        let numbers: Vec<u16> = ports.filter_map(|port| u16::try_from(port.port?).ok()).collect();
        // Absent means unknown, which the API says to take as true.
        let holds = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(&condition) != Some(false);
        for endpoint in slice.endpoints.iter().filter(holds) {
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
            for address in addresses {
                found.extend(numbers.iter().map(|number| SocketAddr::new(address, *number)));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(value: serde_json::Value) -> Arc<Service> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn slice(value: serde_json::Value) -> Arc<EndpointSlice> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn ports_lead_to_ready_endpoints_of_the_same_name_and_protocol() {
        let services = [
            service(json!({
                "metadata": {"name": "dns", "namespace": "kube-system"},
                "spec": {"clusterIP": "10.97.0.10", "clusterIPs": ["10.97.0.10"], "ports": [
                    {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "protocol": "TCP"}]},
            })),
            service(json!({"metadata": {"name": "headless", "namespace": "a"},
                "spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}})),
        ];
        let slices = [slice(json!({
            "metadata": {"name": "dns-1", "namespace": "kube-system", "labels": {SERVICE_LABEL: "dns"}},
            "addressType": "IPv4",
            "ports": [{"name": "udp", "port": 5353, "protocol": "UDP"}, {"name": "tcp", "port": 5354}],
            "endpoints": [
                {"addresses": ["10.245.1.9"], "conditions": {"ready": true}},
                {"addresses": ["10.245.1.3"]},
                {"addresses": ["10.245.1.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        }))];
        let found = ports(&services, &slices);
        let shown: Vec<String> = found.iter().map(|port| format!("{} {:?}", port.name, port.endpoints)).collect();
        assert_eq!(
            shown,
            [
                "kube-system/dns/tcp/53 [10.245.1.3:5354, 10.245.1.9:5354]",
                "kube-system/dns/udp/53 [10.245.1.3:5353, 10.245.1.9:5353]",
            ]
        );
        assert_eq!(found[1].serving.len(), 3, "one that ends finishes what it has begun");
    }

    #[test]
    fn a_service_without_endpoints_has_its_port_still() {
        let services = [service(json!({"metadata": {"name": "s", "namespace": "a"}, "spec": {
            "clusterIPs": ["10.97.0.11", "fd00:10:97::b"], "ports": [{"port": 80, "nodePort": 30080}]}}))];
        let found = ports(&services, &[]);
        assert_eq!((found[0].addresses.len(), found[0].on_nodes, found[0].endpoints.len()), (2, Some(30080), 0));
    }
}
