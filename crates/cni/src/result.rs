//! The result of the plugins before this one, in the version that is asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::Error;

/// Beginning of the versions in which each address of a result names its family.
const FAMILIES_TOLD: &str = "0.";

/// The same result as another version of the specification writes it. From 1.0.0 on an address does not say its
/// family; before, it has to. Members that only newer versions know stay: older readers pass over them.
pub(crate) fn in_version(result: &Map<String, Value>, version: &str) -> Value {
    let mut result = result.clone();
    result.insert("cniVersion".into(), version.into());
    let ips = result.get_mut("ips").and_then(Value::as_array_mut);
    for ip in ips.into_iter().flatten().filter_map(Value::as_object_mut) {
        let family = ip.get("address").and_then(Value::as_str).map(|text| if text.contains(':') { "6" } else { "4" });
        ip.shift_remove("version");
        if let Some(family) = family.filter(|_| version.starts_with(FAMILIES_TOLD)) {
            ip.insert("version".into(), json!(family));
        }
    }
    Value::Object(result)
}

/// The addresses that a pod was given on an interface of its own (any, where `interface` is empty). Results may also
/// tell those of the host's. An address that names no interface is the pod's: not all plugins tell interfaces, and none
/// has a reason to tell an address that it gave to nobody.
///
/// # Errors
///
/// If there is none, or one that is no address.
pub fn addresses(result: &Map<String, Value>, interface: &str) -> Result<Vec<IpAddr>, Error> {
    let interfaces = list(result, "interfaces");
    // Some plugins tell no sandboxes, and of interfaces only the pod's.
    let told = interfaces.iter().any(in_sandbox);
    let inside = |ip: &Value| {
        let index = ip.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        let Some(owner) = index.and_then(|index| interfaces.get(index)) else { return true };
        (in_sandbox(owner) && interface.is_empty())
            || ((in_sandbox(owner) || !told) && text(owner, "name") == interface)
    };
    let found: Result<Vec<_>, _> = list(result, "ips").iter().filter(|ip| inside(ip)).map(address).collect();
    match found? {
        found if found.is_empty() => Err(Error::Config(
            "prevResult has no address of the pod: this plugin guards pods by their addresses".into(),
        )),
        found => Ok(found),
    }
}

/// The names of all interfaces that a result tells outside of sandboxes: the node's end of the pod's link is one of
/// them, if the plugin tells it at all.
pub fn links(result: &Map<String, Value>) -> Vec<String> {
    let outside = list(result, "interfaces").iter().filter(|interface| !in_sandbox(interface));
    outside.map(|interface| text(interface, "name")).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The hardware address of the pod's interface of that name, as the result writes it; none if it does not.
pub fn hardware_address(result: &Map<String, Value>, interface: &str) -> Option<String> {
    let mut inside = list(result, "interfaces").iter().filter(|one| in_sandbox(one) && text(one, "name") == interface);
    let address = text(inside.next()?, "mac");
    // Some plugins write "0" for what they do not know.
    address.contains(':').then(|| address.to_owned())
}

fn list<'a>(result: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    result.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn in_sandbox(interface: &Value) -> bool {
    !text(interface, "sandbox").is_empty()
}

fn address(ip: &Value) -> Result<IpAddr, Error> {
    let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
    let net: Result<IpNet, _> = text.parse();
    net.map(|net| net.addr().to_canonical())
        .map_err(|error| Error::Config(format!("prevResult has an address that is none: {ip}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(object) = value else { panic!("{value} is no object") };
        object
    }

    #[test]
    fn each_version_gets_what_it_knows() {
        let old = json!({ "cniVersion": "0.4.0", "interfaces": [{ "name": "eth0", "sandbox": "/n" }], "ips": [
            { "address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 0, "version": "4" },
            { "address": "fd00::7/64", "interface": 0, "version": "6" }] });
        let new = json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": "/n" }], "ips": [
            { "address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 0 },
            { "address": "fd00::7/64", "interface": 0 }] });
        for result in [&old, &new].map(|result| object(result.clone())) {
            assert_eq!(in_version(&result, "0.4.0"), old);
            assert_eq!(in_version(&result, "1.1.0"), new);
        }
        let odd = object(json!({ "ips": 7 }));
        assert_eq!(in_version(&odd, "1.0.0"), json!({ "ips": 7, "cniVersion": "1.0.0" }));
    }

    #[test]
    fn only_addresses_on_the_pods_own_interface_are_its_own() {
        let result = object(json!({
            "interfaces": [{ "name": "veth1" }, { "name": "eth0", "sandbox": "/n" }, { "name": "net1",
            "sandbox": "/n" }],
            "ips": [{ "address": "10.0.0.1/24", "interface": 0 }, { "address": "10.0.0.7/24", "interface": 1 },
                    { "address": "192.168.0.7/24", "interface": 2 }, { "address": "fd00::7/64" }] }));
        let text = |found: Vec<IpAddr>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(addresses(&result, "eth0").unwrap()), ["10.0.0.7", "fd00::7"]);
        let bare = object(json!({
            "interfaces": [{ "name": "eth0" }], "ips": [{ "address": "10.0.0.7/32", "interface": 0 }] }));
        assert_eq!(text(addresses(&bare, "eth0").unwrap()), ["10.0.0.7"]);
    }

    #[test]
    fn the_pods_link_and_hardware_address_are_told_where_the_result_does() {
        let result = object(json!({ "interfaces": [
            { "name": "cni0", "mac": "02:00:00:00:00:01" }, { "name": "veth1", "mac": "02:00:00:00:00:02" },
            { "mac": "x" },
            { "name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/n" },
            { "name": "dummy1", "mac": "0", "sandbox": "0" }] }));
        assert_eq!(links(&result), ["cni0", "veth1"]);
        assert_eq!(hardware_address(&result, "eth0").as_deref(), Some("02:00:00:00:00:03"));
        assert_eq!(hardware_address(&result, "dummy1"), None);
        for value in [json!({}), json!({ "interfaces": 7 }), json!({ "interfaces": [7, { "name": 7 }] })] {
            assert_eq!((links(&object(value.clone())), hardware_address(&object(value), "eth0")), (vec![], None));
        }
    }

    #[test]
    fn a_result_without_usable_addresses_is_refused() {
        for value in [
            json!({}),
            json!({ "ips": [{ "address": "somewhere" }] }),
            json!({ "ips": ["10.0.0.1/8"] }),
            json!({ "interfaces": [{ "name": "cni0" }], "ips": [{ "address": "10.0.0.1/8", "interface": 0 }] }),
        ] {
            assert_eq!(addresses(&object(value.clone()), "eth0").unwrap_err().code(), 7, "{value}");
        }
    }
}
