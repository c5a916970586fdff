//! Addresses of the cluster's names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt as _;

use crate::service::SERVICE_LABEL;

/// The domain of the cluster.
pub(super) const DOMAIN: &str = "cluster.local";

/// Kind of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports and names of servers.
    Srv,
    /// Anything else; names exist for it but have nothing.
    Other,
}

/// A record, without name and time to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// An address.
    Address(IpAddr),
    /// A port and the name of the server.
    Server(u16, String),
    /// Another name, outside the cluster.
    Alias(String),
}

/// Answer for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These records; none if the name exists but has none of the kind.
    Found(Vec<Value>),
    /// There is no such name.
    Absent,
}

/// The objects names are made of.
pub(super) struct Zone<'a> {
    pub(super) services: &'a [Arc<Service>],
    pub(super) slices: &'a [Arc<EndpointSlice>],
}

impl Zone<'_> {
    /// Looks a name up, in lower case, without the dot at its end.
    pub(super) fn look_up(&self, name: &str, kind: Kind) -> Answer {
        let Some(local) = name.strip_suffix(DOMAIN) else { return Answer::Absent };
        if local.is_empty() {
            return Answer::Found(Vec::new());
        }
        let Some(local) = local.strip_suffix('.') else { return Answer::Absent };
        let labels: Vec<&str> = local.split('.').collect();
        match labels.as_slice() {
            ["svc" | "pod"] => Answer::Found(Vec::new()),
            [namespace, "svc"] => self.namespace(namespace),
            [service, namespace, "svc"] => self.service(namespace, service, kind),
            [host, service, namespace, "svc"] => self.endpoint(namespace, service, host, kind),
            [port, protocol, service, namespace, "svc"] => self.server(namespace, service, port, protocol, kind),
            [dashed, _namespace, "pod"] => pod(dashed, kind),
            _ => Answer::Absent,
        }
    }

    fn namespace(&self, namespace: &str) -> Answer {
        let exists = self.services.iter().any(|service| service.namespace().as_deref() == Some(namespace));
        if exists { Answer::Found(Vec::new()) } else { Answer::Absent }
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&Service> {
        let found = self.services.iter().find(|service| {
            service.namespace().as_deref() == Some(namespace) && service.metadata.name.as_deref() == Some(name)
        });
        found.map(|service| &**service)
    }

    fn service(&self, namespace: &str, name: &str, kind: Kind) -> Answer {
        let Some(service) = self.find(namespace, name) else { return Answer::Absent };
        if let Some(target) = alias(service) {
            return Answer::Found(vec![Value::Alias(target)]);
        }
        let addresses = match cluster_addresses(service) {
            Some(addresses) => addresses,
            None => self.endpoints(service).flat_map(|(endpoint, _)| addresses_of(endpoint)).collect(),
        };
        Answer::Found(of_kind(addresses, kind))
    }

    /// One endpoint of a Service, by its host name or by its address with dashes.
    fn endpoint(&self, namespace: &str, service: &str, host: &str, kind: Kind) -> Answer {
        let Some(service) = self.find(namespace, service) else { return Answer::Absent };
        let mut addresses = Vec::new();
        for (endpoint, _) in self.endpoints(service) {
            let named = endpoint.hostname.as_deref() == Some(host);
            addresses.extend(addresses_of(endpoint).into_iter().filter(|address| named || dashed(*address) == host));
        }
        if addresses.is_empty() { Answer::Absent } else { Answer::Found(of_kind(addresses, kind)) }
    }

    /// `_PORT._PROTOCOL.SERVICE`: who serves a named port.
    fn server(&self, namespace: &str, name: &str, port: &str, protocol: &str, kind: Kind) -> Answer {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Answer::Absent;
        };
        let Some(service) = self.find(namespace, name) else { return Answer::Absent };
        let same = |own: Option<&str>| own.unwrap_or("TCP").eq_ignore_ascii_case(protocol);
        let full = format!("{name}.{namespace}.svc.{DOMAIN}");
        let mut servers = Vec::new();
        if cluster_addresses(service).is_some() {
            let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let ports = ports.filter(|own| own.name.as_deref() == Some(port) && same(own.protocol.as_deref()));
            servers.extend(ports.filter_map(|own| Some(Value::Server(u16::try_from(own.port).ok()?, full.clone()))));
        } else {
            for (endpoint, slice) in self.endpoints(service) {
                let ports = slice.ports.iter().flatten();
                let ports = ports.filter(|own| own.name.as_deref() == Some(port) && same(own.protocol.as_deref()));
                let host = endpoint.hostname.clone();
                let host = host.or_else(|| addresses_of(endpoint).first().map(|address| dashed(*address)));
                let Some(host) = host else { continue };
                let number = ports.filter_map(|own| u16::try_from(own.port?).ok());
                servers.extend(number.map(|number| Value::Server(number, format!("{host}.{full}"))));
            }
        }
        match (servers.is_empty(), kind) {
            (true, _) => Answer::Absent,
            (false, Kind::Srv) => Answer::Found(servers),
            (false, _) => Answer::Found(Vec::new()),
        }
    }

    /// Endpoints of a Service that names stand for: ready ones, or all if the Service says so.
    fn endpoints<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = (&'a Endpoint, &'a EndpointSlice)> {
        let all = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
        let of_service = self.slices.iter().filter(move |slice| {
            slice.metadata.namespace == service.metadata.namespace
                && slice.labels().get(SERVICE_LABEL) == service.metadata.name.as_ref()
        });
        of_service.flat_map(move |slice| {
            let ready = move |endpoint: &&Endpoint| {
                all || endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
            };
            slice.endpoints.iter().filter(ready).map(move |endpoint| (endpoint, &**slice))
        })
    }
}

