//! Service, with the addresses and ports it is given.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::ListMerge::{By, Port};
use super::{BASE, DefaultContext, Kind, META_LISTS, Subresource, typed};
use crate::api::columns::{self, Column};
use crate::api::json::{self, Json as _};
use crate::api::status::Cause;
use crate::api::validation;
use crate::store::{Objects, Scope};

pub(super) const SERVICE: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short: &["svc"],
    categories: &["all"],
    subresources: &[Subresource::Status],
    resource: "services",
    stored: "services",
    columns: &[
        columns::NAME,
        Column::text("Type"),
        Column::text("Cluster-IP"),
        Column::text("External-IP"),
        Column::text("Port(s)"),
        columns::AGE,
        Column::wide("Selector"),
    ],
    row,
    default: default_service,
    allocate,
    validate_update: validation::service_update,
    normalise: typed::<core::Service>,
    merge_keys: &[META_LISTS, &[("spec.ports", Port("port")), ("status.conditions", By("type"))]],
    fields: &["spec.clusterIP", "spec.type"],
    ..BASE
};

fn row(service: &Value) -> Vec<Value> {
    let ports: Vec<_> = service.list("/spec/ports").iter().map(port_text).collect();
    vec![
        columns::name(service),
        service.text("/spec/type").into(),
        columns::or_none(service.list("/spec/clusterIPs").first().and_then(Value::as_str).unwrap_or_default()),
        external(service).into(),
        columns::or_none(&ports.join(",")),
        columns::age(service),
        columns::labels(&service["spec"]["selector"]),
    ]
}

fn port_text(port: &Value) -> String {
    let (number, protocol) = (port.int("/port"), port.text("/protocol"));
    match port.int("/nodePort") {
        0 => format!("{number}/{protocol}"),
        node => format!("{number}:{node}/{protocol}"),
    }
}

fn external(service: &Value) -> String {
    let assigned = service.list("/status/loadBalancer/ingress").iter().map(|ingress| ingress.text("/ip"));
    let given = service.list("/spec/externalIPs").iter().filter_map(Value::as_str);
    let addresses: Vec<_> = assigned.chain(given).collect();
    match (service.text("/spec/type"), addresses.is_empty()) {
        ("ExternalName", _) => service.text("/spec/externalName").to_owned(),
        (_, false) => addresses.join(","),
        ("LoadBalancer", true) => "<pending>".to_owned(),
        (_, true) => "<none>".to_owned(),
    }
}

fn default_service(object: &mut Value, _: &DefaultContext<'_>) {
    let spec = json::object(object, "spec");
    json::default_empty(spec, "type", "ClusterIP");
    json::default_empty(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        json::default(spec, "sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10800 } }));
    }
    json::each(spec, "ports", |port| {
        json::default_empty(port, "protocol", "TCP");
        let number = port["port"].clone();
        json::default_empty(port, "targetPort", number);
    });
    let kind = spec.text("/type").to_owned();
    if kind != "ExternalName" {
        json::default_empty(spec, "internalTrafficPolicy", "Cluster");
    }
    if has_node_ports(&kind) {
        json::default_empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        json::default(spec, "allocateLoadBalancerNodePorts", true);
    }
    json::default(object, "status", json!({ "loadBalancer": {} }));
}

fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

fn allocate(object: &mut Value, context: &DefaultContext<'_>) -> Result<(), Cause> {
    let spec = json::object(object, "spec");
    let kind = spec.text("/type").to_owned();
    if kind != "ExternalName" {
        addresses(spec, context)?;
    }
    if has_node_ports(&kind) { node_ports(spec, context) } else { Ok(()) }
}

fn family(range: &IpNet) -> &'static str {
    if range.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The ranges a Service takes addresses of, by its families and policy.
fn wanted<'a>(spec: &Value, ranges: &'a [IpNet]) -> Result<Vec<&'a IpNet>, Cause> {
    let named: Vec<_> = spec.list("/ipFamilies").iter().filter_map(Value::as_str).collect();
    let of = |name: &str| ranges.iter().find(|range| family(range) == name);
    let mut wanted = Vec::new();
    for (index, name) in named.iter().enumerate() {
        let detail = "not configured on this cluster";
        let field = format!("spec.ipFamilies[{index}]");
        wanted.push(of(name).ok_or_else(|| Cause::invalid(field, &json!(named), detail))?);
    }
    if wanted.is_empty() {
        let asked = spec.list("/clusterIPs").first().and_then(Value::as_str).or_else(|| spec["clusterIP"].as_str());
        let asked: Option<IpAddr> = asked.and_then(|text| text.parse().ok());
        wanted.extend(match asked {
            Some(address) => ranges.iter().find(|range| range.addr().is_ipv4() == address.is_ipv4()),
            None => ranges.first(),
        });
    }
    let policy = spec.text("/ipFamilyPolicy");
    if matches!(policy, "PreferDualStack" | "RequireDualStack") && wanted.len() == 1 {
        wanted.extend(ranges.iter().find(|range| family(range) != family(wanted[0])));
        if policy == "RequireDualStack" && wanted.len() == 1 {
            let detail = "this cluster is not configured for dual-stack services";
            return Err(Cause::invalid("spec.ipFamilyPolicy", &json!(policy), detail));
        }
    }
    Ok(wanted)
}

