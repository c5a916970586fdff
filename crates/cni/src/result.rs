//! The result of the plugins before this one, in the version that is asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::Error;

/// How versions begin in which each address of a result says of which family it is.
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

/// The addresses that a pod was given on an interface of its own (any, where `interface` is empty). Results may also tell
/// those of the host's. An address that names no interface is the pod's: not all plugins tell interfaces, and none has a
/// reason to tell an address that it gave to nobody.
///
/// # Errors
///
/// If there is none, or one that is no address.
pub fn addresses(result: &Map<String, Value>, interface: &str) -> Result<Vec<IpAddr>, Error> {
    let list = |name| result.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let interfaces = list("interfaces");
    let sandbox =
        |interface: &Value| interface.get("sandbox").and_then(Value::as_str).is_some_and(|path| !path.is_empty());
    // Some plugins tell no sandboxes, and of interfaces only the pod's.
    let told = interfaces.iter().any(sandbox);
    let inside = |ip: &Value| {
        let index = ip.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        let Some(owner) = index.and_then(|index| interfaces.get(index)) else { return true };
        let name = owner.get("name").and_then(Value::as_str).unwrap_or_default();
        (sandbox(owner) && interface.is_empty()) || ((sandbox(owner) || !told) && name == interface)
    };
    let found: Result<Vec<_>, _> = list("ips").iter().filter(|ip| inside(ip)).map(address).collect();
    match found? {
        found if found.is_empty() => Err(Error::Config(
            "prevResult has no address of the pod: this plugin guards pods by their addresses".into(),
        )),
        found => Ok(found),
    }
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
            "interfaces": [{ "name": "veth1" }, { "name": "eth0", "sandbox": "/n" }, { "name": "net1", "sandbox": "/n" }],
            "ips": [{ "address": "10.0.0.1/24", "interface": 0 }, { "address": "10.0.0.7/24", "interface": 1 },
                    { "address": "192.168.0.7/24", "interface": 2 }, { "address": "fd00::7/64" }] }));
        let text = |found: Vec<IpAddr>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(addresses(&result, "eth0").unwrap()), ["10.0.0.7", "fd00::7"]);
        let bare = object(json!({
            "interfaces": [{ "name": "eth0" }], "ips": [{ "address": "10.0.0.7/32", "interface": 0 }] }));
        assert_eq!(text(addresses(&bare, "eth0").unwrap()), ["10.0.0.7"]);
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
