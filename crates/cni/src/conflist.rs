//! Network configuration lists: put into one, and taken out of it, without touching what else is in it.

use serde_json::{Map, Value, json};

use crate::{CURRENT, Error, PLUGIN};

/// Member that marks a list made for a configuration that was no list, and names the file it was made for.
const WRAPS: &str = "ringfence.wraps";

/// A list with this plugin at its end, as JSON text; none if it is there already, as it should be.
///
/// `member`: the plugin's own entry, as of [`entry`]. Errors if the text is no configuration list.
pub fn insert(text: &str, member: &Value) -> Result<Option<String>, Error> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    if plugins.last() == Some(member) && plugins.iter().filter(|plugin| is_ours(plugin)).count() == 1 {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    if plugins.is_empty() {
        return Err(Error::Config("the list has no plugin to follow".into()));
    }
    plugins.push(member.clone());
    Ok(Some(print(&Value::Object(list))))
}

/// A list without this plugin; none if it was not in it.
pub fn remove(text: &str) -> Result<Option<String>, Error> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    Ok((plugins.len() != before).then(|| print(&Value::Object(list))))
}

/// A list of a configuration that is of one plugin only (`*.conf`, `*.json`), followed by this one. `file` is the name
/// of the file it is in.
pub fn wrap(text: &str, file: &str, member: &Value) -> Result<String, Error> {
    let single = parse(text)?;
    if !single.get("type").is_some_and(Value::is_string) {
        return Err(Error::Config("the configuration names no plugin (type)".into()));
    }
    let of = |key: &str| single.get(key).and_then(Value::as_str);
    let list = json!({
        "cniVersion": of("cniVersion").unwrap_or(CURRENT),
        "name": of("name").unwrap_or(PLUGIN),
        WRAPS: file,
        "plugins": [Value::Object(single.clone()), member],
    });
    Ok(print(&list))
}

/// The file that a list was made for by [`wrap`].
pub fn wrapped(text: &str) -> Option<String> {
    parse(text).ok()?.get(WRAPS)?.as_str().map(str::to_owned)
}

/// The plugin's entry in a list: where its agent listens.
pub fn entry(socket: &str) -> Value {
    json!({ "type": PLUGIN, "socket": socket })
}

/// Whether this plugin is in a list.
pub fn contains(text: &str) -> bool {
    let Ok(mut list) = parse(text) else { return false };
    plugins(&mut list).is_ok_and(|plugins| plugins.iter().any(is_ours))
}

/// Types of the plugins in a configuration, in order; none if it is no configuration. Tells who gives pods their
/// network.
pub fn types(text: &str) -> Vec<String> {
    let Ok(mut conf) = parse(text) else { return Vec::new() };
    let of = |plugin: &Value| plugin.get("type").and_then(Value::as_str).map(str::to_owned);
    match plugins(&mut conf) {
        Ok(plugins) => plugins.iter().filter_map(of).collect(),
        Err(_) => of(&Value::Object(conf)).into_iter().collect(),
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(text).map_err(|error| Error::Config(format!("not a JSON object: {error}")))
}

fn plugins(list: &mut Map<String, Value>) -> Result<&mut Vec<Value>, Error> {
    list.get_mut("plugins")
        .and_then(Value::as_array_mut)
        .ok_or_else(|| Error::Config("not a configuration list: it has no plugins".into()))
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

fn print(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "disableCheck": true,
        "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

    #[test]
    fn put_in_once_and_taken_out_again_nothing_else_changes() {
        let member = entry("/run/a.sock");
        let with = insert(LIST, &member).unwrap().unwrap();
        assert_eq!(types(&with), ["bridge", "portmap", PLUGIN]);
        assert_eq!(insert(&with, &member).unwrap(), None);
        let moved = insert(&with, &entry("/run/b.sock")).unwrap().unwrap();
        assert_eq!(types(&moved), ["bridge", "portmap", PLUGIN]);
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&remove(&moved).unwrap().unwrap()), value(LIST));
        assert_eq!(remove(LIST).unwrap(), None);
    }

    #[test]
    fn last_is_where_it_has_to_be() {
        let member = entry("/s");
        let first = json!({ "plugins": [member, { "type": "ptp" }] }).to_string();
        assert_eq!(types(&insert(&first, &member).unwrap().unwrap()), ["ptp", PLUGIN]);
    }

    #[test]
    fn a_single_configuration_becomes_a_list_that_says_so() {
        let single = r#"{"cniVersion": "0.4.0", "name": "pods", "type": "bridge"}"#;
        let list = wrap(single, "10-pods.conf", &entry("/s")).unwrap();
        assert_eq!(types(&list), ["bridge", PLUGIN]);
        assert_eq!(wrapped(&list).unwrap(), "10-pods.conf");
        assert_eq!(wrapped(LIST), None);
        assert_eq!(types(single), ["bridge"]);
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        for text in ["", "[]", "7", "{}", r#"{"plugins": {}}"#, r#"{"plugins": []}"#, r#"{"type": "bridge"}"#] {
            assert!(insert(text, &entry("/s")).is_err(), "{text}");
        }
        assert!(wrap(LIST, "x", &entry("/s")).is_err());
    }
}
