//! Network configuration lists: put into one, and taken out of it, without touching what else is in it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::version::OLDEST;
use crate::{Error, PLUGIN, SUPPORTED};

/// Member that marks a list made for a configuration that was no list, and names the file it was made for.
const WRAPS: &str = "ringfence.wraps";
/// Member that marks a list made where there was none.
const PRIMARY: &str = "ringfence.primary";

/// The newest version that the standard plugins of all distributions speak.
const DELEGATED: &str = "1.0.0";
/// Name of the network of a [`primary`] list.
pub const NETWORK: &str = "ringfence";

/// Plugins that give pods their network and are known to do so after a plugin that has made nothing: their sources show
/// that at `ADD` they do not use a `prevResult`, nor hand it on to a plugin that would. Before these comes a [`gate`]:
/// without it, on a node that has just started, they would give a pod a network that nothing guards yet, only for it to
/// be taken away again.
const GATED: &[&str] =
    &["aws-cni", "azure-vnet", "bridge", "calico", "cni-kindnet", "flannel", "multus", "multus-shim", "ptp", "terway"];

/// A list with this plugin at its end, and where possible a [`gate`] at its beginning, as JSON text; none if they are
/// there already, as they should be.
///
/// Others may have put themselves behind it since, and stay there: a pod starts when the last of them is done, and two
/// that both want to be last would rewrite the file for ever. `member`: the plugin's own entry, as of [`entry`]. Errors
/// if the text is no configuration list.
pub fn insert(text: &str, member: &Value) -> Result<Option<String>, Error> {
    let mut list = parse(text)?;
    // No pod could start with a plugin that does not speak it.
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !SUPPORTED.contains(&version) {
        return Err(Error::Version(version.to_owned()));
    }
    let plugins = plugins(&mut list)?;
    let Some(first) = plugins.iter().find(|plugin| !is_ours(plugin)) else {
        return Err(Error::Config("the list has no plugin to follow".into()));
    };
    let before = before(first, member);
    let ours: Vec<usize> = (0..plugins.len()).filter(|index| is_ours(&plugins[*index])).collect();
    let as_it_should = match (&ours[..], &before) {
        ([at], None) => *at > 0 && plugins[*at] == *member,
        ([0, at], Some(gate)) => *at > 1 && plugins[0] == *gate && plugins[*at] == *member,
        _ => false,
    };
    if as_it_should {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.splice(..0, before);
    plugins.push(member.clone());
    Ok(Some(print_like(text, &Value::Object(list))))
}

/// A list without this plugin; none if it was not in it.
pub fn remove(text: &str) -> Result<Option<String>, Error> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    Ok((plugins.len() != before).then(|| print_like(text, &Value::Object(list))))
}

/// A list of a configuration that is of one plugin only (`*.conf`, `*.json`), followed by this one. `file` is the name
/// of the file it is in.
pub fn wrap(text: &str, file: &str, member: &Value) -> Result<String, Error> {
    let single = parse(text)?;
    if !single.get("type").is_some_and(Value::is_string) {
        return Err(Error::Config("the configuration names no plugin (type)".into()));
    }
    let of = |key: &str| single.get(key).and_then(Value::as_str);
    let version = match of("cniVersion") {
        // They know no lists; whatever speaks them speaks more.
        None | Some("" | "0.1.0" | "0.2.0") => OLDEST,
        Some(version) if SUPPORTED.contains(&version) => version,
        Some(version) => return Err(Error::Version(version.to_owned())),
    };
    let plugin = Value::Object(single.clone());
    let plugins: Vec<Value> = before(&plugin, member).into_iter().chain([plugin, member.clone()]).collect();
    let list = json!({
        "cniVersion": version,
        "name": of("name").unwrap_or(PLUGIN),
        WRAPS: file,
        "plugins": plugins,
    });
    Ok(print(&list))
}

/// The configuration that a list was made of by [`wrap`]; none if it was not made so.
pub fn unwrap(text: &str) -> Option<String> {
    let mut list = parse(text).ok().filter(|list| list.contains_key(WRAPS))?;
    plugins(&mut list).ok()?.iter().find(|plugin| !is_ours(plugin)).map(|single| print_like(text, single))
}

/// True if a list was made here, by [`wrap`] or [`primary`].
pub fn is_made(text: &str) -> bool {
    parse(text).is_ok_and(|list| list.contains_key(WRAPS) || list.contains_key(PRIMARY))
}

/// Name of the network of a configuration.
pub fn name(text: &str) -> Option<String> {
    Some(parse(text).ok()?.get("name")?.as_str()?.to_owned())
}

