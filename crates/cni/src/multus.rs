//! Multus, a plugin that calls others: which of them gives pods their addresses, and how this plugin gets behind that
//! one.
//!
//! Its configuration is of one plugin and sorts before all others. A list made of it would never be taken by a runtime,
//! and Multus itself might take it for the network of the cluster, and so call itself.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, conflist};

/// Names of the program of Multus, and of the one that asks its daemon.
const PROGRAMS: [&str; 2] = ["multus", "multus-shim"];
/// The whole configurations of the plugins it calls, the cluster's network first.
const DELEGATES: &str = "delegates";

/// True if a configuration is Multus' own.
pub fn is_multus(text: &str) -> bool {
    parse(text)
        .is_some_and(|conf| conf.get("type").and_then(Value::as_str).is_some_and(|kind| PROGRAMS.contains(&kind)))
}

/// The cluster's network, if Multus is told by the name of a network or of a file: the last part of a path.
pub fn cluster_network(text: &str) -> Option<String> {
    let conf = parse(text)?;
    let named = conf.get("clusterNetwork")?.as_str()?;
    Some(Path::new(named).file_name()?.to_str()?.to_owned())
}

/// True if the configurations of the plugins it calls are part of its own.
pub fn has_delegates(text: &str) -> bool {
    parse(text).is_some_and(|mut conf| first(&mut conf).is_some())
}

/// Multus' configuration with this plugin behind the first that it calls; none if it is there already, as it should be.
pub fn insert(text: &str, member: &Value) -> Result<Option<String>, Error> {
    change(text, |delegate| {
        if conflist::is_list(delegate) {
            conflist::insert(delegate, member)
        } else {
            conflist::wrap(delegate, DELEGATES, member).map(Some)
        }
    })
}

/// Multus' configuration without this plugin; none if it was not in it.
pub fn remove(text: &str) -> Result<Option<String>, Error> {
    change(text, |delegate| match conflist::unwrap(delegate) {
        Some(single) => Ok(Some(single)),
        None if conflist::is_list(delegate) => conflist::remove(delegate),
        None => Ok(None),
    })
}

fn change(text: &str, change: impl FnOnce(&str) -> Result<Option<String>, Error>) -> Result<Option<String>, Error> {
    let mut conf = parse(text).ok_or_else(|| Error::Config("not a JSON object".into()))?;
    let delegate = first(&mut conf).ok_or_else(|| Error::Config("it calls no plugin (delegates)".into()))?;
    let Some(changed) = change(&delegate.to_string())? else { return Ok(None) };
    *delegate = serde_json::from_str(&changed).map_err(|error| Error::Config(error.to_string()))?;
    Ok(Some(conflist::print_like(text, &Value::Object(conf))))
}

fn parse(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

fn first(conf: &mut Map<String, Value>) -> Option<&mut Value> {
    conf.get_mut(DELEGATES)?.as_array_mut()?.first_mut()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_known_and_says_whom_it_calls() {
        let thick = |network: &str| json!({"type": "multus-shim", "clusterNetwork": network}).to_string();
        assert!(is_multus(&thick("x")) && is_multus(r#"{"type": "multus"}"#));
        assert!(!is_multus(r#"{"type": "bridge"}"#) && !is_multus(r#"{"plugins": [{"type": "multus"}]}"#));
        let path = thick("/host/etc/cni/net.d/10-flannel.conflist");
        assert_eq!(cluster_network(&path).as_deref(), Some("10-flannel.conflist"));
        assert_eq!(cluster_network(&thick("cbr0")).as_deref(), Some("cbr0"));
        assert_eq!(cluster_network(r#"{"type": "multus"}"#), None);
        assert!(!has_delegates(&path) && !has_delegates(r#"{"delegates": []}"#));
    }

    #[test]
    fn it_is_put_behind_the_first_delegate_and_taken_away_again() {
        let member = conflist::entry("/s");
        let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]});
        let single = json!({"cniVersion": "0.4.0", "name": "pods", "type": "bridge"});
        for delegate in [list, single] {
            let conf =
                json!({"type": "multus", "delegates": [delegate, {"type": "macvlan"}], "logLevel": "x"}).to_string();
            assert!(has_delegates(&conf));
            let with = insert(&conf, &member).unwrap().unwrap();
            let value: Value = serde_json::from_str(&with).unwrap();
            assert_eq!(conflist::types(&value["delegates"][0].to_string()), [crate::PLUGIN, "bridge", crate::PLUGIN]);
            assert_eq!(value["delegates"][1], json!({"type": "macvlan"}));
            assert_eq!(insert(&with, &member).unwrap(), None);
            assert_eq!(remove(&with).unwrap().as_deref(), Some(&*conf));
            assert_eq!(remove(&conf).unwrap(), None);
        }
        assert!(insert(r#"{"type": "multus"}"#, &member).is_err());
    }
}