fn addresses(spec: &mut Value, context: &DefaultContext<'_>) -> Result<(), Cause> {
    // What an update leaves out stays as it was.
    if let Some(old) = context.old.filter(|old| old["spec"]["type"] != "ExternalName") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            json::default_empty(spec, field, old["spec"][field].clone());
        }
    }
    let ranges = wanted(spec, context.service_ranges)?;
    let policy = if ranges.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    json::default_empty(spec, "ipFamilyPolicy", policy);
    spec["ipFamilies"] = ranges.iter().map(|range| family(range)).collect::<Vec<_>>().into();
    if spec["clusterIP"] == "None" {
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let taken = taken_addresses(context.objects, context.old);
    let mut asked: Vec<_> = spec.list("/clusterIPs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if asked.is_empty() && !spec.text("/clusterIP").is_empty() {
        asked.push(spec.text("/clusterIP").to_owned());
    }
    let mut given = Vec::new();
    for (index, range) in ranges.into_iter().enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        given.push(match asked.get(index) {
            Some(text) => claim(text, range, &taken, &field)?,
            None => free(range, &taken).ok_or_else(|| Cause {
                reason: "InternalError".into(),
                message: format!("Internal error: no address is free in {range}"),
                field,
            })?,
        });
    }
    spec["clusterIP"] = given.first().cloned().unwrap_or_default().into();
    spec["clusterIPs"] = given.into();
    Ok(())
}

fn taken_addresses(objects: &Objects, old: Option<&Value>) -> HashSet<IpAddr> {
    let services = Scope::all("services");
    let own = old.map(|old| old.text("/metadata/uid"));
    let others = objects.scan(&services).filter(|(_, service)| Some(service.text("/metadata/uid")) != own);
    let texts = others.flat_map(|(_, service)| service.list("/spec/clusterIPs"));
    texts.filter_map(|text| text.as_str()?.parse().ok()).collect()
}

fn claim(text: &str, range: &IpNet, taken: &HashSet<IpAddr>, field: &str) -> Result<String, Cause> {
    let refuse = |detail: &str| Cause::invalid(field, &json!([text]), detail);
    let address: IpAddr = text.parse().map_err(|_error| refuse("must be a valid IP address"))?;
    if !range.contains(&address) {
        return Err(refuse(&format!("the provided IP ({address}) is not in the valid range {range}")));
    }
    if taken.contains(&address) {
        return Err(refuse("failed to allocate IP: provided IP is already allocated"));
    }
    Ok(address.to_string())
}

/// A free address; the first few of a range are left for those who ask for them (the API, DNS).
fn free(range: &IpNet, taken: &HashSet<IpAddr>) -> Option<String> {
    const RESERVED: usize = 32;
    let small = u32::from(range.max_prefix_len() - range.prefix_len()) < 8;
    let skip = if small { 1 } else { RESERVED };
    let candidates = range.hosts().skip(skip).take(taken.len() + 1);
    candidates.into_iter().find(|address| !taken.contains(address)).map(|address| address.to_string())
}

fn node_ports(spec: &mut Value, context: &DefaultContext<'_>) -> Result<(), Cause> {
    const PORTS: std::ops::RangeInclusive<i64> = 30_000..=32_767;
    let services = Scope::all("services");
    let own = context.old.map(|old| old.text("/metadata/uid"));
    let others = context.objects.scan(&services).filter(|(_, service)| Some(service.text("/metadata/uid")) != own);
    let mut taken: HashSet<i64> =
        others.flat_map(|(_, service)| service.list("/spec/ports")).map(|port| port.int("/nodePort")).collect();
    taken.extend(spec.list("/ports").iter().map(|port| port.int("/nodePort")));
    let old = context.old.map(|old| old.list("/spec/ports").to_vec()).unwrap_or_default();
    let mut result = Ok(());
    json::each(spec, "ports", |port| {
        if port.int("/nodePort") != 0 {
            return;
        }
        let before = old.iter().find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"]);
        let before = before.map(|old| old.int("/nodePort")).filter(|number| *number != 0);
        match before.or_else(|| PORTS.into_iter().find(|number| !taken.contains(number))) {
            Some(number) => {
                taken.insert(number);
                port["nodePort"] = number.into();
            }
            None => result = Err(Cause::forbidden("spec.ports", "no node port is free")),
        }
    });
    result
}