/// True if a configuration is a list of plugins, and not that of a single one.
pub fn is_list(text: &str) -> bool {
    parse(text).is_ok_and(|mut list| plugins(&mut list).is_ok())
}

/// The plugin that gives pods their addresses where there is no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Ranges of this node's pods.
    pub ranges: Vec<IpNet>,
    /// Largest packet of a pod's interface, in bytes.
    pub mtu: u32,
    /// Directory in which `host-local` keeps which addresses are taken.
    pub data_dir: PathBuf,
}

/// The standard plugins that a [`primary`] list names, and `loopback`, which runtimes call by themselves.
pub const DELEGATES: &[&str] = &["ptp", "host-local", "portmap", "loopback"];

/// A list of standard plugins, behind a [`gate`] and followed by this one: each pod on a link of its own (`ptp`), with
/// an address of each of the node's ranges (`host-local`), reached at the ports it asks for (`portmap`).
pub fn primary(primary: &Primary, member: &Value) -> String {
    let ranges: Vec<_> = primary.ranges.iter().map(|range| json!([{ "subnet": range.trunc().to_string() }])).collect();
    let everywhere = |range: &IpNet| if range.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let families: BTreeSet<_> = primary.ranges.iter().map(everywhere).collect();
    let routes: Vec<_> = families.into_iter().map(|all| json!({ "dst": all })).collect();
    let list = json!({
        "cniVersion": DELEGATED,
        "name": NETWORK,
        PRIMARY: true,
        "plugins": [
            gate(member),
            {
                "type": "ptp", "mtu": primary.mtu, "ipMasq": false,
                "ipam": { "type": "host-local", "dataDir": primary.data_dir, "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
            member,
        ],
    });
    print(&list)
}

/// The plugin's entry in a list: where its agent listens.
pub fn entry(socket: &str) -> Value {
    json!({ "type": PLUGIN, "socket": socket })
}

/// The plugin's entry at the beginning of a list, made of that at its end: it makes nothing, but fails while the agent
/// is away, before the plugins behind it have made anything.
pub fn gate(member: &Value) -> Value {
    let mut gate = member.clone();
    gate["gate"] = json!(true);
    gate
}

/// True if a [`gate`] can come before a plugin, by its type.
pub fn takes_gate(kind: &str) -> bool {
    GATED.contains(&kind)
}

/// The entry before the plugin that gives pods their network.
fn before(first: &Value, member: &Value) -> Option<Value> {
    let gated = first.get("type").and_then(Value::as_str).is_some_and(takes_gate);
    gated.then(|| gate(member))
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

/// On one line if a text is, and ending as it does: what is put in and taken out leaves the usual forms byte for byte.
pub(crate) fn print_like(text: &str, value: &Value) -> String {
    let bare = text.trim_end();
    let end = &text[bare.len()..];
    if bare.contains('\n') { format!("{value:#}{end}") } else { format!("{value}{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "disableCheck": true,
        "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "portmap",
        "capabilities": {"portMappings": true}}]}"#;

    #[test]
    fn put_in_once_and_taken_out_again_nothing_else_changes() {
        let member = entry("/run/a.sock");
        let with = insert(LIST, &member).unwrap().unwrap();
        assert_eq!(types(&with), [PLUGIN, "bridge", "portmap", PLUGIN]);
        assert_eq!(insert(&with, &member).unwrap(), None);
        let moved = insert(&with, &entry("/run/b.sock")).unwrap().unwrap();
        assert_eq!(types(&moved), [PLUGIN, "bridge", "portmap", PLUGIN]);
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&remove(&moved).unwrap().unwrap()), value(LIST));
        assert_eq!(remove(LIST).unwrap(), None);
    }

    #[test]
    fn the_usual_forms_are_left_byte_for_byte() {
        let value: Value = serde_json::from_str(LIST).unwrap();
        for text in [format!("{value}"), format!("{value}\n"), format!("{value:#}"), format!("{value:#}\n")] {
            let with = insert(&text, &entry("/s")).unwrap().unwrap();
            assert_eq!(remove(&with).unwrap().unwrap(), text);
        }
    }

    #[test]
    fn it_follows_another_and_may_be_followed() {
        let member = entry("/s");
        let other = json!({ "type": "unheard-of" });
        let first = json!({ "cniVersion": "1.0.0", "plugins": [member, other] }).to_string();
        assert_eq!(types(&insert(&first, &member).unwrap().unwrap()), ["unheard-of", PLUGIN]);
        let followed = json!({ "cniVersion": "1.0.0", "plugins": [other, member, { "type": "mesh" }] }).to_string();
        assert_eq!(insert(&followed, &member).unwrap(), None);
        let twice = json!({ "cniVersion": "1.0.0", "plugins": [other, member, member] }).to_string();
        assert_eq!(types(&insert(&twice, &member).unwrap().unwrap()), ["unheard-of", PLUGIN]);
    }

    #[test]
    fn a_gate_comes_before_plugins_that_are_known() {
        let (member, ptp) = (entry("/s"), json!({ "type": "ptp" }));
        let whole = [gate(&member), ptp.clone(), json!({ "type": "portmap" }), member.clone()];
        let list = |plugins: &[Value]| json!({ "cniVersion": "1.0.0", "plugins": plugins }).to_string();
        assert_eq!(insert(&list(&whole), &member).unwrap(), None);
        for wrong in [&whole[1..], &whole[..3], &[ptp, gate(&member), member.clone()], &[gate(&member), member.clone()]]
        {
            let put = insert(&list(wrong), &member).ok().flatten();
            let types = put.as_deref().map(types).unwrap_or_default();
            assert!(types.is_empty() || (types[0] == PLUGIN && types[1] == "ptp"), "{wrong:?}: {types:?}");
            assert_eq!(types.is_empty(), wrong.len() == 2, "nothing to follow: {wrong:?}");
        }
    }

    #[test]
    fn a_plugin_of_which_nothing_is_known_has_no_gate() {
        let list = |kind: &str| json!({ "cniVersion": "1.0.0", "plugins": [{ "type": kind }] }).to_string();
        for kind in GATED {
            assert_eq!(types(&insert(&list(kind), &entry("/s")).unwrap().unwrap()), [PLUGIN, kind, PLUGIN]);
        }
        // That one takes over what a plugin before it made.
        assert_eq!(types(&insert(&list("tuning"), &entry("/s")).unwrap().unwrap()), ["tuning", PLUGIN]);
    }

    #[test]
    fn a_single_configuration_becomes_a_list_that_says_so() {
        let single = r#"{"cniVersion": "0.4.0", "name": "pods", "type": "bridge"}"#;
        let list = wrap(single, "10-pods.conf", &entry("/s")).unwrap();
        assert_eq!(types(&list), [PLUGIN, "bridge", PLUGIN]);
        assert!(is_made(&list) && is_list(&list) && is_list(LIST));
        assert!(!is_made(LIST) && !is_list(single));
        assert_eq!(types(single), ["bridge"]);
    }

    #[test]
    fn a_version_that_is_not_spoken_is_named_and_the_oldest_are_raised() {
        let list = |version: &str| format!(r#"{{"cniVersion": "{version}", "plugins": [{{"type": "x"}}]}}"#);
        for version in SUPPORTED {
            assert!(insert(&list(version), &entry("/s")).unwrap().unwrap().contains(version));
        }
        for version in ["", "0.2.0", "9.0.0"] {
            let error = insert(&list(version), &entry("/s")).unwrap_err().to_string();
            assert!(error.contains(&format!("{version:?}")), "{error}");
        }
        for (version, raised) in [("", "0.3.1"), ("0.1.0", "0.3.1"), ("0.3.0", "0.3.0"), ("1.1.0", "1.1.0")] {
            let single = format!(r#"{{"cniVersion": "{version}", "type": "x"}}"#);
            let made: Value = serde_json::from_str(&wrap(&single, "10-x.conf", &entry("/s")).unwrap()).unwrap();
            assert_eq!(made["cniVersion"], raised);
        }
        assert!(wrap(r#"{"cniVersion": "9.0.0", "type": "x"}"#, "10-x.conf", &entry("/s")).is_err());
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        for text in ["", "[]", "7", "{}", r#"{"plugins": {}}"#, r#"{"plugins": []}"#, r#"{"type": "bridge"}"#] {
            assert!(insert(text, &entry("/s")).is_err(), "{text}");
        }
        assert!(wrap(LIST, "x", &entry("/s")).is_err());
    }

    #[test]
    fn where_there_is_no_plugin_the_standard_ones_do_the_work() {
        let ranges: Vec<IpNet> = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|range| range.parse().unwrap()).into();
        let told = Primary { ranges, mtu: 1450, data_dir: "/run/x".into() };
        let text = primary(&told, &entry("/s"));
        assert!(is_made(&text) && is_list(&text));
        assert_eq!(types(&text), [PLUGIN, "ptp", "portmap", PLUGIN]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let ptp = &list["plugins"][1];
        assert_eq!(ptp["mtu"], 1450);
        assert_eq!(
            ptp["ipam"]["ranges"],
            json!([[{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }]])
        );
        assert_eq!(ptp["ipam"]["routes"], json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]));
        assert_eq!(insert(&text, &entry("/s")).unwrap(), None);
    }
}