/// Addresses of a Service; none if it is headless.
fn cluster_addresses(service: &Service) -> Option<Vec<IpAddr>> {
    let spec = service.spec.as_ref()?;
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref());
    let mut addresses: Vec<IpAddr> = listed.filter_map(|address| address.parse().ok()).collect();
    addresses.dedup();
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    (!addresses.is_empty()).then_some(addresses)
}

fn alias(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then(|| spec.external_name.clone())?
}

fn addresses_of(endpoint: &Endpoint) -> Vec<IpAddr> {
    endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

fn of_kind(addresses: Vec<IpAddr>, kind: Kind) -> Vec<Value> {
    let wanted = |address: &IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Srv | Kind::Other => false,
    };
    addresses.into_iter().filter(wanted).map(Value::Address).collect()
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// `10-245-1-2.NAMESPACE.pod`: an address written as a name.
fn pod(dashed: &str, kind: Kind) -> Answer {
    let v4: Option<Ipv4Addr> = dashed.replace('-', ".").parse().ok();
    let v6: Option<Ipv6Addr> = dashed.replace('-', ":").parse().ok();
    match v4.map(IpAddr::V4).or_else(|| v6.map(IpAddr::V6)) {
        Some(address) => Answer::Found(of_kind(vec![address], kind)),
        None => Answer::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn look_up(name: &str, kind: Kind) -> Answer {
        let service = |value| Arc::new(serde_json::from_value::<Service>(value).unwrap());
        let services = [
            service(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {
                "clusterIP": "10.97.0.20", "clusterIPs": ["10.97.0.20", "fd00:10:97::14"],
                "ports": [{"name": "http", "port": 80}]}})),
            service(json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {
                "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}})),
            service(json!({"metadata": {"name": "out", "namespace": "shop"}, "spec": {
                "type": "ExternalName", "externalName": "example.org"}})),
        ];
        let slices = [Arc::new(
            serde_json::from_value::<EndpointSlice>(json!({
                "metadata": {"name": "db-1", "namespace": "shop", "labels": {SERVICE_LABEL: "db"}},
                "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": ["10.245.1.3"], "hostname": "db-0", "conditions": {"ready": true}},
                    {"addresses": ["10.245.1.4"], "conditions": {"ready": true}},
                    {"addresses": ["10.245.1.5"], "conditions": {"ready": false}},
                ],
            }))
            .unwrap(),
        )];
        Zone { services: &services, slices: &slices }.look_up(name, kind)
    }

    fn addresses(list: &[&str]) -> Answer {
        Answer::Found(list.iter().map(|address| Value::Address(address.parse().unwrap())).collect())
    }

    #[test]
    fn services_have_their_addresses() {
        assert_eq!(look_up("web.shop.svc.cluster.local", Kind::A), addresses(&["10.97.0.20"]));
        assert_eq!(look_up("web.shop.svc.cluster.local", Kind::Aaaa), addresses(&["fd00:10:97::14"]));
        assert_eq!(look_up("web.shop.svc.cluster.local", Kind::Other), addresses(&[]));
        assert_eq!(
            look_up("_http._tcp.web.shop.svc.cluster.local", Kind::Srv),
            Answer::Found(vec![Value::Server(80, "web.shop.svc.cluster.local".into())])
        );
        assert_eq!(
            look_up("out.shop.svc.cluster.local", Kind::A),
            Answer::Found(vec![Value::Alias("example.org".into())])
        );
    }

    #[test]
    fn headless_services_have_those_of_their_ready_endpoints() {
        assert_eq!(look_up("db.shop.svc.cluster.local", Kind::A), addresses(&["10.245.1.3", "10.245.1.4"]));
        assert_eq!(look_up("db.shop.svc.cluster.local", Kind::Aaaa), addresses(&[]));
        assert_eq!(look_up("db-0.db.shop.svc.cluster.local", Kind::A), addresses(&["10.245.1.3"]));
        assert_eq!(look_up("10-245-1-4.db.shop.svc.cluster.local", Kind::A), addresses(&["10.245.1.4"]));
        assert_eq!(
            look_up("_sql._tcp.db.shop.svc.cluster.local", Kind::Srv),
            Answer::Found(vec![
                Value::Server(5432, "db-0.db.shop.svc.cluster.local".into()),
                Value::Server(5432, "10-245-1-4.db.shop.svc.cluster.local".into()),
            ])
        );
    }

    #[test]
    fn names_between_exist_and_all_others_do_not() {
        for name in ["cluster.local", "svc.cluster.local", "shop.svc.cluster.local"] {
            assert_eq!(look_up(name, Kind::A), addresses(&[]), "{name}");
        }
        for name in [
            "example.org",
            "xcluster.local",
            "nowhere.svc.cluster.local",
            "nope.shop.svc.cluster.local",
            "10-245-1-5.db.shop.svc.cluster.local",
            "_http._udp.web.shop.svc.cluster.local",
            "a.b.c.cluster.local",
        ] {
            assert_eq!(look_up(name, Kind::A), Answer::Absent, "{name}");
        }
        assert_eq!(look_up("10-245-1-9.shop.pod.cluster.local", Kind::A), addresses(&["10.245.1.9"]));
    }
}
